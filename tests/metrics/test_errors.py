"""MSE and MAE by hand and against scikit-learn, and that they stream."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error

from medseg3d.metrics import probability_errors
from medseg3d.metrics._blocks import BLOCK


def test_by_hand():
    mse, mae = probability_errors(np.array([[0.5, 0.25], [1.0, 0.0]]), np.array([[1, 0], [1, 1]]))
    assert mse == pytest.approx((0.25 + 0.0625 + 0 + 1) / 4)
    assert mae == pytest.approx((0.5 + 0.25 + 0 + 1) / 4)


@pytest.mark.parametrize("shape", [(70, 50), (3, 300, 400)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_scikit_learn_agrees_whatever_the_type_and_the_layout(shape, dtype):
    rng = np.random.default_rng(0)
    prob = torch.as_tensor(rng.random(shape)).to(dtype)
    truth = np.asfortranarray(rng.random(shape) < 0.2)
    mse, mae = probability_errors(prob, truth)
    flat = prob.double().numpy().ravel(), truth.ravel()
    assert mse == pytest.approx(mean_squared_error(*flat), abs=1e-12)
    assert mae == pytest.approx(mean_absolute_error(*flat), abs=1e-12)


def test_a_small_error_in_many_float32_voxels_is_not_lost_in_the_sum():
    prob = np.full((512, 512, 17), 1e-3, dtype=np.float32)
    mse, mae = probability_errors(prob, np.zeros(prob.shape, dtype=np.uint8))
    assert mae == pytest.approx(float(np.float32(1e-3)), rel=1e-12)
    assert mse == pytest.approx(float(np.float32(1e-3)) ** 2, rel=1e-12)


def test_no_voxels_have_no_error():
    assert all(math.isnan(error) for error in probability_errors(np.zeros((0, 3)), np.zeros((0, 3))))


@pytest.mark.parametrize(("bad", "named"), [(1.5, "1.5"), (-0.25, "-0.25"), (math.nan, "nan"), (255, "255")])
def test_what_is_no_probability_is_refused_by_name(bad, named):
    with pytest.raises(ValueError, match=rf"prob must lie in \[0, 1\], found {named}"):
        probability_errors(np.array([0.5, bad]), np.array([0, 1]))


def test_a_truth_of_0_and_255_is_refused():
    with pytest.raises(ValueError, match="truth must hold 0 and 1 only, found also 255"):
        probability_errors(np.array([0.5, 1]), np.array([0, 255]))


def test_memory_does_not_grow_with_the_volume():
    prob, truth = np.zeros(16 * BLOCK, np.float32), np.zeros(16 * BLOCK, np.uint8)
    tracemalloc.start()
    try:
        probability_errors(prob, truth)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * BLOCK  # a few float64 arrays of one block, not of sixteen
