from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, Lambdad, RandGaussianNoised, RandSpatialCropd

from medseg3d.data.cache import CaseCache, CaseKey
from medseg3d.faults import Fault
from medseg3d.training import CaseStream

DATA = [{"image": float(index)} for index in range(4)]


def prepare(value):
    if value < 0:
        raise Fault("EMPTY", f"case_{value}.nii.gz", "0 bytes")
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
                cache, batch_size=2, sampler=CaseStream(len(cache), 2, epochs=2, seed=1), num_workers=workers
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
    assert "the other 2 are prepared anew each time" in caplog.text
    assert cache[CaseKey(3, seed=0)]["image"].shape == (1, 4, 4, 4)  # beyond the cache


def test_a_refusal_comes_out_of_the_cache_unwrapped():
    with pytest.raises(Fault, match=r"EMPTY case_-1\.0\.nii\.gz: found 0 bytes"):
        CaseCache([{"image": -1.0}], augmented())
    uncached = CaseCache([{"image": -1.0}], augmented(), memory_fraction=0.0)
    with pytest.raises(Fault, match="EMPTY"):
        uncached[CaseKey(0, 0)]


def test_no_case_is_an_error():
    with pytest.raises(Fault, match="NO_CASES"):
        CaseCache([], augmented())
