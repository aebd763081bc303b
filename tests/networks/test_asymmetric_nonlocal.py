from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from network_tester import NetworkTester, count, onnx_of, with_statistics
from picture_runs import shallow_encoders
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medseg3d.networks import AsymmetricNonLocalNet
from medseg3d.networks.asymmetric_nonlocal import AsymmetricNonLocal, PyramidPool, TokenAttention


def awake(module: nn.Module) -> nn.Module:
    """With output convolutions that are not zero."""
    generator = torch.Generator().manual_seed(3)
    for each in module.modules():
        if isinstance(each, AsymmetricNonLocal):
            each.out.weight.data.normal_(std=0.05, generator=generator)
            each.out.bias.data.normal_(std=0.05, generator=generator)
    return module


class LargestTensor(TorchDispatchMode):
    """Notes in `elements` the size of the largest new tensor that an operator makes, backward ones included."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {each.data_ptr() for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and each.data_ptr() not in given:
                self.elements = max(self.elements, each.numel())
        return made


class TestAsymmetricNonLocalNet(NetworkTester):
    input_shape = (3, 64, 64)
    other_spatial = (72, 56)
    bf16_error = 0.1  # random weights amplify rounding

    def make(self):
        with shallow_encoders():
            network = awake(AsymmetricNonLocalNet(auxiliary_head=False, dropout=0))
        return with_statistics(network, torch.randn(4, 3, 64, 64))


@pytest.mark.slow
class TestFiftyLayers(TestAsymmetricNonLocalNet):
    atol = 1e-3
    bf16_error = 0.8  # fifty layers of random weights amplify rounding; unrelated outputs would be 1.4 apart

    def make(self):
        network = awake(AsymmetricNonLocalNet(auxiliary_head=False, dropout=0))
        return with_statistics(network, torch.randn(4, 3, 64, 64))


def test_parameter_counts_are_those_of_the_specification():
    with torch.device("meta"):  # shapes without values
        network, without_head = AsymmetricNonLocalNet(), AsymmetricNonLocalNet(auxiliary_head=False)
    counts = {name: count(module) for name, module in network.named_children()}
    assert counts == {
        "backbone": 23_508_032,
        "afnb": 9_968_896,
        "bottleneck": 9_438_208,
        "apnb": 919_808,
        "dropout": 0,
        "classifier": 1_026,
        "auxiliary": 2_360_322,
    }
    assert count(network) == 46_196_292
    assert count(without_head) == 43_835_970


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(8, 8), (44, 44), (13, 10), (64, 128)])
def test_pooling_by_matrices_is_adaptive_average_pooling(size, layout):
    x = torch.randn(2, 3, *size, dtype=torch.double).contiguous(memory_format=layout)
    expected = torch.cat([F.adaptive_avg_pool2d(x, cells).flatten(2) for cells in (1, 3, 6, 8)], 2)
    tokens = PyramidPool()(x)
    assert tokens.shape == (2, 3, 110)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-14)


def test_pooling_copies_no_map_in_channels_last_memory():
    x = torch.randn(2, 5, 40, 30).contiguous(memory_format=torch.channels_last)
    with LargestTensor() as largest:
        PyramidPool()(x)
    assert largest.elements == 2 * 40 * 18 * 5  # the map with 1 + 3 + 6 + 8 columns instead of 30


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_attention_to_tokens_is_that_of_torch(layout):
    query = torch.randn(2, 16, 9, 7).contiguous(memory_format=layout)
    key, value = torch.randn(2, 16, 110), torch.randn(2, 12, 110)
    heads = [each.transpose(1, 2)[:, None] for each in (query.flatten(2), key, value)]
    expected = F.scaled_dot_product_attention(*heads)[:, 0].transpose(1, 2).reshape(2, 12, 9, 7)
    torch.testing.assert_close(TokenAttention()(query, key, value), expected, rtol=0, atol=1e-6)
    logits = TokenAttention().attention_logits(query, key, value, queries=63)
    mean = (logits.softmax(-1) @ value.transpose(1, 2)).transpose(1, 2).reshape(2, 12, 9, 7)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-6)


class SelfAttention(AsymmetricNonLocal):
    """A block that compares a map with itself, as the network's last one does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x, x)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch.export", "onnx"])
@torch.no_grad()
def test_an_export_of_a_block_gives_equal_outputs_at_any_size(form):
    block = awake(SelfAttention(6, 6, inner_channels=3, shared=True)).eval()
    free = {axis: torch.export.Dim.AUTO for axis in (0, 2, 3)}
    program = torch.export.export(block, (torch.randn(2, 6, 9, 12),), dynamic_shapes=(free,))
    logits = onnx_of(program) if form == "onnx" else program.module()
    x = torch.randn(3, 6, 11, 8)
    torch.testing.assert_close(logits(x), block(x), rtol=1e-4, atol=1e-5)


def test_no_map_of_all_pairs_exists_forward_or_backward():
    block = awake(AsymmetricNonLocal(6, 4, inner_channels=3))
    query_map, key_map = torch.randn(1, 6, 20, 30), torch.randn(1, 4, 20, 30)
    with LargestTensor() as largest:
        block(query_map.requires_grad_(), key_map.requires_grad_()).square().sum().backward()
    assert largest.elements == 600 * 110 < 600 * 600


def test_deterministic_algorithms_train_the_block_twice_alike():
    torch.manual_seed(0)
    block = awake(AsymmetricNonLocal(6, 6, inner_channels=3, shared=True, relu=True))
    x = torch.randn(2, 6, 13, 10)
    torch.use_deterministic_algorithms(True)
    try:
        gradients = [torch.autograd.grad(block(x, x).square().sum(), list(block.parameters())) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_new_block_passes_on_the_fused_query_map_alone():
    torch.manual_seed(0)
    block = AsymmetricNonLocal(6, 4, inner_channels=3).eval()
    query_map, key_map = torch.randn(2, 6, 9, 7), torch.randn(2, 4, 9, 7)
    expected = block.norm(block.fuse(torch.cat([torch.zeros_like(query_map), query_map], 1)))
    torch.testing.assert_close(block(query_map, key_map), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_the_rearranged_products_are_the_function_of_the_paper(shared):
    """Explicit softmax, values projected at every pixel before pooling, context and map concatenated."""
    torch.manual_seed(0)
    block = awake(AsymmetricNonLocal(6, 6 if shared else 4, inner_channels=3, shared=shared, relu=shared)).double()
    block.eval()
    query_map = torch.randn(2, 6, 11, 8, dtype=torch.double)
    key_map = query_map if shared else torch.randn(2, 4, 11, 8, dtype=torch.double)
    query, key = block.query(query_map).flatten(2), block.pool(block.key(key_map))
    value = block.pool(block.value(key_map))
    weights = torch.softmax(query.transpose(1, 2) @ key * 3**-0.5, -1)
    context = (weights @ value.transpose(1, 2)).transpose(1, 2).reshape(2, 3, 11, 8)
    expected = block.act(block.norm(block.fuse(torch.cat([block.out(context), query_map], 1))))
    torch.testing.assert_close(block(query_map, key_map), expected, rtol=1e-10, atol=1e-12)


def test_while_training_the_auxiliary_logits_come_too():
    with shallow_encoders():
        network = AsymmetricNonLocalNet().train()
    logits, auxiliary = network(torch.randn(2, 3, 64, 64))
    assert logits.shape == auxiliary.shape == (2, 2, 64, 64)
    (logits.square().sum() + auxiliary.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 2, 64, 64)


@torch.no_grad()
def test_the_deepest_maps_are_an_eighth_of_the_picture():
    maps = AsymmetricNonLocalNet().backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(each.shape[2:]) for each in maps] == [(32, 48), (16, 24), (8, 12), (8, 12), (8, 12)]


def test_a_shared_projection_needs_equal_channels():
    with pytest.raises(ValueError, match="found 6 and 4"):
        AsymmetricNonLocal(6, 4, shared=True)
