from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from medseg3d.reports.baselines import best_interval_dice, mean_mask_dice


def test_the_best_interval_is_found_by_hand():
    images = [np.array([0, 50, 100, 150]), np.array([0, 50, 60, 300])]
    truths = [np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1])]
    (low, high), mean = best_interval_dice(images, truths)
    # 50 and 100 in the first, 50 and 60 in the second: Dice 1 and 2*2/(2+3)
    assert mean == pytest.approx((1 + 0.8) / 2)
    assert low <= 50 < 100 < high <= 150


def test_no_interval_does_better():
    rng = np.random.default_rng(0)
    image, truth = rng.normal(100, 60, 500), rng.random(500) < 0.3
    interval, best = best_interval_dice([image], [truth])
    scores = [
        f1_score(truth, (image >= low) & (image < high))
        for low in range(-200, 400, 20)
        for high in range(low + 20, 401, 20)
    ]
    assert best >= max(scores)
    assert best == pytest.approx(f1_score(truth, (image >= interval[0]) & (image < interval[1])))


def test_one_mask_for_all_is_as_good_as_its_overlap():
    mask = np.zeros((4, 4, 4), bool)
    mask[1:3, 1:3, 1:3] = True
    moved = np.roll(mask, 1, axis=0)
    assert mean_mask_dice([mask, mask], [mask]) == 1
    assert mean_mask_dice([mask], [moved]) == pytest.approx(0.5)


def test_volumes_of_other_sizes_are_aligned_by_their_centres():
    small, large = np.zeros((2, 2, 2), bool), np.zeros((6, 6, 6), bool)
    small[:] = large[2:4, 2:4, 2:4] = True
    assert mean_mask_dice([large], [small]) == 1


def test_no_mask_is_refused():
    with pytest.raises(ValueError, match="masks must hold at least one volume"):
        mean_mask_dice([], [])
