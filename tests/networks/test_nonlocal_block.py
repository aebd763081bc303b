from __future__ import annotations

import pytest
import torch
from network_tester import ExportTester, NetworkTester
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medseg3d.networks import NonLocalBlock
from medseg3d.networks.nonlocal_block import PositionAttention


def awake(block: NonLocalBlock) -> NonLocalBlock:
    """The block with an output projection that lets something through."""
    nn.init.normal_(block.out.weight)
    nn.init.normal_(block.out.bias)
    return block


LITERAL = {"norm": None, "act": None, "scale": 1.0}

GRADIENT_FREE = ("phi.bias",)  # adds the same to every likeness of one position, which softmax does not see


class TestBlockIn3D(ExportTester):
    gradient_free = GRADIENT_FREE
    input_shape = (8, 5, 3, 7)
    other_spatial = (2, 4, 3)

    def make(self):
        return awake(NonLocalBlock(spatial_dims=3, in_channels=8))


class TestBlockIn2D(NetworkTester):
    gradient_free = GRADIENT_FREE
    input_shape = (16, 7, 3)
    other_spatial = (2, 9)

    def make(self):
        return awake(NonLocalBlock(spatial_dims=2, in_channels=16, inner_channels=3))


class TestCosineBlock(NetworkTester):
    input_shape = (8, 5, 3, 7)
    other_spatial = (2, 4, 3)

    def make(self):
        return awake(NonLocalBlock(spatial_dims=3, in_channels=8, qk_norm=True))


class TestLiteralBlock(NetworkTester):
    gradient_free = GRADIENT_FREE
    input_shape = (5, 7, 3)
    other_spatial = (2, 9)

    def make(self):
        return awake(NonLocalBlock(spatial_dims=2, in_channels=5, inner_channels=3, **LITERAL))


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


def _formula(block: NonLocalBlock, x: torch.Tensor, features: torch.Tensor, likeness) -> torch.Tensor:
    """The block position by position, with `likeness(theta_i, phi_j)` in the exponent."""

    def project(conv: nn.Module, position: torch.Tensor) -> torch.Tensor:
        return conv.weight.flatten(1) @ position + conv.bias

    positions = list(features[0].flatten(1).T)
    columns = []
    for x_i, u_i in zip(x[0].flatten(1).T, positions, strict=True):
        likenesses = torch.stack([likeness(project(block.theta, u_i), project(block.phi, u_j)) for u_j in positions])
        weight = likenesses.exp() / likenesses.exp().sum()
        mean = sum(w * project(block.g, u_j) for w, u_j in zip(weight, positions, strict=True))
        columns.append(x_i + project(block.out, mean))
    return torch.stack(columns, dim=1).reshape(x.shape)


@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
@torch.no_grad()
def test_the_literal_form_equals_the_paper_s_formula_position_by_position(spatial):
    block = awake(NonLocalBlock(len(spatial), 4, inner_channels=3, **LITERAL)).double()
    x = torch.randn(1, 4, *spatial, dtype=torch.float64)
    expected = _formula(block, x, x, lambda theta, phi: theta @ phi)  # not divided by sqrt(d)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "likeness"),
    [
        ({}, lambda theta, phi: theta @ phi / 3**0.5),
        ({"scale": 2.0}, lambda theta, phi: 2 * theta @ phi),
        ({"qk_norm": True}, lambda theta, phi: 10 * (theta / theta.norm()) @ (phi / phi.norm())),
    ],
    ids=["scaled", "own scale", "cosine"],
)
@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 2)])
@torch.no_grad()
def test_equals_the_formula_on_normed_and_rectified_features(spatial, arguments, likeness):
    block = awake(NonLocalBlock(len(spatial), 16, inner_channels=3, **arguments)).double()
    x = 5 + 3 * torch.randn(1, 16, *spatial, dtype=torch.float64)
    groups = x.reshape(8, -1)  # 8 groups of 2 channels, each with mean 0 and variance 1
    features = (groups - groups.mean(1, keepdim=True)) / (groups.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    expected = _formula(block, x, features.relu().reshape(x.shape), likeness)
    tolerance = 1e-6 if "qk_norm" in arguments else 1e-12  # unit vectors are made in float32
    torch.testing.assert_close(block(x), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("arguments", [{}, {"qk_norm": True}, LITERAL], ids=["scaled", "cosine", "literal"])
@torch.no_grad()
def test_attention_logits_are_those_that_the_block_weighs_with(arguments):
    block = awake(NonLocalBlock(2, 8, **arguments))
    x = torch.randn(2, 8, 3, 5)
    features = block.act(block.norm(x))
    maps = [project(features) for project in (block.theta, block.phi, block.g)]
    logits = block.attention.attention_logits(*maps, queries=15)
    mean = (logits.softmax(-1) @ maps[2].flatten(2).transpose(1, 2)).transpose(1, 2).reshape(2, 4, 3, 5)
    torch.testing.assert_close(x + block.out(mean), block(x))
    assert block.attention.attention_logits(*maps, queries=4).shape == (2, 4, 15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_cosine_logits_have_a_bound_that_no_input_passes(dtype):
    attention = PositionAttention(scale=10.0, qk_norm=True)
    maps = 1e4 * torch.randn(3, 1, 8, 6, 6).to(dtype)
    maps[:, :, :, 0, 0] = 0
    assert attention.attention_logits(*maps).abs().max() <= 10.1
    assert attention(*maps).isfinite().all()


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
    block = awake(NonLocalBlock(3, 8)).train(training)
    x = torch.randn(1, 8, 8, 8, 8, requires_grad=training)
    positions = 8**3
    if channels_last:
        x = x.detach().to(memory_format=torch.channels_last_3d).requires_grad_(training)

    with torch.set_grad_enabled(training), LargestTensor() as largest:
        y = block(x)
        if training:
            y.sum().backward()
    assert 8 * positions <= largest.elements < positions**2 // 16

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
        ({"spatial_dims": 3, "in_channels": 8, "scale": 0.0}, "scale must be positive, got 0.0"),
        ({"spatial_dims": 3, "in_channels": 12}, "must be divisible by num_groups \\(8\\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NonLocalBlock(**arguments)


def test_one_channel_is_enough():
    assert NonLocalBlock(2, 1, norm=None)(torch.zeros(1, 1, 2, 2)).shape == (1, 1, 2, 2)


def test_input_without_batch_is_refused():
    with pytest.raises(ValueError, match=r"3 spatial dimensions, got shape \[8, 2, 2, 2\]"):
        NonLocalBlock(3, 8)(torch.zeros(8, 2, 2, 2))
