from __future__ import annotations

import numpy as np

from medseg3d.training.panels import FALSE_ALARM, HIT, MISSED, three_plane_panel


def volumes():
    image = np.zeros((5, 7, 9), np.float32)
    truth, pred = np.zeros((2, 5, 7, 9), np.uint8)
    return image, truth, pred


def colours(panel: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in panel.reshape(-1, 3)} - {(0, 0, 0)}


def shade(colour: tuple[int, ...]) -> tuple[int, ...]:
    return tuple((0.6 * np.array(colour)).astype(np.uint8).tolist())


def test_errors_have_their_colours():
    image, truth, pred = volumes()
    truth[2, 3, 4] = pred[2, 3, 4] = 1
    truth[1, 3, 4] = 1
    pred[3, 3, 4] = 1
    assert colours(three_plane_panel(image, truth, pred)) == {shade(HIT), shade(MISSED), shade(FALSE_ALARM)}


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
