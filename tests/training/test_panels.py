from __future__ import annotations

import numpy as np
from PIL import ImageColor

from medseg3d.pictures.colours import ERROR_COLOURS
from medseg3d.pictures.overlays import ERROR_TINT
from medseg3d.training.progress import three_plane_panel


def volumes():
    image = np.zeros((5, 7, 9), np.float32)
    truth, pred = np.zeros((2, 5, 7, 9), np.uint8)
    return image, truth, pred


def colours(panel: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in panel.reshape(-1, 3)} - {(0, 0, 0)}


def shade(kind: int) -> tuple[int, ...]:
    return tuple(np.rint(ERROR_TINT * np.array(ImageColor.getrgb(ERROR_COLOURS[kind]))).astype(int).tolist())


def test_errors_have_the_colours_of_the_report():
    image, truth, pred = volumes()
    truth[2, 3, 4] = pred[2, 3, 4] = 1
    truth[1, 3, 4] = 1
    pred[3, 3, 4] = 1
    assert colours(three_plane_panel(image, truth, pred)) == {shade(1), shade(2), shade(3)}


def test_the_patients_right_is_on_the_left_and_the_front_on_top():
    image, truth, pred = volumes()
    image[4, 3, 4] = 1.0  # right of the centre
    image[2, 6, 4] = 0.5  # in front of it
    truth[2, 3, 4] = 1
    axial = three_plane_panel(image, truth, pred)[:7, :5, 0]
    assert np.argwhere(axial == 255).tolist() == [[3, 0]]
    assert np.argwhere(axial == 127).tolist() == [[0, 2]]


def test_without_masks_the_planes_go_through_the_middle():
    image, truth, pred = volumes()
    image[2, 3, 4] = 1.0
    panel = three_plane_panel(image, truth, pred)
    assert panel.dtype == np.uint8
    assert (panel == 255).sum() == 3 * 3 * 2  # three channels, three planes, plain and coloured
