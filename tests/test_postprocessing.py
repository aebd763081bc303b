"""Holes, specks and components of finished masks, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medseg3d.errors import UserError
from medseg3d.postprocessing import CleanMaskd

PICTURE = [
    [1, 1, 1, 0, 0, 0],
    [1, 0, 1, 0, 0, 1],
    [1, 1, 1, 0, 0, 1],
    [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 0, 0, 1],
]
"""A ring of 8 with a corner neighbour, so 9; a pair; a speck."""


def clean(mask, **knobs) -> list:
    return CleanMaskd("pred", **knobs)({"pred": torch.tensor(mask, dtype=torch.uint8)[None]})["pred"][0].tolist()


def volume(*voxels: tuple[int, int, int], size: int = 5, spacing=(1.0, 1.0, 1.0), turn: bool = False) -> MetaTensor:
    """A cube of background with single voxels of foreground; its axes turned by half a right angle if asked for."""
    labels = torch.zeros(1, size, size, size, dtype=torch.uint8)
    for voxel in voxels:
        labels[0][voxel] = 1
    affine = np.diag([*spacing, 1.0])
    if turn:
        c = np.sqrt(0.5)
        affine = np.array([[c, -c, 0, 0], [c, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine
    return MetaTensor(labels, affine=torch.from_numpy(affine))


def test_nothing_asked_for_leaves_the_very_item():
    mask = volume((1, 1, 1))
    assert CleanMaskd("pred")({"pred": mask})["pred"] is mask
    assert "cleaned" not in mask.meta


@pytest.mark.parametrize(
    ("kept", "left"), [(False, 12), (0, 12), (True, 9), ("true", 9), (1, 9), ("2", 11), (3, 12), (7, 12)]
)
def test_the_largest_components_are_kept_and_corners_connect(kept, left):
    assert np.sum(clean(PICTURE, largest_component=kept)) == left


def test_of_equal_components_the_first_is_kept():
    assert clean([[0, 1, 0, 1, 0]], largest_component=True) == [[0, 1, 0, 0, 0]]


def test_a_hole_is_filled_and_a_bay_is_not():
    ring = [[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert clean(ring, fill_holes=True) == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]]
    bay = [[1, 1, 1], [1, 0, 1], [1, 0, 1]]
    assert clean(bay, fill_holes="true") == bay


def test_filling_leaves_another_class_where_it_is():
    tumour = [[1, 1, 1, 1], [1, 2, 0, 1], [1, 1, 1, 1]]
    assert clean(tumour, fill_holes=True) == [[1, 1, 1, 1], [1, 2, 1, 1], [1, 1, 1, 1]]


def test_a_tumour_stays_with_its_pancreas():
    assert clean([[1, 2, 0, 1, 1, 0, 2]], largest_component=True) == [[1, 2, 0, 0, 0, 0, 0]]


def test_a_hole_counts_for_the_size_of_its_component():
    ring_and_bar = [[1, 1, 1, 0, 1, 1, 1], [1, 0, 1, 0, 1, 1, 1], [1, 1, 1, 0, 1, 1, 0]]
    assert np.sum(clean(ring_and_bar, largest_component=True, fill_holes=True)) == 9


@pytest.mark.parametrize(("least", "left"), [(0, 12), (1, 12), (2, 11), (3, 9), (9, 9), (10, 0)])
def test_components_of_a_picture_have_a_least_number_of_pixels(least, left):
    assert np.sum(clean(PICTURE, min_area_px=least)) == left


@pytest.mark.parametrize("turn", [False, True], ids=["upright", "turned"])
@pytest.mark.parametrize(("least", "left"), [(0.012, 3), (0.013, 2), (0.024, 2), (0.025, 0)])
def test_components_of_a_volume_have_a_least_volume_in_ml(least, left, turn):
    # voxels of 2 x 2 x 3 mm are 0.012 ml each
    mask = volume((0, 0, 0), (1, 1, 1), (4, 4, 4), spacing=(2.0, 2.0, 3.0), turn=turn)
    assert int(CleanMaskd("pred", min_volume_ml=least)({"pred": mask})["pred"].sum()) == left


def test_a_cavity_of_a_volume_is_closed_on_all_sides():
    mask = volume(size=5)
    mask[0, 1:4, 1:4, 1:4] = 1
    mask[0, 2, 2, 2] = 0
    assert int(CleanMaskd("pred", fill_holes=True)({"pred": mask})["pred"].sum()) == 27
    mask[0, 2, 2, 3] = 0  # a tunnel to the outside
    assert int(CleanMaskd("pred", fill_holes=True)({"pred": mask})["pred"].sum()) == 25


def test_what_was_done_is_noted_and_the_geometry_kept():
    mask = volume((0, 0, 0), (1, 1, 1), (4, 4, 4), spacing=(2.0, 2.0, 3.0))
    mask.meta["geometry"] = b"kept"
    result = CleanMaskd("pred", largest_component=True, min_volume_ml=0.001)({"pred": mask})["pred"]
    assert result.meta["cleaned"] == {
        "largest_component": 1,
        "fill_holes": False,
        "min_volume_ml": 0.001,
        "filled": 0,
        "removed": 1,
        "components_found": 2,
        "components_kept": 1,
    }
    assert result.meta["geometry"] == b"kept"
    assert torch.equal(result.affine, mask.affine)
    assert int(mask.sum()) == 3, "the item's own mask was changed"


def test_an_empty_mask_stays_empty():
    result = CleanMaskd("pred", largest_component=True, fill_holes=True, min_volume_ml=1.0)({"pred": volume()})
    assert not result["pred"].any()
    assert result["pred"].meta["cleaned"]["components_found"] == 0


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"largest_component": -1}, "BAD_VALUE --largest_component: -1"),
        ({"largest_component": "most"}, "BAD_VALUE --largest_component: 'most'"),
        ({"fill_holes": "maybe"}, "BAD_VALUE --fill_holes: 'maybe'"),
        ({"min_volume_ml": -1.0}, "BAD_VALUE --min_volume_ml: -1.0, expected a size of 0 or more"),
        ({"min_area_px": "ten"}, "BAD_VALUE --min_area_px: 'ten'"),
    ],
)
def test_what_is_no_choice_is_refused(knobs, message):
    with pytest.raises(UserError, match=message):
        CleanMaskd("pred", **knobs)


def test_ml_need_an_affine():
    with pytest.raises(ValueError, match="min_volume_ml needs a MetaTensor"):
        CleanMaskd("pred", min_volume_ml=1.0)({"pred": torch.ones(1, 2, 2, 2, dtype=torch.uint8)})
