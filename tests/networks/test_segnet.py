from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from network_tester import NetworkTester, count
from torch import nn

from medseg3d.networks import SegNet
from medseg3d.networks.segnet import max_unpool


class TestSegNet(NetworkTester):
    input_shape = (3, 16, 24)
    other_spatial = (20, 12)

    def make(self):
        return SegNet(out_channels=2, features=(4, 6), convolutions=(1, 2))


def test_the_paper_s_network_is_counted():
    network = SegNet()
    assert count(network.encoder) == 14_723_136  # VGG-16's 14,714,688 and two for each of its 4,224 channels
    assert count(network) == 29_443_585


def test_the_decoder_mirrors_the_encoder():
    def channels(part):
        return [(conv.in_channels, conv.out_channels) for conv in part.modules() if isinstance(conv, nn.Conv2d)]

    network = SegNet()
    encoder, decoder = channels(network.encoder), channels(network.decoder)
    assert (len(encoder), len(decoder)) == (13, 13)
    assert decoder[:-1] == [(after, before) for before, after in reversed(encoder[1:])]
    assert decoder[-1] == (64, 1)
    assert isinstance(network.decoder[-1][-1], nn.Conv2d)  # logits: no norm, no activation


def test_unpooling_puts_maxima_back_where_they_were():
    x = torch.rand(2, 3, 6, 8) + 1
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    back = max_unpool(pooled, indices)
    assert torch.equal(F.max_pool2d(back, 2), pooled)
    assert torch.equal(back[back != 0], x[back != 0])
    assert (back != 0).sum() == pooled.numel()


def test_unpooling_equals_torch_s_forward_and_backward():
    pooled, indices = F.max_pool2d(torch.randn(2, 3, 6, 8), 2, return_indices=True)
    weight = torch.randn(2, 3, 6, 8)
    ours, theirs = pooled.clone().requires_grad_(), pooled.clone().requires_grad_()
    a, b = max_unpool(ours, indices), F.max_unpool2d(theirs, indices, 2)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    assert torch.equal(a, b)
    assert torch.equal(ours.grad, theirs.grad)


def test_a_training_step_runs_in_torch_s_deterministic_mode():
    network = SegNet(features=(4, 6), convolutions=(1, 2))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        network(torch.rand(2, 3, 8, 8)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(before)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"a number for each of features, got \[2, 2\] and \[64, 128, 256\]"):
        SegNet(features=(64, 128, 256), convolutions=(2, 2))


def test_a_size_that_cannot_be_unpooled_is_refused():
    with pytest.raises(ValueError, match=r"\[32, 48\] must be divisible by 32 in every dimension"):
        SegNet()(torch.zeros(1, 3, 32, 48))
