"""Masks painted on images, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ImageColor
from scipy import ndimage

from medseg3d.pictures.colours import ERROR_COLOURS, PREDICTION
from medseg3d.pictures.writing import write_png

FILL = 0.15
"""How much of its colour the inside of a mask takes on."""

ERROR_TINT = 0.6
"""How much of its colour an area of `error_map` takes on."""


def draw_overlay(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image with its mask: the inside faintly tinted, a border just within it, and a black rim just outside.

    The border is sky blue, the colour of the prediction in every figure of ours; by the rim it is seen on bright
    reflexes and without colour vision too. Its width grows with the image: 3 pixels at 500 × 600.

    Args:
        picture: (H, W, 3) uint8.
        mask: (H, W) bool.

    Returns:
        (H, W, 3) uint8; the image itself outside of mask and rim.

    Example:
        >>> mask = np.zeros((9, 9), bool)
        >>> mask[2:7, 2:7] = True
        >>> drawn = draw_overlay(np.full((9, 9, 3), 100, np.uint8), mask)
        >>> [tuple(map(int, drawn[4, column])) for column in (0, 1, 2, 4)]
        [(100, 100, 100), (0, 0, 0), (86, 180, 233), (98, 112, 120)]
    """
    if picture.shape != (*mask.shape, 3):
        raise ValueError(f"image must be (H, W, 3) and mask (H, W), found {picture.shape} and {mask.shape}")
    drawn = picture.copy()
    if not mask.any():
        return drawn
    width = max(1, round(max(mask.shape) / 200))
    around = tuple(  # the rest of the image stays as it is
        slice(max(0, int(places[0]) - width), int(places[-1]) + 1 + width)
        for places in (np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0)))
    )
    inside, pixels = mask[around], drawn[around]
    colour = np.array(ImageColor.getrgb(PREDICTION))
    core = ndimage.binary_erosion(inside, iterations=width)
    pixels[core] = np.rint((1 - FILL) * pixels[core] + FILL * colour)
    pixels[inside & ~core] = colour
    pixels[ndimage.binary_dilation(inside, iterations=max(1, width // 2)) & ~inside] = 0
    return drawn


def error_map(truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """uint8 map: 1 true positive, 2 false negative, 3 false positive, 0 where both masks are empty.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> error_map(np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0]))
        array([1, 2, 3, 0], dtype=uint8)
    """
    truth, pred = np.asarray(truth) > 0, np.asarray(pred) > 0
    if truth.shape != pred.shape:
        raise ValueError(f"truth and pred must have one shape, got {truth.shape} and {pred.shape}")
    return np.select([truth & pred, truth, pred], [1, 2, 3], 0).astype(np.uint8)


def draw_errors(picture: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """An image with the areas of `error_map` tinted in `ERROR_COLOURS`.

    Args:
        picture: (H, W, 3) uint8.
        truth: (H, W), above 0 where the label says yes.
        pred: (H, W), above 0 where the prediction says yes.

    Returns:
        (H, W, 3) uint8.

    Example:
        >>> missed = draw_errors(np.full((1, 2, 3), 100, np.uint8), np.array([[0, 1]]), np.array([[0, 0]]))
        >>> missed.tolist()
        [[[100, 100, 100], [168, 96, 40]]]
    """
    colours = np.array([(0, 0, 0), *(ImageColor.getrgb(ERROR_COLOURS[kind]) for kind in (1, 2, 3))])
    errors = error_map(truth, pred)
    tinted = np.rint((1 - ERROR_TINT) * picture + ERROR_TINT * colours[errors]).astype(np.uint8)
    return np.where(errors[..., None] > 0, tinted, picture)


def write_overlay(path: str | Path, picture: np.ndarray, mask: np.ndarray) -> str:
    """Write `draw_overlay` as PNG, whole or not at all; the sha256 of the file comes back.

    Raises:
        ValueError: not an image and its mask, or not the name of a PNG.
        UserError: NO_SPACE, NOT_WRITABLE.
    """
    return write_png(Path(path), draw_overlay(picture, mask))
