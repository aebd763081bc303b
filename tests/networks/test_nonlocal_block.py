from __future__ import annotations

import pytest
import torch
from network_tester import NetworkTester
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medseg3d.networks import NonLocalBlock


def awake(block: NonLocalBlock) -> NonLocalBlock:
    """The block with an output projection that lets something through."""
    nn.init.normal_(block.out.weight)
    nn.init.normal_(block.out.bias)
    return block


class BlockTester(NetworkTester):
    # adds the same to every likeness of one position, which softmax does not see
    gradient_free = ("phi.bias",)


class TestBlockIn3D(BlockTester):
    input_shape = (6, 5, 3, 7)
    other_spatial = (2, 4, 3)

    def make(self):
        return awake(NonLocalBlock(spatial_dims=3, in_channels=6))


class TestBlockIn2D(BlockTester):
    input_shape = (5, 7, 3)
    other_spatial = (2, 9)

    def make(self):
        return awake(NonLocalBlock(spatial_dims=2, in_channels=5, inner_channels=3))


@pytest.mark.parametrize(
    ("spatial_dims", "channels", "parameters"), [(3, 128, 33_088), (3, 256, 131_712), (2, 256, 131_712)]
)
def test_parameters(spatial_dims, channels, parameters):
    block = NonLocalBlock(spatial_dims, channels)
    assert sum(parameter.numel() for parameter in block.parameters()) == parameters


@pytest.mark.parametrize("spatial", [(5, 7), (4, 3, 5), (1, 1, 1)])
def test_fresh_block_is_the_identity(spatial):
    x = torch.randn(2, 8, *spatial)
    assert torch.equal(NonLocalBlock(len(spatial), 8)(x), x)


@torch.no_grad()
def test_swapping_two_positions_of_the_input_swaps_them_in_the_output():
    block = awake(NonLocalBlock(3, 8)).double()
    x = torch.randn(1, 8, 3, 4, 5, dtype=torch.float64)
    swapped = x.clone()
    swapped[..., 0, 1, 2], swapped[..., 2, 3, 4] = x[..., 2, 3, 4], x[..., 0, 1, 2]

    expected = block(x)
    expected[..., 0, 1, 2], expected[..., 2, 3, 4] = expected[..., 2, 3, 4].clone(), expected[..., 0, 1, 2].clone()
    torch.testing.assert_close(block(swapped), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
@torch.no_grad()
def test_equals_the_paper_s_formula_position_by_position(spatial):
    block = awake(NonLocalBlock(len(spatial), 4, inner_channels=3)).double()
    x = torch.randn(1, 4, *spatial, dtype=torch.float64)

    def project(conv: nn.Module, position: torch.Tensor) -> torch.Tensor:
        return conv.weight.flatten(1) @ position + conv.bias

    positions = list(x[0].flatten(1).T)
    columns = []
    for x_i in positions:
        # theta(x_i)^T phi(x_j), not divided by sqrt(d)
        likeness = torch.stack([project(block.theta, x_i) @ project(block.phi, x_j) for x_j in positions])
        weight = likeness.exp() / likeness.exp().sum()
        mean = sum(w * project(block.g, x_j) for w, x_j in zip(weight, positions, strict=True))
        columns.append(x_i + project(block.out, mean))
    expected = torch.stack(columns, dim=1).reshape(x.shape)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operator returns, backward included."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_map_of_all_pairs_is_never_stored(training, channels_last):
    block = awake(NonLocalBlock(3, 4)).train(training)
    x = torch.randn(1, 4, 8, 8, 8, requires_grad=training)
    positions = 8**3
    if channels_last:
        x = x.detach().to(memory_format=torch.channels_last_3d).requires_grad_(training)

    with torch.set_grad_enabled(training), LargestTensor() as largest:
        y = block(x)
        if training:
            y.sum().backward()
    assert 4 * positions <= largest.elements < positions**2 // 16

    with LargestTensor() as stored:  # the recorder does see such a map
        tokens = x.flatten(2)
        torch.softmax(tokens.transpose(1, 2) @ tokens, -1)
    assert stored.elements == positions**2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 1, "in_channels": 4}, "spatial_dims must be 2 or 3, got 1"),
        ({"spatial_dims": 3, "in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"spatial_dims": 3, "in_channels": 4, "inner_channels": 0}, "inner_channels must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NonLocalBlock(**arguments)


def test_one_channel_is_enough():
    assert NonLocalBlock(2, 1)(torch.zeros(1, 1, 2, 2)).shape == (1, 1, 2, 2)


def test_input_without_batch_is_refused():
    with pytest.raises(ValueError, match=r"3 spatial dimensions, got shape \[4, 2, 2, 2\]"):
        NonLocalBlock(3, 4)(torch.zeros(4, 2, 2, 2))
