from __future__ import annotations

import pytest
import torch
from network_tester import NetworkTester, count
from torch import nn

from medseg3d.networks import ResUNet, ResUNetPlusPlus
from medseg3d.networks.resunetpp import ResidualUnit, SkipAttention, SqueezeExcitation, SummedASPP

SMALL = {"features": (4, 6, 8, 8), "reduction": 1, "dilations": (1, 3)}


class TestResUNetPlusPlus(NetworkTester):
    input_shape = (3, 16, 24)
    other_spatial = (20, 12)

    def make(self):
        return ResUNetPlusPlus(**SMALL)


class TestResUNet(NetworkTester):
    input_shape = (3, 16, 24)
    other_spatial = (20, 12)

    def make(self):
        return ResUNet(out_channels=2, features=(4, 6, 8))


def test_the_published_network_is_counted_module_by_module():
    network = ResUNetPlusPlus()
    parts = [network.stem, *network.encoder, network.bridge, *network.decoder, network.aspp, network.head]
    counts = [2_960, 14_848, 58_880, 234_496, 1_248_512, 1_891_712, 473_792, 118_880, 18_896, 17]
    assert [count(part) for part in parts] == counts
    assert count(network) == sum(counts) == 4_062_993


def test_resunet_is_what_is_left_without_excitation_aspp_and_attention():
    units = [(3, 64), (64, 128), (128, 256), (256, 512), (512 + 256, 256), (256 + 128, 128), (128 + 64, 64)]
    first, *others = units

    def unit(before, after):  # two BatchNorms, two 3×3 convolutions, the shortcut and its BatchNorm
        return 2 * before + 9 * before * after + after + 2 * after + 9 * after**2 + after + before * after + 3 * after

    expected = unit(*first) - 2 * first[0] + sum(unit(*each) for each in others) + 64 + 1
    assert count(ResUNet()) == expected == 8_223_809


@torch.no_grad()
def test_maps_halve_from_stage_to_stage_and_come_back():
    network, sizes = ResUNetPlusPlus(**SMALL).eval(), {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: sizes.__setitem__(name, tuple(output.shape[1:])))
    network(torch.zeros(1, 3, 24, 16))
    assert sizes["stem"] == (4, 24, 16)
    assert [sizes[f"encoder.{level}"] for level in range(2)] == [(6, 12, 8), (8, 6, 4)]
    assert sizes["bridge"] == (8, 6, 4)
    assert [sizes[f"decoder.{level}"] for level in range(2)] == [(8, 12, 8), (6, 24, 16)]
    assert sizes["aspp"] == (4, 24, 16)


@torch.no_grad()
def test_squeeze_excitation_scales_each_channel_by_a_number_between_0_and_1():
    block, x = SqueezeExcitation(8, 4), torch.rand(2, 8, 5, 3) + 0.5
    block.squeeze.weight[0], block.squeeze.weight[1] = 0.3, -0.2  # of positive means the second is cut off
    scale = block(x) / x
    hidden = (x.mean((2, 3)) @ block.squeeze.weight.T).clamp(min=0)
    expected = 1 / (1 + (-hidden @ block.excite.weight.T).exp())
    torch.testing.assert_close(scale, expected[:, :, None, None].expand_as(x))


@torch.no_grad()
def test_the_branches_of_the_bridge_are_summed():
    bridge = SummedASPP(3, 4, dilations=(1, 2, 6)).eval()
    x = torch.randn(1, 3, 16, 16)
    branches = [bridge.first, *bridge.others]
    expected = bridge.project(sum(branch(x) for branch in branches))
    torch.testing.assert_close(bridge(x), expected)
    assert [branch[0].dilation for branch in branches] == [(1, 1), (2, 2), (6, 6)]


@torch.no_grad()
def test_attention_multiplies_and_has_no_sigmoid():
    attention = SkipAttention(2, 3).eval()
    last = attention.of_both[-1]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, -7.0)
    features = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(attention(torch.randn(1, 2, 8, 8), features), -7 * features)


@torch.no_grad()
def test_a_unit_whose_second_convolution_is_zero_is_its_shortcut():
    unit, x = ResidualUnit(3, 5, stride=2).eval(), torch.randn(1, 3, 8, 6)
    nn.init.zeros_(unit.second[-1].weight)
    nn.init.zeros_(unit.second[-1].bias)
    assert torch.equal(unit(x), unit.shortcut(x))
    assert unit(x).shape == (1, 5, 4, 3)


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (ResUNetPlusPlus, {"features": (16, 32)}, r"features must be three or more.*got \[16, 32\]"),
        (ResUNetPlusPlus, {"features": (4, 8, 16)}, "channels must be at least reduction, got 4 and 8"),
        (ResUNet, {"features": (16,)}, r"features must be two or more, got \[16\]"),
    ],
)
def test_bad_arguments_are_refused(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        network(**arguments)


@pytest.mark.parametrize("form", ["eager", "torchscript"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 24, 28), r"\[24, 28\] must be divisible by 8 in every dimension; pad with DivisiblePadd\(k=8\)"),
        ((3, 24, 24), r"2 spatial dimensions, got shape \[3, 24, 24\]"),
    ],
)
def test_a_size_the_decoder_cannot_give_back_is_refused(form, shape, message):
    network, refusal = ResUNet(features=(4, 4, 4, 4)), ValueError
    if form == "torchscript":
        network, refusal = torch.jit.script(network), torch.jit.Error
    with pytest.raises(refusal, match=message):
        network(torch.zeros(shape))
