"""Exact counts of one image at several thresholds at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medseg3d.metrics._blocks import ArrayLike, binary, blocks


class ThresholdCounts(NamedTuple):
    """True and false positives and negatives of `prob >= threshold`, int64 (n,) each, in the order of the thresholds.

    Example:
        >>> from medseg3d.metrics.scores import score_along
        >>> counts = threshold_counts(np.array([0.2, 0.4, 0.6]), np.array([0, 1, 1]), [0.3, 0.5])
        >>> score_along("recall", *counts)
        array([1. , 0.5])
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray


def threshold_counts(prob: ArrayLike, truth: ArrayLike, thresholds: np.ndarray | list[float]) -> ThresholdCounts:
    """The counts of `prob >= threshold` against the ground truth, in one pass and whatever the number of thresholds.

    Args:
        prob: (*spatial), probability of the foreground, 0 to 1, tensor or array; compared as float32.
        truth: (*spatial), 0 or 1.
        thresholds: (n,), rising; compared as float32.

    Raises:
        ValueError: shapes differ, a probability is outside [0, 1] or NaN, a ground truth is neither 0 nor 1, or the
            thresholds do not rise.

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
