"""Pictures of an image, its truth and its prediction, for TensorBoard."""

from __future__ import annotations

import numpy as np

HIT = (0, 158, 115)
MISSED = (0, 114, 178)
FALSE_ALARM = (230, 159, 0)


def three_plane_panel(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """An RGB picture: axial, coronal and sagittal plane in columns, plain above and with errors in colour below.

    The planes go through the centroid of truth and prediction. Shown as radiologists do: patient's right on the left,
    anterior or superior on top. Voxels are drawn square. Green-blue: found; blue: missed; orange: false alarm
    (Okabe and Ito's colours, which the colour-blind can tell apart).

    Args:
        image: (X, Y, Z) float in [0, 1], axes towards Right, Anterior, Superior (RAS).
        truth: (X, Y, Z) integer labels, 0 is background.
        pred: (X, Y, Z) integer labels.

    Returns:
        (H, W, 3) uint8.

    Example:
        >>> three_plane_panel(np.zeros((4, 6, 8)), np.zeros((4, 6, 8), int), np.zeros((4, 6, 8), int)).shape
        (16, 14, 3)
    """
    truth, pred = truth > 0, pred > 0
    either = truth | pred
    centre = [int(axis.mean()) for axis in np.nonzero(either)] if either.any() else [size // 2 for size in image.shape]
    columns = []
    for axis in (2, 1, 0):
        # Right grows with X and Anterior with Y: the transposed slice is turned over to put R left and A (or S) on top
        plane, true, found = (
            np.flip(np.take(volume, centre[axis], axis=axis).T, axis=(0, 1)) for volume in (image, truth, pred)
        )
        columns.append(_plain_and_coloured(plane, true, found))
    height = max(column.shape[0] for column in columns)
    return np.concatenate(
        [np.pad(column, ((0, height - column.shape[0]), (0, 0), (0, 0))) for column in columns], axis=1
    )


def picture_panel(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """An RGB picture of a 2-D case: plain above and with errors in the colours of `three_plane_panel` below.

    Args:
        image: (H, W) float in [0, 1].
        truth: (H, W) integer labels, 0 is background.
        pred: (H, W) integer labels.

    Returns:
        (2 H, W, 3) uint8.

    Example:
        >>> picture_panel(np.zeros((4, 6)), np.ones((4, 6), int), np.ones((4, 6), int))[4, 0].tolist()
        [0, 94, 69]
    """
    return _plain_and_coloured(image, truth > 0, pred > 0)


def _plain_and_coloured(plane: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    plain = np.repeat((np.clip(plane, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    coloured = plain.copy()
    for mask, colour in ((truth & pred, HIT), (truth & ~pred, MISSED), (~truth & pred, FALSE_ALARM)):
        coloured[mask] = (0.4 * coloured[mask] + 0.6 * np.array(colour)).astype(np.uint8)
    return np.concatenate([plain, coloured], axis=0)
