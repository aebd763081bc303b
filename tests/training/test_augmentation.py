from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from medseg3d.training import RandPhotometricd, RandVariedCropd
from medseg3d.training.augmentation import with_colours


@pytest.fixture
def picture() -> torch.Tensor:
    """Colours at random, and black, white, grey and the pure ones."""
    colours = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0))
    corners = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]
    colours[:, 0] = torch.tensor(corners).T
    return colours


@pytest.mark.parametrize("saturation", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("turn", [-0.4, 0.0, 0.1, 0.7])
def test_hue_and_saturation_are_those_of_the_standard_library(picture, saturation, turn):
    found = with_colours(picture, saturation, turn)
    pixels = [colorsys.rgb_to_hsv(*pixel) for pixel in picture.flatten(1).T.tolist()]
    expected = [
        colorsys.hsv_to_rgb((hue + turn) % 1, min(1, saturation * strength), value) for hue, strength, value in pixels
    ]
    assert found.flatten(1).T.numpy() == pytest.approx(np.array(expected), abs=1e-5)


def distorted(picture: torch.Tensor, seed: int, **ranges) -> torch.Tensor:
    """The image with nothing changed but what has a range."""
    still = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0}
    transform = RandPhotometricd("image", **{**still, **ranges})
    transform.set_random_state(seed)
    return transform({"image": picture})["image"]


def test_without_ranges_nothing_changes(picture):
    assert all(torch.equal(distorted(picture, seed), picture) for seed in range(9))


def test_brightness_is_added_and_clipped(picture):
    results = [distorted(picture, seed, brightness=0.2) for seed in range(60)]
    offsets = [(result - picture)[0, 0, 2].item() for result in results]  # the grey pixel, which is never clipped
    expected = torch.stack([(picture + offset).clamp(0, 1) for offset in offsets])
    assert torch.allclose(torch.stack(results), expected, atol=1e-6)
    assert 15 < sum(offset == 0 for offset in offsets) < 45
    assert min(offsets) < -0.15
    assert max(offsets) > 0.15
    assert max(map(abs, offsets)) <= 0.2


def test_brightness_is_clipped_before_the_contrast():
    white = torch.ones(3, 1, 1)
    found = {distorted(white, seed, brightness=0.25, contrast=(0.5, 0.5)).max().item() for seed in range(60)}
    assert {0.5, 1.0} < found
    assert not any(0.5 < value < 0.75 for value in found)


def test_contrast_is_a_factor_before_or_after_the_colours(picture):
    both = [distorted(picture, seed, contrast=(1.5, 1.5), saturation=(2.0, 2.0)) for seed in range(60)]
    brighter = (1.5 * picture).clamp(0, 1)
    outcomes = {
        "neither": picture,
        "contrast": brighter,
        "colours": with_colours(picture, 2.0, 0.0),
        "contrast first": with_colours(brighter, 2.0, 0.0),
        "contrast last": (1.5 * with_colours(picture, 2.0, 0.0)).clamp(0, 1),
    }
    seen = {name for name, outcome in outcomes.items() if any(torch.allclose(outcome, result) for result in both)}
    assert seen == outcomes.keys()
    assert all(any(torch.allclose(outcome, result) for outcome in outcomes.values()) for result in both)


def test_hue_turns_no_further_than_asked_for():
    red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    greens = [distorted(red, seed, hue=0.1)[1].item() for seed in range(60)]  # a turn of 1/6 would be all of it
    assert 0.4 < max(greens) <= 0.6


def cropped(label: torch.Tensor, seed: int, **settings) -> dict[str, torch.Tensor]:
    transform = RandVariedCropd(["image", "label"], **settings)
    transform.set_random_state(seed)
    return transform({"image": label.float() + torch.rand(3, 1, 1), "label": label})


def test_windows_are_where_no_class_fills_them():
    label = torch.zeros(1, 8, 40, dtype=torch.uint8)
    label[..., :10] = 1  # windows of 8 x 8 have between 1/4 and 3/4 of it where they begin in columns 5 to 7
    windows = [cropped(label, seed, roi_size=(8, 8)) for seed in range(40)]
    shares = torch.tensor([window["label"].float().mean() for window in windows])
    assert all(window["label"].shape == (1, 8, 8) for window in windows)
    varied = ((shares > 0.25) & (shares < 0.75)).float().mean()
    assert 0.4 < varied < 0.9  # 3 of 33 places in ten draws: 61 %
    anywhere = [cropped(label, seed, roi_size=(8, 8), largest_share=1.0)["label"].float().mean() for seed in range(40)]
    assert any(share < 0.25 for share in anywhere)


def test_pictures_and_their_mask_are_cut_alike_and_small_ones_kept():
    label = torch.arange(60).view(1, 6, 10) % 7
    window = cropped(label, 3, roi_size=(20, 4))
    assert window["label"].shape == (1, 6, 4)
    difference = window["image"] - window["label"]
    assert torch.allclose(difference, difference[:, :1, :1])
