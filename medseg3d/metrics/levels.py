"""The polyp field's scores over all 256 grey levels of a probability map, in one pass over the pixels.

PraNet's evaluation (Fan et al., MICCAI 2020, arXiv 2006.11392) binarises an 8-bit map at each of its 256 levels and
averages the scores over them: its "mean Dice" is not a Dice at 0.5. The definition here is that of pysodmetrics 1.6.2
and of the MATLAB toolbox it ports: the integer comparison `level >= k` for k = 0..255. Three consequences:

- At k = 0 everything is foreground, so the mean over levels of a perfect prediction is a little below 1: Dice
  (255 + 2 f / (1 + f)) / 256 for a ground truth that fills the fraction f. Only the maximum is 1.
- Without true positives (TP = 0) Dice, IoU, recall and even specificity are 0, and so are the scores of an image
  with empty ground truth. `medseg3d.metrics.scores` returns NaN there and leaves such cases out.
- The widespread Python port compares level / 255 with np.linspace(1, 0, 256) as floats, which puts 66 of the 256
  levels on the wrong side of their own threshold: third decimal, mostly upwards.

The E-measure (Fan et al., IJCAI 2018, arXiv 1805.10421) of a binary map depends only on the four counts, so it is
computed from them. Its sum is divided by N - 1, as in the tools: a perfect map of N pixels has N / (N - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medseg3d.metrics._blocks import ArrayLike, binary, blocks
from medseg3d.metrics.scores import score_along

LEVELS = 256
_EPS = float(np.finfo(np.float64).eps)
_SCORES = ("dice", "iou", "recall", "specificity")
MAXIMA = (*(f"max_{score}_pranet256" for score in _SCORES), "e_measure_max")
"""The scores that are the best of the levels: of several images at one common level."""


def grey_levels(prob: ArrayLike, min_max: bool = False) -> np.ndarray:
    """The 8-bit image of a probability map, uint8 of its shape.

    Probabilities are rounded to the nearest of the 256 levels, as when the map is written to a PNG; levels are kept.

    Args:
        prob: probabilities in [0, 1], or grey levels as uint8; array or tensor on the CPU, any shape.
        min_max: stretch each map to 0..255 first, as PraNet's tools do to every image: probabilities before they
            are rounded (its test script), levels rounded down (its evaluation; pysodmetrics takes floats that may
            fall one level short where the quotient is whole). A constant map is left as it is. Only for comparison with
            published numbers: it amplifies the noise of a nearly empty map to full contrast, so that an image
            without a polyp and with a correctly blank map scores as if it were full of polyps.

    Raises:
        ValueError: a value is not finite or outside [0, 1].

    Example:
        >>> grey_levels(np.array([0.0, 0.001, 0.004]))
        array([0, 0, 1], dtype=uint8)
        >>> grey_levels(np.array([0.0, 0.001, 0.004]), min_max=True)
        array([  0,  64, 255], dtype=uint8)
    """
    values = np.asarray(prob)
    if not values.size:
        raise ValueError(f"prob must hold at least one pixel, found shape {values.shape}")
    low, high = values.min(), values.max()
    stretch = min_max and low < high
    if values.dtype == np.uint8:
        return ((values - low).astype(np.uint16) * 255 // (high - low)).astype(np.uint8) if stretch else values
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise ValueError(f"prob must lie in [0, 1], found {low} to {high}")
    values = values.astype(np.float64)
    if stretch:
        values = (values - low) / (np.float64(high) - low)
    return np.rint(255 * values).astype(np.uint8)


class ThresholdCounts(NamedTuple):
    """True and false positives and negatives of `prob >= threshold`, int64 (n,) each, in the order of the thresholds.

    Example:
        >>> counts = threshold_counts(np.array([0.2, 0.4, 0.6]), np.array([0, 1, 1]), [0.3, 0.5])
        >>> score_along("recall", *counts)
        array([1. , 0.5])
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray


def threshold_counts(prob: ArrayLike, truth: ArrayLike, thresholds: np.ndarray | list[float]) -> ThresholdCounts:
    """The counts of `prob >= threshold` against the ground truth, in one pass for any number of thresholds.

    Args:
        prob: (*spatial), probability of the foreground, 0 to 1, tensor or array; compared as float32.
        truth: (*spatial), 0 or 1.
        thresholds: (n,), increasing; compared as float32.

    Raises:
        ValueError: shapes differ, a probability is outside [0, 1] or NaN, a ground truth is neither 0 nor 1, or the
            thresholds are not increasing.

    Example:
        >>> counts = threshold_counts(np.array([0.1, 0.5, 0.9]), np.array([0, 0, 1]), [0.1, 0.5, 0.9])
        >>> counts.tp.tolist(), counts.fp.tolist()
        ([1, 1, 1], [2, 1, 0])
    """
    edges = np.asarray(thresholds, np.float32)
    if edges.ndim != 1 or (np.diff(edges) <= 0).any():
        raise ValueError(f"thresholds must rise, found {thresholds}")
    histogram = np.zeros((len(edges) + 1, 2), np.int64)
    for p, t in blocks(prob=prob, truth=truth):
        if p.size and not (p.min() >= 0 and p.max() <= 1):  # false for NaN too
            raise ValueError(f"prob must lie in [0, 1], found {p.min()} to {p.max()}")
        reached = np.searchsorted(edges, p.astype(np.float32, copy=False), side="right")
        reached *= 2
        reached += binary(t, "truth")
        histogram += np.bincount(reached, minlength=histogram.size).reshape(histogram.shape)
    negatives, positives = histogram.T
    tn, fn = np.cumsum(negatives)[:-1], np.cumsum(positives)[:-1]
    return ThresholdCounts(positives.sum() - fn, negatives.sum() - tn, fn, tn)


class LevelCounts(ThresholdCounts):
    """The counts of one image at each of its 256 levels, int64 (256,): `level >= k` is foreground.

    Example:
        >>> counts = LevelCounts.from_map(np.array([[0, 255], [128, 128]], dtype=np.uint8), np.array([[0, 1], [1, 0]]))
        >>> [int(count[128]) for count in counts]
        [2, 1, 0, 1]
    """

    __slots__ = ()

    @classmethod
    def from_map(cls, levels: ArrayLike, truth: ArrayLike) -> LevelCounts:
        """The counts of an 8-bit map.

        Args:
            levels: (*spatial) uint8, see `grey_levels`.
            truth: as `levels`, of any numeric type, 0 or 1.

        Raises:
            ValueError: shapes differ, `levels` is not uint8, or a value of `truth` is neither 0 nor 1.
        """
        histogram = np.zeros(2 * LEVELS, dtype=np.int64)
        for level, true in blocks(levels=levels, truth=truth):
            if level.dtype != np.uint8:
                raise ValueError(f"levels must be uint8, found {level.dtype}; see grey_levels")
            histogram += np.bincount(level + binary(true, "truth") * np.int16(LEVELS), minlength=2 * LEVELS)
        background, foreground = histogram.reshape(2, LEVELS)
        tp, fp = np.cumsum(foreground[::-1])[::-1], np.cumsum(background[::-1])[::-1]
        return cls(tp=tp, fp=fp, fn=foreground.sum() - tp, tn=background.sum() - fp)

    @property
    def n(self) -> int:
        """Pixels of the image."""
        return int(self.tp[0] + self.fp[0])

    @property
    def n_truth(self) -> int:
        """Foreground pixels of the ground truth."""
        return int(self.tp[0])

    @property
    def adaptive_level(self) -> int:
        """Twice the mean level, rounded up, at most 255: the threshold of the adaptive scores."""
        total = int((self.tp + self.fp)[1:].sum())  # each pixel counts once per level from 1 to its own
        return min(-(-2 * total // self.n), LEVELS - 1)


def pranet_curves(counts: LevelCounts) -> dict[str, np.ndarray]:
    """Dice, IoU, recall, specificity and E-measure of one image at each level, float64 (256,).

    Recall is PraNet's "Sen". The rules of the module hold: 0 for all but the E-measure where TP is 0; specificity is
    also 0 where the ground truth has no background. E-measure with empty ground truth: the fraction of the image left
    blank; with full ground truth: the fraction that is foreground; both over N - 1.

    Raises:
        ValueError: the image has fewer than two pixels, so that N - 1 is 0.
    """
    if counts.n < 2:
        raise ValueError(f"the E-measure needs an image of at least 2 pixels, found {counts.n}")
    curves = {}
    for name in _SCORES:
        curve = score_along(name, *counts)
        curves[name] = np.where(counts.tp > 0, np.nan_to_num(curve), 0.0)
    curves["e_measure"] = _e_measure(counts)
    return curves


def pranet_scores(*pictures: LevelCounts) -> dict[str, float]:
    """The numbers of a PraNet table, 0 to 1 (E-measure: to N / (N - 1)), of one image or of a whole test set.

    Args:
        pictures: the counts of each image. The curves over the 256 levels are averaged over images first.

    Returns:
        `dice_pranet256` (their meanDic), `iou_pranet256`, `recall_pranet256`, `specificity_pranet256` and
        `e_measure_mean`: means over the levels. `max_dice_pranet256` (maxDic), ..., `e_measure_max`: maxima of the
        averaged curve, so for several images at one common level; the mean of the images' own maxima is higher
        and is not what papers print. `e_measure_adaptive`: mean over images at each one's `adaptive_level`.

    Raises:
        ValueError: there are no images, or one has fewer than two pixels.

    Example:
        >>> truth = np.array([[0, 0], [0, 1]])
        >>> scores = pranet_scores(LevelCounts.from_map(grey_levels(truth), truth))
        >>> scores["max_dice_pranet256"], scores["dice_pranet256"] == (255 + 0.4) / 256
        (1.0, True)
    """
    if not pictures:
        raise ValueError("images must hold the counts of at least one image, found none")
    curves = _mean_curves([pranet_curves(counts) for counts in pictures])
    scores = {f"{name}_pranet256": float(curves[name].mean()) for name in _SCORES}
    scores |= {f"max_{name}_pranet256": float(curves[name].max()) for name in _SCORES}
    scores["e_measure_mean"] = float(curves["e_measure"].mean())
    scores["e_measure_max"] = float(curves["e_measure"].max())
    scores["e_measure_adaptive"] = float(np.mean([_e_measure(counts)[counts.adaptive_level] for counts in pictures]))
    return scores


def _mean_curves(curves: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.mean([curve[name] for curve in curves], axis=0) for name in curves[0]}


def _e_measure(counts: LevelCounts) -> np.ndarray:
    """Enhanced alignment at each level: (1 + 2ab / (a² + b²))² / 4 summed over pixels, over N - 1.

    a and b are prediction and ground truth less their means, so each of the four kinds of pixel has one value.
    """
    n, true = counts.n, counts.n_truth
    if true == 0:
        return counts.tn / (n - 1)
    if true == n:
        return counts.tp / (n - 1)
    predicted = (counts.tp + counts.fp) / n
    total = np.zeros(LEVELS)
    for count, in_pred, in_truth in ((counts.tp, 1, 1), (counts.fp, 1, 0), (counts.fn, 0, 1), (counts.tn, 0, 0)):
        a, b = in_pred - predicted, in_truth - true / n
        total += count * (1 + 2 * a * b / (a**2 + b**2 + _EPS)) ** 2 / 4
    return total / (n - 1)
