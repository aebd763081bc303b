"""Who is small and who is large."""

from __future__ import annotations

import math

import pytest

from medseg3d.metrics import size_strata

SIZES = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "empty": 0}


def test_tertiles_part_six_cases_in_three_pairs():
    strata = size_strata(SIZES)
    assert strata.cases == {"small": ["a", "b"], "medium": ["c", "d"], "large": ["e", "f"]}
    assert strata.edges == pytest.approx((1 + 5 / 3, 1 + 10 / 3))  # of 1..6; the empty case has no part in them


def test_a_size_on_an_edge_is_above_it():
    strata = size_strata(SIZES, edges=(2, 5))
    assert strata.cases == {"small": ["a"], "medium": ["b", "c", "d"], "large": ["e", "f"]}
    assert strata.edges == (2.0, 5.0)


def test_an_empty_truth_is_in_no_stratum():
    assert all("empty" not in cases for cases in size_strata(SIZES).cases.values())


def test_equal_sizes_stay_together():
    assert sorted(map(len, size_strata(dict.fromkeys("abcde", 7.0)).cases.values())) == [0, 0, 5]


def test_nothing_but_empty_truths_has_no_edges():
    strata = size_strata({"a": 0, "b": 0.0})
    assert strata.cases == {"small": [], "medium": [], "large": []}
    assert all(map(math.isnan, strata.edges))


@pytest.mark.parametrize("size", [-1, math.nan, math.inf])
def test_what_is_no_size_is_refused_by_case(size):
    with pytest.raises(ValueError, match=f"found {size} for b"):
        size_strata({"a": 1, "b": size})


@pytest.mark.parametrize("edges", [(1,), (1, 2, 3), (2, 1), (1, 1), (0, 1), (1, math.nan), (1, math.inf)])
def test_edges_must_be_two_that_rise(edges):
    with pytest.raises(ValueError, match="edges must be two finite sizes above 0 that rise"):
        size_strata(SIZES, edges)
