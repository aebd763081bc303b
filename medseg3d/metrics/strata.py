"""Cases by the size of what there is to find: a mean over all hides the performance on small ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Strata(NamedTuple):
    """The case names of "small", "medium" and "large", and the two limits between them, in the unit of the sizes."""

    cases: dict[str, list[str]]
    edges: tuple[float, float]


def size_strata(sizes: Mapping[str, float], edges: Sequence[float] | None = None) -> Strata:
    """The cases stratified by size: small below the lower edge, large from the upper edge on, medium between.

    Without edges, the tertiles of the sizes above 0 are taken (NumPy's linear quantiles): three strata of about equal
    number, except that equal sizes are never separated. A case of size 0 has no ground truth and is in none.

    Args:
        sizes: size of the ground truth by case name, in any one unit: pixels, mm^3, fraction of the image.
        edges: lower and upper edge in that unit, for strata that do not depend on the data set.

    Returns:
        All three strata, in the order of `sizes`; some may be empty. The edges are NaN if neither they nor a size
        above 0 are given.

    Raises:
        ValueError: a size is negative or not finite, or the edges are not two increasing numbers.

    Example:
        >>> size_strata({"a": 10, "b": 90, "c": 40, "empty": 0}, edges=(20, 80))
        Strata(cases={'small': ['a'], 'medium': ['c'], 'large': ['b']}, edges=(20.0, 80.0))
    """
    for case, size in sizes.items():
        if not 0 <= size < math.inf:
            raise ValueError(f"sizes must be finite and not negative, found {size} for {case}")
    low, high = _tertiles([size for size in sizes.values() if size > 0]) if edges is None else _checked(edges)
    cases: dict[str, list[str]] = {"small": [], "medium": [], "large": []}
    for case, size in sizes.items():
        if size > 0:
            cases["small" if size < low else "medium" if size < high else "large"].append(case)
    return Strata(cases, (low, high))


def _tertiles(sizes: list[float]) -> tuple[float, float]:
    if not sizes:
        return math.nan, math.nan
    low, high = np.quantile(sizes, [1 / 3, 2 / 3]).tolist()
    return low, high


def _checked(edges: Sequence[float]) -> tuple[float, float]:
    if len(edges) != 2 or not 0 < edges[0] < edges[1] < math.inf:
        raise ValueError(f"edges must be two finite sizes above 0 that rise, found {list(edges)}")
    return float(edges[0]), float(edges[1])
