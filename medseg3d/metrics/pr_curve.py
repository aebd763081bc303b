"""Precision-recall curve and average precision in constant memory.

Scores are counted in a histogram over their logits and discarded. Histograms of cases, processes, 2-D images and
volumes can be added. The bins are steps of 2^-13 of each power of two from 2^-15 to 2^16, positive and negative, taken
from the bits of the float32 logit: 507,904 bins, 8 MB. Logits are used because a trained network's probabilities
cluster at 0 and 1, where float32 and linear bins cannot separate them.

A bin starts exactly at its threshold: every point of the curve is the exact precision and recall of `logit >= edge`.
Only the order within a bin is lost, and `average_precision_bounds` says how much that can matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np

from medseg3d.metrics._blocks import ArrayLike, binary, blocks
from medseg3d.metrics.counts import ConfusionCounts
from medseg3d.metrics.scores import score_along

_MANTISSA_BITS = 13
_MIN_EXPONENT = -15  # what is nearer to 0 shares one bin on either side of it
_EXPONENTS = 31
_HALF = _EXPONENTS << _MANTISSA_BITS  # bins of one sign
_GAP = (127 + _MIN_EXPONENT) << _MANTISSA_BITS  # 127: the bias of float32's exponent
_DROPPED_BITS = 23 - _MANTISSA_BITS
_LAYOUT = np.array([_MANTISSA_BITS, _MIN_EXPONENT, _EXPONENTS], dtype=np.int64)

_AsLogit = Callable[[np.ndarray], np.ndarray]


class BestThreshold(NamedTuple):
    """The threshold that maximizes a score, as probability and as logit, and the maximum."""

    threshold: float
    logit: float
    value: float


class BinnedPRCurve:
    """The precision-recall curve of all voxels seen so far, of 2-D images or volumes, in 8 MB.

    Curves are merged by addition, also across processes: `sum(curves, BinnedPRCurve())`, or an all-reduce of
    `histogram`.

    Attributes:
        histogram: int64 (bins, 2), background and foreground voxels by bin, lowest logit first.

    Example:
        >>> import numpy as np
        >>> curve = BinnedPRCurve()
        >>> curve.update(np.array([[-3.0, -1.0], [0.5, 2.0]]), np.array([[0, 1], [0, 1]]))
        >>> round(curve.average_precision(), 4)
        0.8333
        >>> curve.counts_at(0.5)
        ConfusionCounts(tp=1, fp=1, fn=1, tn=1)
        >>> curve.best_threshold("dice").value
        0.8
    """

    def __init__(self) -> None:
        self.histogram = np.zeros((2 * _HALF, 2), dtype=np.int64)

    def update(self, score: ArrayLike, truth: ArrayLike) -> None:
        """Count the voxels of an image.

        Args:
            score: (*spatial), logit of the foreground, tensor or array.
            truth: (*spatial), 0 or 1.

        Raises:
            ValueError: shapes differ, a score is not finite, or a ground truth is neither 0 nor 1. Nothing of this
                image is counted then.
        """
        self._update(score, truth, _checked_logit)

    def update_prob(self, prob: ArrayLike, truth: ArrayLike) -> None:
        """Count the voxels of an image given as probabilities.

        Prefer logits if available: a float32 probability is exactly 1 for every logit above 17.

        Args:
            prob: (*spatial), probability of the foreground, 0 to 1, tensor or array.
            truth: (*spatial), 0 or 1.

        Raises:
            ValueError: as for `update`, or a probability is outside [0, 1].
        """
        self._update(prob, truth, _logit_of_prob)

    def __add__(self, other: BinnedPRCurve) -> BinnedPRCurve:
        if not isinstance(other, BinnedPRCurve):
            return NotImplemented
        merged = BinnedPRCurve()
        np.add(self.histogram, other.histogram, out=merged.histogram)
        return merged

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BinnedPRCurve) and np.array_equal(self.histogram, other.histogram)

    __hash__ = None  # type: ignore[assignment]  # it changes with every update

    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and threshold, as scikit-learn's `precision_recall_curve` orders them.

        Returns:
            precision: float64 (n + 1,), ends with 1.
            recall: float64 (n + 1,), decreasing, ends with 0; NaN without true foreground.
            threshold: float64 (n,), probability, increasing; one per non-empty bin.
        """
        bins, sweep = self._sweep()
        return (
            np.append(score_along("precision", *sweep), 1.0),
            np.append(score_along("recall", *sweep), 0.0),
            _sigmoid(_EDGES[bins]),
        )

    def average_precision(self) -> float:
        """Sum of precision times gain in recall over all thresholds, 0 to 1; NaN without true foreground.

        As scikit-learn's `average_precision_score`, without interpolation; scores in one bin count as
        equal. Within 1e-4 of the unbinned value unless the scores cluster in a small part of a power of two.
        """
        _, sweep = self._sweep()
        tp = sweep[0]
        if tp.size == 0 or tp[0] == 0:
            return float("nan")
        gained = tp - np.append(tp[1:], 0)
        return float(np.sum(gained * score_along("precision", *sweep)) / tp[0])

    def average_precision_bounds(self) -> tuple[float, float]:
        """Lower and upper bound of the average precision of the unbinned scores; NaN without true foreground.

        It is lowest if in each bin all background scores are above all foreground, and highest the other way round.
        Sums over the voxels of a bin are bounded by integrals of TP / (TP + FP) over TP.

        Example:
            >>> curve = BinnedPRCurve()
            >>> curve.update(np.array([1.0, 1.0, 3.0]), np.array([0, 1, 1]))
            >>> low, high = curve.average_precision_bounds()
            >>> low < curve.average_precision() <= high
            True
        """
        _, (tp, fp, _, _) = self._sweep()
        if tp.size == 0 or tp[0] == 0:
            return float("nan"), float("nan")
        tp_above, fp_above = np.append(tp[1:], 0), np.append(fp[1:], 0)
        gained = tp - tp_above
        # the sum of (TP + j) / (TP + FP + j), j = 1..gained, lies between its integrals from 0 and from 1
        before = tp_above + fp
        low = gained - fp * np.log1p(np.divide(gained, before, out=np.zeros(len(tp)), where=before > 0))
        high = gained - fp_above * np.log1p(gained / (tp_above + fp_above + 1))
        return float(np.sum(low) / tp[0]), float(min(np.sum(high) / tp[0], 1.0))

    def best_threshold(self, score: str = "dice") -> BestThreshold:
        """The threshold that maximizes a score of the pooled counts; of several, the one nearest to 0.5.

        Args:
            score: a key of `medseg3d.metrics.SCORES`.

        Raises:
            ValueError: there is no such score, or it is NaN at every threshold.
        """
        bins, sweep = self._sweep()
        values = score_along(score, *sweep)
        if np.isnan(values).all():
            raise ValueError(f"{score} is defined at no threshold: the ground truth so far leaves it without a value")
        best = np.flatnonzero(values == np.nanmax(values))
        edges = _EDGES[bins[best]]
        nearest = int(np.argmin(np.abs(edges)))
        return BestThreshold(float(_sigmoid(edges[nearest])), float(edges[nearest]), float(values[best[nearest]]))

    def counts_at(self, threshold: float) -> ConfusionCounts:
        """The pooled counts of `prob >= threshold`, lowered to the next edge of a bin; 0.5 is an edge.

        Args:
            threshold: probability, 0 to 1.

        Raises:
            ValueError: the threshold is outside [0, 1].
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a probability from 0 to 1, found {threshold}")
        return self.counts_at_logit(float(_logit_of_prob(np.array([threshold], dtype=np.float64))[0]))

    def counts_at_logit(self, logit: float) -> ConfusionCounts:
        """The pooled counts of `score >= logit`, lowered to the next edge of a bin; 0 is an edge."""
        first = int(_bin_of(np.array([logit], dtype=np.float32))[0])
        fp, tp = self.histogram[first:].sum(0)
        tn, fn = self.histogram[:first].sum(0)
        return ConfusionCounts(tp=tp, fp=fp, fn=fn, tn=tn)

    def state(self) -> dict[str, np.ndarray]:
        """The non-empty bins as int64 arrays, as `from_state` takes them, for a checkpoint or an npz file."""
        bins = self._occupied()
        negatives, positives = self.histogram[bins].T.copy()
        return {"layout": _LAYOUT.copy(), "bins": bins, "negatives": negatives, "positives": positives}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> BinnedPRCurve:
        """The curve restored from its `state`.

        Raises:
            ValueError: an array is missing, the bins have another layout, or the counts are invalid.
        """
        missing = {"layout", "bins", "negatives", "positives"} - set(state)
        if missing:
            raise ValueError(f"state must hold layout, bins, negatives and positives, {sorted(missing)} missing")
        layout = np.asarray(state["layout"]).tolist()
        if layout != _LAYOUT.tolist():
            raise ValueError(f"state must have the layout {_LAYOUT.tolist()}, found {layout}")
        curve = cls()
        bins, *counts = (np.asarray(state[key]) for key in ("bins", "negatives", "positives"))
        if bins.size and not (bins[0] >= 0 and bins[-1] < len(curve.histogram) and (np.diff(bins) > 0).all()):
            raise ValueError(f"bins must rise and lie in 0..{len(curve.histogram) - 1}, found {bins}")
        for column, count in enumerate(counts):
            if count.shape != bins.shape or count.dtype.kind not in "iu" or (count < 0).any():
                raise ValueError(f"negatives and positives must be a count for each of the bins, found {count}")
            curve.histogram[bins, column] = count
        return curve

    def _update(self, score: ArrayLike, truth: ArrayLike, as_logit: _AsLogit) -> None:
        flat = self.histogram.reshape(-1)
        done = 0
        try:
            for cells in _cells(score, truth, as_logit):
                np.add.at(flat, cells, 1)
                done += 1
        except ValueError:
            for cells in islice(_cells(score, truth, as_logit), done):
                np.add.at(flat, cells, -1)
            raise

    def _occupied(self) -> np.ndarray:
        """The bins that hold something, lowest first."""
        negatives, positives = self.histogram.T
        return np.flatnonzero(negatives | positives)  # a fifth of the time of any(1)

    def _sweep(self) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Bins that hold something, lowest first, and tp, fp, fn, tn of all that lies in them or above."""
        bins = self._occupied()
        negatives, positives = self.histogram[bins].T
        tp, fp = np.cumsum(positives[::-1])[::-1], np.cumsum(negatives[::-1])[::-1]
        return bins, (tp, fp, positives.sum() - tp, negatives.sum() - fp)


def _cells(score: ArrayLike, truth: ArrayLike, as_logit: _AsLogit) -> Iterator[np.ndarray]:
    """Where each voxel counts in the flat histogram, piece by piece."""
    for scores, truths in blocks(score=score, truth=truth):
        yield 2 * _bin_of(as_logit(scores)) + binary(truths, "truth")


def _checked_logit(score: np.ndarray) -> np.ndarray:
    if not np.isfinite(score).all():
        raise ValueError(f"score must be finite, found {score[~np.isfinite(score)][0]}")
    return score


def _logit_of_prob(prob: np.ndarray) -> np.ndarray:
    if not np.isfinite(prob).all():
        raise ValueError(f"prob must be finite, found {prob[~np.isfinite(prob)][0]}")
    if prob.size and not (prob.min() >= 0 and prob.max() <= 1):
        raise ValueError(f"prob must lie in [0, 1], found {prob.min()} to {prob.max()}")
    if prob.dtype.kind != "f" or prob.dtype.itemsize < 4:
        prob = prob.astype(np.float32)
    with np.errstate(divide="ignore"):  # 0 and 1 become infinite and fall into the outermost bins
        return np.log(prob) - np.log1p(-prob)


def _bin_of(logit: np.ndarray) -> np.ndarray:
    """Index of each logit's bin, int32; the bits of a float, read as an integer, are in the order of the floats."""
    with np.errstate(over="ignore"):
        single = logit.astype(np.float32)  # a copy, which is worked on in place
    single += np.float32(0)  # -0 becomes 0
    k = single.view(np.int32)
    sign = k >> 31
    k ^= sign & 0x7FFFFFFF  # negative floats in falling order of their magnitude
    k >>= _DROPPED_BITS  # rounds down, also below zero
    above = np.maximum(k - _GAP, 0)
    k += _GAP + 1
    np.minimum(k, 0, out=k)
    k += above
    k += sign
    k += _HALF
    return np.clip(k, 0, 2 * _HALF - 1, out=k)


def _bin_edges() -> np.ndarray:
    """The lowest float32 of each bin, as float64: the inverse of `_bin_of`."""
    index = np.arange(-_HALF, _HALF)
    steps = np.where(index > 0, index + _GAP, np.where(index < 0, index - _GAP, 0))
    k = steps << _DROPPED_BITS
    magnitude = np.where(k >= 0, k, -k - 1).astype(np.int32).view(np.float32).astype(np.float64)
    return np.where(k >= 0, magnitude, -magnitude)


_EDGES = _bin_edges()


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    # the one formula for each sign that neither overflows nor cancels
    small = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1 / (1 + small), small / (1 + small))
