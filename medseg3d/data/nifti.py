"""NIfTI files read once and believed only after every check: the bytes, the header, the geometry, the voxels.

nibabel decodes the header; the voxels come straight from one pass over the file, which also verifies the gzip
checksum and length (a flipped byte in a .nii.gz otherwise loads in silence) and hashes what was read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg3d.data.grids import in_mm
from medseg3d.data.nifti_header import NiftiHeader, parsed_header
from medseg3d.data.stream import ByteStream, opened
from medseg3d.faults import Fault

_WIDE = 10.0  # mm
_BRIGHTEST, _DARKEST = 65535, -3000  # HU: the most that 16 bits say of metal; air is -1000, with noise -1500


def read_header(path: str | Path) -> NiftiHeader:
    """The checked header of a NIfTI file; the voxels are neither read nor verified.

    Args:
        path: `.nii` or `.nii.gz`, NIfTI-1 or NIfTI-2; what counts is the content.

    Raises:
        Fault: MISSING_FILE, UNREADABLE, NOT_A_FILE (a pipe, a device), EMPTY, NOT_NIFTI, TRUNCATED, CHECKSUM, HEADER,
            DTYPE, DIMENSIONS, TOO_LARGE (`medseg3d.limits.VOXELS`, before anything is decompressed or allocated),
            GEOMETRY, SPACING_RANGE.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> file = Path(tempfile.mkdtemp()) / "ct.nii.gz"
        >>> nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([0.8, 0.8, 2.5, 1])), file)
        >>> header = read_header(file)
        >>> header.shape, header.spacing
        ((4, 5, 6), (0.8, 0.8, 2.5))
    """
    path = Path(path)
    with opened(path, "a NIfTI volume", "NOT_NIFTI") as file:
        return parsed_header(path, ByteStream(file, path))[0]


def read_nifti(path: str | Path, check_hu: bool = False) -> tuple[np.ndarray, NiftiHeader]:
    """The voxels (X, Y, Z) of a NIfTI file and its header, both checked; every byte of the file is read and verified.

    Args:
        path: `.nii` or `.nii.gz`, NIfTI-1 or NIfTI-2; what counts is the content.
        check_hu: whether it should be a CT in Hounsfield units; if its values do not look so, a HU_RANGE warning is
            added, and a SLICE_GAP warning where slices lie 10 mm or more apart.

    Returns:
        The array in the order of the file (Fortran), of the stored type in native byte order where the header asks
        for no scaling, float32 where it does; and the header, with `sha256`.

    Raises:
        Fault: as `read_header`, and CHECKSUM, TRUNCATED, NON_FINITE.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> file = Path(tempfile.mkdtemp()) / "ct.nii.gz"
        >>> nib.save(nib.Nifti1Image(np.full((4, 5, 6), 40, np.int16), np.eye(4)), file)
        >>> array, header = read_nifti(file, check_hu=True)
        >>> array.shape, array.dtype, header.warnings
        ((4, 5, 6), dtype('int16'), ('HU_RANGE: every voxel is 40',))
    """
    path = Path(path)
    with opened(path, "a NIfTI volume", "NOT_NIFTI") as file:
        stream = ByteStream(file, path)
        header, offset = parsed_header(path, stream)
        voxels = np.empty(header.shape, header.dtype, order="F")
        stream.expected = offset + voxels.nbytes
        stream.skip_to(offset)
        stream.fill(voxels.reshape(-1, order="F").view(np.uint8))
        trailing = stream.drain(limit=_smallest_face(header) * header.dtype.itemsize)
    if trailing:
        header = _warned(header, f"HEADER: {trailing} bytes after the last voxel are ignored")
    array = _real_values(voxels, header)
    low, high = _finite_range(array, path)
    if check_hu:
        header = with_scan_warnings(header, array, low, high)
    return array, replace(header, sha256=stream.sha256())


def with_scan_warnings(header: NiftiHeader, array: np.ndarray, low: float, high: float) -> NiftiHeader:
    """The header of a CT, warned where slices lie wide apart (SLICE_GAP) or the values are no HU (HU_RANGE)."""
    return _warned(header, *_gap_warnings(header), *_hu_warnings(array, low, high))


def _real_values(voxels: np.ndarray, header: NiftiHeader) -> np.ndarray:
    if (header.slope, header.intercept) == (1, 0):
        return voxels.astype(voxels.dtype.newbyteorder("="), order="K", copy=False)
    array = voxels.astype(np.float32, order="K")
    with np.errstate(over="ignore"):  # what overflows is refused as not finite
        array *= header.slope
        array += header.intercept
    return array


def _finite_range(array: np.ndarray, path: Path) -> tuple[float, float]:
    low, high = float(array.min()), float(array.max())  # NaN if one voxel is
    largest = float(np.finfo(np.float32).max)
    if not (-largest <= low and high <= largest):
        strange = array.size - int(np.count_nonzero(np.abs(array) <= largest))
        raise Fault(
            "NON_FINITE",
            path,
            f"{strange} of {array.size} voxels that are NaN or infinite in float32",
            "finite voxels",
            "find out what they stand for and replace them",
        )
    return low, high


def _gap_warnings(header: NiftiHeader) -> list[str]:
    if max(header.spacing) < _WIDE:
        return []
    return [f"SLICE_GAP: voxels of {in_mm(header.spacing)}: an organ may lie between two slices"]


def _hu_warnings(array: np.ndarray, low: float, high: float) -> list[str]:
    """Whether the values can be Hounsfield units: a scan of a body holds air or at least fat, and bone."""
    if low == high:
        return [f"HU_RANGE: every voxel is {low:g}"]
    # an odd step meets every column of a volume whose sizes are powers of two
    sample = array.reshape(-1, order="A")[:: (array.size >> 20) | 1]
    darkest = float(np.percentile(sample, 0.5))
    if darkest > -200:
        reason = "neither air nor fat: HU + 1024, or a windowed picture?"
    elif high < 100:
        reason = "no bone: a windowed picture?"
    elif high > _BRIGHTEST:
        reason = "what is brighter than any metal: a wrong slope?"
    elif (inside := sample[sample > low]).size and float(np.percentile(inside, 0.5)) < _DARKEST:
        reason = "what is darker than air, and not one value of padding: a wrong slope or intercept?"
    else:
        return []
    return [f"HU_RANGE: values from {low:g} (0.5 % below {darkest:g}) to {high:g} hold {reason}"]


def _smallest_face(header: NiftiHeader) -> int:
    """Voxels that one more along some axis would add: fewer trailing bytes cannot be lost image."""
    x, y, z = header.shape
    return min(x * y, y * z, x * z)


def _warned(header: NiftiHeader, *warnings: str) -> NiftiHeader:
    return replace(header, warnings=header.warnings + warnings)
