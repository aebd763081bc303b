"""Grids of voxels, compared by how far they put the same voxel apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel as nib
import numpy as np

from medseg3d.errors import UsageError, UserError

if TYPE_CHECKING:
    from medseg3d.volumes.header import VolumeHeader

GRID_TOLERANCE = 0.25
"""Voxels that a corner of one grid may lie from that of another to be taken for the same grid.

Below the half voxel by which conventions for corners differ, and above what is lost where a quaternion in float32 turns
a scan by nearly 180 degrees: 0.1 mm in a field of 500 mm.
"""

_EQUAL = 0.01  # voxels: what two programs make of one affine in float32


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
        UserError: BAD_VALUE for a tolerance that is no number from 0.
    """
    if not 0 <= tolerance < np.inf:
        raise UsageError("BAD_VALUE", "--grid_tolerance", f"{tolerance}", "a number of voxels from 0")
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
