"""Weighted F-measure and S-measure against what pysodmetrics 1.6.2 once said, by hand, and where the two differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_pysodmetrics import GOLDEN, real_pictures, synthetic_pictures

from medseg3d.metrics import s_measure, weighted_f_measure

SYNTHETIC = synthetic_pictures()
NAN_THERE = {"one true pixel in the last corner", "tiny", "two pixels"}  # the centroid's quarter is empty
ROUNDED_THERE = {"constant prediction, quarters without truth"}


def as_probabilities(levels: np.ndarray, variant: str) -> np.ndarray:
    prob = levels / 255
    if variant == "min_max" and prob.max() > prob.min():
        prob = (prob - prob.min()) / (prob.max() - prob.min())
    return prob


@pytest.fixture
def square() -> np.ndarray:
    truth = np.zeros((20, 30))
    truth[5:15, 8:20] = 1
    return truth


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize("variant", ["as_is", "min_max"])
def test_scores_are_those_of_pysodmetrics(name, variant):
    levels, truth = SYNTHETIC[name]
    prob, expected = as_probabilities(levels, variant), GOLDEN["synthetic"][name][variant]
    assert weighted_f_measure(prob, truth) == pytest.approx(expected["weighted_f"], abs=1e-12)
    if name not in NAN_THERE | ROUNDED_THERE:
        assert s_measure(prob, truth) == pytest.approx(expected["s_measure"], abs=1e-12)


@pytest.mark.parametrize("case", GOLDEN["real"])
@pytest.mark.parametrize("variant", ["as_is", "min_max"])
def test_scores_of_real_masks_are_those_of_pysodmetrics(real_data, case, variant):
    levels, truth = real_pictures(real_data, case)
    prob, expected = as_probabilities(levels, variant), GOLDEN["real"][case][variant]
    assert weighted_f_measure(prob, truth) == pytest.approx(expected["weighted_f"], abs=1e-12)
    assert s_measure(prob, truth) == pytest.approx(expected["s_measure"], abs=1e-12)


@pytest.mark.parametrize("name", sorted(NAN_THERE))
def test_an_empty_quarter_is_left_out_and_makes_no_nan(name):
    levels, truth = SYNTHETIC[name]
    assert GOLDEN["synthetic"][name]["as_is"]["s_measure"] is None
    assert 0 < s_measure(levels / 255, truth) <= 1


def test_a_constant_quarter_without_truth_counts_in_full():
    (name,) = ROUNDED_THERE
    levels, truth = SYNTHETIC[name]
    c, f = 90 / 255, 200 / 4096
    objects = f * 2 * c / (c**2 + 1) + (1 - f) * 2 * (1 - c) / ((1 - c) ** 2 + 1)
    regions = 2 * 33 * 31 / 4096  # the centroid is 31.5, so that 33 rows and columns come first
    assert s_measure(levels / 255, truth) == pytest.approx((objects + regions) / 2, abs=1e-12)
    assert GOLDEN["synthetic"][name]["as_is"]["s_measure"] == pytest.approx(objects / 2, abs=1e-12)


def test_the_truth_itself_scores_1(square):
    assert weighted_f_measure(square, square) == pytest.approx(1, abs=1e-12)
    assert s_measure(square, square) == pytest.approx(1, abs=1e-12)


def test_its_inverse_scores_0_but_for_its_structure(square):
    assert weighted_f_measure(1 - square, square) == 0
    assert s_measure(1 - square, square) == 0


@pytest.mark.parametrize(("column", "distance"), [(20, 1), (29, 10)])
def test_an_error_costs_more_the_farther_it_lies_from_the_truth(square, column, distance):
    prob = square.copy()
    prob[10, column] = 1
    size = square.sum()
    precision = size / (size + 2 - 0.5 ** (distance / 5))
    assert weighted_f_measure(prob, square) == pytest.approx(2 * precision / (1 + precision), abs=1e-12)


def test_a_hole_is_forgiven_by_its_surroundings(square):
    hole = square.copy()
    hole[10, 14] = 0
    y, x = np.mgrid[-3:4, -3:4]
    kernel = np.exp(-(x**2 + y**2) / 50)
    recall = 1 - (kernel / kernel.sum())[3, 3] / square.sum()
    assert weighted_f_measure(hole, square) == pytest.approx(2 * recall / (recall + 1), abs=1e-12)


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_an_empty_truth_gives_0_and_what_is_left_blank(level):
    prob, truth = np.full((6, 7), level), np.zeros((6, 7))
    assert weighted_f_measure(prob, truth) == 0
    assert s_measure(prob, truth) == 1 - level


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_a_full_truth_gives_what_is_filled(level):
    prob, truth = np.full((6, 7), level), np.ones((6, 7))
    assert s_measure(prob, truth) == level
    # errors beyond the image are 0, so that its rim is forgiven in part
    assert weighted_f_measure(prob, truth) >= 2 * level / (1 + level) - 1e-12


def test_tensors_and_single_precision_are_taken(square):
    prob = np.clip(square * 0.7 + 0.1, 0, 1).astype(np.float32)
    as_tensors = torch.from_numpy(prob), torch.from_numpy(square)
    assert weighted_f_measure(*as_tensors) == weighted_f_measure(prob, square)
    assert s_measure(*as_tensors) == s_measure(prob, square)
    assert type(s_measure(prob, square)) is type(weighted_f_measure(prob, square)) is float


@pytest.mark.parametrize("score", [weighted_f_measure, s_measure])
def test_what_is_no_pair_of_pictures_is_refused(score):
    truth = np.eye(3)
    with pytest.raises(ValueError, match=r"images \(H, W\) of the same shape, found \(3, 3, 3\)"):
        score(np.zeros((3, 3, 3)), np.zeros((3, 3, 3)))
    with pytest.raises(ValueError, match=r"of the same shape, found \(3, 4\) and \(3, 3\)"):
        score(np.zeros((3, 4)), truth)
    with pytest.raises(ValueError, match=r"prob must lie in \[0, 1\], found 0.0 to 255.0"):
        score(truth * 255, truth)
    with pytest.raises(ValueError, match=r"prob must lie in \[0, 1\], found nan"):
        score(np.where(truth > 0, np.nan, 0.0), truth)
    with pytest.raises(ValueError, match="truth must hold 0 and 1 only, found also 2"):
        score(truth, truth * 2)
