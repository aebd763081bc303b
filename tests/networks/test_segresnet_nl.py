from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import SegResNet
from network_tester import NetworkTester, count, onnx_of
from torch import nn

from medseg3d.networks import SegResNetNL

SMALL = {"init_filters": 4, "norm": ("GROUP", {"num_groups": 2}), "blocks_down": (1, 1, 1), "blocks_up": (1, 1)}


def awake(network: SegResNetNL) -> SegResNetNL:
    """The network with blocks that let something through."""
    for block in network.nonlocal_blocks:
        nn.init.normal_(block.out.weight, std=0.1)
        nn.init.normal_(block.out.bias, std=0.1)
    return network


class SegResNetNLTester(NetworkTester):
    # adds the same to every likeness of one position, which softmax does not see
    gradient_free = ("phi.bias",)


class TestNetworkIn3D(SegResNetNLTester):
    input_shape = (1, 8, 12, 16)
    other_spatial = (16, 8, 20)

    def make(self):
        return awake(SegResNetNL(**SMALL))


class TestNetworkIn2D(SegResNetNLTester):
    input_shape = (3, 12, 16)
    other_spatial = (20, 8)

    def make(self):
        return awake(SegResNetNL(2, in_channels=3, **SMALL))


class TestNetworkWithoutBlocks(SegResNetNLTester):
    input_shape = (1, 8, 12, 16)
    other_spatial = (16, 8, 20)

    # its graph is a part of that of the network with blocks
    test_torch_export_gives_equal_outputs_at_any_size = None
    test_onnx_gives_equal_outputs_at_any_size = None

    def make(self):
        return SegResNetNL(nonlocal_blocks=0, **SMALL)


@pytest.mark.parametrize(
    ("blocks", "parameters"), [(0, 4_700_914), (1, 4_734_002), (2, 4_767_090), (3, 4_800_178), (4, 4_833_266)]
)
def test_parameters_of_the_ablation(blocks, parameters):
    assert count(SegResNetNL(nonlocal_blocks=blocks)) == parameters


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({}, 4_767_090),  # the paper's network in 3-D
        ({"spatial_dims": 2, "init_filters": 32, "in_channels": 3, "nonlocal_blocks": 0}, 6_299_106),  # Table 3: 6.30 M
        ({"spatial_dims": 2, "init_filters": 32, "in_channels": 3}, 6_562_530),  # with the blocks that Table 3 forgot
        ({"init_filters": 32, "out_channels": 3, "nonlocal_blocks": 0}, 18_796_035),
    ],
)
def test_parameters(arguments, parameters):
    assert count(SegResNetNL(**arguments)) == parameters


@pytest.mark.parametrize("blocks", [0, 1, 4])
@pytest.mark.parametrize("spatial", [(24, 8), (16, 8, 24)])
@torch.no_grad()
def test_fresh_network_equals_segresnet_of_the_same_seed(blocks, spatial):
    torch.manual_seed(3)
    plain = SegResNet(len(spatial), init_filters=8, out_channels=3)
    torch.manual_seed(3)
    network = SegResNetNL(len(spatial), init_filters=8, out_channels=3, nonlocal_blocks=blocks)
    x = torch.randn(2, 1, *spatial)
    assert torch.equal(network(x), plain(x))


@pytest.mark.parametrize(
    "arguments",
    [
        {"upsample_mode": "deconv"},
        {"upsample_mode": "pixelshuffle"},
        {"norm": "INSTANCE"},
        {"act": "LEAKYRELU"},
        {"use_conv_final": False},
        {"dropout_prob": 0.5},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
@torch.no_grad()
def test_segresnet_s_other_arguments_mean_what_they_mean_there(arguments):
    torch.manual_seed(3)
    plain = SegResNet(init_filters=8, **arguments)
    torch.manual_seed(3)
    network = SegResNetNL(init_filters=8, **arguments)
    x = torch.randn(1, 1, 8, 8, 16)
    assert torch.equal(network.eval()(x), plain.eval()(x))
    torch.manual_seed(4)
    expected = plain.train()(x)
    torch.manual_seed(4)
    assert torch.equal(network.train()(x), expected)


def test_segresnet_s_weights_load_strictly_without_blocks():
    SegResNetNL(init_filters=8, nonlocal_blocks=0).load_state_dict(SegResNet(init_filters=8).state_dict(), strict=True)


@torch.no_grad()
def test_segresnet_s_weights_load_with_only_the_blocks_missing():
    plain = SegResNet(init_filters=8)
    network = SegResNetNL(init_filters=8, nonlocal_blocks=2)
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    layers = [f"{name}.{part}" for name in ("theta", "phi", "g", "out") for part in ("weight", "bias")]
    assert sorted(missing) == sorted(f"nonlocal_blocks.{i}.{layer}" for i in range(2) for layer in layers)
    assert unexpected == []
    x = torch.randn(1, 1, 16, 8, 8)
    assert torch.equal(network(x), plain(x))


@torch.no_grad()
def test_blocks_stand_in_cascade_between_encoder_and_decoder():
    network = awake(SegResNetNL(init_filters=8, nonlocal_blocks=2)).eval()
    x = torch.randn(1, 1, 16, 8, 24)
    bottleneck, skips = network.encode(x)
    assert bottleneck.shape == (1, 64, 2, 1, 3)
    first, second = network.nonlocal_blocks
    expected = network.decode(second(first(bottleneck)), skips[::-1])
    assert torch.equal(network(x), expected)
    assert not torch.allclose(network(x), network.decode(bottleneck, skips[::-1]))


def test_a_bundle_can_name_it():
    parser = ConfigParser(
        {
            "network": {
                "_target_": "medseg3d.networks.SegResNetNL",
                "init_filters": 8,
                "blocks_down": [1, 1, 1],
                "blocks_up": [1, 1],
                "nonlocal_blocks": 3,
            }
        }
    )
    network = parser.get_parsed_content("network")
    assert isinstance(network, SegResNetNL)
    assert len(network.nonlocal_blocks) == 3


@pytest.mark.parametrize("form", ["torchscript", "torch.export", pytest.param("onnx", marks=pytest.mark.slow)])
@torch.no_grad()
def test_every_export_of_the_paper_s_network_gives_its_outputs(form):
    network = awake(SegResNetNL()).eval()
    x = torch.randn(1, 1, 32, 16, 16)
    expected = network(x)
    if form == "torchscript":
        exported = torch.jit.script(network)
    else:
        program = torch.export.export(network, (x,))
        exported = onnx_of(program) if form == "onnx" else program.module()
    atol = {"torchscript": 0, "torch.export": 1e-6, "onnx": 1e-5}[form]
    torch.testing.assert_close(exported(x), expected, rtol=10 * atol, atol=atol)


@pytest.mark.parametrize("form", ["eager", "torchscript"])
@pytest.mark.parametrize(
    ("arguments", "spatial", "message"),
    [
        ({}, (16, 20, 16), r"\[16, 20, 16\] must be divisible by 8 in every dimension; pad with DivisiblePadd\(k=8\)"),
        (SMALL, (16, 20, 18), r"\[16, 20, 18\] must be divisible by 4 "),
        ({}, (16, 16), r"3 spatial dimensions, got shape \[1, 1, 16, 16\]"),
    ],
)
def test_a_size_the_decoder_cannot_give_back_is_refused(form, arguments, spatial, message):
    network = SegResNetNL(**arguments)
    refusal = ValueError
    if form == "torchscript":
        network, refusal = torch.jit.script(network), torch.jit.Error
    with pytest.raises(refusal, match=message):
        network(torch.zeros(1, 1, *spatial))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nonlocal_blocks": -1}, "nonlocal_blocks must be 0 or more, got -1"),
        ({"blocks_up": (1, 1)}, r"one stage fewer than blocks_down, got \[1, 1\] and \[1, 2, 2, 4\]"),
        ({"spatial_dims": 4}, "can only be 2 or 3"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SegResNetNL(**arguments)
