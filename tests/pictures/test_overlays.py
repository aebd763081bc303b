from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg3d.pictures.overlays import draw_errors, draw_overlay, error_map, write_overlay

SKY = (86, 180, 233)
GREY = 100


def drawn(mask: np.ndarray) -> np.ndarray:
    """Letters of what became of each pixel of a grey image: b(order), r(im), t(inted), or a dot for as it was."""
    pixels = draw_overlay(np.full((*mask.shape, 3), GREY, np.uint8), mask)
    letters = {SKY: "b", (0, 0, 0): "r", (98, 112, 120): "t", (GREY,) * 3: "."}  # 0.85 * 100 + 0.15 * SKY
    return np.array([[letters[tuple(map(int, pixel))] for pixel in row] for row in pixels])


def test_the_border_is_within_the_mask_and_the_rim_without() -> None:
    mask = np.zeros((7, 8), bool)
    mask[2:5, 2:6] = True
    assert ["".join(row) for row in drawn(mask)] == [
        "........",
        "..rrrr..",
        ".rbbbbr.",
        ".rbttbr.",
        ".rbbbbr.",
        "..rrrr..",
        "........",
    ]


def test_a_mask_up_to_the_edge_of_the_picture_has_its_border_there() -> None:
    mask = np.zeros((4, 6), bool)
    mask[:, :3] = True
    assert ["".join(row) for row in drawn(mask)] == ["bbbr..", "btbr..", "btbr..", "bbbr.."]


def test_the_border_is_wider_on_a_larger_picture() -> None:
    mask = np.zeros((600, 600), bool)
    mask[200:400, 300:500] = True
    assert "".join(drawn(mask)[300, 298:305]) == ".rbbbtt"


def test_without_foreground_the_picture_stays_as_it_is() -> None:
    assert set(drawn(np.zeros((4, 6), bool)).ravel()) == {"."}


def test_what_is_drawn_is_on_disk_and_the_picture_itself_untouched(tmp_path: Path) -> None:
    picture, mask = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8), np.eye(9, 12, dtype=bool)
    before = picture.copy()
    write_overlay(tmp_path / "a_overlay.png", picture, mask)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a_overlay.png")), draw_overlay(picture, mask))
    assert np.array_equal(picture, before)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found \(4, 6, 3\) and \(6, 4\)"):
        draw_overlay(np.zeros((4, 6, 3), np.uint8), np.zeros((6, 4), bool))


def test_error_map_by_hand() -> None:
    truth, pred = np.array([[2, 1], [0, 0]]), np.array([[1, 0], [1, 0]])
    np.testing.assert_array_equal(error_map(truth, pred), [[1, 2], [3, 0]])


def test_error_map_needs_one_shape() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        error_map(np.zeros(2), np.zeros(3))


def test_errors_are_tinted_green_vermilion_and_sky_and_the_rest_stays() -> None:
    pixels = draw_errors(np.full((1, 4, 3), GREY, np.uint8), np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]]))
    # 0.4 * 100 + 0.6 * (0, 158, 115), (213, 94, 0), SKY
    assert pixels[0].tolist() == [[40, 135, 109], [168, 96, 40], [92, 148, 180], [100, 100, 100]]
