"""The PraNet-256 scores by brute force, by hand, and against what pysodmetrics 1.6.2 once said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_pysodmetrics import GOLDEN, real_pictures, synthetic_pictures

from medseg3d.metrics import ConfusionCounts, LevelCounts, dice, grey_levels, iou, pranet_curves, pranet_scores, recall

SYNTHETIC = synthetic_pictures()
STRETCHED_BY_FLOATS = {"non-square"}  # where pysodmetrics' own stretching puts a level one too low


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (13, 17)).astype(np.uint8), rng.random((13, 17)) < 0.3


@pytest.mark.parametrize(
    ("name", "variant"),
    [(name, "as_is") for name in SYNTHETIC]
    + [(name, "min_max") for name in SYNTHETIC if name not in STRETCHED_BY_FLOATS],
)
def test_scores_are_those_of_pysodmetrics(name, variant):
    expected = GOLDEN["synthetic"][name][variant]
    levels, truth = SYNTHETIC[name]
    scores = pranet_scores(LevelCounts.from_map(grey_levels(levels, min_max=variant == "min_max"), truth))
    assert scores == pytest.approx({key: expected[key] for key in scores}, abs=1e-12)


@pytest.mark.parametrize("case", GOLDEN["real"])
@pytest.mark.parametrize("variant", ["as_is", "min_max"])
def test_scores_of_real_masks_are_those_of_pysodmetrics(real_data, case, variant):
    levels, truth = real_pictures(real_data, case)
    levels = grey_levels(levels, min_max=True) if variant == "min_max" else levels
    scores = pranet_scores(LevelCounts.from_map(levels, truth))
    expected = GOLDEN["real"][case][variant]
    # one of the six is stretched, by floats there: see test_pysodmetrics_stretches_with_floats
    tolerance = 5e-5 if variant == "min_max" and case == "cju17hw9hr9c5098800fu4u8e" else 1e-12
    assert scores == pytest.approx({key: expected[key] for key in scores}, abs=tolerance)


@pytest.mark.parametrize("name", sorted(STRETCHED_BY_FLOATS))
def test_pysodmetrics_stretches_with_floats(name):
    levels, truth = SYNTHETIC[name]
    exact = grey_levels(levels, min_max=True)
    stretched = levels / 255
    stretched = (stretched - stretched.min()) / (stretched.max() - stretched.min())
    theirs = (stretched * 255).astype(np.uint8)
    low, high = int(levels.min()), int(levels.max())
    wrong = theirs != exact
    assert wrong.any()
    assert ((levels[wrong].astype(int) - low) * 255 % (high - low) == 0).all()
    scores = pranet_scores(LevelCounts.from_map(theirs, truth))
    expected = GOLDEN["synthetic"][name]["min_max"]
    assert scores == pytest.approx({key: expected[key] for key in scores}, abs=1e-12)


def test_counts_are_those_of_256_masks(pictures):
    levels, truth = pictures
    counts = LevelCounts.from_map(levels, truth)
    found = [ConfusionCounts(*each) for each in zip(counts.tp, counts.fp, counts.fn, counts.tn, strict=True)]
    assert found == [ConfusionCounts.from_masks(levels >= k, truth) for k in range(256)]
    assert counts.n == levels.size
    assert counts.n_truth == truth.sum()


@pytest.mark.parametrize(("name", "score"), [("dice", dice), ("iou", iou), ("recall", recall)])
def test_curves_are_the_scores_of_256_masks(pictures, name, score):
    levels, truth = pictures
    curves = pranet_curves(LevelCounts.from_map(levels, truth))
    masks = [ConfusionCounts.from_masks(levels >= k, truth) for k in range(256)]
    assert curves[name] == pytest.approx([np.nan_to_num(score(counts)) for counts in masks], abs=1e-15)


def test_volumes_and_tensors_are_counted_alike(pictures):
    levels, truth = pictures
    volume = LevelCounts.from_map(
        torch.from_numpy(levels.reshape(13, 1, 17)), torch.from_numpy(truth.reshape(13, 1, 17))
    )
    assert volume.tp.tolist() == LevelCounts.from_map(levels, truth).tp.tolist()


def test_nothing_true_found_makes_even_specificity_zero():
    truth = np.array([[1, 0, 0, 0]])
    curves = pranet_curves(LevelCounts.from_map(np.array([[0, 0, 0, 255]], dtype=np.uint8), truth))
    assert [curves[name][255] for name in ("dice", "iou", "recall", "specificity")] == [0, 0, 0, 0]
    assert curves["specificity"][0] == 0  # all foreground: TN = 0


def test_a_perfect_map_loses_what_the_lowest_level_costs():
    truth = np.zeros((10, 10), dtype=int)
    truth[2:6, 1:6] = 1  # a fifth
    scores = pranet_scores(LevelCounts.from_map(grey_levels(truth), truth))
    assert scores["dice_pranet256"] == pytest.approx((255 + 2 * 0.2 / 1.2) / 256, abs=1e-15)
    assert scores["iou_pranet256"] == pytest.approx((255 + 0.2) / 256, abs=1e-15)
    assert scores["max_dice_pranet256"] == 1
    assert scores["e_measure_max"] == pytest.approx(100 / 99, abs=1e-12)


def test_an_empty_truth_scores_what_is_left_blank():
    levels = np.array([[0, 0, 0, 255]], dtype=np.uint8)
    scores = pranet_scores(LevelCounts.from_map(levels, np.zeros((1, 4))))
    assert scores["dice_pranet256"] == scores["max_specificity_pranet256"] == 0
    assert scores["e_measure_adaptive"] == 3 / 3
    assert scores["e_measure_mean"] == pytest.approx(255 / 256)


def test_the_maximum_of_a_test_set_is_at_one_common_level():
    truth = np.array([[1, 0]])
    low = LevelCounts.from_map(np.array([[50, 40]], dtype=np.uint8), truth)
    high = LevelCounts.from_map(np.array([[200, 190]], dtype=np.uint8), truth)
    assert pranet_scores(low)["max_dice_pranet256"] == pranet_scores(high)["max_dice_pranet256"] == 1
    assert pranet_scores(low, high)["max_dice_pranet256"] == pytest.approx((1 + 2 / 3) / 2)
    assert pranet_scores(low, high)["dice_pranet256"] == pytest.approx(
        (pranet_scores(low)["dice_pranet256"] + pranet_scores(high)["dice_pranet256"]) / 2
    )


@pytest.mark.parametrize(
    ("levels", "expected"), [([0, 0, 0, 0], 0), ([1, 0, 0, 0], 1), ([100, 20, 0, 0], 60), ([255, 255, 200, 0], 255)]
)
def test_the_adaptive_level_is_twice_the_mean(levels, expected):
    assert LevelCounts.from_map(np.array(levels, dtype=np.uint8), np.array([1, 0, 0, 0])).adaptive_level == expected


def test_the_python_port_puts_66_levels_on_the_wrong_side():
    thresholds = np.linspace(1, 0, 256)[::-1]
    level = np.arange(256)
    wrong = ((level / 255 >= thresholds[:, None]) != (level >= level[:, None])).any(axis=1)
    assert wrong.sum() == 66


def test_probabilities_go_to_the_nearest_level():
    assert grey_levels(np.arange(256, dtype=np.float32) / 255).tolist() == list(range(256))
    assert grey_levels(np.array([0.0, 0.0019, 0.002, 0.9979, 0.9981])).tolist() == [0, 0, 1, 254, 255]


def test_stretching_blows_up_a_nearly_empty_map():
    nearly_empty = np.zeros((4, 4))
    nearly_empty[:2] = 0.004
    truth = np.zeros((4, 4))
    assert grey_levels(nearly_empty).max() == 1
    stretched = grey_levels(nearly_empty, min_max=True)
    assert stretched.max() == 255
    assert np.abs(grey_levels(nearly_empty) / 255 - truth).mean() < 0.004
    assert np.abs(stretched / 255 - truth).mean() == 0.5


def test_a_constant_map_is_not_stretched():
    assert grey_levels(np.full((2, 2), 0.4), min_max=True).tolist() == [[102, 102], [102, 102]]
    assert grey_levels(np.full(3, 7, dtype=np.uint8), min_max=True).tolist() == [7, 7, 7]


@pytest.mark.parametrize("values", [[0.0, 1.01], [-0.1, 0.5], [0.5, float("nan")]])
def test_values_that_are_no_probabilities_are_refused(values):
    with pytest.raises(ValueError, match=r"prob must lie in \[0, 1\], found"):
        grey_levels(np.array(values))


def test_what_cannot_be_counted_is_refused():
    truth = np.array([[0, 1]])
    with pytest.raises(ValueError, match="levels must be uint8, found float64; see grey_levels"):
        LevelCounts.from_map(np.array([[0.0, 1.0]]), truth)
    with pytest.raises(ValueError, match="must have the same shape"):
        LevelCounts.from_map(np.zeros((1, 3), dtype=np.uint8), truth)
    with pytest.raises(ValueError, match="truth must hold 0 and 1 only, found also 255"):
        LevelCounts.from_map(np.zeros((1, 2), dtype=np.uint8), truth * 255)
    with pytest.raises(ValueError, match="at least 2 pixels, found 1"):
        pranet_scores(LevelCounts.from_map(np.zeros((1, 1), dtype=np.uint8), np.zeros((1, 1))))
    with pytest.raises(ValueError, match="at least one image"):
        pranet_scores()
    with pytest.raises(ValueError, match="at least one pixel"):
        grey_levels(np.zeros((0, 3)))
