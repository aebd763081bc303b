"""Counts against hand values, scikit-learn and MONAI, whatever holds the voxels and however they lie in memory."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import get_confusion_matrix
from sklearn.metrics import confusion_matrix

from medseg3d.metrics import ConfusionCounts
from medseg3d.metrics._blocks import BLOCK

TRUTH_3X3 = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
PRED_3X3 = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
COUNTS_3X3 = ConfusionCounts(tp=2, fp=2, fn=1, tn=4)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_2x2_by_hand():
    counts = ConfusionCounts.from_masks(pred=np.array([[1, 1], [1, 0]]), truth=np.array([[1, 0], [0, 0]]))
    assert counts == ConfusionCounts(tp=1, fp=2, fn=0, tn=1)
    assert (counts.n_truth, counts.n_pred, counts.n) == (1, 3, 4)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
def test_3x3_by_hand_in_every_type(dtype, kind):
    pred, truth = kind(PRED_3X3.astype(dtype)), kind(TRUTH_3X3.astype(dtype))
    assert ConfusionCounts.from_masks(pred, truth) == COUNTS_3X3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tensors_count_too(dtype):
    pred, truth = torch.as_tensor(PRED_3X3).to(dtype), torch.as_tensor(TRUTH_3X3).to(dtype)
    assert ConfusionCounts.from_masks(pred, truth) == COUNTS_3X3


def test_a_tensor_may_be_compared_with_an_array():
    assert ConfusionCounts.from_masks(torch.as_tensor(PRED_3X3), TRUTH_3X3.astype(bool)) == COUNTS_3X3


def test_a_tensor_that_needs_gradients_is_counted():
    pred = torch.as_tensor(PRED_3X3).float().requires_grad_()
    assert ConfusionCounts.from_masks(pred, TRUTH_3X3) == COUNTS_3X3


# larger than one block in one row, in many rows, behind leading ones; not a multiple of a block
@pytest.mark.parametrize("shape", [(BLOCK + 7,), (3, BLOCK + 1), (1, 1, 90, 70, 50), (2, 3, 400, 300)])
@pytest.mark.parametrize("layout", ["C", "F", "flipped", "mixed"])
def test_counts_do_not_depend_on_shape_or_memory_layout(rng, shape, layout):
    pred, truth = rng.random(shape) < 0.3, rng.random(shape) < 0.4
    tn, fp, fn, tp = confusion_matrix(truth.ravel(), pred.ravel()).ravel().tolist()
    if layout in ("F", "mixed"):
        truth = np.asfortranarray(truth)
    if layout == "F":
        pred = np.asfortranarray(pred)
    if layout == "flipped":
        pred, truth = np.flip(np.flip(pred).copy()), np.flip(np.flip(truth).copy())
    assert ConfusionCounts.from_masks(pred, truth) == ConfusionCounts(tp=tp, fp=fp, fn=fn, tn=tn)


def test_permuted_tensors_are_paired_voxel_by_voxel(rng):
    pred, truth = rng.random((80, 70, 60)) < 0.3, rng.random((80, 70, 60)) < 0.4
    expected = ConfusionCounts.from_masks(pred, truth)
    permuted = torch.as_tensor(truth.transpose(2, 0, 1).copy()).permute(1, 2, 0)
    assert ConfusionCounts.from_masks(torch.as_tensor(pred), permuted) == expected


@pytest.mark.parametrize(
    ("bad", "named"), [([0, 255], "255"), ([0, -1], "-1"), ([0.0, 0.5], "0.5"), ([0.0, float("nan")], "nan")]
)
@pytest.mark.parametrize("argument", ["pred", "truth"])
def test_values_other_than_0_and_1_are_refused_by_name(bad, named, argument):
    masks = {"pred": np.array([0, 1]), "truth": np.array([0, 1]), argument: np.array(bad)}
    with pytest.raises(ValueError, match=rf"{argument} must hold 0 and 1 only, found also {named}"):
        ConfusionCounts.from_masks(**masks)


def test_a_bad_value_in_the_last_block_is_found():
    truth = np.zeros(3 * BLOCK + 5, dtype=np.uint8)
    truth[-1] = 2
    with pytest.raises(ValueError, match="found also 2"):
        ConfusionCounts.from_masks(np.zeros_like(truth), truth)


def test_long_lists_of_bad_values_are_cut():
    with pytest.raises(ValueError, match=r"found also 2, 3, 4, 5, 6, \.\.\.$"):
        ConfusionCounts.from_masks(np.arange(9), np.zeros(9))


def test_shapes_must_be_equal_even_where_they_would_broadcast():
    with pytest.raises(ValueError, match=r"truth, pred must have the same shape, found .*\(1, 4\).*\(4, 4\)"):
        ConfusionCounts.from_masks(np.zeros((4, 4)), np.zeros((1, 4)))


def test_arrays_without_voxels_count_nothing():
    assert ConfusionCounts.from_masks(np.zeros((0, 5)), np.zeros((0, 5))) == ConfusionCounts()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_labels_agree_with_scikit_learn_class_by_class(rng, dtype):
    truth, pred = rng.integers(0, 4, (90, 70, 50)).astype(dtype), rng.integers(0, 4, (90, 70, 50)).astype(dtype)
    found = ConfusionCounts.from_labels(torch.as_tensor(pred), np.asfortranarray(truth), num_classes=4)
    tables = [confusion_matrix(truth.ravel() == label, pred.ravel() == label).ravel() for label in (1, 2, 3)]
    assert found == [ConfusionCounts(tp=tp, fp=fp, fn=fn, tn=tn) for tn, fp, fn, tp in tables]


def test_labels_by_hand():
    truth = np.array([[0, 1], [2, 2]])
    pred = np.array([[1, 1], [2, 0]])
    assert ConfusionCounts.from_labels(pred, truth, 3) == [
        ConfusionCounts(tp=1, fp=1, fn=0, tn=2),
        ConfusionCounts(tp=1, fp=0, fn=1, tn=2),
    ]


def test_two_labels_are_a_mask():
    (counts,) = ConfusionCounts.from_labels(PRED_3X3, TRUTH_3X3, num_classes=2)
    assert counts == COUNTS_3X3


@pytest.mark.parametrize(("bad", "named"), [(3, "3"), (-1, "-1"), (0.5, "0.5"), (float("nan"), "nan")])
@pytest.mark.parametrize("argument", ["pred", "truth"])
def test_labels_outside_the_set_are_refused_by_name(bad, named, argument):
    arrays = {"pred": np.array([0, 2]), "truth": np.array([0, 1]), argument: np.array([0, bad])}
    with pytest.raises(ValueError, match=rf"{argument} must hold labels 0\.\.2 only, found also {named}"):
        ConfusionCounts.from_labels(**arrays, num_classes=3)


def test_background_alone_is_no_set_of_labels():
    with pytest.raises(ValueError, match="num_classes must count the background too and be at least 2, found 1"):
        ConfusionCounts.from_labels(np.zeros(2), np.zeros(2), num_classes=1)


@pytest.mark.parametrize("spatial", [(12, 10), (8, 7, 6)])
def test_counts_agree_with_monai(rng, spatial):
    truth, pred = rng.random(spatial) < 0.3, rng.random(spatial) < 0.4
    batch = (torch.as_tensor(mask)[None, None].float() for mask in (pred, truth))
    tp, fp, tn, fn = get_confusion_matrix(*batch)[0, 0]
    assert ConfusionCounts.from_masks(pred, truth) == ConfusionCounts(int(tp), int(fp), int(fn), int(tn))


def test_merging_is_commutative_and_equals_counting_at_once(rng):
    pred, truth = rng.random((9, 20, 20)) < 0.3, rng.random((9, 20, 20)) < 0.4
    at_once = ConfusionCounts.from_masks(pred, truth)
    a = ConfusionCounts.from_masks(pred[:2], truth[:2])
    b = ConfusionCounts.from_masks(pred[2:], truth[2:])
    assert a != b
    assert a + b == b + a == at_once
    by_slice = [ConfusionCounts.from_masks(p, t) for p, t in zip(pred, truth, strict=True)]
    assert sum(by_slice, ConfusionCounts()) == at_once


def test_only_counts_can_be_added():
    with pytest.raises(TypeError, match="unsupported operand"):
        ConfusionCounts() + 1


def test_counts_from_numpy_integers_go_into_json():
    counts = ConfusionCounts(tp=np.int64(1), fp=np.uint8(255), fn=np.int32(0), tn=np.int16(2))
    assert json.loads(json.dumps(dataclasses.asdict(counts + counts))) == {"tp": 2, "fp": 510, "fn": 0, "tn": 4}


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="fn must not be negative, found -1"):
        ConfusionCounts(fn=-1)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_memory_does_not_grow_with_the_volume(dtype):
    pred, truth = np.zeros((2, 16 * BLOCK), dtype=dtype)
    tracemalloc.start()
    try:
        ConfusionCounts.from_masks(pred, truth)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * BLOCK  # a handful of bytes for the voxels of one block, not of sixteen
