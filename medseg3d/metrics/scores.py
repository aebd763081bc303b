"""Overlap scores, and their values for empty masks.

Every score is a fraction of counts. If the denominator is zero, the score is undefined and NaN;
means leave NaN out and state how many values they include. This one rule decides every empty case:

| ground truth | prediction | dice, iou | recall | precision |
|---|---|---|---|---|
| empty | empty | NaN | NaN | NaN |
| empty | something | 0 | NaN | 0 |
| something | empty | 0 | 0 | NaN |

Specificity is NaN if the ground truth fills the whole image. MONAI's DiceMetric differs: it leaves out every case
with empty ground truth, so that false positives there cost nothing, and gives higher means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from medseg3d.metrics.counts import ConfusionCounts

_FRACTIONS: dict[str, Callable[[Any, Any, Any, Any], tuple[Any, Any]]] = {
    "dice": lambda tp, fp, fn, tn: (2 * tp, 2 * tp + fp + fn),
    "iou": lambda tp, fp, fn, tn: (tp, tp + fp + fn),
    "recall": lambda tp, fp, fn, tn: (tp, tp + fn),
    "specificity": lambda tp, fp, fn, tn: (tn, tn + fp),
    "precision": lambda tp, fp, fn, tn: (tp, tp + fp),
    "accuracy": lambda tp, fp, fn, tn: (tp + tn, tp + fp + fn + tn),
}


def dice(counts: ConfusionCounts) -> float:
    """2 TP / (2 TP + FP + FN), 0 to 1: twice the overlap divided by the sum of both sizes; the F1 score.

    Example:
        >>> dice(ConfusionCounts(tp=1, fp=1, fn=1, tn=6))
        0.5
        >>> dice(ConfusionCounts(tn=9))
        nan
    """
    return _score("dice", counts)


def iou(counts: ConfusionCounts) -> float:
    """TP / (TP + FP + FN), 0 to 1: overlap over union, the Jaccard index; dice / (2 - dice).

    Example:
        >>> iou(ConfusionCounts(tp=1, fp=1, fn=2, tn=5))
        0.25
    """
    return _score("iou", counts)


def recall(counts: ConfusionCounts) -> float:
    """TP / (TP + FN), 0 to 1: the fraction of the ground truth that was found; sensitivity.

    Example:
        >>> recall(ConfusionCounts(tp=1, fp=5, fn=3))
        0.25
    """
    return _score("recall", counts)


def specificity(counts: ConfusionCounts) -> float:
    """TN / (TN + FP), 0 to 1: the fraction of the background that was predicted as background.

    Near 1 for any small organ, whatever the prediction.

    Example:
        >>> specificity(ConfusionCounts(fp=1, tn=3))
        0.75
    """
    return _score("specificity", counts)


def precision(counts: ConfusionCounts) -> float:
    """TP / (TP + FP), 0 to 1: the fraction of the prediction that is correct.

    Example:
        >>> precision(ConfusionCounts(tp=3, fp=1, fn=9))
        0.75
    """
    return _score("precision", counts)


def accuracy(counts: ConfusionCounts) -> float:
    """(TP + TN) / all, 0 to 1: the fraction of voxels that are correct, background included.

    Near 1 for any small organ, whatever the prediction.

    Example:
        >>> accuracy(ConfusionCounts(tp=1, fp=1, fn=1, tn=5))
        0.75
    """
    return _score("accuracy", counts)


SCORES: dict[str, Callable[[ConfusionCounts], float]] = {
    "dice": dice,
    "iou": iou,
    "recall": recall,
    "specificity": specificity,
    "precision": precision,
    "accuracy": accuracy,
}
"""All scores by name, in table order."""


def score_along(name: str, tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> np.ndarray:
    """One score for arrays of counts, float64 of their shape.

    Args:
        name: a key of `SCORES`.
        tp: int64, any shape, the same for `fp`, `fn` and `tn`.
        fp: false positives.
        fn: false negatives.
        tn: true negatives.

    Raises:
        ValueError: there is no such score.

    Example:
        >>> score_along("dice", *np.array([[0, 1], [0, 1], [0, 1], [9, 6]]))
        array([nan, 0.5])
    """
    if name not in _FRACTIONS:
        raise ValueError(f"score must be one of {', '.join(_FRACTIONS)}, found {name!r}")
    above, below = _FRACTIONS[name](tp, fp, fn, tn)
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)


class MeanScore(NamedTuple):
    """A mean of `n` values; `n_nan` others were NaN and left out."""

    mean: float
    n: int
    n_nan: int


def mean_score(values: Iterable[float]) -> MeanScore:
    """The mean of the values that are not NaN; NaN if there are none.

    Raises:
        ValueError: a value is infinite.

    Example:
        >>> mean_score([0.5, float("nan"), 1.0])
        MeanScore(mean=0.75, n=2, n_nan=1)
    """
    everything = list(values)
    if any(math.isinf(value) for value in everything):
        raise ValueError("values must be finite or NaN, found an infinite one")
    kept = [float(value) for value in everything if not math.isnan(value)]
    mean = math.fsum(kept) / len(kept) if kept else math.nan
    return MeanScore(mean, len(kept), len(everything) - len(kept))


def two_class_scores(pooled: ConfusionCounts) -> dict[str, float]:
    """mDice, mIoU, mRecall, mPrecision and aAcc as mmsegmentation's IoUMetric has them, and what they are the means of.

    They are means over two classes, background and foreground, of counts summed over the whole data set. The
    background is large and easy and lifts them: foreground Dice 0.911 is printed as mDice 0.947 where the foreground
    fills a sixth of the images. They do not compare with a mean over cases of the foreground's Dice.

    mmsegmentation (`mmseg/evaluation/metrics/iou_metric.py`) calls recall "Acc", and gives percentages rounded to two
    decimals; here they are unrounded fractions. As there, a class without a score (NaN) is left out of its mean.

    Args:
        pooled: the foreground's counts, summed over all cases: `sum(counts, ConfusionCounts())`.

    Returns:
        0 to 1, or NaN: `mdice`, `miou`, `mrecall`, `mprecision`, `aacc` (the fraction of correct pixels), and
        dice, iou, recall and precision of each class, as `dice_background` and `dice_foreground`.

    Example:
        >>> scores = two_class_scores(ConfusionCounts(tp=1, fp=1, fn=1, tn=5))
        >>> scores["dice_foreground"], round(scores["dice_background"], 4), round(scores["mdice"], 4)
        (0.5, 0.8333, 0.6667)
        >>> scores["aacc"]
        0.75
    """
    classes = {
        "background": ConfusionCounts(tp=pooled.tn, fp=pooled.fn, fn=pooled.fp, tn=pooled.tp),
        "foreground": pooled,
    }
    names = ("dice", "iou", "recall", "precision")
    per_class = {f"{name}_{label}": _score(name, counts) for name in names for label, counts in classes.items()}
    means = {f"m{name}": mean_score(per_class[f"{name}_{label}"] for label in classes).mean for name in names}
    return {**means, "aacc": accuracy(pooled), **per_class}


def _score(name: str, counts: ConfusionCounts) -> float:
    above, below = _FRACTIONS[name](counts.tp, counts.fp, counts.fn, counts.tn)
    return above / below if below else math.nan
