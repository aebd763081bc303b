"""Pictures of an image, its ground truth and its prediction, for TensorBoard."""

from __future__ import annotations

import numpy as np

from medseg3d.pictures.overlays import draw_errors
from medseg3d.volumes.planes import mask_centre, plane_slices


def three_plane_panel(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """An RGB picture: axial, coronal and sagittal plane in columns, plain above and with errors in colour below.

    The planes go through the ground truth and the prediction, as `medseg3d.volumes.planes` shows them. Voxels are drawn
    square.

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
    voxels = np.eye(4)
    centre = mask_centre((truth > 0) | (pred > 0), voxels)
    cuts = zip(*(plane_slices(volume, voxels, centre).values() for volume in (image, truth, pred)), strict=True)
    columns = [picture_panel(*(cut.pixels for cut in plane)) for plane in cuts]
    height = max(column.shape[0] for column in columns)
    return np.concatenate(
        [np.pad(column, ((0, height - column.shape[0]), (0, 0), (0, 0))) for column in columns], axis=1
    )


def picture_panel(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """An RGB picture of a 2-D case: plain above and with its errors (`medseg3d.pictures.overlays.draw_errors`) below.

    Args:
        image: (H, W) float in [0, 1].
        truth: (H, W) integer labels, 0 is background.
        pred: (H, W) integer labels.

    Returns:
        (2 H, W, 3) uint8.

    Example:
        >>> picture_panel(np.zeros((4, 6)), np.ones((4, 6), int), np.ones((4, 6), int))[4, 0].tolist()
        [0, 95, 69]
    """
    plain = np.repeat((np.clip(image, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    return np.concatenate([plain, draw_errors(plain, truth, pred)], axis=0)
