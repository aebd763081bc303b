from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from medseg3d.reports.planes import (
    ERROR_COLOURS,
    ERROR_NAMES,
    MASK_COLOURS,
    error_map,
    mask_centre,
    plane_slices,
    three_planes,
)

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


def test_error_map_by_hand():
    truth, pred = np.array([[2, 1], [0, 0]]), np.array([[1, 0], [1, 0]])
    np.testing.assert_array_equal(error_map(truth, pred), [[1, 2], [3, 0]])
    assert ERROR_NAMES.keys() == ERROR_COLOURS.keys() == {1, 2, 3}


def test_error_map_needs_one_shape():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        error_map(np.zeros(2), np.zeros(3))


@pytest.fixture
def figure(monkeypatch) -> list[Figure]:
    """The figures that were saved, for a look at their data instead of their pixels."""
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: saved.append(self) or save(self, *args, **kwargs)
    )
    return saved


def drawn(tmp_path, figure, **options) -> Figure:
    volume, affine = stored_as("LPS", *ras_volume())
    masks = options.pop("masks", None)
    path = three_planes(volume, affine, masks, tmp_path / "new" / "planes.png", **options)
    assert imread(path).shape[2] == 4  # a PNG that opens
    return figure[-1]


def test_picture_has_mm_aspect_letters_scale_and_window(tmp_path, figure):
    drawing = drawn(tmp_path, figure, window_hu=(0, 250), title="a case")
    planes = drawing.axes
    assert [axes.get_title().split(",")[0] for axes in planes] == ["axial", "coronal", "sagittal"]
    for axes in planes:
        box = axes.get_window_extent()
        left, right, bottom, top = *axes.get_xlim(), *axes.get_ylim()
        assert box.width / box.height == pytest.approx(abs(left - right) / (top - bottom), rel=1e-3)
        assert axes.images[0].get_clim() == (0, 250)
    texts = [text.get_text() for text in planes[0].texts]
    assert texts == ["R", "L", "P", "A", "1 mm"]  # a fifth of 6 mm, rounded down
    (bar,) = [line for line in planes[0].lines if line.get_gid() == "scale bar"]
    assert abs(np.diff(bar.get_xdata())[0]) == pytest.approx(1)
    assert planes[0].get_xlim() == (5.0, -1.0)  # right on the left
    assert [text.get_text() for text in drawing.texts] == ["a case"]


def test_contour_lies_around_its_voxels(tmp_path, figure):
    volume, _ = stored_as("LPS", *ras_volume())
    mask = (volume == 123).astype(np.uint8)
    drawing = drawn(tmp_path, figure, masks={"truth": mask})
    for axes, (x, y) in zip(drawing.axes, [(2, 6), (2, 15), (6, 15)], strict=True):  # its centre, mm from voxel 0
        ((contour,),) = [collection.get_paths() for collection in axes.collections]
        assert contour.vertices.mean(axis=0) == pytest.approx([x, y], abs=0.6)
        assert contour.contains_point((x, y))


def test_planes_go_through_the_first_mask_that_is_not_empty(tmp_path, figure):
    volume, _ = stored_as("LPS", *ras_volume())
    masks = {"truth": np.zeros_like(volume), "pred": (volume == 204).astype(np.uint8)}
    drawing = drawn(tmp_path, figure, masks=masks)
    assert [axes.get_title() for axes in drawing.axes] == ["axial, slice 4", "coronal, slice 0", "sagittal, slice 2"]
    legend = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert legend == ["truth: empty", "pred"]


def test_every_label_has_a_name_and_a_colour_of_its_own(tmp_path, figure):
    volume, _ = stored_as("LPS", *ras_volume())
    mask = np.select([volume == 123, volume == 124], [1, 2], 0).astype(np.uint8)
    drawing = drawn(tmp_path, figure, masks={"truth": mask}, label_names={1: "pancreas", 2: "cancer"})
    legend = drawing.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["truth pancreas", "truth cancer"]
    assert [line.get_color() for line in legend.get_lines()] == list(MASK_COLOURS[:2])


@pytest.mark.parametrize(
    ("masks", "legend"),
    [
        ({"truth": (1,)}, ["truth"]),
        ({"truth": (1, 2)}, ["truth 1", "truth 2"]),
        ({"": (2,)}, ["2"]),
        ({"a": (1,), "b": (1,)}, ["a", "b"]),
    ],
)
def test_legend_names_what_cannot_be_told_apart(tmp_path, figure, masks, legend):
    volume, _ = stored_as("LPS", *ras_volume())
    arrays = {
        name: np.select([volume == 121 + value for value in values], values).astype(np.uint8)
        for name, values in masks.items()
    }
    drawing = drawn(tmp_path, figure, masks=arrays)
    assert [text.get_text() for text in drawing.legends[0].get_texts()] == legend


def test_error_picture_fills_with_error_colours(tmp_path, figure):
    volume, _ = stored_as("LPS", *ras_volume())
    errors = error_map(np.isin(volume, [123, 122]), np.isin(volume, [123, 124]))
    drawing = drawn(tmp_path, figure, masks={"": errors}, label_names=ERROR_NAMES, colours=ERROR_COLOURS, fill=True)
    legend = drawing.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["true positive", "missed", "false alarm"]
    assert [line.get_color() for line in legend.get_lines()] == [ERROR_COLOURS[value] for value in (1, 2, 3)]
    coronal = drawing.axes[1]
    shares = [np.argwhere(image.get_array()[..., 3] > 0).tolist() for image in coronal.images[1:]]
    assert shares == [[[1, 1]], [[2, 1]], [[0, 1]]]  # hit at z = 3, missed below, false alarm above


@pytest.mark.parametrize(
    ("field_mm", "axial_x", "axial_y", "coronal_y"),
    [
        (2.0, (3.0, 1.0), (2.0, 4.0), (9.0, 11.0)),  # voxel (1, 1, 2) lies at 2, 3, 10 mm
        (8.0, (5.0, -1.0), (-1.0, 7.0), (6.0, 14.0)),  # cut where the volume ends
    ],
)
def test_field_shows_a_square_around_the_centre(tmp_path, figure, field_mm, axial_x, axial_y, coronal_y):
    axial, coronal, _ = drawn(tmp_path, figure, centre=world(1, 1, 2), field_mm=field_mm).axes
    assert (axial.get_xlim(), axial.get_ylim()) == (axial_x, axial_y)
    assert coronal.get_ylim() == coronal_y


def test_mask_of_another_shape_is_refused(tmp_path):
    volume, affine = ras_volume()
    with pytest.raises(ValueError, match=r"mask 'pred' has shape \(3, 4\), the volume \(3, 4, 5\)"):
        three_planes(volume, affine, {"pred": np.zeros((3, 4))}, tmp_path / "planes.png")


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
