from __future__ import annotations

import math

import pytest

from medseg3d.metrics import mean_interval
from medseg3d.reports.paired import is_clear, paired_difference

BASE = {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}
BETTER = {"a": 0.75, "b": 0.625, "c": 0.75, "d": 0.5}


def test_cases_without_a_score_in_any_run_are_left_out():
    other_seed = ({**BETTER, "a": math.nan}, {**BASE, "e": 1.0})
    difference = paired_difference([(BETTER, BASE), other_seed])
    assert difference.cases == {"b": 0.125, "c": 0.25, "d": 0.0}
    assert difference.value == 0.125
    assert difference.signs == {"higher": 2, "equal": 1, "lower": 0}


def test_a_case_counts_with_its_mean_over_the_seeds():
    lower = {"a": 0.25, "b": 0.5, "c": 0.5, "d": 0.5}
    difference = paired_difference([(BETTER, BASE), (lower, BASE)])
    assert difference.cases == {"a": 0.0, "b": 0.0625, "c": 0.125, "d": 0.0}
    assert difference.pairs == [0.15625, -0.0625]


def test_the_interval_is_that_of_the_differences_and_of_whole_groups():
    gains = [0.25, 0.125, 0.25, 0.0]
    assert paired_difference([(BETTER, BASE)]).interval == mean_interval(gains)
    groups = {"a": "x", "b": "x", "c": "y", "d": "y"}
    assert paired_difference([(BETTER, BASE)], groups).interval == mean_interval(gains, list("xxyy"))


def test_one_pair_is_judged_by_its_interval():
    assert paired_difference([(BETTER, BASE)]).verdict == "higher on these cases: the interval lies above 0"
    assert paired_difference([(BASE, BETTER)]).sign == -1
    assert paired_difference([(BASE, {**BETTER, "a": 0.25, "c": 0.25})]).verdict == "undecided: the interval holds 0"
    assert paired_difference([({"a": 1.0}, {"a": 0.0})]).verdict == "too few cases for an interval"


def test_seeds_that_contradict_each_other_leave_it_undecided():
    worse = {case: value - 0.01 for case, value in BASE.items()}
    difference = paired_difference([(BETTER, BASE), (worse, BASE)])
    assert difference.interval.low > 0
    assert difference.verdict == "undecided: the seeds differ by as much"
    agree = paired_difference([(BETTER, BASE), (BETTER, BASE)])
    assert agree.verdict == "higher on these cases: the interval lies above 0, for every seed"


def test_runs_that_share_no_case_have_no_difference():
    difference = paired_difference([({"a": 1.0}, {"b": 1.0})])
    assert (math.isnan(difference.value), difference.sign) == (True, 0)


@pytest.mark.parametrize(
    ("gains", "clear"),
    # standard errors 0, 0.005 and 0.15; the last two disagree in sign
    [([0.1, 0.1], True), ([0.1, 0.11], True), ([0.05, 0.35], False), ([0.1, -0.001], False)],
)
def test_seeds_are_clear_if_they_agree_beyond_twice_the_standard_error(gains, clear):
    assert is_clear(gains) is clear
    assert is_clear([-gain for gain in gains]) is clear
