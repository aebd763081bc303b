"""Voxel-wise errors of a probability map."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from medseg3d.metrics._blocks import ArrayLike, binary, blocks


class ProbabilityErrors(NamedTuple):
    """Mean squared error (Brier score) and mean absolute error of a probability map, 0 to 1 each."""

    mse: float
    mae: float


def probability_errors(prob: ArrayLike, truth: ArrayLike) -> ProbabilityErrors:
    """The means over all voxels of (prob - truth)^2 and of |prob - truth|, in constant memory; NaN without voxels.

    The map is used as it is. Tools for salient objects (PraNet's evaluation, PySODMetrics) first min-max normalize each
    map, and get different errors.

    Args:
        prob: (*spatial), probability of the foreground, 0 to 1, tensor or array of any type.
        truth: (*spatial), 0 or 1.

    Raises:
        ValueError: shapes differ, a probability is outside [0, 1] or NaN, or a ground truth is neither 0 nor 1.

    Example:
        >>> probability_errors(np.array([[0.5, 0.0], [1.0, 1.0]]), np.array([[0, 0], [1, 0]]))
        ProbabilityErrors(mse=0.3125, mae=0.375)
    """
    n = 0
    squares, magnitudes = [], []
    for p, t in blocks(prob=prob, truth=truth):
        inside = (p >= 0) & (p <= 1)
        if not inside.all():
            raise ValueError(f"prob must lie in [0, 1], found {p[~inside][0]}")
        # float64: as float32, a sum over a volume would lose digits
        error = p.astype(np.float64) - binary(t, "truth")
        n += error.size
        squares.append(float(error @ error))
        magnitudes.append(float(np.abs(error).sum()))
    if n == 0:
        return ProbabilityErrors(math.nan, math.nan)
    return ProbabilityErrors(mse=math.fsum(squares) / n, mae=math.fsum(magnitudes) / n)
