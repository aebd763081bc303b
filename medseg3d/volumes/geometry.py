"""Whether an affine can be that of a scan: voxels placed, of plausible sizes, on orthogonal axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg3d.errors import UserError
from medseg3d.volumes.grids import in_mm

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

SPACING_MM = (0.1, 20.0)
"""Plausible distance of neighbouring voxels in a scan of a body; metres and microns fall outside."""

# cosines between axes
_ORTHOGONAL = 1e-6  # the rounding of a float32 header
_WORTH_A_WORD = 1e-4
_SHEARED = 1e-3


def checked_affine(
    path: Path, affine: np.ndarray, shape: Sequence[int], where: str, unit: str | None = None
) -> tuple[np.ndarray, list[str]]:
    """The affine with orthogonal axes, and what is odd about it.

    Args:
        path: the file, for the messages.
        affine: (4, 4) voxel index to mm.
        shape: voxels along the three axes.
        where: what of the header it was taken from.
        unit: that of the numbers by the header, where it is not the millimetre.

    Raises:
        UserError: GEOMETRY (singular, not finite, sheared), SPACING_RANGE.
    """
    spacing = _spacing(path, affine, where, unit)
    direction = affine[:3, :3] / spacing
    cosine = float(np.abs(direction.T @ direction - np.eye(3)).max())
    if cosine > _SHEARED:
        raise UserError(
            "GEOMETRY",
            path,
            f"sheared axes in the {where} (cosine {cosine:.2g} between two of them)",
            f"orthogonal axes within {_SHEARED:g}",
            "resample the image onto an orthogonal grid",
        )
    warnings = []
    if cosine > _WORTH_A_WORD:
        warnings.append(f"GEOMETRY: axes of the {where} are {cosine:.2g} (cosine) from orthogonal; straightened")
    return (affine if cosine <= _ORTHOGONAL else _straightened(affine, spacing, shape)), warnings


def _spacing(path: Path, affine: np.ndarray, where: str, unit: str | None) -> np.ndarray:
    """Voxel sizes in mm of an affine that can be trusted to have some."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else np.nan
    if not volume > 1e-6 * np.prod(spacing):  # also when NaN
        raise UserError(
            "GEOMETRY",
            path,
            f"an affine in the {where} that is {'not finite' if np.isnan(volume) else 'singular'}",
            "one that places every voxel",
            "export the image again, or repair its header",
        )
    if spacing.min() < SPACING_MM[0] or spacing.max() > SPACING_MM[1]:
        raise UserError(
            "SPACING_RANGE",
            path,
            f"voxels of {in_mm(spacing)}" + (f" by the numbers, whose unit is the {unit}" if unit else ""),
            f"{SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm",
            "convert the header to millimetres" if unit else "correct the voxel sizes",
        )
    return spacing


def _straightened(affine: np.ndarray, spacing: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The nearest affine with orthogonal axes (polar decomposition) that keeps the centre of the volume in place."""
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    centre = (np.array(shape) - 1) / 2
    straight = np.eye(4)
    straight[:3, :3] = left @ right * spacing
    straight[:3, 3] = affine[:3, :3] @ centre + affine[:3, 3] - straight[:3, :3] @ centre
    return straight
