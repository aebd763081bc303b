"""What printed scores imply of each other, against counts and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from paper_checks import (
    below_blank,
    dice_of_iou,
    impossible,
    iou_of_dice,
    least_accuracy,
    split_two_classes,
    with_foreground,
)

from medseg3d.metrics import ConfusionCounts, accuracy, dice, iou, two_class_scores


def counts_of(fraction: float, recall: float, precision: float, n: int = 10**9) -> ConfusionCounts:
    """Pooled counts of a data set whose foreground fills a fraction of its pixels."""
    true = round(fraction * n)
    tp = round(recall * true)
    fp = round(tp / precision) - tp
    return ConfusionCounts(tp=tp, fp=fp, fn=true - tp, tn=n - true - fp)


@pytest.fixture
def cases() -> list[ConfusionCounts]:
    rng = np.random.default_rng(3)
    return [ConfusionCounts(*rng.integers(1, 1000, 4)) for _ in range(200)]


def test_what_one_count_has_is_possible(cases):
    dices, ious = [dice(counts) for counts in cases], [iou(counts) for counts in cases]
    assert list(map(dice_of_iou, ious)) == pytest.approx(dices, abs=1e-12)
    assert list(map(iou_of_dice, dices)) == pytest.approx(ious, abs=1e-12)
    assert {impossible(*each, rounding=1e-12) for each in zip(dices, ious, strict=True)} == {""}


def test_what_means_over_cases_have_is_possible(cases):
    dices, ious = (
        np.reshape([score(counts) for counts in cases], (20, 10)).mean(axis=1).tolist() for score in (dice, iou)
    )
    assert {impossible(*means, rounding=0) for means in zip(dices, ious, strict=True)} == {""}


def test_what_means_over_two_classes_have_is_possible(cases):
    scores = map(two_class_scores, cases)
    assert {impossible(each["mdice"], each["miou"], rounding=1e-12) for each in scores} == {""}


@pytest.mark.parametrize(
    ("iou_", "possible"), [(0.49, False), (0.50, True), (0.6, True), (0.6667, True), (0.68, False)]
)
def test_the_bounds_are_those_of_one_count_and_of_dice_itself(iou_, possible):
    assert (impossible(2 / 3, iou_, rounding=1e-4) == "") is possible


def test_rounding_is_forgiven():
    assert impossible(dice=0.80, iou=0.66, rounding=0.005) == ""
    assert "below 0.6667" in impossible(dice=0.80, iou=0.66, rounding=0.0005)


def test_blank_masks_have_the_accuracy_of_the_background():
    blank = ConfusionCounts(fn=156, tn=844)
    assert below_blank(accuracy(blank), foreground=0.156) == ""
    assert "below 0.844" in below_blank(accuracy(blank) - 0.001, foreground=0.156)


def test_a_dice_leaves_a_least_accuracy():
    worst = ConfusionCounts(tp=156, fp=78, tn=766)  # recall 1 leaves most room for errors
    assert least_accuracy(dice(worst), foreground=0.156) == pytest.approx(accuracy(worst))
    other = ConfusionCounts(tp=100, fn=56, tn=844)
    assert accuracy(other) > least_accuracy(dice(other), foreground=0.156)


@pytest.mark.parametrize(
    ("recall", "precision", "printed", "digits"),
    [
        # the text prints recall; precision, and both at epoch 100, follow from mPrecision and mRecall to these digits
        (0.9067, 0.9158, {"mdice": 0.9468, "miou": 0.9012, "mrecall": 0.945, "mprecision": 0.9486}, 1e-4),
        (0.804, 0.947, {"mdice": 0.9229, "miou": 0.8614, "mrecall": 0.8975, "mprecision": 0.9544}, 5e-4),
    ],
    ids=["epoch 500", "epoch 100"],
)
def test_the_ann_papers_means_are_those_of_two_classes(recall, precision, printed, digits):
    scores = two_class_scores(counts_of(0.166, recall, precision))
    assert {name: scores[name] for name in printed} == pytest.approx(printed, abs=digits)
    polyp = split_two_classes(printed["mdice"], printed["miou"])
    assert polyp.iou_foreground == pytest.approx(scores["iou_foreground"], abs=2e-3)


def test_the_ann_papers_polyp_alone_is_below_its_means():
    scores = two_class_scores(counts_of(0.166, recall=0.9067, precision=0.9158))
    assert (scores["dice_foreground"], scores["iou_foreground"]) == pytest.approx((0.9112, 0.8369), abs=1e-4)
    classes = with_foreground(iou_foreground=0.8369, miou=0.9012)
    assert (classes.dice_foreground, classes.mdice) == pytest.approx((0.9112, 0.9468), abs=5e-5)
    classes = with_foreground(iou_foreground=0.7692, miou=0.8614)
    assert (classes.dice_foreground, classes.mdice) == pytest.approx((0.8695, 0.9229), abs=5e-5)


def test_two_means_are_split_into_their_classes(cases):
    scores = list(map(two_class_scores, cases))
    split = [split_two_classes(each["mdice"], each["miou"]) for each in scores]
    classes = np.array([(each.iou_foreground, each.iou_background) for each in split])
    expected = np.sort([(each["iou_foreground"], each["iou_background"]) for each in scores])
    assert classes == pytest.approx(expected, abs=1e-6)
    assert [each.mdice for each in split] == pytest.approx([each["mdice"] for each in scores], abs=1e-9)


def test_means_of_no_two_classes_are_refused():
    with pytest.raises(ValueError, match=r"no two classes have mean Dice 0\.9 and mean IoU 0\.5"):
        split_two_classes(mdice=0.9, miou=0.5)
