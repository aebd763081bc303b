"""The two-class means by hand, and the arithmetic of a paper that states them."""

from __future__ import annotations

import math

import pytest

from medseg3d.metrics import ConfusionCounts, two_class_scores


def test_by_hand():
    # background: tp 5, fp 2, fn 1
    assert two_class_scores(ConfusionCounts(tp=2, fp=1, fn=2, tn=5)) == pytest.approx(
        {
            "mdice": (4 / 7 + 10 / 13) / 2,
            "miou": (2 / 5 + 5 / 8) / 2,
            "mrecall": (2 / 4 + 5 / 6) / 2,
            "mprecision": (2 / 3 + 5 / 7) / 2,
            "aacc": 7 / 10,
            "dice_background": 10 / 13,
            "iou_background": 5 / 8,
            "recall_background": 5 / 6,
            "precision_background": 5 / 7,
            "dice_foreground": 4 / 7,
            "iou_foreground": 2 / 5,
            "recall_foreground": 2 / 4,
            "precision_foreground": 2 / 3,
        }
    )


def test_the_asymmetric_non_local_paper_states_two_class_means():
    """Its 0.947 and 0.901 are means with the background; of polyps its Dice is 0.911 and its IoU 0.837.

    It gives 90.67 % "accuracy" (mmsegmentation's word for recall) and IoU 83.69 % of polyps, mDice 94.68 %, mIoU
    90.12 %, mRecall 94.5 % and mPrecision 94.86 %. One count per pixel of a test set of which polyps fill 16.6 %, with
    that recall and precision 91.58 %, gives them all.
    """
    pixels, fraction, recall, precision = 10**8, 0.166, 0.9067, 0.9158
    tp = round(pixels * fraction * recall)
    fn = round(pixels * fraction) - tp
    fp = round(tp / precision) - tp
    scores = two_class_scores(ConfusionCounts(tp=tp, fp=fp, fn=fn, tn=pixels - tp - fp - fn))
    assert scores["dice_foreground"] == pytest.approx(0.9112, abs=1e-4)
    assert scores["iou_foreground"] == pytest.approx(0.8369, abs=1e-4)
    assert scores["mdice"] == pytest.approx(0.9468, abs=1e-4)
    assert scores["miou"] == pytest.approx(0.9012, abs=1e-4)
    assert scores["mrecall"] == pytest.approx(0.945, abs=1e-4)
    assert scores["mprecision"] == pytest.approx(0.9486, abs=1e-4)
    assert scores["aacc"] == pytest.approx(0.9705, abs=2e-4)


def test_a_class_that_is_nowhere_is_left_out_of_the_means():
    scores = two_class_scores(ConfusionCounts(tn=9))
    assert math.isnan(scores["dice_foreground"])
    assert scores["mdice"] == scores["miou"] == scores["mrecall"] == scores["aacc"] == 1


def test_nothing_predicted_halves_the_mean_dice_at_most():
    scores = two_class_scores(ConfusionCounts(fn=1, tn=99))
    assert scores["dice_foreground"] == 0
    assert scores["mdice"] == pytest.approx(198 / 199 / 2)
    assert scores["mprecision"] == pytest.approx(0.99)  # nothing was predicted: no precision, left out


def test_no_pixels_have_no_scores():
    assert all(math.isnan(score) for score in two_class_scores(ConfusionCounts()).values())
