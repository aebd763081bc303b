from __future__ import annotations

import pytest
import torch
from network_tester import NetworkTester, count, with_statistics
from picture_runs import shallow_encoders

from medseg3d.networks import DeepLabV3Plus


class TestDeepLabV3Plus(NetworkTester):
    input_shape = (3, 64, 64)
    other_spatial = (96, 80)
    atol = 1e-4
    bf16_error = 0.1  # random weights amplify rounding

    def make(self):
        with shallow_encoders():
            network = DeepLabV3Plus(dropout=0)
        return with_statistics(network, torch.randn(4, 3, 64, 64))


@pytest.mark.slow
class TestFiftyLayers(TestDeepLabV3Plus):
    atol = 2e-3
    bf16_error = 0.8  # fifty layers of random weights amplify rounding; unrelated outputs would be 1.4 apart

    def make(self):
        return with_statistics(DeepLabV3Plus(dropout=0), torch.randn(4, 3, 64, 64))


def test_parameter_counts_are_those_of_the_specification():
    with torch.device("meta"):  # shapes without values
        separable, plain = DeepLabV3Plus(), DeepLabV3Plus(separable=False)
    assert count(separable) == 26_691_250
    assert count(plain) == 40_347_298


@torch.no_grad()
def test_the_deepest_maps_are_a_sixteenth_and_the_decoder_a_quarter_of_the_picture():
    network = DeepLabV3Plus().eval()
    seen = []
    network.decoder.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert network.backbone(torch.zeros(1, 3, 96, 160))[-1].shape == (1, 2048, 6, 10)
    network(torch.zeros(1, 3, 96, 160))
    assert seen == [(1, 256, 24, 40)]


def test_the_pyramid_looks_6_12_and_18_pixels_around():
    pyramid = DeepLabV3Plus().pyramid
    assert [view[0].dilation for view in pyramid.views] == [(1, 1), (6, 6), (12, 12), (18, 18)]
    assert [view[0].groups for view in pyramid.views] == [1, 2048, 2048, 2048]


@torch.no_grad()
def test_seresnext_is_the_other_backbone():
    network = DeepLabV3Plus(backbone="seresnext50").eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 64, 64)
    assert count(network) == count(network.backbone) + 26_691_250 - 23_508_032


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="resnet50, seresnext50, found 'vgg'"):
        DeepLabV3Plus(backbone="vgg")
