from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from commands import ROOT
from monai.transforms import (
    Compose,
    NormalizeIntensityd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandZoomd,
    SelectItemsd,
    SpatialPadd,
)
from picture_runs import parsed

from medseg3d.errors import UserError
from medseg3d.training import Augmentation, BatchAugmentation, RandPhotometricd
from medseg3d.training.batch_augmentation import sample_seeds

BOTH = ["image", "label"]


def batch_of(shape: Sequence[int], channels: int = 1, count: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(count, channels, *shape, generator=generator),
        "label": torch.randint(3, (count, 1, *shape), generator=generator, dtype=torch.uint8),
    }


def one_by_one(transforms: Sequence[Callable], batch: dict, seed: int, iteration: int) -> dict[str, torch.Tensor]:
    """What MONAI's own transforms make of each sample, with the seeds of the batch."""
    chain, samples = Compose(transforms), []
    for number, own in enumerate(sample_seeds(seed, iteration, len(batch["image"]))):
        chain.set_random_state(own)
        samples.append(chain({key: value[number] for key, value in batch.items()}))
    return {
        key: torch.stack([torch.as_tensor(each[key]) for each in samples]).as_subclass(torch.Tensor) for key in BOTH
    }


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> tuple[float, float]:
    """The mean difference of two batches' images, and the share of their labels that are not the same."""
    images = (one["image"] - other["image"]).abs().mean().item()
    return images, (one["label"] != other["label"]).float().mean().item()


NEAREST = {"mode": ["bilinear", "nearest"]}
TURNS = {"rotate_range": 3.1416, "scale_range": [0.2, 0.2], "translate_range": [2.0, 3.0], **NEAREST}
TURNS_3D = {"rotate_range": [0.3, 0.2, 0.5], "shear_range": [0.1] * 6, "translate_range": [2, 1, 3], **NEAREST}
CASES = {
    "flips": ((6, 7), 1, [RandFlipd(BOTH, 0.5, 0), RandFlipd(BOTH, 0.5, 1)]),
    "flips in 3-D": ((5, 6, 7), 1, [RandFlipd(BOTH, 0.5, axis) for axis in (0, -1, None)]),
    "factors": ((6, 7), 2, [RandScaleIntensityd("image", 0.3, 0.5), RandShiftIntensityd("image", 0.2, prob=0.5)]),
    "turns": ((20, 24), 3, [RandAffined(BOTH, prob=0.7, padding_mode="zeros", **TURNS)]),
    "turns in 3-D": ((12, 10, 8), 1, [RandAffined(BOTH, prob=1.0, padding_mode="border", **TURNS_3D)]),
    "smoothing": ((9, 8), 3, [RandGaussianSmoothd("image", (0.3, 2.0), (0.3, 1.0), prob=0.7)]),
    "smoothing in 3-D": ((6, 9, 8), 1, [RandGaussianSmoothd("image", prob=1.0)]),
    "colours": ((6, 7), 3, [RandPhotometricd("image")]),
    "noise that is one value": ((6, 7), 1, [RandGaussianNoised("image", prob=0.5, mean=0.3, std=0.0)]),
    "normalisation": ((6, 7), 3, [NormalizeIntensityd("image", torch.rand(3, 1, 1), 1 + torch.rand(3, 1, 1))]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_what_monai_makes_of_each_sample(name: str) -> None:
    shape, channels, transforms = CASES[name]
    batch = batch_of(shape, channels)
    found = BatchAugmentation(transforms)(batch, seed=3, iteration=5)
    expected = one_by_one(transforms, batch, 3, 5)
    assert torch.allclose(found["image"], expected["image"], atol=2e-5)
    assert apart(found, expected)[1] < 1e-3  # a pixel may lie between two, and be rounded either way
    assert not torch.allclose(found["image"], batch["image"], atol=1e-3)
    assert (found["image"].dtype, found["label"].dtype) == (torch.float32, torch.uint8)


HALF = dict.fromkeys(("flip_prob", "intensity_prob"), 0.5)
TURNED = {**HALF, "affine_prob": 0.5}
POLYPS = {**TURNED, "picture_size": [16, 20], "channel_mean": [0.4, 0.3, 0.2]}


@pytest.mark.parametrize(
    ("bundle", "overlays", "knobs", "shape", "channels"),
    [
        ("pancreas_nl", (), HALF, (12, 10, 8), 1),
        ("pancreas_nl_2d", (), {**TURNED, "blur_prob": 0.5}, (16, 20), 3),
        ("polyp_resunetpp", (), POLYPS, (16, 20), 3),
        ("polyp_resunetpp", ("kvasir_clinicdb",), POLYPS, (16, 20), 3),
    ],
)
def test_a_bundle_augments_alike_in_both_places(bundle, overlays, knobs, shape, channels, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    batch = batch_of(shape, channels)
    loader, device = (
        parsed(bundle, *overlays, **knobs, augment_on=place)("train#augmentation") for place in ("loader", "device")
    )
    assert loader.on_device is None
    assert [type(step).__name__ for step in device.in_loader.transforms] in ([], ["SelectItemsd"])
    steps = loader.in_loader.transforms
    for step in (*steps, *device.on_device.chain.transforms):
        if isinstance(step, RandGaussianNoised):
            step.prob = 0.0  # whose values are others
    images, labels = apart(device.on_device(batch, seed=0, iteration=1), one_by_one(steps, batch, 0, 1))
    assert images < 1e-5
    assert labels < 1e-3


def test_each_sample_is_drawn_for_by_itself_as_often_and_as_far_as_asked() -> None:
    count = 4000
    image = torch.tensor([1.0, 2.0]).expand(count, 1, 2).clone()
    transforms = [RandFlipd(BOTH, 0.2, 0), RandScaleIntensityd("image", 0.1, 0.3)]
    found = BatchAugmentation(transforms)({"image": image, "label": image.byte()}, seed=0, iteration=1)
    flipped = found["image"][:, 0, 0] > found["image"][:, 0, 1]
    factors = found["image"].amax((1, 2)) / 2 - 1
    scaled = factors != 0
    # within four standard deviations of what is wanted
    assert flipped.float().mean().item() == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / count) ** 0.5)
    assert scaled.float().mean().item() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / count) ** 0.5)
    assert (flipped & scaled).float().mean().item() == pytest.approx(0.06, abs=4 * (0.06 * 0.94 / count) ** 0.5)
    assert factors[scaled].mean().item() == pytest.approx(0, abs=4 * 0.1 / (3 * 0.3 * count) ** 0.5)
    assert factors[scaled].var().item() == pytest.approx(0.1**2 / 3, rel=0.1)
    assert factors.abs().max() <= 0.1 + 1e-6
    assert torch.equal(found["image"][:, 0, 0] > found["image"][:, 0, 1], found["label"][:, 0, 0] == 2)


def test_noise_has_the_spread_and_the_share_of_monais() -> None:
    batch = {"image": torch.zeros(600, 1, 12, 12), "label": torch.zeros(600, 1, 12, 12)}
    noise = BatchAugmentation([RandGaussianNoised("image", prob=0.5, std=0.02)])(batch, seed=0, iteration=1)["image"]
    spreads = noise.std((1, 2, 3))
    noisy = spreads > 0
    assert noisy.float().mean().item() == pytest.approx(0.5, abs=4 * (0.25 / 600) ** 0.5)
    # uniform from 0 to 0.02 themselves
    assert spreads[noisy].mean().item() == pytest.approx(0.01, rel=0.1)
    assert spreads[noisy].var().item() == pytest.approx(0.02**2 / 12, rel=0.2)
    assert len(noise[noisy].flatten(1).unique(dim=0)) == noisy.sum()


def test_a_label_keeps_its_integers_and_goes_with_its_image() -> None:
    batch = batch_of((16, 16))
    batch["image"] = batch["label"].float()
    turns = {**TURNS, "mode": "nearest"}
    found = BatchAugmentation([RandFlipd(BOTH, 0.5, 0), RandAffined(BOTH, prob=0.9, padding_mode="zeros", **turns)])(
        batch, seed=1, iteration=1
    )
    assert found["label"].dtype == torch.uint8
    assert torch.equal(found["image"], found["label"].float())
    assert not torch.equal(found["label"], batch["label"])


ALL = [
    *(RandFlipd(BOTH, 0.5, 0), RandAffined(BOTH, prob=0.5, padding_mode="zeros", **TURNS)),
    *(RandScaleIntensityd("image", 0.2, 0.5), RandGaussianNoised("image", 0.5)),
]


def test_the_samples_of_a_batch_are_the_same_however_many_processes_share_it() -> None:
    batch, augment = batch_of((8, 8)), BatchAugmentation(ALL)
    whole = augment(batch, seed=2, iteration=7)
    halves = [
        augment({key: value[start : start + 6] for key, value in batch.items()}, seed=2, iteration=7, first=start)
        for start in (0, 6)
    ]
    joined = {key: torch.cat([half[key] for half in halves]) for key in BOTH}
    assert torch.allclose(joined["image"], whole["image"], atol=1e-6)
    assert torch.equal(joined["label"], whole["label"])
    same = augment({key: value[6:] for key, value in batch.items()}, seed=2, iteration=7)
    assert not torch.allclose(same["image"], halves[1]["image"], atol=1e-3)


def test_a_batch_is_a_function_of_seed_and_iteration_and_the_one_given_stays() -> None:
    batch, augment = batch_of((8, 8)), BatchAugmentation(ALL)
    before = {key: value.clone() for key, value in batch.items()}
    first, other_iteration, other_seed, again = (
        augment(batch, seed=seed, iteration=iteration) for seed, iteration in ((0, 1), (0, 2), (1, 1), (0, 1))
    )
    assert all(torch.equal(first[key], again[key]) for key in BOTH)
    assert not torch.equal(first["image"], other_iteration["image"])
    assert not torch.equal(first["image"], other_seed["image"])
    assert all(torch.equal(batch[key], before[key]) for key in BOTH)


@pytest.mark.parametrize(
    "transform",
    [
        RandZoomd(BOTH),
        SpatialPadd(BOTH, (9, 9)),
        RandAffined(BOTH, spatial_size=(9, 9), **NEAREST),
        RandAffined(BOTH, mode="bilinear"),
        RandScaleIntensityd("image", 0.1, channel_wise=True),
        RandShiftIntensityd("image", 0.1, channel_wise=True),
        RandShiftIntensityd("image", 0.1, factor_key="max"),
        NormalizeIntensityd("image"),
        NormalizeIntensityd("image", 0.5, 0.5, nonzero=True),
        NormalizeIntensityd("image", [0.5], [0.5], channel_wise=True),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_what_cannot_be_done_to_a_batch_is_refused_by_name(transform: Callable) -> None:
    words = rf"BAD_VALUE --augment_on: device, with {type(transform).__name__} among .*Hint: --augment_on loader"
    with pytest.raises(UserError, match=words):
        Augmentation([RandFlipd(BOTH), transform], "device")


def test_what_precedes_the_first_random_transform_stays_in_the_loader() -> None:
    select, flip, normalise = SelectItemsd(BOTH), RandFlipd(BOTH), NormalizeIntensityd("image", 0.5, 0.5)
    divided = Augmentation([Compose([select, flip]), normalise], "device")
    assert list(divided.in_loader.transforms) == [select]
    assert list(divided.on_device.chain.transforms) == [flip, normalise]
    whole = Augmentation([Compose([select, flip]), normalise])
    assert list(whole.in_loader.transforms) == [select, flip, normalise]
    assert whole.on_device is None
    assert Augmentation([select, normalise], "device").on_device is None


def test_there_are_two_places() -> None:
    with pytest.raises(UserError, match="BAD_VALUE --augment_on: 'gpu', expected one of loader, device"):
        Augmentation([], "gpu")
