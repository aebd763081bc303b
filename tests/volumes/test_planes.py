from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medseg3d.volumes.planes import mask_centre, plane_slices

SPACING = (2.0, 3.0, 5.0)  # mm along x, y, z
ORIENTATIONS = ["RAS", "LPS", "LAS", "PIR", "SRA", "AIL"]


def ras_volume() -> tuple[np.ndarray, np.ndarray]:
    """Every voxel of a 3 x 4 x 5 RAS volume is 100 x + 10 y + z, so that a value tells its place."""
    x, y, z = np.indices((3, 4, 5))
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-50, 20, 300)
    return 100 * x + 10 * y + z, affine


def stored_as(codes: str, volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    image = nib.Nifti1Image(volume.astype(np.int16), affine).as_reoriented(turn)
    assert "".join(nib.aff2axcodes(image.affine)) == codes
    return np.asarray(image.dataobj), image.affine


def world(x: int, y: int, z: int) -> tuple[float, float, float]:
    return -50 + 2.0 * x, 20 + 3.0 * y, 300 + 5.0 * z


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_shows_the_same_radiological_picture(codes):
    cuts = plane_slices(*stored_as(codes, *ras_volume()), centre=world(1, 2, 3))
    # seen from the feet: right (x = 2) in the left column, anterior (y = 3) in the top row
    np.testing.assert_array_equal(cuts["axial"].pixels, [[233, 133, 33], [223, 123, 23], [213, 113, 13], [203, 103, 3]])
    # seen from the front: right in the left column, superior (z = 4) in the top row
    np.testing.assert_array_equal(
        cuts["coronal"].pixels, [[224, 124, 24], [223, 123, 23], [222, 122, 22], [221, 121, 21], [220, 120, 20]]
    )
    # anterior in the left column, superior in the top row
    np.testing.assert_array_equal(cuts["sagittal"].pixels[0], [134, 124, 114, 104])
    np.testing.assert_array_equal(cuts["sagittal"].pixels[-1], [130, 120, 110, 100])
    assert cuts["axial"].letters == ("R", "L", "P", "A")
    assert cuts["coronal"].letters == ("R", "L", "I", "S")
    assert cuts["sagittal"].letters == ("A", "P", "I", "S")
    assert [cuts[plane].index for plane in ("axial", "coronal", "sagittal")] == [3, 2, 1]


@pytest.mark.parametrize("codes", ["RAS", "PIR"])
def test_extents_are_millimetres_of_the_body_axes(codes):
    cuts = plane_slices(*stored_as(codes, *ras_volume()))
    assert cuts["axial"].extent_mm == (5.0, -1.0, -1.5, 10.5)  # 3 voxels of 2 mm, 4 of 3 mm
    assert cuts["coronal"].extent_mm == (5.0, -1.0, -2.5, 22.5)  # 5 voxels of 5 mm
    assert cuts["sagittal"].extent_mm == (10.5, -1.5, -2.5, 22.5)


def test_centre_is_a_world_point_kept_inside_the_volume():
    volume, affine = ras_volume()
    outside = plane_slices(volume, affine, centre=(1e4, -1e4, 1e4))
    assert [outside[plane].index for plane in ("axial", "coronal", "sagittal")] == [4, 0, 2]
    middle = plane_slices(volume, affine)
    assert [middle[plane].index for plane in ("axial", "coronal", "sagittal")] == [2, 2, 1]


def test_oblique_volume_is_cut_along_its_nearest_body_axes():
    volume, affine = ras_volume()
    tilt = np.deg2rad(20)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    cuts = plane_slices(volume, rotation @ affine)
    np.testing.assert_array_equal(cuts["axial"].pixels, plane_slices(volume, affine)["axial"].pixels)
    assert cuts["coronal"].extent_mm == pytest.approx((5.0, -1.0, -2.5, 22.5))


@pytest.mark.parametrize(("shape", "affine_size", "message"), [((3, 4), 4, "3 axes"), ((3, 4, 5), 3, "4x4")])
def test_wrong_shapes_are_refused(shape, affine_size, message):
    with pytest.raises(ValueError, match=message):
        plane_slices(np.zeros(shape), np.eye(affine_size))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_centre_of_a_mask_is_a_voxel_of_it_in_world_millimetres(codes):
    volume, affine = ras_volume()
    mask = np.isin(volume, [0, 200, 234])  # the centroid is in none of them; voxel (2, 0, 0) is nearest
    assert mask_centre(*stored_as(codes, mask, affine)) == pytest.approx(world(2, 0, 0))


def test_empty_mask_has_no_centre():
    assert mask_centre(np.zeros((3, 3, 3)), np.eye(4)) is None


def test_real_liver_lies_on_the_left_of_the_picture(real_data):
    image = nib.load(real_data / "nih-pancreas-ct" / "small" / "image_0001.nii.gz")
    label = nib.load(real_data / "nih-pancreas-ct" / "small" / "label_0001.nii.gz")
    centre = mask_centre(np.asarray(label.dataobj), label.affine)
    axial = plane_slices(np.asarray(image.dataobj), image.affine, centre)["axial"].pixels
    liver = (axial > 90) & (axial < 130)
    columns = liver.shape[1]
    assert liver[:, : columns // 2].sum() > 1.5 * liver[:, columns // 2 :].sum()
    table = axial[int(0.75 * axial.shape[0]) :]
    assert (table[-len(table) // 2 :] > -300).any()  # the couch is below
