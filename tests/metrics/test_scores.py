"""Every score by hand, the empty cases by name, and scikit-learn and MONAI as judges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou
from sklearn import metrics as sk

from medseg3d.metrics import (
    SCORES,
    ConfusionCounts,
    MeanScore,
    accuracy,
    dice,
    iou,
    mean_score,
    precision,
    recall,
    specificity,
)
from medseg3d.metrics.scores import score_along

NAN = float("nan")
NAMES = ["dice", "iou", "recall", "specificity", "precision", "accuracy"]


def scores_of(counts: ConfusionCounts) -> dict[str, float]:
    return {name: score(counts) for name, score in SCORES.items()}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.fixture(params=[(3, 3), (3, 3, 3)], ids=["2-D", "3-D"])
def empty(request) -> np.ndarray:
    return np.zeros(request.param, dtype=np.uint8)


@pytest.fixture
def something(empty) -> np.ndarray:
    mask = empty.copy()
    mask[0] = 1
    assert 0 < mask.sum() < mask.size
    return mask


def test_names_and_their_order():
    assert list(SCORES) == NAMES


def test_2x2_by_hand():
    counts = ConfusionCounts.from_masks(pred=np.array([[1, 1], [0, 0]]), truth=np.array([[1, 0], [1, 0]]))
    assert scores_of(counts) == {
        "dice": 0.5,
        "iou": pytest.approx(1 / 3),
        "recall": 0.5,
        "specificity": 0.5,
        "precision": 0.5,
        "accuracy": 0.5,
    }


def test_3x3_by_hand():
    truth = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    pred = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    assert scores_of(ConfusionCounts.from_masks(pred, truth)) == pytest.approx(
        {"dice": 4 / 7, "iou": 2 / 5, "recall": 2 / 3, "specificity": 4 / 6, "precision": 2 / 4, "accuracy": 6 / 9}
    )


def test_identical_masks_score_one(something):
    assert scores_of(ConfusionCounts.from_masks(something, something)) == dict.fromkeys(NAMES, 1.0)


def test_opposite_masks_score_zero(something):
    assert scores_of(ConfusionCounts.from_masks(1 - something, something)) == dict.fromkeys(NAMES, 0.0)


def test_truth_and_prediction_empty(empty):
    assert scores_of(ConfusionCounts.from_masks(pred=empty, truth=empty)) == pytest.approx(
        {"dice": NAN, "iou": NAN, "recall": NAN, "specificity": 1, "precision": NAN, "accuracy": 1}, nan_ok=True
    )


def test_truth_empty_prediction_not(empty, something):
    wrong = 1 / 3
    assert scores_of(ConfusionCounts.from_masks(pred=something, truth=empty)) == pytest.approx(
        {"dice": 0, "iou": 0, "recall": NAN, "specificity": 1 - wrong, "precision": 0, "accuracy": 1 - wrong},
        nan_ok=True,
    )


def test_prediction_empty_truth_not(empty, something):
    assert scores_of(ConfusionCounts.from_masks(pred=empty, truth=something)) == pytest.approx(
        {"dice": 0, "iou": 0, "recall": 0, "specificity": 1, "precision": NAN, "accuracy": 2 / 3}, nan_ok=True
    )


def test_truth_fills_the_image(empty, something):
    assert scores_of(ConfusionCounts.from_masks(pred=something, truth=empty + 1)) == pytest.approx(
        {"dice": 0.5, "iou": 1 / 3, "recall": 1 / 3, "specificity": NAN, "precision": 1, "accuracy": 1 / 3}, nan_ok=True
    )


def test_no_voxels_have_no_score():
    assert all(math.isnan(score(ConfusionCounts())) for score in SCORES.values())


@pytest.mark.parametrize("spatial", [(20, 17), (9, 8, 7)])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_scikit_learn_agrees(rng, spatial, share):
    truth, pred = rng.random(spatial) < share, rng.random(spatial) < share
    counts = ConfusionCounts.from_masks(pred, truth)
    t, p = truth.ravel(), pred.ravel()
    assert dice(counts) == pytest.approx(sk.f1_score(t, p, zero_division=NAN), nan_ok=True, abs=1e-12)
    assert iou(counts) == pytest.approx(sk.jaccard_score(t, p), abs=1e-12)
    assert recall(counts) == pytest.approx(sk.recall_score(t, p, zero_division=NAN), nan_ok=True, abs=1e-12)
    assert specificity(counts) == pytest.approx(sk.recall_score(~t, ~p), abs=1e-12)
    assert precision(counts) == pytest.approx(sk.precision_score(t, p, zero_division=NAN), nan_ok=True, abs=1e-12)
    assert accuracy(counts) == pytest.approx(sk.accuracy_score(t, p), abs=1e-12)


@pytest.mark.parametrize(("truth", "pred"), [([0, 0], [0, 0]), ([0, 0], [0, 1]), ([0, 1], [0, 0])])
def test_scikit_learn_agrees_on_emptiness(truth, pred):
    counts = ConfusionCounts.from_masks(np.array(pred), np.array(truth))
    assert dice(counts) == pytest.approx(sk.f1_score(truth, pred, zero_division=NAN), nan_ok=True)
    assert recall(counts) == pytest.approx(sk.recall_score(truth, pred, zero_division=NAN), nan_ok=True)
    assert precision(counts) == pytest.approx(sk.precision_score(truth, pred, zero_division=NAN), nan_ok=True)


@pytest.mark.parametrize("spatial", [(20, 17), (9, 8, 7)])
def test_monai_agrees_where_the_truth_is_not_empty(rng, spatial):
    truth, pred = rng.random(spatial) < 0.3, rng.random(spatial) < 0.4
    counts = ConfusionCounts.from_masks(pred, truth)
    batch = {"y_pred": torch.as_tensor(pred)[None, None].float(), "y": torch.as_tensor(truth)[None, None].float()}
    assert dice(counts) == pytest.approx(compute_dice(**batch).item(), abs=1e-6)
    assert iou(counts) == pytest.approx(compute_iou(**batch).item(), abs=1e-6)


def test_monai_leaves_out_false_positives_on_an_empty_truth_and_we_do_not():
    pred, truth = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    assert math.isnan(compute_dice(pred, truth).item())
    assert dice(ConfusionCounts.from_masks(pred, truth)) == 0


def test_iou_follows_from_dice(rng):
    counts = [ConfusionCounts(*three, 7) for three in rng.integers(0, 50, (100, 3))]
    expected = [dice(each) / (2 - dice(each)) for each in counts]
    assert [iou(each) for each in counts] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_scores_along_a_curve_are_the_scores_one_by_one(rng, name):
    table = rng.integers(0, 3, (4, 60))  # small enough to hold every empty case
    one_by_one = [SCORES[name](ConfusionCounts(*column)) for column in table.T]
    assert any(map(math.isnan, one_by_one))
    np.testing.assert_array_equal(score_along(name, *table), one_by_one)


def test_unknown_scores_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"score must be one of dice, iou, .*, found 'f1'"):
        score_along("f1", *np.zeros((4, 1)))


def test_mean_leaves_nan_out_and_says_so():
    assert mean_score([0.25, NAN, 0.75, NAN, 0.5]) == MeanScore(mean=0.5, n=3, n_nan=2)


@pytest.mark.parametrize("values", [[], [NAN, NAN]])
def test_mean_of_nothing_is_nan(values):
    mean, n, n_nan = mean_score(values)
    assert math.isnan(mean)
    assert (n, n_nan) == (0, len(values))


def test_infinite_scores_are_refused():
    with pytest.raises(ValueError, match="values must be finite or NaN"):
        mean_score([1.0, math.inf])


CASES = {
    "good": ConfusionCounts(tp=8, fp=2, fn=2, tn=88),  # dice 0.8
    "poor": ConfusionCounts(tp=1, fp=3, fn=1, tn=95),  # dice 1/3
    "missed": ConfusionCounts(tp=0, fp=0, fn=5, tn=95),  # dice 0
    "false alarm": ConfusionCounts(tp=0, fp=4, fn=0, tn=96),  # dice 0
    "rightly empty": ConfusionCounts(tn=100),  # no dice
}
