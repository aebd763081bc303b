"""A picture with the border of its mask drawn on it, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ImageColor
from scipy import ndimage

from medseg3d.data.colours import OKABE_ITO
from medseg3d.data.pictures import write_png

FILL = 0.15
"""How much of its colour the inside of a mask takes on."""


def draw_overlay(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture with its mask: the inside faintly tinted, a border just within it, and a black rim just outside.

    The border is sky blue of Okabe and Ito's colours, which the prediction has in every figure of ours; by the rim it
    is seen on bright reflexes and without colour vision too. Its width grows with the picture: 3 pixels at 500 × 600.

    Args:
        picture: (H, W, 3) uint8.
        mask: (H, W) bool.

    Returns:
        (H, W, 3) uint8; the picture itself outside of mask and rim.

    Example:
        >>> mask = np.zeros((9, 9), bool)
        >>> mask[2:7, 2:7] = True
        >>> drawn = draw_overlay(np.full((9, 9, 3), 100, np.uint8), mask)
        >>> [tuple(map(int, drawn[4, column])) for column in (0, 1, 2, 4)]
        [(100, 100, 100), (0, 0, 0), (86, 180, 233), (98, 112, 120)]
    """
    if picture.shape != (*mask.shape, 3):
        raise ValueError(f"picture must be (H, W, 3) and mask (H, W), found {picture.shape} and {mask.shape}")
    drawn = picture.copy()
    if not mask.any():
        return drawn
    width = max(1, round(max(mask.shape) / 200))
    around = tuple(  # the rest of the picture stays as it is
        slice(max(0, int(places[0]) - width), int(places[-1]) + 1 + width)
        for places in (np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0)))
    )
    inside, pixels = mask[around], drawn[around]
    colour = np.array(ImageColor.getrgb(OKABE_ITO["sky"]))
    core = ndimage.binary_erosion(inside, iterations=width)
    pixels[core] = np.rint((1 - FILL) * pixels[core] + FILL * colour)
    pixels[inside & ~core] = colour
    pixels[ndimage.binary_dilation(inside, iterations=max(1, width // 2)) & ~inside] = 0
    return drawn


def write_overlay(path: str | Path, picture: np.ndarray, mask: np.ndarray) -> None:
    """Write `draw_overlay` as PNG, which appears whole or not at all.

    Args:
        path: the file, `.png`; an existing one is replaced once the new one is whole.
        picture: as in `draw_overlay`.
        mask: as in `draw_overlay`.

    Raises:
        ValueError: not a picture and its mask, or not the name of a PNG.
        Fault: NO_SPACE, NOT_WRITABLE.
    """
    write_png(Path(path), draw_overlay(picture, mask))
