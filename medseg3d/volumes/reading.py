"""Volumes read once and believed only after every check: the bytes, the header, the geometry, the voxels.

NIfTI, NRRD and MetaImage alike: what counts is the content, not the name. The voxels come straight from one pass over
the file, which also verifies checksums and lengths (a flipped byte in a .nii.gz otherwise loads in silence) and hashes
what was read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg3d.errors import UserError
from medseg3d.files.stream import GZIP, GZIP_MAGIC, ByteStream, opened, truncated
from medseg3d.volumes.geometry import in_mm
from medseg3d.volumes.header import VolumeHeader, Voxels
from medseg3d.volumes.metaimage import MAGICS, parsed_metaimage
from medseg3d.volumes.nifti import parsed_nifti
from medseg3d.volumes.nrrd import MAGIC, parsed_nrrd

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
"""How the names of volumes end, in lower case."""

_WIDE = 10.0  # mm
_BRIGHTEST, _DARKEST = 65535, -3000  # HU: the most that 16 bits say of metal; air is -1000, with noise -1500
_A_VOLUME = "a volume in NIfTI, NRRD or MetaImage"


def read_header(path: str | Path) -> VolumeHeader:
    """The checked header of a volume; the voxels are neither read nor verified.

    Args:
        path: NIfTI-1 or NIfTI-2 (`.nii`, `.nii.gz`), NRRD (`.nrrd`, `.nhdr`) or MetaImage (`.mha`, `.mhd`); what counts
            is the content. The voxels of the latter two may lie in a file of their own, in the folder of the header.

    Raises:
        UserError: MISSING_FILE, UNREADABLE, NOT_A_FILE (a pipe, a device), EMPTY, NOT_NIFTI, TRUNCATED, CHECKSUM,
            HEADER, DTYPE, DIMENSIONS, TOO_LARGE (`medseg3d.limits.VOXELS`, before anything is decompressed or
            allocated), GEOMETRY, SPACING_RANGE, PATH_ESCAPE (voxels in a file of another folder).

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> file = Path(tempfile.mkdtemp()) / "ct.nii.gz"
        >>> nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([0.8, 0.8, 2.5, 1])), file)
        >>> header = read_header(file)
        >>> header.shape, header.spacing
        ((4, 5, 6), (0.8, 0.8, 2.5))
    """
    with _opened_at_voxels(Path(path)) as (header, _, _):
        return header


def read_volume(path: str | Path, check_hu: bool = False) -> tuple[np.ndarray, VolumeHeader]:
    """The voxels (X, Y, Z) of a volume and its header, both checked; every byte of its files is read and verified.

    Args:
        path: as in `read_header`.
        check_hu: whether it should be a CT in Hounsfield units; if its values do not look so, a HU_RANGE warning is
            added, and a SLICE_GAP warning where slices lie 10 mm or more apart.

    Returns:
        The array in the order of the file (Fortran), of the stored type in native byte order where the header asks
        for no scaling, float32 where it does; and the header, with `sha256`.

    Raises:
        UserError: as `read_header`, and CHECKSUM, TRUNCATED, NON_FINITE.

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> file = Path(tempfile.mkdtemp()) / "ct.nii.gz"
        >>> nib.save(nib.Nifti1Image(np.full((4, 5, 6), 40, np.int16), np.eye(4)), file)
        >>> array, header = read_volume(file, check_hu=True)
        >>> array.shape, array.dtype, header.warnings
        ((4, 5, 6), dtype('int16'), ('HU_RANGE: every voxel is 40',))
    """
    path = Path(path)
    with _opened_at_voxels(path) as (header, stream, offset):
        voxels = np.empty(header.shape, header.dtype, order="F")
        stream.skip_to(offset)
        stream.fill(voxels.reshape(-1, order="F").view(np.uint8))
        x, y, z = header.shape
        face = min(x * y, y * z, x * z)  # what one more voxel along some axis would add: fewer bytes are no lost image
        trailing = stream.drain(limit=face * header.dtype.itemsize)
    if trailing:
        header = _warned(header, f"HEADER: {trailing} bytes after the last voxel are ignored")
    array = _real_values(voxels, header)
    low, high = _finite_range(array, path)
    if check_hu:
        header = with_scan_warnings(header, array, low, high)
    return array, replace(header, sha256=stream.sha256())


def volume_files(path: str | Path) -> list[Path]:
    """The files that a volume lies in, that of its header first; of what is none the file itself."""
    path = Path(path)
    try:
        with opened(path, _A_VOLUME, "NOT_NIFTI") as file:
            voxels = _parsed(path, ByteStream(file, path))[1]
    except UserError:
        return [path]
    return [path] if voxels.file is None else [path, voxels.file]


def volume_stem(name: str) -> str:
    """The name of a file without the suffix of a volume, in any case of letters; other names as they are.

    Example:
        >>> volume_stem("pancreas_001.nii.gz"), volume_stem("a.b.nii"), volume_stem("scan.MHA"), volume_stem("a.png")
        ('pancreas_001', 'a.b', 'scan', 'a.png')
    """
    suffix = next((suffix for suffix in VOLUME_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


@contextmanager
def _opened_at_voxels(path: Path) -> Iterator[tuple[VolumeHeader, ByteStream, int]]:
    """Context with the header, the stream that holds the voxels, and the byte of the first."""
    with opened(path, _A_VOLUME, "NOT_NIFTI") as file:
        stream = ByteStream(file, path)
        header, voxels = _parsed(path, stream)
        if voxels.file is None:
            yield header, stream, _offset(stream, header, voxels)
            return
        stream.drain(limit=stream.size + 1)  # for its sum
        with opened(voxels.file, f"the voxels of {path.name}", "NOT_NIFTI") as other:
            stream = ByteStream(other, voxels.file, after=stream)
            yield header, stream, _offset(stream, header, voxels)


def _parsed(path: Path, stream: ByteStream) -> tuple[VolumeHeader, Voxels]:
    if stream.size == 0:
        raise UserError("EMPTY", path, "0 bytes", _A_VOLUME, "copy the file again")
    if stream.starts_with(MAGIC):
        return parsed_nrrd(path, stream)
    if any(map(stream.starts_with, MAGICS)):
        return parsed_metaimage(path, stream)
    if stream.starts_with(GZIP_MAGIC):
        stream.inflate(GZIP)
    return parsed_nifti(path, stream)


def _offset(stream: ByteStream, header: VolumeHeader, voxels: Voxels) -> int:
    """The byte of the first voxel, uncompressed; the stream is told where the last one ends.

    Raises:
        UserError: TRUNCATED, where that is beyond what the file can hold.
    """
    size = math.prod(header.shape) * header.dtype.itemsize
    if voxels.window_bits:
        stream.inflate(GZIP if stream.starts_with(GZIP_MAGIC) else voxels.window_bits)
    offset = max(0, stream.size - size) if voxels.offset is None else voxels.offset
    stream.expected = offset + size
    if stream.expected > stream.most_bytes:
        raise truncated(stream.path, stream.most_bytes, stream.expected)
    return offset


def with_scan_warnings(header: VolumeHeader, array: np.ndarray, low: float, high: float) -> VolumeHeader:
    """The header of a CT, warned where slices lie wide apart (SLICE_GAP) or the values are no HU (HU_RANGE)."""
    wide = max(header.spacing) >= _WIDE
    gap = f"SLICE_GAP: voxels of {in_mm(header.spacing)}: an organ may lie between two slices"
    return _warned(header, *([gap] if wide else []), *_hu_warnings(array, low, high))


def _real_values(voxels: np.ndarray, header: VolumeHeader) -> np.ndarray:
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
        found = f"{strange} of {array.size} voxels that are NaN or infinite in float32"
        raise UserError("NON_FINITE", path, found, "finite voxels", "find out what they mean and replace them")
    return low, high


def _hu_warnings(array: np.ndarray, low: float, high: float) -> list[str]:
    """Whether the values can be Hounsfield units: a scan of a body holds air or at least fat, and bone."""
    if low == high:
        return [f"HU_RANGE: every voxel is {low:g}"]
    # an odd step meets every column of a volume whose sizes are powers of two
    sample = array.reshape(-1, order="A")[:: (array.size >> 20) | 1]
    darkest = float(np.percentile(sample, 0.5))
    if darkest > -200:
        reason = "neither air nor fat: HU + 1024, or a windowed image?"
    elif high < 100:
        reason = "no bone: a windowed image?"
    elif high > _BRIGHTEST:
        reason = "what is brighter than any metal: a wrong slope?"
    elif (inside := sample[sample > low]).size and float(np.percentile(inside, 0.5)) < _DARKEST:
        reason = "what is darker than air, and not one value of padding: a wrong slope or intercept?"
    else:
        return []
    return [f"HU_RANGE: values from {low:g} (0.5 % below {darkest:g}) to {high:g} hold {reason}"]


def _warned(header: VolumeHeader, *warnings: str) -> VolumeHeader:
    return replace(header, warnings=header.warnings + warnings)
