"""Three planes of a volume, as radiologists look at them.

Every input orientation gives the same image, because the volume is brought to RAS first. The display is the
radiological one: axial slices are seen from the feet (patient right on the left of the image, anterior on top),
coronal ones from the front, sagittal ones with anterior on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

# plane: (RAS axis it is cut across, RAS axis of the columns, RAS axis of the rows)
_PLANES = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))  # low and high end of each RAS axis


@dataclass(frozen=True)
class PlaneSlice:
    """One cut as it is shown: row 0 is the top of the image, column 0 its left edge.

    Args:
        pixels: the 2-D array (rows, columns).
        extent_mm: left, right, bottom, top edges in mm from the volume's first voxel, as `imshow(extent=)` takes them.
            Numbers run with the RAS axes, so that left > right: the patient's right is shown on the left.
        letters: where the left, right, bottom and top edges lie in the patient (`R`, `L`, `A`, `P`, `S`, `I`).
        index: voxel index of the cut along its RAS axis.
        centre_mm: column and row of the point that the planes go through, on the scale of `extent_mm`.
    """

    pixels: np.ndarray
    extent_mm: tuple[float, float, float, float]
    letters: tuple[str, str, str, str]
    index: int
    centre_mm: tuple[float, float]


def plane_slices(
    volume: np.ndarray, affine: np.ndarray, centre: Sequence[float] | None = None
) -> dict[str, PlaneSlice]:
    """The axial, coronal and sagittal cut through one point, in radiological display.

    Args:
        volume: (X, Y, Z) array in any orientation; only views of it are taken.
        affine: 4x4 matrix from its voxel indices to world millimetres (RAS+).
        centre: world point in mm (RAS+) that the three planes go through; the middle of the volume if None.

    Returns:
        Plane name (`axial`, `coronal`, `sagittal`) to `PlaneSlice`. An oblique volume is cut along its own axes,
        each named by the body axis nearest to it.

    Raises:
        ValueError: the volume is not 3-D, or the affine is not 4x4.

    Example:
        >>> volume = np.zeros((4, 5, 6))
        >>> volume[3, 4, 5] = 7  # the most right, anterior, superior voxel
        >>> cut = plane_slices(volume, np.diag([2, 2, 3, 1]), centre=(6, 8, 15))["axial"]
        >>> cut.pixels[0, 0], cut.letters, cut.extent_mm  # right is on the left, anterior on top
        (np.float64(7.0), ('R', 'L', 'P', 'A'), (7.0, -1.0, -1.0, 9.0))
    """
    ras, ras_affine = _to_ras(volume, affine)
    spacing = np.linalg.norm(ras_affine[:3, :3], axis=0)
    point = _voxel_of(centre, ras_affine, ras.shape)
    cuts = {}
    for plane, (across, columns, rows) in _PLANES.items():
        # both shown axes run against their RAS axis: leftmost is R (or A), topmost is A (or S)
        pixels = ras[(slice(None),) * across + (point[across],)].T[::-1, ::-1]
        low, high = -0.5 * spacing, (np.array(ras.shape) - 0.5) * spacing
        extent = (float(high[columns]), float(low[columns]), float(low[rows]), float(high[rows]))
        letters = (_LETTERS[columns][1], _LETTERS[columns][0], _LETTERS[rows][0], _LETTERS[rows][1])
        middle = (float(point[columns] * spacing[columns]), float(point[rows] * spacing[rows]))
        cuts[plane] = PlaneSlice(pixels, extent, letters, int(point[across]), middle)
    return cuts


def mask_centre(mask: np.ndarray, affine: np.ndarray) -> tuple[float, float, float] | None:
    """World point (mm, RAS+) of the mask voxel nearest to the mask's centroid; None for an empty mask.

    The centroid of a curved organ may lie outside it; a plane through a voxel of the mask always shows some of it.

    Example:
        >>> mask = np.zeros((9, 9, 9), bool)
        >>> mask[2, 2, 2] = mask[6, 2, 2] = True  # the centroid (4, 2, 2) is not in the mask
        >>> mask_centre(mask, np.diag([2.0, 2.0, 2.0, 1.0]))
        (4.0, 4.0, 4.0)
    """
    voxels = voxel_indices(np.asarray(mask) > 0)
    if len(voxels) == 0:
        return None
    affine = np.asarray(affine, dtype=float)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    nearest = world[np.argmin(((world - world.mean(axis=0)) ** 2).sum(axis=1))]
    x, y, z = (float(value) for value in nearest)
    return x, y, z


def voxel_indices(mask: np.ndarray) -> np.ndarray:
    """(n, 3) indices of the voxels of a boolean mask, as `np.argwhere` gives them and, of few voxels, much sooner."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)


def _to_ras(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A view of the volume with axes turned to RAS+, and its affine."""
    volume, affine = np.asarray(volume), np.asarray(affine, dtype=float)
    if volume.ndim != 3:
        raise ValueError(f"volume must have 3 axes, got shape {volume.shape}")
    if affine.shape != (4, 4):
        raise ValueError(f"affine must be 4x4, got shape {affine.shape}")
    orientation = nib.orientations.io_orientation(affine)
    turned = nib.orientations.apply_orientation(volume, orientation)
    return turned, affine @ nib.orientations.inv_ornt_aff(orientation, volume.shape)


def _voxel_of(centre: Sequence[float] | None, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Voxel index nearest to a world point, kept inside the volume."""
    if centre is None:
        return np.array(shape) // 2
    inverse = np.linalg.inv(affine)
    index = np.rint(inverse[:3, :3] @ np.asarray(centre, dtype=float) + inverse[:3, 3]).astype(int)
    return np.clip(index, 0, np.array(shape) - 1)
