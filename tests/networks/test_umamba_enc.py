from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from network_tester import NetworkTester, count
from torch import nn

from medseg3d.networks import UMambaEnc
from medseg3d.networks.umamba_enc import MambaLayer


class UMambaTester(NetworkTester):
    # a fresh network amplifies rounding, its Mamba layers most: their output is of the third degree in the input
    atol = 1e-3
    bf16_error = 0.3
    # instance norm takes away what these add
    gradient_free = ("conv1.bias", "conv2.bias", "shortcut.bias", "project.bias")


class TestTokensOfPositionsIn2D(UMambaTester):
    input_shape = (3, 8, 12)
    other_spatial = (16, 6)

    def make(self):
        return UMambaEnc(img_size=(8, 12), features=(4, 6))


class TestTokensOfPositionsIn3D(UMambaTester):
    input_shape = (1, 4, 8, 6)
    other_spatial = (8, 4, 4)

    def make(self):
        return UMambaEnc(3, 1, 3, img_size=(4, 8, 6), features=(4, 6))


class TestTokensOfChannelsIn2D(UMambaTester):
    input_shape = (3, 16, 24)
    other_spatial = (16, 24)

    def make(self):
        return UMambaEnc(img_size=(16, 24), features=(4, 6, 32))


class TestTokensOfChannelsIn3D(UMambaTester):
    input_shape = (1, 8, 8, 6)
    other_spatial = (8, 8, 6)

    def make(self):
        return UMambaEnc(3, 1, 2, img_size=(8, 8, 6), features=(4, 4, 24), strides=(1, (1, 2, 1), 2))


@pytest.mark.parametrize(
    ("img_size", "parameters"),
    [
        (256, 39_120_642),  # 39.12 M in the public code
        (288, 39_375_730),  # 39.38 M there
        ((224, 336), 39_256_258),  # the paper's 39.26 M
        (96, 38_694_610),
    ],
)
def test_parameters_of_the_paper_s_comparison(img_size, parameters):
    with torch.device("meta"):
        assert count(UMambaEnc(img_size=img_size)) == parameters


def test_parameters_of_the_default_in_3d():
    with torch.device("meta"):
        assert count(UMambaEnc(3, 1, 2, img_size=96)) == 22_808_642
        assert count(UMambaEnc(3, 1, 3, img_size=(96, 96, 96))) == 22_808_642 + 32 + 1


def test_shapes_can_be_tried_out_without_memory():
    network = UMambaEnc(img_size=(16, 24), features=(4, 6, 32)).to("meta")
    assert network(torch.zeros(2, 3, 16, 24, device="meta")).shape == (2, 2, 16, 24)


def mamba_layers(network: UMambaEnc) -> list[tuple[int, bool, int]]:
    """(stage, whether tokens are channels, length of a token) of every Mamba layer."""
    return [
        (stage, layer.channel_token, layer.norm.normalized_shape[0])
        for stage, layers in enumerate(network.encoder)
        for layer in layers
        if isinstance(layer, MambaLayer)
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [(0, False, 64), (2, False, 256), (4, True, 256)]),
        ({"img_size": 512}, [(0, False, 64), (2, False, 256), (4, True, 1024)]),
        ({"img_size": 544}, [(0, False, 64), (2, False, 256), (4, False, 1024)]),  # 34 × 34 positions
        ({"features": (8, 8, 8, 8)}, [(1, False, 8), (3, False, 8)]),
        (
            {"spatial_dims": 3, "img_size": 96},
            [(0, False, 32), (1, False, 64), (2, False, 128), (3, False, 256), (4, True, 216)],
        ),
    ],
)
def test_tokens_are_channels_where_a_map_has_no_more_positions(arguments, expected):
    with torch.device("meta"):
        assert mamba_layers(UMambaEnc(**arguments)) == expected


@torch.no_grad()
def test_positions_are_mixed_in_raster_order():
    layer = MambaLayer(channels=4, positions=15).eval()
    x = torch.randn(1, 4, 3, 5)
    changed = x.clone()
    changed[:, :, 1, 2] += torch.randn(4)
    difference = (layer(x) - layer(changed)).abs().sum(1).flatten()
    assert (difference[:7] < 1e-6).all()
    assert (difference[7:9] > 1e-6).all()


@torch.no_grad()
def test_channels_are_mixed_in_their_order():
    layer = MambaLayer(channels=20, positions=6).eval()
    x = torch.randn(1, 20, 2, 3)
    changed = x.clone()
    changed[:, 12] += torch.randn(2, 3)
    difference = (layer(x) - layer(changed)).abs().sum((2, 3)).flatten()
    assert (difference[:12] < 1e-6).all()
    assert difference[12] > 1e-6


@torch.no_grad()
def test_a_mamba_layer_is_the_block_on_normed_tokens():
    layer = MambaLayer(channels=4, positions=24).eval()
    x = torch.randn(2, 4, 2, 3, 4)
    tokens = x.permute(0, 2, 3, 4, 1).reshape(2, 24, 4)
    expected = layer.mamba(nn.functional.layer_norm(tokens, (4,), layer.norm.weight, layer.norm.bias))
    torch.testing.assert_close(layer(x), expected.reshape(2, 2, 3, 4, 4).permute(0, 4, 1, 2, 3))


def test_a_mamba_layer_computes_in_float32_under_autocast():
    layer = MambaLayer(channels=4, positions=24)
    x = torch.randn(1, 4, 4, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, layer(x.float()))


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bf16"])
def test_a_few_steps_of_training_lower_the_loss(amp):
    torch.manual_seed(0)
    network = UMambaEnc(2, 1, 2, img_size=32, features=(4, 8, 16))
    x = torch.randn(2, 1, 32, 32)
    truth = (nn.functional.avg_pool2d(x, 5, 1, 2)[:, 0] > 0).long()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            logits = network(x)
        loss = nn.functional.cross_entropy(logits.float(), truth)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_a_bundle_can_name_it():
    parser = ConfigParser(
        {
            "num_classes": 3,
            "roi_size": [16, 16, 32],
            "network": {
                "_target_": "medseg3d.networks.UMambaEnc",
                "spatial_dims": 3,
                "in_channels": 1,
                "out_channels": "@num_classes",
                "img_size": "@roi_size",
                "features": [4, 8, 16],
            },
        }
    )
    network = parser.get_parsed_content("network")
    assert isinstance(network, UMambaEnc)
    assert network.img_size == [16, 16, 32]
    assert network.head.out_channels == 3


@torch.no_grad()
def test_sliding_windows_of_its_size_cover_any_image():
    network = UMambaEnc(3, 1, 2, img_size=16, features=(4, 6, 64)).eval()
    assert network.channel_token
    image = torch.randn(1, 1, 20, 9, 17)  # larger and smaller than the window
    assert SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.25)(image, network).shape == (1, 2, 20, 9, 17)


@torch.no_grad()
def test_torch_export_at_one_size_gives_equal_outputs():
    network = UMambaEnc(img_size=(16, 24), features=(4, 6, 32)).eval()
    x = torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["eager", "torchscript"])
@pytest.mark.parametrize(
    ("features", "spatial", "message"),
    [
        ((4, 6, 64), (16, 24), r"input size \[16, 24\] must be img_size \[16, 16\], .* roi_size"),
        ((4, 6, 8), (16, 22), r"input size \[16, 22\] must be divisible by \[4, 4\]; pad with DivisiblePadd"),
        ((4, 6, 8), (16, 16, 16), r"2 spatial dimensions, got shape \[1, 3, 16, 16, 16\]"),
    ],
)
def test_a_size_it_cannot_take_is_refused(form, features, spatial, message):
    network = UMambaEnc(img_size=16, features=features)
    refusal = ValueError
    if form == "torchscript":
        network, refusal = torch.jit.script(network), torch.jit.Error
    with pytest.raises(refusal, match=message):
        network(torch.zeros(1, 3, *spatial))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"img_size": 100}, r"img_size \[100, 100\] must be divisible by \[16, 16\]"),
        ({"img_size": (32, 32, 32)}, "length 3|3"),
        ({"features": (4,)}, r"two stages or more, got \[4\] and \[1\]"),
        ({"features": (4, 8), "strides": (1, 2, 2)}, r"got \[4, 8\] and \[1, 2, 2\]"),
        ({"features": (4, 8), "strides": (2, 2)}, r"first entry of strides must be 1, got \[2, 2\]"),
        ({"img_size": 16}, r"img_size \[16, 16\] leaves the deepest stage one position"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UMambaEnc(**arguments)
