"""Whether an affine can be that of a scan, and how far apart two grids of voxels put the same voxel."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from medseg3d.errors import UsageError, UserError
from medseg3d.volumes.header import VolumeHeader

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

SPACING_MM = (0.1, 20.0)
"""Plausible distance of neighbouring voxels in a scan of a body; metres and microns fall outside."""

GRID_TOLERANCE = 0.25
"""Voxels that a corner of one grid may lie from that of another to be taken for the same grid.

Below the half voxel by which conventions for corners differ, and above what is lost where a quaternion in float32 turns
a scan by nearly 180 degrees: 0.1 mm in a field of 500 mm.
"""

_EQUAL = 0.01  # voxels: what two programs make of one affine in float32

# cosines between axes
_ORTHOGONAL = 1e-6  # the rounding of a float32 header
_WORTH_A_WORD = 1e-4
_SHEARED = 1e-3


def checked_affine(
    path: Path, affine: np.ndarray, shape: Sequence[int], where: str, unit: str | None = None
) -> tuple[np.ndarray, list[str]]:
    """The affine with orthogonal axes, and what is odd about it.

    `affine` is (4, 4), voxel index to mm, taken from `where` in the header; `unit` is that of the numbers where the
    header says another one than the millimetre.

    Raises:
        UserError: GEOMETRY (singular, not finite, sheared), SPACING_RANGE.
    """
    spacing = _spacing(path, affine, where, unit)
    direction = affine[:3, :3] / spacing
    cosine = float(np.abs(direction.T @ direction - np.eye(3)).max())
    if cosine > _SHEARED:
        found = f"sheared axes in the {where} (cosine {cosine:.2g} between two of them)"
        remedy = "resample the image onto an orthogonal grid"
        raise UserError("GEOMETRY", path, found, f"orthogonal axes within {_SHEARED:g}", remedy)
    warnings = []
    if cosine > _WORTH_A_WORD:
        warnings.append(f"GEOMETRY: axes of the {where} are {cosine:.2g} (cosine) from orthogonal; straightened")
    return (affine if cosine <= _ORTHOGONAL else _straightened(affine, spacing, shape)), warnings


def _spacing(path: Path, affine: np.ndarray, where: str, unit: str | None) -> np.ndarray:
    """Voxel sizes in mm of an affine that can be trusted to have some."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else np.nan
    if not volume > 1e-6 * np.prod(spacing):  # also when NaN
        found = f"an affine in the {where} that is {'not finite' if np.isnan(volume) else 'singular'}"
        remedy = "export the image again, or repair its header"
        raise UserError("GEOMETRY", path, found, "an invertible affine", remedy)
    if spacing.min() < SPACING_MM[0] or spacing.max() > SPACING_MM[1]:
        found = f"voxels of {in_mm(spacing)}" + (f" in the header, whose unit is the {unit}" if unit else "")
        remedy = "convert the header to millimetres" if unit else "correct the voxel sizes"
        raise UserError("SPACING_RANGE", path, found, f"{SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm", remedy)
    return spacing


def _straightened(affine: np.ndarray, spacing: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The nearest affine with orthogonal axes (polar decomposition) that keeps the centre of the volume in place."""
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    centre = (np.array(shape) - 1) / 2
    straight = np.eye(4)
    straight[:3, :3] = left @ right * spacing
    straight[:3, 3] = affine[:3, :3] @ centre + affine[:3, 3] - straight[:3, :3] @ centre
    return straight


class GridShift(NamedTuple):
    """How far two grids lie apart where they are farthest apart, at a corner.

    Attributes:
        voxels: distance in voxels of the first.
        mm: the same in mm.
        corner: the voxel.
    """

    voxels: float
    mm: float
    corner: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.voxels:.3g} voxels ({self.mm:.3g} mm)"


def grid_shift(shape: Sequence[int], affine: np.ndarray, other: np.ndarray) -> GridShift:
    """How far apart, at most, two affines put a voxel of a volume of `shape`; infinitely, if one of them places none.

    Example:
        >>> str(grid_shift((11, 11, 11), np.diag([1, 1, 4, 1]), np.diag([1, 1, 4.2, 1])))
        '0.5 voxels (2 mm)'
    """
    corners = np.array(list(itertools.product(*((0, size - 1) for size in shape))))
    if not (np.isfinite(affine).all() and np.isfinite(other).all()) or np.linalg.matrix_rank(affine) < 4:
        return GridShift(np.inf, np.inf, tuple(corners[-1].tolist()))
    apart = (np.c_[corners, np.ones(len(corners))] @ (other - affine).T)[:, :3]
    voxels = np.linalg.norm(np.linalg.solve(affine[:3, :3], apart.T), axis=0).round(9)
    farthest = int(voxels.argmax())
    mm = float(np.linalg.norm(apart[farthest]).round(9))
    return GridShift(float(voxels[farthest]), mm, tuple(corners[farthest].tolist()))


def check_pair(
    image: VolumeHeader,
    label: VolumeHeader,
    tolerance: float = GRID_TOLERANCE,
    whose: str = "its image",
    remedy: str = "give image and label of one case on one grid",
) -> tuple[str, ...]:
    """Refuse a label that does not lie on the grid of its image; what is odd about one that does comes back.

    Args:
        image: header of the image.
        label: header of the label.
        tolerance: how far apart any corner of the two volumes may lie, in voxels of the image.
        whose: what the first is to the second, for the message.
        remedy: what the user can do, for the message.

    Returns:
        A PAIR_GEOMETRY warning, if the grids differ by more than the rounding of a header but are taken for one.

    Raises:
        UserError: PAIR_GEOMETRY, saying both shapes, or where both put the corner that is farthest off.
        UserError: BAD_VALUE for a tolerance that is not a number from 0.
    """
    if not 0 <= tolerance < np.inf:
        raise UsageError(
            "BAD_VALUE",
            "--grid_tolerance",
            f"{tolerance}",
            "a number of voxels, 0 or more",
            "leave it out for the default",
        )
    shift = grid_shift(image.shape, image.affine, label.affine)
    if image.shape == label.shape and shift.voxels <= tolerance:
        return (f"PAIR_GEOMETRY: a corner lies {shift} off; taken for the same grid",) if shift.voxels > _EQUAL else ()
    found, wanted, or_else = f"shape {label.shape}", f"shape {image.shape}", ""
    if image.shape == label.shape:
        found = f"{shift.corner} at {_place(label, shift.corner)}, {shift} off: {_axes(label)}"
        wanted = f"{_place(image, shift.corner)} within {tolerance:g} voxels: {_axes(image)}"
        or_else = ", or raise --grid_tolerance where the difference is harmless"
    raise UserError("PAIR_GEOMETRY", label.path, found, f"that of {whose} {image.path}: {wanted}", remedy + or_else)


def in_mm(sizes: Any) -> str:
    """Sizes for a person.

    Example:
        >>> in_mm((0.75, 0.75, 2.5))
        '0.75 x 0.75 x 2.5 mm'
    """
    return " x ".join(f"{size:.4g}" for size in sizes) + " mm"


def _axes(header: VolumeHeader) -> str:
    codes = "".join(nib.aff2axcodes(header.affine))
    origin = ", ".join(f"{mm:.2f}" for mm in header.affine[:3, 3])
    return f"{codes}, {in_mm(header.spacing)}, origin ({origin})"


def _place(header: VolumeHeader, voxel: tuple[int, ...]) -> str:
    return f"({', '.join(f'{mm:.2f}' for mm in nib.affines.apply_affine(header.affine, voxel))}) mm"
