from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from small_network import small_network

from medseg3d.errors import UserError
from medseg3d.inference import SliceWindows, SlidingWindow


@pytest.mark.parametrize("shape", [(24, 24, 24), (10, 40, 24), (16, 17, 31)])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_logits_are_those_of_monais_sliding_window(shape: tuple[int, ...], overlap: float) -> None:
    network, volume = small_network(), torch.rand(1, 1, *shape)
    with torch.inference_mode():
        expected = SlidingWindowInferer((16, 16, 16), 1, overlap, "gaussian")(volume, network)
        got = SlidingWindow((16, 16, 16), overlap)(volume, network)
    assert got.shape == (1, 2, *shape)
    assert torch.allclose(got, expected, atol=1e-5)


def test_small_volume_is_padded_with_cval_and_cropped_back() -> None:
    seen = []
    volume = torch.ones(1, 1, 4, 5, 6)
    got = SlidingWindow((8, 8, 8), cval=-3)(volume, lambda window: seen.append(window.clone()) or window)
    (window,) = seen
    assert window.shape == (1, 1, 8, 8, 8)
    assert window[0, 0, 2:6, 1:6, 1:7].unique().tolist() == [1]
    assert window.sum() == volume.sum() - 3 * (8**3 - 4 * 5 * 6)
    assert torch.equal(got, volume)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("size", [8, 12])
def test_network_sees_windows_in_channels_last_memory(channels: int, dims: int, wanted: bool, size: int) -> None:
    strides = []

    def network(window: torch.Tensor) -> torch.Tensor:
        strides.append(window.stride())
        return window * 1  # MONAI scales what comes back in place

    volume = torch.rand(1, channels, *[size] * dims)
    expected = volume.clone()
    got = SlidingWindow([8] * dims, channels_last=wanted)(volume, network)
    assert torch.allclose(got, expected)
    assert {stride[1] for stride in strides} == ({1} if wanted else {size**dims})
    assert {stride[-1] for stride in strides} == {channels if wanted else 1}


def test_network_keeps_its_memory_format() -> None:
    network = small_network()
    before = [parameter.stride() for parameter in network.parameters()]
    SlidingWindow((8, 8, 8))(torch.rand(1, 1, 8, 8, 8), network)
    assert [parameter.stride() for parameter in network.parameters()] == before


def test_half_precision_is_for_the_network_alone() -> None:
    inside = []

    def network(window: torch.Tensor) -> torch.Tensor:
        inside.append(torch.is_autocast_enabled("cpu"))
        return window.bfloat16()

    volume = torch.full((1, 1, 8, 8, 16), 1 / 3)
    volume[..., 8:] = 0.2
    volume[0, 0, 0, 0, 0::8] = 1
    got = SlidingWindow((8, 8, 8), overlap=0, precision="bfloat16")(volume, network)
    assert inside == [True, True]
    assert got.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    # blended in float32: of equal values comes the same value
    assert torch.allclose(got, volume.bfloat16().float(), atol=1e-6)


@pytest.mark.parametrize(("axes", "seen"), [([0], 2), ([1, 0], 4)])
def test_mirrored_windows_are_averaged_in_one_batch(axes: list[int], seen: int) -> None:
    picture = torch.rand(1, 3, 16, 8)
    batches = []

    def network(batch: torch.Tensor) -> torch.Tensor:
        batches.append(len(batch))
        return batch.cumsum(2) + batch.cumsum(3)  # a mirror image has other sums

    dims = [[], [2]] if axes == [0] else [[], [2], [3], [2, 3]]
    wanted = sum(network(picture.flip(each)).flip(each) for each in dims) / len(dims)
    batches.clear()
    found = SlidingWindow((16, 8), mirror_axes=axes)(picture, network)
    assert batches == [seen]
    assert (found - wanted).abs().max() < 1e-5


def test_windows_of_a_batch_are_mirrored_each() -> None:
    pictures = torch.rand(3, 1, 24, 16)
    inferer = SlidingWindow((16, 16), sw_batch_size=4, mirror_axes=[0, 1])
    together = inferer(pictures, lambda batch: batch.cumsum(2))
    alone = torch.cat([inferer(picture[None], lambda batch: batch.cumsum(2)) for picture in pictures])
    assert (alone - together).abs().max() < 1e-5


@pytest.mark.parametrize("axes", [[0, 0], [3], [-1], ["x"]])
def test_axes_that_no_window_has_are_refused(axes: list) -> None:
    with pytest.raises(UserError, match="mirror_axes"):
        SlidingWindow((16, 16), mirror_axes=axes)


def test_an_axis_that_pictures_have_not_is_refused() -> None:
    with pytest.raises(UserError, match=r"mirror_axes.*\(16, 16\)"):
        SlidingWindow((16, 16), mirror_axes=[2])(torch.rand(1, 1, 16, 16), lambda batch: batch)


def test_geometry_of_the_image_passes_through() -> None:
    affine = torch.tensor([[0.0, -2, 0, 9], [2, 0, 0, -4], [0, 0.5, 3, 90], [0, 0, 0, 1]], dtype=torch.float64)
    volume = MetaTensor(torch.rand(1, 1, 8, 9, 10), affine=affine)
    assert torch.equal(SlidingWindow((8, 8, 8))(volume, lambda window: window).affine, affine)


@pytest.mark.parametrize("slices_per_batch", [1, 3, 99])
def test_slices_are_those_of_monais_sliding_window_in_2d(slices_per_batch: int) -> None:
    network, volume = small_network(spatial_dims=2, in_channels=3), torch.rand(1, 1, 24, 20, 5)
    neighbours = ([0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4])
    slabs = [volume[0, 0, :, :, channels].permute(2, 0, 1)[None] for channels in neighbours]
    with torch.inference_mode():
        got = SliceWindows((16, 16), slices_per_batch=slices_per_batch, overlap=0.5)(volume, network)
        expected = [SlidingWindowInferer((16, 16), 1, 0.5, "gaussian")(slab, network) for slab in slabs]
    assert got.shape == (1, 2, 24, 20, 5)
    assert torch.allclose(got, torch.stack(expected, -1), atol=1e-5)


def test_without_neighbours_a_slice_stands_alone() -> None:
    volume = torch.rand(1, 1, 8, 8, 3)
    got = SliceWindows((8, 8), neighbours=0)(volume, lambda window: torch.cat([window, -window], 1))
    assert torch.allclose(got, torch.cat([volume, -volume], 1), atol=1e-6)


def test_a_slice_is_given_to_a_network_of_pictures_in_every_channel() -> None:
    volume = torch.rand(1, 1, 8, 8, 3)
    got = SliceWindows((8, 8), neighbours=0, copies=3)(volume, lambda window: window)
    assert torch.allclose(got, volume.expand(1, 3, 8, 8, 3), atol=1e-6)


def test_pictures_go_through_windows_as_they_are() -> None:
    network, pictures = small_network(spatial_dims=2, in_channels=3), torch.rand(2, 3, 24, 20)
    with torch.inference_mode():
        got = SliceWindows((16, 16))(pictures, network)
        assert torch.equal(got, SlidingWindow((16, 16))(pictures, network))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8, 3), (1, 3, 8, 8, 3), (8, 8, 3)])
def test_what_is_neither_a_volume_nor_pictures_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SliceWindows((8, 8))(torch.zeros(shape), lambda window: window)


@pytest.mark.parametrize(
    "options", [{"roi_size": (8, 8, 8)}, {"neighbours": -1}, {"slices_per_batch": 0}, {"copies": 0}]
)
def test_windows_that_are_not_of_slices_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SliceWindows(**{"roi_size": (8, 8), **options})


def test_windows_of_air_are_computed_once() -> None:
    network, seen = small_network(), []
    volume = torch.zeros(1, 1, 32, 16, 16)
    volume[:, :, :16] = torch.rand(1, 1, 16, 16, 16)

    def counted(window: torch.Tensor) -> torch.Tensor:
        seen.append(window.clone())
        return network(window)

    with torch.inference_mode():
        got = SlidingWindow((8, 8, 8), overlap=0.5)(volume, counted)
        expected = SlidingWindowInferer((8, 8, 8), 1, 0.5, "gaussian")(volume, network)
    assert sum(not window.any() for window in seen) == 1
    assert len(seen) == 4 * 3 * 3 + 1  # of 7 * 3 * 3
    assert torch.allclose(got, expected, atol=1e-5)


def test_batches_of_air_of_other_sizes_and_other_values_are_each_computed() -> None:
    seen = []
    volume = torch.zeros(1, 1, 8, 8, 56)
    volume[..., 32:] = 1

    def counted(windows: torch.Tensor) -> torch.Tensor:
        seen.append((len(windows), float(windows.max())))
        return 2 * windows

    assert torch.allclose(SlidingWindow((8, 8, 8), 0, sw_batch_size=2)(volume, counted), 2 * volume)
    assert seen == [(2, 0.0), (2, 1.0), (1, 1.0)]


def test_a_network_that_returns_several_maps_may_see_air() -> None:
    first, second = SlidingWindow((8, 8, 8), 0)(torch.zeros(1, 1, 8, 8, 16), lambda window: (window + 1, window + 2))
    assert (first.unique().tolist(), second.unique().tolist()) == ([1.0], [2.0])
