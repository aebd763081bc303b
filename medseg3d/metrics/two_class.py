"""The scores of mmsegmentation's IoUMetric: background and foreground as two classes, each pooled over the data set."""

from __future__ import annotations

from medseg3d.metrics.counts import ConfusionCounts
from medseg3d.metrics.scores import accuracy, dice, iou, mean_score, precision, recall

_PER_CLASS = {"dice": dice, "iou": iou, "recall": recall, "precision": precision}


def two_class_scores(pooled: ConfusionCounts) -> dict[str, float]:
    """mDice, mIoU, mRecall, mPrecision and aAcc as mmsegmentation prints them, and what they are the means of.

    They are means over two classes, background and foreground, of counts summed over the whole data set. The
    background is large and easy and lifts them: foreground Dice 0.911 is printed as mDice 0.947 where the foreground
    fills a sixth of the pictures. They do not compare with a mean over cases of the foreground's Dice.

    mmsegmentation (`mmseg/evaluation/metrics/iou_metric.py`) calls recall "Acc", and gives per cent rounded to two
    places; here they are fractions, not rounded. As there, a class without a score (NaN) is left out of its mean.

    Args:
        pooled: the foreground's counts, summed over all cases: `sum(counts, ConfusionCounts())`.

    Returns:
        0 to 1, or NaN: `mdice`, `miou`, `mrecall`, `mprecision`, `aacc` (the part of all pixels that is right), and
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
    per_class = {f"{name}_{label}": _PER_CLASS[name](classes[label]) for name in _PER_CLASS for label in classes}
    means = {f"m{name}": mean_score(per_class[f"{name}_{label}"] for label in classes).mean for name in _PER_CLASS}
    return {**means, "aacc": accuracy(pooled), **per_class}
