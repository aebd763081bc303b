"""Surface scores against DeepMind's surface-distance (golden values), MONAI, brute force and hand calculation."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from medseg3d.data import read_volume
from medseg3d.metrics import SurfaceScores, surface_scores
from medseg3d.metrics._blocks import BLOCK

GOLDEN = json.loads((Path(__file__).parent / "golden" / "surface_distance.json").read_text(encoding="utf-8"))
EXACT = 1e-5  # MONAI holds the areas as float32


def unpacked(case: dict, name: str) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(case[f"{name}_bits"]), dtype=np.uint8))
    return bits[: math.prod(case["shape"])].reshape(case["shape"]).astype(bool)


def mean_of(expected: dict) -> float:
    """The average symmetric distance of the two averages that DeepMind gives."""
    area_pred, area_truth = expected["area_pred"], expected["area_truth"]
    both = area_pred * expected["average_from_pred_mm"] + area_truth * expected["average_from_truth_mm"]
    return both / (area_pred + area_truth)


def assert_as_expected(pred, truth, spacing, expected: dict) -> None:
    for tolerance, surface_dice in expected["surface_dice"].items():
        scores = surface_scores(pred, truth, spacing, tolerance_mm=float(tolerance))
        assert scores.hd95_mm == pytest.approx(expected["hd95_mm"], rel=EXACT)
        assert scores.mean_surface_distance_mm == pytest.approx(mean_of(expected), rel=EXACT)
        assert scores.surface_dice == pytest.approx(surface_dice, rel=EXACT)
        assert not scores.missed


def blobs(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of a few boxes each, which differ."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, *shape), dtype=bool)
    for mask in masks:
        for _ in range(3):
            low = [int(rng.integers(1, n - 3)) for n in shape]
            mask[tuple(slice(a, a + int(rng.integers(1, 4))) for a in low)] = True
    return masks[0], masks[1]


def brute_force(pred: np.ndarray, truth: np.ndarray, spacing) -> tuple[float, float]:
    """Greatest distance of either surface's corners to the other, both ways, every pair compared."""
    corners = []
    for mask in (pred, truth):
        padded = np.pad(mask, 1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2,) * mask.ndim).reshape(
            *(n - 1 for n in padded.shape), -1
        )
        corners.append(np.argwhere(windows.any(-1) & ~windows.all(-1)) * spacing)
    apart = np.linalg.norm(corners[0][:, None] - corners[1][None], axis=-1)
    return apart.min(1).max(), apart.min(0).max()


GENERATED = {case["name"]: case for case in GOLDEN["generated"]}
EMPTY = [name for name in GENERATED if "nothing" in name]


@pytest.mark.parametrize("crowded", [0, 1], ids=["distance transform", "tree"])
@pytest.mark.parametrize("name", [name for name in GENERATED if name not in EMPTY])
def test_deepmind_agrees(name, crowded, monkeypatch):
    monkeypatch.setattr("medseg3d.metrics.surface._CROWDED", crowded)
    case = GENERATED[name]
    assert_as_expected(unpacked(case, "pred"), unpacked(case, "truth"), case["spacing"], case["expected"])


@pytest.mark.parametrize("case", GOLDEN["real"], ids=lambda case: case["name"])
def test_deepmind_agrees_on_real_masks(case, real_data):
    pred, truth = (read_volume(real_data / case[name])[0] > 0 for name in ("pred", "truth"))
    assert_as_expected(pred, truth, case["spacing"], case["expected"])


def test_a_shifted_square_by_hand():
    truth = np.zeros((10, 10), dtype=np.uint8)
    truth[3:6, 3:6] = 1  # corners at 3..6: a contour of 12 elements, 8 of length 1, 4 of sqrt(2)/2
    scores = surface_scores(np.roll(truth, 1, axis=0), truth, (1.0, 1.0), tolerance_mm=0)
    diagonal = math.sqrt(2) / 2
    # 2 + 2 elements of length 1 on the sides coincide, and 1 + 1 of a side with a corner of the other: all but the
    # far row of 2 + 2 corners and the 2 inner ones of the near row, which are 1 mm away
    apart = 2 + 2 * diagonal + 2
    area = 8 + 4 * diagonal
    assert scores.hd95_mm == 1
    assert scores.mean_surface_distance_mm == pytest.approx(apart / area)
    assert scores.surface_dice == pytest.approx(1 - apart / area)


def test_thick_slices_weigh_by_their_area():
    truth = np.zeros((6, 30, 30), dtype=bool)
    truth[2:4, 5:25, 5:25] = True
    pred = truth.copy()
    pred[4] = truth[3]  # one slice of 5 mm more
    scores = surface_scores(pred, truth, (5.0, 1.0, 1.0), tolerance_mm=4)
    # about: top and bottom 400 mm^2 each; the walls 80 mm round, 10 mm high in the ground truth, 15 mm in the
    # prediction beyond 4 mm: the prediction's top with half a slice of wall, and what of the ground truth's top is 4 mm
    # inside its walls
    assert scores.hd95_mm == 5
    apart = (400 + 80 * 2.5) + 11**2
    assert scores.surface_dice == pytest.approx(1 - apart / (2 * 800 + 80 * 10 + 80 * 15), abs=0.005)


@pytest.mark.parametrize(("shape", "spacing"), [((12, 9), (0.7, 2.0)), ((9, 8, 7), (0.8, 0.8, 2.5))])
@pytest.mark.parametrize("seed", range(4))
def test_no_distance_exceeds_brute_force(shape, spacing, seed):
    pred, truth = blobs(shape, seed)
    hausdorff = max(brute_force(pred, truth, spacing))
    scores = surface_scores(pred, truth, spacing)
    assert scores.hd95_mm <= hausdorff + 1e-9
    assert surface_scores(pred, truth, spacing, tolerance_mm=hausdorff).surface_dice == 1
    assert surface_scores(pred, truth, spacing, tolerance_mm=0.999 * hausdorff).surface_dice < 1


@pytest.mark.parametrize(("shape", "spacing"), [((20, 15), (0.7, 2.0)), ((12, 11, 9), (0.8, 0.9, 2.5))])
@pytest.mark.parametrize("tolerance_mm", [0.0, 1.0, 2.5])
def test_monai_agrees_on_surface_dice_with_subvoxels(shape, spacing, tolerance_mm):
    pred, truth = blobs(shape)
    batch = (torch.as_tensor(mask)[None, None].float() for mask in (pred, truth))
    judge = compute_surface_dice(
        *batch, class_thresholds=[tolerance_mm], include_background=True, spacing=spacing, use_subvoxels=True
    )
    found = surface_scores(pred, truth, spacing, tolerance_mm).surface_dice
    assert found == pytest.approx(judge.item(), rel=EXACT)


def test_monai_takes_another_hd95():
    # one spike of many voxels: each voxel of it counts in MONAI's percentile, its small area in ours
    truth = np.zeros((12, 12, 12), dtype=bool)
    truth[3:7, 3:7, 3:7] = True
    pred = truth.copy()
    pred[4, 4, 7:10] = True
    batch = (torch.as_tensor(mask)[None, None].float() for mask in (pred, truth))
    spacing = (1.0, 1.0, 2.5)
    judge = compute_hausdorff_distance(*batch, include_background=True, percentile=95, spacing=spacing).item()
    assert surface_scores(pred, truth, spacing).hd95_mm != pytest.approx(judge, abs=0.2)


@pytest.mark.parametrize(("shape", "spacing"), [((20, 15), (0.7, 2.0)), ((12, 11, 9), (0.8, 0.9, 2.5))])
def test_prediction_and_truth_may_change_places(shape, spacing):
    pred, truth = blobs(shape)
    assert surface_scores(pred, truth, spacing) == pytest.approx(surface_scores(truth, pred, spacing))


@pytest.mark.parametrize("mask", [*blobs((9, 8, 7)), np.ones((3, 4, 5), dtype=bool)])
def test_equal_masks_are_at_no_distance(mask):
    assert surface_scores(mask, mask, (1, 1, 3), tolerance_mm=0) == SurfaceScores(0, 0, 1, missed=False)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 12)])
def test_nothing_in_either_has_no_distance(shape):
    *scores, missed = surface_scores(np.zeros(shape), np.zeros(shape), np.ones(len(shape)))
    assert all(map(math.isnan, scores))
    assert not missed


@pytest.mark.parametrize(("shape", "spacing", "diagonal"), [((3, 4), (2, 2), 10), ((3, 4, 12), (1, 1, 1), 13)])
@pytest.mark.parametrize("empty", ["pred", "truth"])
def test_nothing_in_one_of_them_is_the_image_diagonal_away(shape, spacing, diagonal, empty):
    masks = {"pred": np.eye(*shape[:2]), "truth": np.eye(*shape[:2]), empty: np.zeros(shape[:2])}
    masks = {name: np.broadcast_to(m.reshape(m.shape + (1,) * (len(shape) - 2)), shape) for name, m in masks.items()}
    assert surface_scores(**masks, spacing=spacing) == SurfaceScores(diagonal, diagonal, 0, missed=True)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.as_tensor, MetaTensor])
def test_tensors_of_every_type_are_masks(dtype, kind):
    pred, truth = blobs((9, 8, 7))
    expected = surface_scores(pred, truth, (1, 1, 3))
    assert surface_scores(kind(torch.as_tensor(pred).to(dtype)), truth, (1, 1, 3)) == expected


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("which", ["both", "truth"])
def test_the_layout_in_memory_changes_nothing(order, which):
    pred, truth = blobs((9, 12, 7))
    expected = surface_scores(pred, truth, (0.8, 0.9, 2.5))
    laid_out = [mask.transpose(order).copy().transpose(np.argsort(order)) for mask in (pred, truth)]
    assert surface_scores(pred if which == "truth" else laid_out[0], laid_out[1], (0.8, 0.9, 2.5)) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("kind", [list, np.asarray, torch.as_tensor])
def test_spacing_comes_in_any_sequence(kind):
    pred, truth = blobs((9, 12, 7))
    assert surface_scores(pred, truth, kind((0.5, 1.0, 2.5))) == surface_scores(pred, truth, (0.5, 1.0, 2.5))


def test_flipped_views_are_read_as_they_look():
    pred, truth = blobs((9, 12, 7))
    views = [np.flip(np.flip(mask).copy()) for mask in (pred, truth)]
    assert surface_scores(*views, (0.8, 0.9, 2.5)) == surface_scores(pred, truth, (0.8, 0.9, 2.5))


@pytest.mark.parametrize("shape", [(17, 15), (17, 15, 13)])
def test_a_few_planes_at_a_time_give_the_same(shape, monkeypatch):
    rng = np.random.default_rng(0)
    pred, truth = rng.random((2, *shape)) < 0.3
    spacing = (0.8, 0.9, 2.5)[: len(shape)]
    at_once = surface_scores(pred, truth, spacing)
    monkeypatch.setattr("medseg3d.metrics.surface.BLOCK", 3 * math.prod(shape[1:]))
    assert surface_scores(pred, truth, spacing) == at_once


@pytest.mark.parametrize(("shape", "spacing"), [((20, 15), (0.7, 2.0)), ((12, 11, 9), (0.8, 0.9, 2.5))])
def test_tree_and_distance_transform_find_the_same(shape, spacing, monkeypatch):
    pred, truth = blobs(shape)
    found = []
    for crowded in (0, 1):
        monkeypatch.setattr("medseg3d.metrics.surface._CROWDED", crowded)
        found.append(surface_scores(pred, truth, spacing))
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_what_lies_around_does_not_matter():
    pred, truth = blobs((9, 8, 7))
    padded = [np.pad(mask, ((5, 0), (3, 9), (0, 4))) for mask in (pred, truth)]
    assert surface_scores(*padded, (1, 1, 3)) == surface_scores(pred, truth, (1, 1, 3))


@pytest.mark.parametrize(
    ("spacing", "tolerance_mm"),
    [(1.0, 3.0), (1.00000001, 3.0), (0.99999999, 3.0), (0.1, 0.3)],  # 3 * 0.1 > 0.3
)
def test_the_rounding_of_a_spacing_does_not_decide_what_is_within_tolerance(spacing, tolerance_mm):
    truth = np.zeros((20, 6, 6), dtype=bool)
    truth[3:9, 2:4, 2:4] = True
    scores = surface_scores(np.roll(truth, 3, 0), truth, (spacing, 1, 1), tolerance_mm=tolerance_mm)
    assert scores.surface_dice == 1


def test_wrong_calls_are_answered():
    mask = np.zeros((4, 4, 4))
    with pytest.raises(ValueError, match=r"same shape, found \(4, 4\) and \(4, 4, 4\)"):
        surface_scores(mask[0], mask, (1, 1, 1))
    with pytest.raises(ValueError, match=r"must be 2-D or 3-D, found shape \(1, 4, 4, 4\)"):
        surface_scores(mask[None], mask[None], (1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"spacing must be 3 numbers above 0, in mm, found \[1, 1\]"):
        surface_scores(mask, mask, (1, 1))
    for bad in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="spacing must be 3 numbers above 0"):
            surface_scores(mask, mask, (1, 1, bad))
    for bad in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="tolerance_mm must be a number not below 0"):
            surface_scores(mask, mask, (1, 1, 1), tolerance_mm=bad)
    with pytest.raises(ValueError, match="pred must hold 0 and 1 only, found also 255"):
        surface_scores(mask + 255, mask, (1, 1, 1))
    with pytest.raises(ValueError, match=r"truth must hold 0 and 1 only, found also 0\.5"):
        surface_scores(mask, mask + 0.5, (1, 1, 1))


def test_memory_grows_with_the_surface_and_not_with_the_volume():
    pred, truth = np.zeros((2, 200, 200, 200), dtype=np.uint8)
    pred[1, 1, 1] = truth[198, 198, 198] = 1
    tracemalloc.start()
    try:
        surface_scores(pred, truth, (1, 1, 1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * BLOCK  # a few planes of codes, a quarter of what the volume takes as bytes
