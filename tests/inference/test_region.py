"""Region of interest: the windows of the usual grid that a part of a volume needs."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from small_network import small_network

from medseg3d.errors import UserError
from medseg3d.inference import SlidingWindow
from medseg3d.inference.windows import foreground_box, windows_over, with_background


def bright(window: torch.Tensor) -> torch.Tensor:
    """Logits of two classes: foreground is what is brighter than a half."""
    return torch.cat([0.5 - window, window - 0.5], 1) * 40


def volume_with_a_spot(shape: tuple[int, ...] = (40, 32, 32)) -> torch.Tensor:
    """Noise that is no foreground, and a cube of 4 voxels that is, at (10..14, 20..24, 8..12)."""
    volume = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0)) / 4
    volume[0, 0, 10:14, 20:24, 8:12] = 1
    return volume


@pytest.mark.parametrize(
    ("channels", "wanted"), [([-9.0, 0.0], [(1, 3), (0, 1), (2, 4)]), ([0.0], [(1, 3), (0, 1), (2, 4)])]
)
def test_foreground_is_boxed_whether_background_has_a_channel_or_not(channels: list, wanted: list) -> None:
    logits = torch.full((1, len(channels), 4, 2, 5), -9.0)
    logits[:, 0] = 9.0 if len(channels) == 2 else -9.0
    logits[0, :, 1:3, 0, 2:4] = torch.tensor(channels)[:, None, None]
    assert foreground_box(logits) == wanted


@pytest.mark.parametrize(("probability", "is_seen"), [(0.099, False), (0.101, True)])
def test_a_tenth_of_probability_is_seen(probability: float, is_seen: bool) -> None:
    logits = torch.tensor(probability).logit().reshape(1, 1, 1, 1, 1)
    assert (foreground_box(logits) is not None) is is_seen


@pytest.mark.parametrize(
    ("part", "tau", "wanted"),
    [
        ((0, 1), 0.0, slice(0, 16)),
        ((8, 9), 0.0, slice(0, 24)),
        ((8, 9), 0.9, slice(0, 16)),  # the middle of one window and the edge of the next
        ((0, 40), 0.5, slice(0, 40)),
        ((39, 40), 0.99, slice(24, 40)),  # no window weighs as much, and the voxel is in one all the same
        ((14, 20), 0.0, slice(0, 32)),
        ((14, 20), 0.05, slice(8, 32)),  # voxel 19 weighs 0.079 in the last one: 4.5 voxels off its middle, sigma 2
        ((14, 20), 0.1, slice(8, 24)),
    ],
)
def test_windows_are_those_that_weigh_enough_and_cover_the_part(part: tuple, tau: float, wanted: slice) -> None:
    assert windows_over(part, size=40, window=16, overlap=0.5, tau=tau) == wanted


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7])
@pytest.mark.parametrize("size", [16, 17, 40, 53])
@pytest.mark.parametrize("tau", [0.01, 0.5, 0.99])
def test_every_part_is_covered(overlap: float, size: int, tau: float) -> None:
    parts = [(low, high) for low in range(0, size, 3) for high in range(low + 1, size + 1, 5)]
    found = [windows_over(part, size, 16, overlap, tau=tau) for part in parts]
    assert [f for (low, high), f in zip(parts, found, strict=True) if f.start > low or f.stop < high] == []


def test_background_is_certain_outside_of_the_box() -> None:
    logits = with_background(torch.zeros(1, 2, 1, 2), [slice(1, 2), slice(0, 2)], (2, 2))
    assert logits.softmax(1)[0, 0].tolist() == [[1.0, 1.0], [0.5, 0.5]]
    assert with_background(torch.zeros(1, 1, 1, 2), [slice(1, 2), slice(0, 2)], (2, 2)).sigmoid()[0, 0, 0].max() < 1e-12


def test_windows_lie_where_they_lie_without_a_region() -> None:
    where = torch.arange(40 * 32 * 32.0).reshape(1, 1, 40, 32, 32)
    seen: dict[str, list[float]] = {"all": [], "region": []}
    volume = torch.cat([volume_with_a_spot(), where], 1)

    def network(kind: str):
        def forward(window: torch.Tensor) -> torch.Tensor:
            seen[kind].append(float(window[0, 1, 0, 0, 0]))
            return bright(window[:, :1])

        return forward

    whole = SlidingWindow((8, 8, 8))(volume, network("all"))
    part = SlidingWindow((8, 8, 8), region_tau=0.01, region_margin=2)(volume, network("region"))
    coarse = 4 * 3 * 3
    fine = seen["region"][coarse:]
    assert len(fine) < len(seen["all"]) / 4
    assert set(fine) <= set(seen["all"])
    assert torch.equal(part.argmax(1), whole.argmax(1))
    assert part.argmax(1).sum() == 4**3


def test_within_the_region_logits_are_those_of_all_windows() -> None:
    network, volume = small_network(), volume_with_a_spot()

    def forward(window: torch.Tensor) -> torch.Tensor:
        return network(window) * 1e-3 + bright(window)

    with torch.inference_mode():
        whole = SlidingWindowInferer((16, 16, 16), 1, 0.5, "gaussian")(volume, forward)
        part = SlidingWindow((16, 16, 16), region_tau=1e-9, region_margin=2)(volume, forward)
    spot = (..., slice(8, 16), slice(18, 26), slice(6, 14))
    assert torch.allclose(part[spot], whole[spot], atol=1e-4)
    assert not torch.allclose(part, whole, atol=1)


def test_where_nothing_is_found_at_low_resolution_every_window_is_computed() -> None:
    volume = volume_with_a_spot() * 0
    volume[0, 0, 5, 5, 5] = 0.9  # a single voxel, gone in the mean of eight
    volume += torch.rand_like(volume) / 100
    found = SlidingWindow((16, 16, 16), region_tau=0.01)(volume, bright)
    assert torch.equal(found.argmax(1)[0].nonzero(), torch.tensor([[5, 5, 5]]))


@pytest.mark.parametrize("shape", [(10, 40, 24), (16, 16, 16), (17, 31, 9)])
def test_volumes_smaller_than_a_window_keep_their_shape_and_geometry(shape: tuple[int, ...]) -> None:
    affine = torch.diag(torch.tensor([2.0, 2, 3, 1], dtype=torch.float64))
    volume = MetaTensor(torch.zeros(1, 1, *shape), affine=affine)
    volume[0, 0, 4:8, 10:16, 2:6] = 1
    found = SlidingWindow((16, 16, 16), region_tau=0.01, region_margin=1)(volume, bright)
    assert found.shape == (1, 2, *shape)
    assert torch.equal(found.argmax(1), (volume[:, 0] > 0.5).long())
    assert torch.equal(found.affine, affine)


@pytest.mark.parametrize("tau", [-0.1, 1.0, 2.0])
def test_weights_that_no_window_has_are_refused(tau: float) -> None:
    with pytest.raises(UserError, match="region_tau"):
        SlidingWindow((16, 16, 16), region_tau=tau)
