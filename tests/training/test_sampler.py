from __future__ import annotations

import pytest

from medseg3d.training import EpochSampler


def test_one_epoch_visits_every_case_once():
    stream = EpochSampler(num_cases=7, batch_size=1, epochs=3, seed=0)
    assert sorted(key.index for key in stream.epoch_keys(0)) == list(range(7))
    assert len(stream) == 7


def test_a_short_last_batch_is_filled_from_the_next_walk():
    stream = EpochSampler(num_cases=3, batch_size=2, epochs=1, seed=0)
    indices = [key.index for key in stream.epoch_keys(0)]
    assert len(indices) == 4
    assert sorted(indices[:3]) == [0, 1, 2]


def test_iterations_per_epoch_sets_the_length_of_an_epoch():
    stream = EpochSampler(num_cases=1, batch_size=2, epochs=1, iterations_per_epoch=5)
    assert [key.index for key in stream] == [0] * 10
    assert len({key.seed for key in stream}) == 10  # one case, ten different augmentations


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_a_stream_that_starts_later_is_the_rest_of_the_whole_one(start):
    whole = list(EpochSampler(num_cases=5, batch_size=2, epochs=4, seed=3))
    later = EpochSampler(num_cases=5, batch_size=2, epochs=4, seed=3)
    later.start_epoch = start
    assert list(later) == whole[start * len(later) :]


def test_epochs_and_seeds_differ():
    stream, other = (EpochSampler(num_cases=20, batch_size=1, epochs=2, seed=seed) for seed in (0, 1))
    assert list(stream.epoch_keys(0)) != list(stream.epoch_keys(1))
    assert list(stream.epoch_keys(0)) != list(other.epoch_keys(0))


@pytest.mark.parametrize("name", ["num_cases", "batch_size", "epochs"])
def test_a_length_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        EpochSampler(**{"num_cases": 1, "batch_size": 1, "epochs": 1, name: 0})
