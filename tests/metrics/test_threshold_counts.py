"""Counts at many thresholds are those of each threshold by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg3d.metrics import ConfusionCounts, threshold_counts

THRESHOLDS = np.arange(1, 100) / 100


def test_every_threshold_is_counted_as_by_itself():
    rng = np.random.default_rng(0)
    prob = rng.random((7, 8, 9), dtype=np.float32)
    prob[0, 0, :] = np.float32(0.29)  # on a threshold: it counts as foreground there
    truth = rng.random(prob.shape) < prob
    found = [ConfusionCounts(*map(int, each)) for each in zip(*threshold_counts(prob, truth, THRESHOLDS), strict=True)]
    assert found == [ConfusionCounts.from_masks(prob >= np.float32(threshold), truth) for threshold in THRESHOLDS]


def test_tensors_in_any_order_of_memory_are_read():
    prob, truth = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 6)
    truth[2] = 1
    straight = threshold_counts(prob, truth, THRESHOLDS)
    turned = threshold_counts(prob.T.contiguous().T, truth.numpy(), THRESHOLDS)
    assert all((one == two).all() for one, two in zip(straight, turned, strict=True))


@pytest.mark.parametrize(
    ("prob", "thresholds", "message"),
    [
        ([0.5, 1.5], [0.5], r"prob must lie in \[0, 1\], found 0.5 to 1.5"),
        ([0.5, np.nan], [0.5], r"prob must lie in \[0, 1\], found nan"),
        ([0.5, 0.6], [0.5, 0.4], "thresholds must rise"),
    ],
)
def test_what_is_no_probability_is_refused(prob, thresholds, message):
    with pytest.raises(ValueError, match=message):
        threshold_counts(np.array(prob), np.array([0, 1]), thresholds)
