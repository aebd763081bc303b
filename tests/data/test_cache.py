from __future__ import annotations

import logging
from copy import deepcopy
from operator import itemgetter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, get_track_meta
from monai.transforms import (
    Compose,
    Lambdad,
    MapTransform,
    NormalizeIntensityd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    Randomizable,
    RandomOrder,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
)

from medseg3d.data.cache import CaseCache, CaseKey
from medseg3d.errors import UserError
from medseg3d.training import EpochSampler

DATA = [{"image": float(index)} for index in range(4)]


def prepare(value):
    if value < 0:
        raise UserError("EMPTY", f"case_{value}.nii.gz", "0 bytes")
    return torch.full((1, 8, 8, 8), value)


def augmented() -> Compose:
    return Compose([Lambdad("image", prepare), RandGaussianNoised("image", prob=1.0), RandSpatialCropd("image", 4)])


def test_an_item_is_a_function_of_its_key():
    cache = CaseCache(DATA, augmented())
    first = cache[CaseKey(1, seed=5)]["image"]
    cache[CaseKey(2, seed=9)]
    assert torch.equal(cache[CaseKey(1, seed=5)]["image"], first)
    assert not torch.equal(cache[CaseKey(1, seed=6)]["image"], first)


@pytest.mark.parametrize("memory_fraction", [0.0, 0.5])
def test_batches_do_not_depend_on_the_number_of_workers(memory_fraction):
    cache = CaseCache(DATA, augmented(), memory_fraction=memory_fraction)
    one, two = (
        [
            batch["image"]
            for batch in DataLoader(
                cache, batch_size=2, sampler=EpochSampler(len(cache), 2, epochs=2, seed=1), num_workers=workers
            )
        ]
        for workers in (0, 2)
    )
    assert len(one) == 4
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_chain_within_a_chain_is_cached():
    nested = Compose([Compose([Lambdad("image", prepare)]), RandGaussianNoised("image", prob=1.0)])
    cache = CaseCache(DATA, nested)
    assert torch.equal(torch.as_tensor(cache._cache[2]["image"]), torch.full((1, 8, 8, 8), 2.0))


class Twice(Randomizable, MapTransform):
    """A transform that seeds what it holds in a way of its own."""

    def __init__(self) -> None:
        super().__init__("image")
        self.noise = RandGaussianNoised("image", prob=1.0)

    def set_random_state(self, seed=None, state=None):
        super().set_random_state(seed, state)
        self.noise.set_random_state(seed=2 * seed)
        return self

    def __call__(self, data):
        return self.noise(data)


AUGMENTATIONS = [
    RandSpatialCropd(["image", "label"], 6, random_size=False),
    RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
    RandAffined(["image", "label"], prob=0.7, rotate_range=1.0, mode=["bilinear", "nearest"]),
    Compose([RandScaleIntensityd("image", factors=0.2, prob=0.5)]),
    RandomOrder([RandShiftIntensityd("image", offsets=0.1, prob=0.5), RandGaussianNoised("image", prob=0.5)]),
    Twice(),
    NormalizeIntensityd("image", subtrahend=0.5, divisor=2.0),
]


def picture(value: float) -> MetaTensor:
    rng = np.random.default_rng(int(value))
    return MetaTensor(
        torch.from_numpy(rng.random((1, 8, 8, 8), np.float32)), affine=torch.diag(torch.tensor([2.0, 2, 3, 1]))
    )


@pytest.mark.parametrize("memory_fraction", [0.0, 0.5])
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_samples_are_those_of_monais_seeds_and_tensors_to_the_bit(memory_fraction, seed):
    data = [{"image": float(index), "label": float(index)} for index in range(3)]
    chain = [Lambdad(["image", "label"], picture, track_meta=False), *AUGMENTATIONS]
    cache = CaseCache(data, deepcopy(chain), memory_fraction=memory_fraction)
    stock = CacheDataset(data, Compose(deepcopy(chain)).flatten(), copy_cache=False, progress=False)
    expected, got = [], []
    for index in range(3):
        stock.transform.set_random_state(seed=seed)
        expected += itemgetter("image", "label")(stock[index])
        got += itemgetter("image", "label")(cache[CaseKey(index, seed)])
    assert all(isinstance(each, MetaTensor) for each in expected)
    assert {type(each) for each in got} == {torch.Tensor}
    assert [each.dtype for each in got] == [each.dtype for each in expected]
    assert [torch.equal(one, other.as_tensor()) for one, other in zip(got, expected, strict=True)] == [True] * 6
    assert get_track_meta()


def test_what_a_sample_raises_leaves_monais_tracking_on():
    def fail(image):
        raise OSError

    cache = CaseCache(DATA, [Lambdad("image", prepare), RandGaussianNoised("image", prob=1.0), Lambdad("image", fail)])
    with pytest.raises(UserError, match=r"INTERNAL .*: OSError"):
        cache[CaseKey(0, 0)]
    assert get_track_meta()


def test_samples_without_a_random_step_are_plain_tensors_too():
    cache = CaseCache(DATA, [Lambdad("image", picture, track_meta=False)])
    image = cache[CaseKey(1, seed=0)]["image"]
    assert type(image) is torch.Tensor
    assert torch.equal(image, picture(1).as_tensor())


def test_the_cached_volumes_stay_as_they_were():
    cache = CaseCache(DATA, augmented())
    for seed in range(5):
        cache[CaseKey(3, seed)]
    assert torch.equal(torch.as_tensor(cache._cache[3]["image"]), torch.full((1, 8, 8, 8), 3.0))


def test_a_cache_that_does_not_fit_is_filled_as_far_as_it_goes_and_says_so(monkeypatch, caplog):
    item = 8**3 * 4
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5 * item))
    with caplog.at_level(logging.WARNING, logger="medseg3d"):
        cache = CaseCache(DATA, augmented(), memory_fraction=0.5, num_workers=1)
    assert cache.cache_num == 2
    assert "2 of the 4 training cases fit in memory" in caplog.text
    assert "the other 2 are prepared again each time" in caplog.text
    assert cache[CaseKey(3, seed=0)]["image"].shape == (1, 4, 4, 4)  # beyond the cache


def test_a_refusal_comes_out_of_the_cache_unwrapped():
    with pytest.raises(UserError, match=r"EMPTY case_-1\.0\.nii\.gz: 0 bytes"):
        CaseCache([{"image": -1.0}], augmented())
    uncached = CaseCache([{"image": -1.0}], augmented(), memory_fraction=0.0)
    with pytest.raises(UserError, match="EMPTY"):
        uncached[CaseKey(0, 0)]


def test_no_case_is_an_error():
    with pytest.raises(UserError, match="NO_CASES"):
        CaseCache([], augmented())


def test_a_case_that_fails_in_a_transform_is_named_with_the_innermost_cause():
    def fail(item):
        raise ZeroDivisionError("by zero")

    with pytest.raises(UserError, match=r"^INTERNAL scans/ct\.nii\.gz: ZeroDivisionError: by zero"):
        CaseCache([{"image": "scans/ct.nii.gz"}], Compose([fail]))[0]
