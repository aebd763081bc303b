"""Two scores of whole probability maps, without a threshold: weighted F-measure and S-measure.

Both come from salient object detection and are in every table of the polyp literature (PraNet's wFm and Sm). They
depend on the position of errors in the plane, so they are for 2-D images only. The definition is that of pysodmetrics
1.6.2, which ports the authors' MATLAB; both work in float64 on the map as it is. To compare with published numbers,
preprocess the map as those tools do: `grey_levels(prob, min_max=True) / 255`. MATLAB differs in two details: if several
true pixels are equally near, it picks another one, and it rounds a centroid exactly between two pixels up, here to the
even one.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d, distance_transform_edt

from medseg3d.metrics._blocks import ArrayLike, binary

_EPS = float(np.finfo(np.float64).eps)
_RADIUS = 3  # of the 7x7 Gaussian with sigma 5
_HALVED_EVERY = 5.0  # pixels


def weighted_f_measure(prob: ArrayLike, truth: ArrayLike) -> float:
    """Margolin's weighted F-measure with beta² = 1, 0 to 1: a Dice of soft counts weighted by the position of errors.

    An error inside the ground truth counts less if its surroundings are better (7x7 Gaussian, sigma 5); one outside
    costs 1 at the edge of the ground truth and up to 2 far from it, approaching 2 by half every 5 pixels. R. Margolin
    et al., "How to evaluate foreground maps?", CVPR 2014, doi:10.1109/CVPR.2014.39.

    Args:
        prob: (H, W), array or tensor on the CPU, in [0, 1].
        truth: as `prob`, of any numeric type, 0 or 1.

    Returns:
        The score; 0 if the ground truth is empty, whatever the map. Full ground truth needs no special rule.

    Raises:
        ValueError: not two axes, shapes differ, a probability is outside [0, 1], or a ground truth is neither 0 nor 1.

    Example:
        >>> truth = np.zeros((9, 9)); truth[3:6, 3:6] = 1
        >>> weighted_f_measure(truth, truth), weighted_f_measure(1 - truth, truth)
        (1.0, 0.0)
    """
    p, true = _checked(prob, truth)
    size = int(np.count_nonzero(true))
    if size == 0:
        return 0.0
    error = np.abs(p - true)
    nearest = distance_transform_edt(~true, return_distances=False, return_indices=True)  # (2, H, W)
    missed = float(_forgiven(error, true, nearest).sum())
    false = _far_weighted(error, true, nearest)
    hits = size - missed
    weighted_recall, weighted_precision = hits / size, hits / (hits + false + _EPS)
    return 2 * weighted_recall * weighted_precision / (weighted_recall + weighted_precision + _EPS)


def s_measure(prob: ArrayLike, truth: ArrayLike, alpha: float = 0.5) -> float:
    """Fan's structure measure, 0 to 1: similarity of object, background and the quarters around the centroid.

    `alpha` of the object-aware part (means and spreads of the map inside and outside the ground truth) and 1 - alpha of
    the region-aware part (a structural similarity of each quarter, weighted by its area). D.-P. Fan et al.,
    "Structure-measure: a new way to evaluate foreground maps", ICCV 2017, arXiv 1708.00786.

    Differs from pysodmetrics in two places. A quarter without ground truth in which the map is constant counts 1, as
    defined; there rounding leaves a variance of about 1e-33, and it counts 0, unless the constant is 0 or 1 or rounds
    well. And if the centroid is on the last row or column, a quarter is empty and left out; there the score is NaN.

    Args:
        prob: (H, W), array or tensor on the CPU, in [0, 1].
        truth: as `prob`, of any numeric type, 0 or 1.
        alpha: weight of the object-aware part, 0 to 1.

    Returns:
        The score, clipped at 0. Empty ground truth: 1 minus the mean of the map; full ground truth: its mean.

    Raises:
        ValueError: not two axes, shapes differ, a probability is outside [0, 1], or a ground truth is neither 0 nor 1.

    Example:
        >>> truth = np.zeros((8, 8)); truth[2:5, 2:5] = 1
        >>> round(s_measure(truth, truth), 12), s_measure(np.full((8, 8), 0.25), np.zeros((8, 8)))
        (1.0, 0.75)
    """
    p, true = _checked(prob, truth)
    size = int(np.count_nonzero(true))
    if size == 0:
        return 1 - float(p.mean())
    if size == true.size:
        return float(p.mean())
    fraction = size / true.size
    objects = fraction * _object_score(p[true]) + (1 - fraction) * _object_score(1 - p[~true])
    return max(0.0, alpha * objects + (1 - alpha) * _region_score(p, true))


def _checked(prob: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, true = np.asarray(prob), np.asarray(truth)
    if p.ndim != 2 or p.shape != true.shape or not p.size:
        raise ValueError(f"prob and truth must be images (H, W) of the same shape, found {p.shape} and {true.shape}")
    if not (p.min() >= 0 and p.max() <= 1):  # NaN fails too
        raise ValueError(f"prob must lie in [0, 1], found {p.min()} to {p.max()}")
    return p.astype(np.float64), binary(true, "truth")


def _forgiven(error: np.ndarray, true: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """The errors of the true pixels, lowered to the mean around them where that is less.

    Around the ground truth each pixel stands in with the error of its nearest true one, so that what lies outside
    neither forgives nor blames. Beyond the image errors are 0.
    """
    rows, columns = np.flatnonzero(true.any(1)), np.flatnonzero(true.any(0))
    # the filter reaches no farther than this from the ground truth, and a polyp fills a sixth of an image
    box = (
        slice(max(rows[0] - _RADIUS, 0), rows[-1] + _RADIUS + 1),
        slice(max(columns[0] - _RADIUS, 0), columns[-1] + _RADIUS + 1),
    )
    y, x = nearest[(slice(None), *box)]
    kernel = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / 50)
    around = error[y, x]
    for axis in (0, 1):
        around = correlate1d(around, kernel / kernel.sum(), axis=axis, mode="constant")
    inside = true[box]
    return np.minimum(around[inside], error[box][inside])


def _far_weighted(error: np.ndarray, true: np.ndarray, nearest: np.ndarray) -> float:
    """The sum of the errors outside the ground truth, each times 1 at its edge to 2 far away."""
    y, x = np.nonzero(~true & (error > 0))
    distance = np.hypot(nearest[0, y, x] - y, nearest[1, y, x] - x)
    return float(((2 - np.exp2(-distance / _HALVED_EVERY)) * error[y, x]).sum())


def _object_score(values: np.ndarray) -> float:
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + _EPS)


def _region_score(p: np.ndarray, true: np.ndarray) -> float:
    y, x = (round(float(np.average(np.arange(n), weights=true.sum(1 - axis)))) + 1 for axis, n in enumerate(p.shape))
    quarters = [(rows, columns) for rows in (slice(y), slice(y, None)) for columns in (slice(x), slice(x, None))]
    return sum(p[quarter].size / p.size * _similarity(p[quarter], true[quarter]) for quarter in quarters)


def _similarity(p: np.ndarray, true: np.ndarray) -> float:
    """Structural similarity of one quarter, from means, variances and the covariance; 1 where both are constant."""
    if not p.size:  # the centroid lies on the last row or column
        return 0.0
    shifted = p - p[0, 0]  # so that the variance of a constant is 0 and not what rounding leaves of it
    deviation = shifted - shifted.mean()
    mean_p, mean_true, divisor = float(p.mean()), float(true.mean()), p.size - 1 + _EPS
    variance_p = float((deviation**2).sum()) / divisor
    variance_true = p.size * mean_true * (1 - mean_true) / divisor
    covariance = float(deviation[true].sum()) / divisor
    above = 4 * mean_p * mean_true * covariance
    below = (mean_p**2 + mean_true**2) * (variance_p + variance_true)
    if above != 0:
        return above / (below + _EPS)
    return 1.0 if below == 0 else 0.0
