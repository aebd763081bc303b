"""Intervals that hold what they promise: coverage, scipy as the judge, and groups that widen them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from medseg3d.metrics import ConfusionCounts, Interval, dice, mean_interval, pooled_interval, recall

NAN = math.nan


def counts_of(n: int, seed: int = 0) -> dict[str, ConfusionCounts]:
    rows = np.random.default_rng(seed).integers(1, 100, (n, 4))
    return {f"case_{k}": ConfusionCounts(*row) for k, row in enumerate(rows)}


def is_nan(interval: Interval) -> bool:
    return math.isnan(interval.low) and math.isnan(interval.high)


def test_95_of_100_intervals_hold_the_true_mean():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(400):
        low, high = mean_interval(rng.normal(0.8, 0.1, 50), resamples=500, seed=trial)
        hits += low <= 0.8 <= high
    assert 0.915 <= hits / 400 <= 0.975  # 0.94 for 50 cases; the standard error of 400 trials is 0.012


def test_the_interval_is_as_wide_as_the_t_interval():
    values = np.random.default_rng(1).normal(0.8, 0.1, 400)
    low, high = mean_interval(values)
    expected = stats.t.interval(0.95, 399, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_scipy_agrees_on_means(confidence):
    values = np.random.default_rng(2).beta(8, 2, 40)
    judge = stats.bootstrap((values,), np.mean, confidence_level=confidence, n_resamples=20000, method="percentile")
    found = mean_interval(values, confidence=confidence, resamples=20000)
    assert found == pytest.approx(tuple(judge.confidence_interval), abs=0.003)


def test_scipy_agrees_on_means_of_groups():
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 12, 60)
    values = 0.7 + 0.02 * groups + 0.02 * rng.normal(size=60)
    sums = np.bincount(groups, values, minlength=12), np.bincount(groups, minlength=12)
    judge = stats.bootstrap(
        sums, lambda s, n, axis: s.sum(axis) / n.sum(axis), paired=True, n_resamples=20000, method="percentile"
    )
    found = mean_interval(values, groups=groups.tolist(), resamples=20000)
    assert found == pytest.approx(tuple(judge.confidence_interval), abs=0.003)


def test_scipy_agrees_on_pooled_scores():
    cases = counts_of(25)
    tp, fp, fn = (np.array([getattr(c, name) for c in cases.values()]) for name in ("tp", "fp", "fn"))

    def pooled_dice(tp, fp, fn, axis):
        return 2 * tp.sum(axis) / (2 * tp + fp + fn).sum(axis)

    judge = stats.bootstrap((tp, fp, fn), pooled_dice, paired=True, n_resamples=20000, method="percentile")
    found = pooled_interval(cases, "dice", resamples=20000)
    assert found == pytest.approx(tuple(judge.confidence_interval), abs=0.003)


def test_a_pooled_interval_holds_the_pooled_score():
    cases = counts_of(30)
    low, high = pooled_interval(cases, "dice")
    assert low < dice(sum(cases.values(), ConfusionCounts())) < high


def test_copies_of_a_case_narrow_the_interval_unless_they_are_one_group():
    values = np.random.default_rng(4).normal(0.8, 0.1, 30)
    alone = mean_interval(values)
    copied = mean_interval(np.repeat(values, 9))
    grouped = mean_interval(np.repeat(values, 9), groups=np.repeat(np.arange(30), 9).tolist())
    assert copied.high - copied.low == pytest.approx((alone.high - alone.low) / 3, rel=0.1)
    assert grouped == pytest.approx(alone)


def test_copies_narrow_the_pooled_interval_unless_they_are_one_group():
    cases = counts_of(20)
    copies = {f"{case} {k}": counts for case, counts in cases.items() for k in range(9)}
    alone = pooled_interval(cases, "recall")
    copied = pooled_interval(copies, "recall")
    grouped = pooled_interval(copies, "recall", groups={name: name.split()[0] for name in copies})
    assert copied.high - copied.low == pytest.approx((alone.high - alone.low) / 3, rel=0.15)
    assert grouped == pytest.approx(alone)


def test_nan_is_left_out_with_its_group():
    with_nan = mean_interval([0.5, NAN, 0.7, 0.9, NAN], groups=["a", "a", "b", "c", "d"])
    assert with_nan == mean_interval([0.5, 0.7, 0.9])


def test_the_mean_is_one_over_cases_so_that_a_large_group_weighs_more():
    low, high = mean_interval([0.0, 1.0, 1.0, 1.0], groups=["a", "b", "b", "b"], confidence=0.4)
    assert (low, high) == (0.75, 0.75)  # one of each group is drawn half of the time


@pytest.mark.parametrize("values", [[], [0.5], [0.5, NAN], [NAN, NAN]])
def test_one_case_has_no_interval(values):
    assert is_nan(mean_interval(values))


def test_one_group_has_no_interval():
    assert is_nan(mean_interval([0.5, 0.6], groups=["a", "a"]))
    assert is_nan(pooled_interval(counts_of(2), "dice", groups={"case_0": "a", "case_1": "a"}))
    assert is_nan(pooled_interval(counts_of(1), "dice"))
    assert is_nan(pooled_interval({}, "dice"))


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_resamples_without_a_score_are_left_out():
    cases = {"something": ConfusionCounts(tp=3, fn=1), "empty": ConfusionCounts(tn=4)}
    assert pooled_interval(cases, "recall") == (0.75, 0.75)
    assert is_nan(pooled_interval({"a": ConfusionCounts(tn=4), "b": ConfusionCounts(tn=4)}, "recall"))


def test_the_seed_decides():
    values = np.random.default_rng(5).random(20).tolist()
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3) != mean_interval(values, seed=4)
    cases = counts_of(9)
    assert pooled_interval(cases, "iou", seed=3) == pooled_interval(cases, "iou", seed=3)
    assert pooled_interval(cases, "iou", seed=3) != pooled_interval(cases, "iou", seed=4)


def test_drawing_in_parts_changes_nothing(monkeypatch):
    values = np.random.default_rng(6).random(20).tolist()
    whole = mean_interval(values)
    monkeypatch.setattr("medseg3d.metrics.intervals._DRAWS", 100)
    assert mean_interval(values) == whole


def test_counts_of_many_volumes_do_not_overflow():
    huge = ConfusionCounts(tp=2**40, fp=2**40, fn=2**40, tn=2**45)
    low, high = pooled_interval({str(k): huge for k in range(50)}, "recall")
    assert low == high == recall(huge)


def test_wrong_calls_are_answered():
    with pytest.raises(ValueError, match="groups must name a group for each of 2 values, found 1"):
        mean_interval([0.1, 0.2], groups=["a"])
    with pytest.raises(ValueError, match=r"none for \['case_1'\]"):
        pooled_interval(counts_of(2), "dice", groups={"case_0": "a"})
    with pytest.raises(ValueError, match="score must be one of dice"):
        pooled_interval(counts_of(2), "f1")
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, found 95"):
        mean_interval([0.1, 0.2], confidence=95)
    with pytest.raises(ValueError, match="resamples must be at least 1, found 0"):
        mean_interval([0.1, 0.2], resamples=0)
    with pytest.raises(ValueError, match="values must be finite or NaN"):
        mean_interval([0.1, math.inf])
