from __future__ import annotations

import pytest
import torch
from monai.networks.nets import SEResNext50
from monai.networks.nets.resnet import ResNetFeatures
from network_tester import count

from medseg3d.networks.backbones import DilatedResNet50, DilatedSEResNeXt50


def undilated(name: str):
    if name == "resnet":
        return ResNetFeatures("resnet50", pretrained=False, spatial_dims=2, in_channels=3)
    return SEResNext50(spatial_dims=2, in_channels=3)


def test_the_encoders_have_the_published_numbers_of_parameters():
    with torch.device("meta"):  # shapes without values
        resnet, seresnext, monais = DilatedResNet50(), DilatedSEResNeXt50(), undilated("seresnext")
    assert count(resnet) == 23_508_032
    assert count(seresnext) == count(monais) - 2048 * 1000 - 1000


@pytest.mark.parametrize(("encoder", "name"), [(DilatedResNet50, "resnet"), (DilatedSEResNeXt50, "seresnext")])
@torch.no_grad()
def test_at_stride_32_it_is_monais_own_encoder(encoder, name):
    torch.manual_seed(0)
    ours, theirs = encoder(output_stride=32).eval(), undilated(name).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    expected = theirs(x)[-1] if name == "resnet" else theirs.features(x)
    assert torch.equal(ours(x)[-1], expected)


@pytest.mark.parametrize("encoder", [DilatedResNet50, DilatedSEResNeXt50])
@pytest.mark.parametrize(("output_stride", "step"), [(16, 2), (8, 4)])
@torch.no_grad()
def test_dilation_gives_the_strided_maps_and_those_between(encoder, output_stride, step):
    """Taking every `step`-th pixel of the dilated maps gives the strided ones: the same weights, looked at finer."""
    torch.manual_seed(0)
    fine, coarse = encoder(output_stride=output_stride).eval(), encoder(output_stride=32).eval()
    coarse.load_state_dict(fine.state_dict())
    x = torch.randn(1, 3, 64, 64)
    if encoder is DilatedSEResNeXt50:  # squeeze-and-excitation averages over the map, and a finer map has another mean
        for module in [*fine.modules(), *coarse.modules()]:
            if type(module).__name__ == "SEResNeXtBottleneck":
                module.se_layer.fc[2].weight.zero_()
                module.se_layer.fc[2].bias.zero_()
    expected = coarse(x)[-1]
    assert (fine(x)[-1][..., ::step, ::step] - expected).abs().max() < 1e-5 * expected.abs().max()


def test_another_output_stride_is_refused():
    with pytest.raises(ValueError, match="8, 16 or 32, found 4"):
        DilatedResNet50(output_stride=4)
