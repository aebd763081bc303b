from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from medseg3d.pictures.colours import OKABE_ITO
from medseg3d.reports.overlays import draw_labels
from medseg3d.reports.painter import plane_view
from medseg3d.volumes.planes import plane_slices

AFFINE = np.diag([2.0, 3.0, 5.0, 1.0])
SHAPE = (3, 4, 5)


def voxels(*places: tuple[int, int, int]) -> np.ndarray:
    """A label array that counts up over the places."""
    label = np.zeros(SHAPE, np.uint8)
    for value, place in enumerate(places, 1):
        label[place] = value
    return label


def drawn(label: np.ndarray, names: dict[int, str], **options) -> Figure:
    return draw_labels(np.zeros(SHAPE, np.int16), label, AFFINE, names, **options)


@pytest.fixture(scope="module")
def figure() -> Figure:
    return drawn(voxels((1, 1, 2)), {0: "background", 1: "organ"}, title="a case", window_hu=(0, 250))


def test_planes_have_the_proportions_of_millimetres_and_the_window(figure):
    assert [axes.get_title() for axes in figure.axes] == ["axial, slice 2", "coronal, slice 1", "sagittal, slice 1"]
    shapes = []
    for axes in figure.axes:
        box = axes.get_window_extent()
        left, right, bottom, top = *axes.get_xlim(), *axes.get_ylim()
        shapes.append(box.width / box.height * (top - bottom) / abs(left - right))
    assert shapes == pytest.approx([1, 1, 1], rel=1e-3)
    assert [axes.images[0].get_clim() for axes in figure.axes] == [(0, 250)] * 3


def test_planes_have_letters_and_a_scale_bar(figure):
    axial = figure.axes[0]
    assert axial.get_xlim() == (5.0, -1.0)  # right on the left
    assert [text.get_text() for text in axial.texts] == ["R", "L", "P", "A", "1 mm"]  # a fifth of 6 mm, rounded down
    (bar,) = [line for line in axial.lines if line.get_gid() == "scale bar"]
    assert abs(np.diff(bar.get_xdata())[0]) == pytest.approx(1)


def test_title_is_above(figure):
    assert figure.texts[0].get_text() == "a case"


@pytest.mark.parametrize(("plane", "x", "y"), [(0, 2, 3), (1, 2, 10), (2, 3, 10)])
def test_border_lies_around_its_voxel(figure, plane, x, y):
    ((border,),) = [collection.get_paths() for collection in figure.axes[plane].collections]
    assert border.contains_point((x, y))
    assert border.vertices.mean(axis=0) == pytest.approx([x, y], abs=0.6)  # mm from voxel 0


def test_every_label_has_its_name_volume_and_colour():
    label = voxels((1, 1, 2), (1, 2, 2))
    label[1, 2, 3] = 2
    legend = drawn(label, {0: "background", 1: "pancreas", 2: "cancer"}).legends[0]
    # a voxel of 2 * 3 * 5 mm is 0.03 ml
    assert [text.get_text() for text in legend.get_texts()] == ["pancreas 0.0 ml", "cancer 0.1 ml"]
    assert [line.get_color() for line in legend.get_lines()] == [OKABE_ITO["orange"], OKABE_ITO["sky"]]


def test_a_volume_without_labels_is_cut_through_its_middle():
    titles = [axes.get_title() for axes in drawn(voxels(), {1: "organ"}).axes]
    assert titles == ["axial, slice 2", "coronal, slice 2", "sagittal, slice 1"]


@pytest.mark.parametrize(
    ("field_mm", "axial", "coronal_y"),
    [
        (2.0, (3.0, 1.0, 2.0, 4.0), (9.0, 11.0)),  # voxel (1, 1, 2) lies at 2, 3, 10 mm
        (8.0, (5.0, -1.0, -1.0, 7.0), (6.0, 14.0)),  # cut where the volume ends
        (None, (5.0, -1.0, -1.5, 10.5), (-2.5, 22.5)),
    ],
)
def test_view_is_a_square_around_the_centre_within_the_volume(field_mm, axial, coronal_y):
    cuts = plane_slices(np.zeros(SHAPE), AFFINE, centre=(2, 3, 10))
    assert plane_view(cuts["axial"], field_mm) == axial
    assert plane_view(cuts["coronal"], field_mm)[2:] == coronal_y
