from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet, BasicUNetPlusPlus
from network_tester import NetworkTester, with_statistics

from medseg3d.networks import unet, unet_plus_plus
from medseg3d.networks.compiling import compile_network

FEATURES = (4, 6, 8, 10, 12, 4)


class TestUNetPlusPlus(NetworkTester):
    input_shape = (3, 32, 48)
    other_spatial = (48, 32)
    # a shift that BatchNorm takes out again
    gradient_free = ("conv.bias",)

    def make(self):
        network = unet_plus_plus(out_channels=2, features=FEATURES)
        return with_statistics(network, torch.randn(4, *self.input_shape))


def test_gradients_reach_every_parameter_of_the_unet():
    network = unet(features=FEATURES).train()
    logits = network(torch.randn(2, 3, 32, 48))
    assert logits.shape == (2, 1, 32, 48)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("make", "out_channels", "parameters"),
    # MONAI's counts; of UNet++ less three heads of 32 + 1 for each class
    [
        (unet, 1, 31_113_217),
        (unet, 2, 31_113_282),
        (unet_plus_plus, 1, 9_119_332 - 99),
        (unet_plus_plus, 2, 9_119_233 + 33),
    ],
)
def test_the_paper_s_networks_are_counted(make, out_channels, parameters):
    with torch.device("meta"):  # shapes without values
        network = make(out_channels=out_channels)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (37, 50)])
def test_unet_is_monai_s(size):
    ours = unet(features=FEATURES).eval()
    theirs = BasicUNet(2, 3, 1, FEATURES, norm="batch", act="relu").eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, *size)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("make", [unet, unet_plus_plus])
def test_nothing_is_padded_where_all_sizes_fit(make, monkeypatch):
    monkeypatch.delattr("torch.nn.functional.pad")
    assert make(features=FEATURES)(torch.randn(2, 3, 16, 32)).shape == (2, 1, 16, 32)


@pytest.mark.slow
@pytest.mark.parametrize("make", [unet, unet_plus_plus])
def test_it_is_trained_compiled(make):
    network = make(features=FEATURES).train()
    compile_network(network)
    network(torch.randn(2, 3, 16, 32)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (37, 50)])
def test_unet_plus_plus_is_monai_s_last_node(size):
    ours = unet_plus_plus(features=FEATURES).eval()
    theirs = BasicUNetPlusPlus(2, 3, 1, FEATURES, norm="batch", act="relu").eval()
    missing = theirs.load_state_dict(ours.network.state_dict(), strict=False).missing_keys
    assert {name.split(".")[0] for name in missing} == {"final_conv_0_1", "final_conv_0_2", "final_conv_0_3"}
    x = torch.randn(2, 3, *size)
    (expected,) = theirs(x)
    assert torch.equal(ours(x), expected)


@pytest.mark.parametrize("make", [unet, unet_plus_plus])
def test_normalization_and_activation_are_batchnorm_and_relu(make):
    kinds = {type(module).__name__ for module in make(features=FEATURES).modules()}
    assert {"BatchNorm2d", "ReLU"} <= kinds
    assert not {"InstanceNorm2d", "LeakyReLU"} & kinds
