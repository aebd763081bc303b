"""The streaming curve against scikit-learn's exact sort, and what merging, batching and saving may not change."""

from __future__ import annotations

import copy
import math
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve

from medseg3d.metrics import BinnedPRCurve, ConfusionCounts, dice
from medseg3d.metrics._blocks import BLOCK
from medseg3d.metrics.pr_curve import _EDGES, _bin_of

N = 100_000


def make(regime: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits (float32) and ground truth of one kind of network."""
    rng = np.random.default_rng(0)
    rare = regime == "rare positives"
    truth = rng.random(N) < (2e-4 if rare else 0.05)
    noise = rng.normal(size=N)
    if regime == "uniform probabilities":
        prob = 0.7 * rng.random(N) + 0.3 * truth
        logit = np.log(prob / (1 - prob))
    elif regime == "all positive":
        truth, logit = np.ones(N, dtype=bool), noise
    else:
        logit = {
            "untrained": noise * 0.01,
            "no skill": noise,
            "trained": noise + 2 * truth,
            "rare positives": 3 * noise + np.where(truth, 5, -10),
            "saturated": 6 * noise + np.where(truth, 20, -20),
            "saturated and unsure": 6 * noise + np.where(truth, 10, -10),
            "crowded in one power of two": 12 + 0.8 * noise + truth,
            "huge": 1e3 * noise + 1e3 * truth,
            "ties": np.round(noise + truth, 1),
            "two values": np.where(noise + truth > 1, 30.0, -30.0),
            "constant": np.full(N, 0.25),
        }[regime]
    return logit.astype(np.float32), truth


REGIMES = [
    "untrained",
    "no skill",
    "trained",
    "uniform probabilities",
    "rare positives",
    "saturated",
    "saturated and unsure",
    "crowded in one power of two",
    "huge",
    "ties",
    "two values",
    "constant",
    "all positive",
]


def curve_of(logit, truth) -> BinnedPRCurve:
    curve = BinnedPRCurve()
    curve.update(logit, truth)
    return curve


@pytest.mark.parametrize("regime", REGIMES)
def test_average_precision_is_within_1e_4_of_the_exact_sort(regime):
    logit, truth = make(regime)
    exact = average_precision_score(truth, logit.astype(np.float64))
    assert curve_of(logit, truth).average_precision() == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("regime", REGIMES)
def test_bounds_hold_the_exact_average_precision(regime):
    logit, truth = make(regime)
    low, high = curve_of(logit, truth).average_precision_bounds()
    exact = average_precision_score(truth, logit.astype(np.float64))
    assert low - 1e-9 <= exact <= high + 1e-9


def test_bounds_tell_when_the_bins_are_too_coarse():
    rng = np.random.default_rng(0)
    truth = rng.random(N) < 0.05
    logit = (14 + 0.02 * rng.normal(size=N) + 0.03 * truth).astype(np.float32)  # twenty-odd bins in all
    exact = average_precision_score(truth, logit.astype(np.float64))
    curve = curve_of(logit, truth)
    low, high = curve.average_precision_bounds()
    assert abs(curve.average_precision() - exact) > 1e-3
    assert low < exact < high
    assert high - low < 0.05


def test_average_precision_by_hand():
    # foreground at ranks 1 and 3 of 4: (1/1 + 2/3) / 2
    curve = curve_of(np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 1, 0]))
    assert curve.average_precision() == pytest.approx(5 / 6)


def test_bounds_by_hand():
    # one bin with one voxel of each kind: precision 1/2 or 1 at the only step
    low, high = curve_of(np.array([1.0, 1.0]), np.array([1, 0])).average_precision_bounds()
    assert low == pytest.approx(1 - math.log(2))  # the integral of x / (1 + x) from 0 to 1, below 1/2
    assert high == 1
    # and one of background above them: precision 1/3 or 1/2
    low, high = curve_of(np.array([2.0, 1.0, 1.0]), np.array([0, 1, 0])).average_precision_bounds()
    assert low == pytest.approx(1 - 2 * math.log(3 / 2))  # of x / (2 + x) from 0 to 1
    assert high == pytest.approx(1 - math.log(3 / 2))  # of x / (1 + x) from 1 to 2


@pytest.mark.parametrize("regime", ["ties", "two values", "constant"])
def test_curve_is_scikit_learns_where_no_bin_holds_two_scores(regime):
    logit, truth = make(regime)
    precision, recall, threshold = curve_of(logit, truth).curve()
    expected = precision_recall_curve(truth, logit.astype(np.float64))
    np.testing.assert_allclose(precision, expected[0], rtol=1e-12)
    np.testing.assert_allclose(recall, expected[1], rtol=1e-12)
    np.testing.assert_allclose(threshold, 1 / (1 + np.exp(-expected[2])), rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("regime", ["trained", "saturated and unsure"])
def test_every_point_of_the_curve_is_exact_at_its_threshold(regime):
    logit, truth = make(regime)
    curve = curve_of(logit, truth)
    precision, recall, threshold = curve.curve()
    edges = _EDGES[curve.state()["bins"]]
    assert len(threshold) == len(edges)
    some = slice(0, len(edges), len(edges) // 50)
    above = [truth[logit >= edge] for edge in edges[some]]
    assert precision[some] == pytest.approx(np.array([each.mean() for each in above]))
    assert recall[some] == pytest.approx(np.array([each.sum() for each in above]) / truth.sum())


def test_curve_starts_with_everything_and_ends_with_nothing():
    precision, recall, threshold = curve_of(*make("trained")).curve()
    assert recall[0] == 1
    assert (precision[-1], recall[-1]) == (1, 0)
    assert (np.diff(threshold) > 0).all()
    assert (np.diff(recall) <= 0).all()


def test_thresholds_far_below_a_half_stay_apart():
    _, _, threshold = curve_of(np.array([-300.0, -60.0, 0.0]), np.array([0, 1, 1])).curve()
    np.testing.assert_allclose(np.log(threshold / (1 - threshold)), [-300, -60, 0], rtol=2e-4)


def test_bins_begin_at_their_edge_and_are_in_order():
    edges = _EDGES.astype(np.float32)
    assert (edges == _EDGES).all()
    assert (np.diff(edges) > 0).all()
    np.testing.assert_array_equal(_bin_of(edges), np.arange(len(edges)))
    just_below = np.nextafter(edges[1:], np.float32(-np.inf))
    np.testing.assert_array_equal(_bin_of(just_below), np.arange(len(edges) - 1))


def test_bins_are_fine_where_logits_lie():
    logit = np.concatenate([-np.geomspace(60000, 1e-4, 5000), np.geomspace(1e-4, 60000, 5000)])
    step = _EDGES[_bin_of(logit.astype(np.float32)) + 1] - _EDGES[_bin_of(logit.astype(np.float32))]
    assert (step <= 2**-13 * np.abs(logit) * 1.001).all()


@pytest.mark.parametrize("threshold", [0.5, 0.0])
def test_counts_at_a_threshold_are_those_of_the_mask(threshold):
    logit, truth = make("trained")
    logit[:5] = [0.0, -0.0, 1e-30, -1e-30, -1e-3]
    pred = 1 / (1 + np.exp(-logit.astype(np.float64))) >= threshold
    pred[3] = threshold == 0  # a float64 probability of -1e-30 is 0.5 already
    assert curve_of(logit, truth).counts_at(threshold) == ConfusionCounts.from_masks(pred, truth)


@pytest.mark.parametrize("threshold", [0.01, 0.2, 0.9, 0.999])
def test_counts_at_any_threshold_are_within_a_bin(threshold):
    logit, truth = make("trained")
    curve = curve_of(logit, truth)
    limit = math.log(threshold / (1 - threshold))
    lowered = limit - 2**-13 * abs(limit)
    found, exact, most = curve.counts_at(threshold), (logit >= limit).sum(), (logit >= lowered).sum()
    assert exact <= found.n_pred <= most
    assert found.n == N


def test_counts_at_the_ends():
    curve = BinnedPRCurve()
    curve.update_prob(np.array([0.0, 0.3, 1.0, 1.0]), np.array([0, 1, 1, 0]))
    assert curve.counts_at(0) == ConfusionCounts(tp=2, fp=2)
    assert curve.counts_at(1) == ConfusionCounts(tp=1, fp=1, fn=1, tn=1)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_thresholds_that_are_no_probability_are_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be a probability from 0 to 1, found"):
        BinnedPRCurve().counts_at(threshold)


def test_best_threshold_is_found_by_trying_them_all():
    logit, truth = make("rare positives")
    curve = curve_of(logit, truth)
    best = curve.best_threshold("dice")
    tried = max(dice(ConfusionCounts.from_masks(logit >= limit, truth)) for limit in np.unique(logit[truth]))
    assert best.value == pytest.approx(tried, abs=1e-3)
    assert best.value == dice(ConfusionCounts.from_masks(logit >= best.logit, truth))
    assert best.value == dice(curve.counts_at_logit(best.logit))
    assert best.threshold == pytest.approx(1 / (1 + math.exp(-best.logit)))


def test_of_equally_good_thresholds_the_one_nearest_to_a_half_is_taken():
    logit, truth = np.array([4.0, 1.0, -3.0, -8.0]), np.array([1, 1, 1, 0])
    best = curve_of(logit, truth).best_threshold("specificity")  # 1 at the first three
    assert (best.value, best.logit) == (1.0, 1.0)


def test_best_threshold_needs_a_defined_score():
    with pytest.raises(ValueError, match="recall is defined at no threshold"):
        curve_of(np.array([1.0]), np.array([0])).best_threshold("recall")
    with pytest.raises(ValueError, match=r"score must be one of dice, .* found 'auc'"):
        curve_of(np.array([1.0]), np.array([1])).best_threshold("auc")


@pytest.mark.parametrize("curve", [BinnedPRCurve(), curve_of(np.array([1.0, 2.0]), np.array([0, 0]))])
def test_without_foreground_there_is_no_average_precision(curve):
    assert math.isnan(curve.average_precision())
    assert all(map(math.isnan, curve.average_precision_bounds()))
    assert np.isnan(curve.curve()[1][:-1]).all()


@pytest.mark.parametrize("pieces", [1, 3, 100])
def test_any_batching_gives_the_same_curve(pieces):
    logit, truth = make("trained")
    streamed = BinnedPRCurve()
    for x, t in zip(np.array_split(logit, pieces), np.array_split(truth, pieces), strict=True):
        streamed.update(x, t)
    assert streamed == curve_of(logit, truth)


@pytest.mark.parametrize("shape", [(N,), (250, 400), (50, 40, 50), (1, 1, 50, 40, 50)])
@pytest.mark.parametrize("kind", [np.asfortranarray, torch.as_tensor])
def test_pictures_and_volumes_give_the_same_curve(shape, kind):
    logit, truth = make("trained")
    assert curve_of(kind(logit.reshape(shape)), kind(truth.reshape(shape))) == curve_of(logit, truth)


def test_images_larger_than_a_block_are_counted_whole():
    rng = np.random.default_rng(0)
    logit, truth = rng.normal(size=(3, BLOCK + 3)).astype(np.float32), rng.random((3, BLOCK + 3)) < 0.5
    at_once = curve_of(logit, truth)
    assert at_once.histogram.sum(0).tolist() == [(~truth).sum(), truth.sum()]
    assert at_once == sum((curve_of(x, t) for x, t in zip(logit, truth, strict=True)), BinnedPRCurve())


def test_merging_is_commutative_and_changes_neither_part():
    logit, truth = make("trained")
    a, b = curve_of(logit[:30_000], truth[:30_000]), curve_of(logit[30_000:], truth[30_000:])
    before = copy.deepcopy(a)
    assert a != b
    assert a + b == b + a == curve_of(logit, truth)
    assert a == before


def test_only_curves_can_be_added():
    with pytest.raises(TypeError, match="unsupported operand"):
        BinnedPRCurve() + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_all_float_types_are_taken(dtype):
    logit, truth = make("ties")
    logit = torch.as_tensor(logit).to(dtype)
    exact = average_precision_score(truth, logit.double().numpy())
    assert curve_of(logit.requires_grad_(), truth).average_precision() == pytest.approx(exact, abs=1e-4)


def test_logits_beyond_the_last_bin_fall_into_it():
    curve = curve_of(np.array([-1e30, -7e4, 7e4, 1e30, 1e300]), np.array([0, 0, 1, 1, 1]))
    assert curve.state()["bins"].tolist() == [0, len(curve.histogram) - 1]


def test_probabilities_give_the_curve_of_their_logits():
    logit, truth = make("trained")
    from_prob = BinnedPRCurve()
    from_prob.update_prob(1 / (1 + np.exp(-logit.astype(np.float64))), truth)
    expected = curve_of(logit, truth)
    assert from_prob.average_precision() == pytest.approx(expected.average_precision(), abs=1e-6)
    assert from_prob.counts_at(0.5) == expected.counts_at(0.5)


def test_float32_probabilities_of_a_saturated_network_keep_their_exact_curve():
    logit, truth = make("saturated and unsure")
    prob = torch.sigmoid(torch.as_tensor(logit))
    assert (prob == 1).sum() > 100
    curve = BinnedPRCurve()
    curve.update_prob(prob, truth)
    assert curve.average_precision() == pytest.approx(average_precision_score(truth, prob.double()), abs=1e-4)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float16])
def test_probabilities_of_little_precision_are_not_made_worse(dtype):
    prob = np.linspace(0, 1, 200).astype(dtype)
    truth = np.arange(200) > 90
    coarse, fine = BinnedPRCurve(), BinnedPRCurve()
    coarse.update_prob(prob, truth)
    fine.update_prob(prob.astype(np.float32), truth)
    assert coarse == fine


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_scores_are_refused_and_nothing_is_kept(bad):
    score, truth = np.zeros(2 * BLOCK + 5, dtype=np.float32), np.ones(2 * BLOCK + 5, dtype=bool)
    score[-1] = bad
    curve = curve_of(np.array([1.0]), np.array([1]))
    with pytest.raises(ValueError, match=rf"score must be finite, found {bad}"):
        curve.update(score, truth)
    with pytest.raises(ValueError, match=rf"prob must be finite, found {bad}"):
        curve.update_prob(score, truth)
    assert curve == curve_of(np.array([1.0]), np.array([1]))


@pytest.mark.parametrize("bad", [-0.01, 1.01])
def test_scores_that_are_no_probabilities_are_refused(bad):
    with pytest.raises(ValueError, match=r"prob must lie in \[0, 1\], found"):
        BinnedPRCurve().update_prob(np.array([0.5, bad]), np.array([0, 1]))


def test_truth_must_be_a_mask_of_the_same_shape():
    with pytest.raises(ValueError, match="truth must hold 0 and 1 only, found also 2"):
        BinnedPRCurve().update(np.zeros(3), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="score, truth must have the same shape"):
        BinnedPRCurve().update(np.zeros((2, 3)), np.zeros(3))


def test_state_gives_the_curve_back():
    curve = curve_of(*make("saturated"))
    state = curve.state()
    assert {array.dtype for array in state.values()} == {np.dtype(np.int64)}
    assert BinnedPRCurve.from_state(state) == curve
    assert pickle.loads(pickle.dumps(curve)) == curve
    assert BinnedPRCurve.from_state(BinnedPRCurve().state()) == BinnedPRCurve()


def test_states_of_another_make_are_refused():
    state = curve_of(*make("trained")).state()
    with pytest.raises(ValueError, match=r"\['bins'\] missing"):
        BinnedPRCurve.from_state({key: value for key, value in state.items() if key != "bins"})
    with pytest.raises(ValueError, match=r"layout \[13, -15, 31\], found \[10, -15, 31\]"):
        BinnedPRCurve.from_state({**state, "layout": np.array([10, -15, 31])})
    for bins in (state["bins"] - 10**6, state["bins"] + 10**6, state["bins"][::-1]):
        with pytest.raises(ValueError, match=r"bins must rise and lie in 0\.\.507903"):
            BinnedPRCurve.from_state({**state, "bins": bins})
    for counts in (state["positives"][1:], -state["positives"], state["positives"] * 0.5, np.int64(3)):
        with pytest.raises(ValueError, match="negatives and positives must be a count for each of the bins"):
            BinnedPRCurve.from_state({**state, "positives": counts})


def test_memory_does_not_grow_with_the_volume():
    curve, score, truth = BinnedPRCurve(), np.zeros(16 * BLOCK, np.float32), np.zeros(16 * BLOCK, np.uint8)
    tracemalloc.start()
    try:
        curve.update(score, truth)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * BLOCK  # a few float32 and int64 arrays of one block, not of sixteen
