"""NIfTI files read once and believed only after every check: the bytes, the header, the geometry, the voxels.

nibabel decodes the header; the voxels come straight from one pass over the file, which also verifies the gzip
checksum and length (a flipped byte in a .nii.gz otherwise loads in silence) and hashes what was read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from medseg3d.data.stream import REWRITE, ByteStream, opened, truncated
from medseg3d.faults import Fault, UsageFault
from medseg3d.limits import VOXELS

SPACING_MM = (0.1, 20.0)
"""Plausible distance of neighbouring voxels in a scan of a body; metres and microns fall outside."""

GRID_TOLERANCE = 0.25
"""Voxels that a corner of one grid may lie from that of another to be taken for the same grid.

Below the half voxel by which conventions for corners differ, and above what is lost where a quaternion in float32 turns
a scan by nearly 180 degrees: 0.1 mm in a field of 500 mm.
"""

_HEADER_BYTES = {1: 348, 2: 540}  # by the version of NIfTI
_MAX_OFFSET = 1 << 26  # room for any header extension

# cosines between axes
_ORTHOGONAL = 1e-6  # the rounding of a float32 header
_WORTH_A_WORD = 1e-4
_SHEARED = 1e-3

_WIDE = 10.0  # mm
_BRIGHTEST, _DARKEST = 65535, -3000  # HU: the most that 16 bits say of metal; air is -1000, with noise -1500
_WHOLE = 2e-5  # a label stored as 16 bits with a slope comes back within 1.6e-5 of the integer it was
_EQUAL = 0.01  # voxels: what two programs make of one affine in float32
_HALF_TURN = 1e-7  # 1 less the square of a quaternion's length: below it nifti_clib and ITK read a half turn
_TOO_LONG = 1e-3  # by which that square may exceed 1: quaternions rounded to float32 or to a few digits

_UNITS = {1: "metre", 3: "micron"}  # xyzt_units & 7; 2 is mm, 0 unknown
_GEOMETRY_FIELDS = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True)
class NiftiHeader:
    """What a checked NIfTI file says of itself.

    Attributes:
        path: the file.
        shape: voxels along X, Y, Z; a fourth axis of size 1 is dropped.
        affine: (4, 4) float64, voxel index to RAS mm, with orthogonal axes: axes up to 1e-3 (cosine) from
            orthogonal are straightened about the centre of the volume, so that a voxel has one size.
        spacing: mm between neighbouring voxels along X, Y, Z.
        dtype: type of the stored voxels, before scaling.
        slope: factor from stored to real values.
        intercept: summand from stored to real values.
        geometry: NIfTI header holding the geometry of the source to the letter (both forms, their codes, pixdim,
            units) and nothing else: no descriptions, no names.
        warnings: `CODE: sentence` each; odd but usable.
        sha256: of the file's bytes; None when only the header was read.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: np.ndarray
    spacing: tuple[float, float, float]
    dtype: np.dtype
    slope: float
    intercept: float
    geometry: bytes
    warnings: tuple[str, ...] = ()
    sha256: str | None = None


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
        >>> file = Path(tempfile.mkdtemp()) / "ct.nii.gz"
        >>> nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([0.8, 0.8, 2.5, 1])), file)
        >>> header = read_header(file)
        >>> header.shape, header.spacing
        ((4, 5, 6), (0.8, 0.8, 2.5))
    """
    path = Path(path)
    with opened(path, "a NIfTI volume", "NOT_NIFTI") as file:
        return _parsed(path, ByteStream(file, path))[0]


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
        >>> file = Path(tempfile.mkdtemp()) / "ct.nii.gz"
        >>> nib.save(nib.Nifti1Image(np.full((4, 5, 6), 40, np.int16), np.eye(4)), file)
        >>> array, header = read_nifti(file, check_hu=True)
        >>> array.shape, array.dtype, header.warnings
        ((4, 5, 6), dtype('int16'), ('HU_RANGE: every voxel is 40',))
    """
    path = Path(path)
    with opened(path, "a NIfTI volume", "NOT_NIFTI") as file:
        stream = ByteStream(file, path)
        header, offset = _parsed(path, stream)
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


def geometry_of(shape: Sequence[int], affine: np.ndarray) -> bytes:
    """`NiftiHeader.geometry` of a volume that was no NIfTI: both forms with code 1 (scanner), in mm."""
    raw = nib.Nifti1Header()
    raw.set_data_shape(shape)
    raw.set_sform(affine, 1)
    raw.set_qform(affine, 1)
    raw.set_xyzt_units("mm")
    return _bare_geometry(raw, shape)


def check_pair(image: NiftiHeader, label: NiftiHeader, tolerance: float = GRID_TOLERANCE) -> tuple[str, ...]:
    """Refuse a label that does not lie on the grid of its image; what is odd about one that does comes back.

    Args:
        image: header of the image.
        label: header of the label.
        tolerance: how far apart any corner of the two volumes may lie, in voxels of the image.

    Returns:
        A PAIR_GEOMETRY warning, if the grids differ by more than the rounding of a header but are taken for one.

    Raises:
        Fault: PAIR_GEOMETRY, saying both shapes, or where both put the corner that is farthest off.
        Fault: BAD_VALUE for a tolerance that is no number from 0.
    """
    if not 0 <= tolerance < np.inf:
        raise UsageFault("BAD_VALUE", "--grid_tolerance", f"{tolerance}", "a number of voxels from 0")
    if image.shape != label.shape:
        raise _pair_fault(image, label, f"shape {label.shape}", f"shape {image.shape}")
    shift = grid_shift(image.shape, image.affine, label.affine)
    if shift.voxels > tolerance:
        raise _pair_fault(
            image,
            label,
            f"{shift.corner} at {_place(label, shift.corner)}, {shift} off: {_axes(label)}",
            f"{_place(image, shift.corner)} within {tolerance:g} voxels: {_axes(image)}",
            ", or raise --grid_tolerance where the difference is harmless",
        )
    return (f"PAIR_GEOMETRY: a corner lies {shift} off; taken for the same grid",) if shift.voxels > _EQUAL else ()


def check_labels(
    array: np.ndarray, labels: Sequence[int] | None, path: str | Path, header: NiftiHeader | None = None
) -> np.ndarray:
    """The label map as uint8, once every voxel has been seen to hold a legal value.

    Args:
        array: label map of any shape and real type; see `holds_integers` for what is taken for an integer.
        labels: the values allowed, 0 to 255; None allows every integer from 0 to 255.
        path: the file, for the message.
        header: the file's, for the message.

    Raises:
        Fault: LABEL_SET, naming the values found.

    Example:
        >>> check_labels(np.array([0.0, 1.0, 1.0]), (0, 1), "label.nii.gz")
        array([0, 1, 1], dtype=uint8)
    """
    allowed = np.zeros(256, bool)
    allowed[list(range(256) if labels is None else labels)] = True
    wanted = "integers from 0 to 255" if labels is None else f"only the labels {sorted(labels)}"
    with np.errstate(invalid="ignore"):
        as_uint8 = array.astype(np.uint8, order="K")
        if not np.array_equal(as_uint8, array) and holds_integers(array):
            array = np.rint(array)
            as_uint8 = array.astype(np.uint8, order="K")
    # slice by slice: numpy widens an index to 64 bits first
    if np.array_equal(as_uint8, array) and all(allowed[part].all() for part in as_uint8.T):
        return as_uint8
    found = np.unique(array)
    integer = np.isfinite(found) & (found == np.rint(found)) & (found >= 0) & (found <= 255)
    legal = integer & allowed[np.where(integer, found, 0).astype(np.uint8)]
    strange = found[~legal]
    values = ", ".join(f"{value:g}" for value in strange[:8]) + (", ..." if len(strange) > 8 else "")
    raise Fault(
        "LABEL_SET",
        path,
        f"the values {values}{stored_scaled(header)}",
        wanted,
        "correct the label or name its values with --labels"
        if np.all(integer)
        else "a label has integer values; was it resampled with interpolation, or is it an image?",
    )


def holds_integers(array: np.ndarray) -> bool:
    """Whether every value is an integer, or within 2e-5 of one, as labels are that were stored with a slope.

    Example:
        >>> holds_integers(np.array([0, 1.0000153])), holds_integers(np.array([0, 0.9999]))
        (True, False)
    """
    # slice by slice: no second volume in memory, and a map is known by its first one with foreground
    return array.dtype.kind != "f" or all(bool((np.abs(part - np.rint(part)) <= _WHOLE).all()) for part in array.T)


def stored_scaled(header: NiftiHeader | None) -> str:
    """What a message on odd values says of a file that stores them with a slope; nothing of any other."""
    if header is None or (header.slope, header.intercept) == (1, 0):
        return ""
    return f", stored with slope {header.slope:.7g} and intercept {header.intercept:.7g} (store labels unscaled)"


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


def _parsed(path: Path, stream: ByteStream) -> tuple[NiftiHeader, int]:
    """The checked header and the position of the first voxel; the stream stands right behind the header."""
    if stream.size == 0:
        raise Fault("EMPTY", path, "0 bytes", "a NIfTI volume", "copy the file again")
    raw = _decoded(path, stream)
    shape = _shape(path, raw)
    dtype = _dtype(path, raw)
    VOXELS.check(path, shape)
    offset = _offset(path, raw, stream)
    expected = offset + math.prod(shape) * dtype.itemsize
    if expected > stream.most_bytes:
        raise truncated(path, stream.most_bytes, expected)
    slope, intercept = _scaling(path, raw)
    raw, repairs = _repaired(path, raw, shape)
    if np.isinf(raw["scl_slope"]):
        repairs = (
            *repairs,
            f"HEADER: a slope of {float(raw['scl_slope']):g} asks for no scaling; the voxels are as stored",
        )
    affine, warnings = _affine(path, raw, shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0).round(6).tolist()
    geometry = _bare_geometry(raw, shape)
    return NiftiHeader(
        path, shape, affine, tuple(spacing), dtype, slope, intercept, geometry, (*repairs, *warnings)
    ), offset


def _decoded(path: Path, stream: ByteStream) -> nib.Nifti1Header:
    head = stream.take(_HEADER_BYTES[1])
    sizes = {int.from_bytes(head[:4], order): order for order in ("little", "big")}
    version = next((number for number, size in _HEADER_BYTES.items() if size in sizes), None)
    if version is None:
        found = _kind(head)
        raise Fault("NOT_NIFTI", path, found, "a NIfTI-1 or NIfTI-2 file", "download or convert it again")
    head += stream.take(_HEADER_BYTES[version] - _HEADER_BYTES[1])
    if len(head) < _HEADER_BYTES[version]:
        raise truncated(path, len(head), _HEADER_BYTES[version])
    order = "<" if sizes[_HEADER_BYTES[version]] == "little" else ">"
    raw = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(head, order, check=False)
    magic = bytes(raw["magic"])
    if magic.startswith(b"ni"):
        raise Fault(
            "NOT_NIFTI", path, "the header of a two-file NIfTI (.hdr and .img)", "one .nii or .nii.gz", "convert it"
        )
    if not magic.startswith(b"n+"):
        raise Fault("NOT_NIFTI", path, f"an Analyze header (magic {magic!r})", "a NIfTI file", "convert it")
    return raw


def _kind(head: bytes) -> str:
    """What bytes that are no NIfTI header most probably are."""
    start = head.lstrip()[:64].lower()
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer instead of the file it points to"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "a web page or message instead of the file"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head.startswith(b"NRRD"):
        return "an NRRD file"
    return f"bytes that are no NIfTI header ({head[:8].hex(' ')})"


def _shape(path: Path, raw: nib.Nifti1Header) -> tuple[int, int, int]:
    dim = [int(size) for size in raw["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise Fault("HEADER", path, f"the dimensions {dim}", "a count from 1 to 7, then positive sizes", REWRITE)
    sizes = dim[1 : dim[0] + 1]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3 or min(sizes) < 2:
        raise Fault(
            "DIMENSIONS",
            path,
            f"{len(sizes)} axes of sizes {' x '.join(map(str, sizes))}",
            "one volume of three axes with at least 2 voxels each",
            "split a series into single volumes" if len(sizes) > 3 else "give the whole volume, not a slice",
        )
    return (sizes[0], sizes[1], sizes[2])


def _dtype(path: Path, raw: nib.Nifti1Header) -> np.dtype:
    try:
        dtype = raw.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise Fault(
            "HEADER", path, f"the unknown data type {int(raw['datatype'])}", "a type NIfTI has", REWRITE
        ) from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        name = {"c": "complex", "V": "RGB or binary"}.get(dtype.kind, str(dtype))
        raise Fault("DTYPE", path, f"{name} voxels", "one real number per voxel, up to 64 bits", "convert the image")
    return np.dtype(dtype.str)


def _offset(path: Path, raw: nib.Nifti1Header, stream: ByteStream) -> int:
    least = raw.single_vox_offset
    offset = float(raw["vox_offset"]) or least  # 0 is what nibabel and others leave in place of the least
    if not least <= offset <= min(stream.most_bytes, _MAX_OFFSET) or offset != int(offset):
        raise Fault("HEADER", path, f"voxels starting at byte {offset:g}", f"a whole number from {least}", REWRITE)
    return int(offset)


def _scaling(path: Path, raw: nib.Nifti1Header) -> tuple[float, float]:
    try:
        slope, intercept = raw.get_slope_inter()  # None, None: slope 0 or NaN asks for no scaling
    except HeaderDataError as error:
        raise Fault("HEADER", path, str(error), "a finite slope and intercept", REWRITE) from None
    return (1.0, 0.0) if slope is None else (float(slope), float(intercept))


def _affine(path: Path, raw: nib.Nifti1Header, shape: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    """The affine nibabel would use, with orthogonal axes, and what is odd about it."""
    forms = {name: int(raw[f"{name}_code"]) for name in ("sform", "qform")}
    sform, qform = raw.get_sform(), _qform(raw)
    used = next((name for name, code in forms.items() if code), None)
    affine = {"sform": sform, "qform": qform}[used] if used else raw.get_base_affine()
    affine = np.asarray(affine, np.float64)
    spacing = _spacing(path, raw, affine, used or "header")
    direction = affine[:3, :3] / spacing
    cosine = float(np.abs(direction.T @ direction - np.eye(3)).max())
    if cosine > _SHEARED:
        raise Fault(
            "GEOMETRY",
            path,
            f"sheared axes in the {used} (cosine {cosine:.2g} between two of them)",
            f"orthogonal axes within {_SHEARED:g}",
            "resample the image onto an orthogonal grid",
        )
    warnings = []
    if cosine > _WORTH_A_WORD:
        warnings.append(f"GEOMETRY: axes of the {used} are {cosine:.2g} (cosine) from orthogonal; straightened")
    if all(forms.values()):
        shift = grid_shift(shape, sform, qform)
        if shift.voxels > GRID_TOLERANCE:
            warnings.append(f"GEOMETRY_AMBIGUOUS: sform and qform lie {shift} apart at a corner; the sform is used")
    elif used is None:
        warnings.append(
            "GEOMETRY_AMBIGUOUS: neither sform nor qform is set, programs place such an image differently; "
            "voxel sizes alone are used, as nibabel does"
        )
    pixdim = np.abs(raw["pixdim"][1:4].astype(float))
    if not np.allclose(pixdim, spacing, rtol=1e-3):
        warnings.append(f"GEOMETRY_AMBIGUOUS: pixdim says {_mm(pixdim)}, the {used} {_mm(spacing)}; the {used} is used")
    if unit := _UNITS.get(int(raw["xyzt_units"]) & 7):
        warnings.append(f"GEOMETRY_AMBIGUOUS: the unit is {unit}, the voxel sizes look like mm; mm is used")
    return (affine if cosine <= _ORTHOGONAL else _straightened(affine, spacing, shape)), warnings


def _repaired(
    path: Path, raw: nib.Nifti1Header, shape: tuple[int, int, int]
) -> tuple[nib.Nifti1Header, tuple[str, ...]]:
    """The header with the fields of its geometry put right that nibabel would alter in a mask, and a warning of each.

    What is put right leaves the scan where nibabel and ITK place it; a code that says nothing is refused where the
    place would depend on it.
    """
    whole, repairs = raw.copy(), []
    for name in ("sform", "qform"):
        code = int(raw[f"{name}_code"])
        if code in nib.nifti1.xform_codes.value_set():
            continue
        other = "qform" if name == "sform" else "sform"
        apart = grid_shift(shape, raw.get_sform(), _qform(raw)).voxels
        if int(raw[f"{other}_code"]) not in nib.nifti1.xform_codes.value_set() - {0} or not apart <= GRID_TOLERANCE:
            raise Fault("HEADER", path, f"the {name} code {code}", "a code from 0 to 5", REWRITE)
        whole[f"{name}_code"] = 0
        repairs.append(f"{name} code {code} is none; the {other}, which agrees, is used")
    qfac = float(raw["pixdim"][0])
    if qfac not in (-1, 1):
        whole["pixdim"][0] = -1 if qfac < 0 else 1
        repairs.append(f"pixdim[0] is {qfac:g}, taken for {int(whole['pixdim'][0])}")
    pixdim = raw["pixdim"][1:4].astype(float)
    if int(whole["sform_code"]) and not (pixdim > 0).all():
        whole["pixdim"][1:4] = np.linalg.norm(raw.get_sform()[:3, :3], axis=0)
    elif (pixdim < 0).any():
        whole["pixdim"][1:4] = np.abs(pixdim)
    if not (pixdim > 0).all():
        repairs.append(f"pixdim says {_mm(pixdim)}, taken for {_mm(whole['pixdim'][1:4])}")
    return whole, tuple(f"HEADER: {repair}" for repair in repairs)


def _qform(raw: nib.Nifti1Header) -> np.ndarray:
    """The affine of the quaternion, as nifti_clib and ITK read it; not finite where it is none.

    nibabel refuses quaternions that are longer than 1 by the rounding of another program, and a first pixdim of 0.
    """
    vector = np.array([raw[f"quatern_{letter}"] for letter in "bcd"], float)
    length = float(vector @ vector)
    if not length <= 1 + _TOO_LONG:
        return np.full((4, 4), np.nan)
    scalar = np.sqrt(1 - length) if 1 - length >= _HALF_TURN else 0.0
    vector = vector if scalar else vector / np.sqrt(length)
    zooms = raw["pixdim"][1:4].astype(float)
    zooms[2] *= -1 if raw["pixdim"][0] < 0 else 1
    offset = [float(raw[f"qoffset_{letter}"]) for letter in "xyz"]
    return nib.affines.from_matvec(nib.quaternions.quat2mat([scalar, *vector]) * zooms, offset)


def _spacing(path: Path, raw: nib.Nifti1Header, affine: np.ndarray, used: str) -> np.ndarray:
    """Voxel sizes in mm of an affine that can be trusted to have some."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else np.nan
    if not volume > 1e-6 * np.prod(spacing):  # also when NaN
        raise Fault(
            "GEOMETRY",
            path,
            f"an affine in the {used} that is {'not finite' if np.isnan(volume) else 'singular'}",
            "one that places every voxel",
            "export the image again, or repair its header",
        )
    if spacing.min() < SPACING_MM[0] or spacing.max() > SPACING_MM[1]:
        unit = _UNITS.get(int(raw["xyzt_units"]) & 7)
        raise Fault(
            "SPACING_RANGE",
            path,
            f"voxels of {_mm(spacing)}" + (f" by the numbers, whose unit is the {unit}" if unit else ""),
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


def _bare_geometry(raw: nib.Nifti1Header, shape: Sequence[int]) -> bytes:
    bare = type(raw)(endianness="<")
    for name in _GEOMETRY_FIELDS:
        bare[name] = raw[name]
    bare.set_data_shape(shape)
    bare.set_data_dtype(np.uint8)
    return bare.binaryblock


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
    return [f"SLICE_GAP: voxels of {_mm(header.spacing)}: an organ may lie between two slices"]


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


def _pair_fault(image: NiftiHeader, label: NiftiHeader, found: str, wanted: str, or_else: str = "") -> Fault:
    return Fault(
        "PAIR_GEOMETRY",
        label.path,
        found,
        f"that of its image {image.path}: {wanted}",
        f"give image and label of one case on one grid{or_else}",
    )


def _axes(header: NiftiHeader) -> str:
    codes = "".join(nib.aff2axcodes(header.affine))
    origin = ", ".join(f"{mm:.2f}" for mm in header.affine[:3, 3])
    return f"{codes}, {_mm(header.spacing)}, origin ({origin})"


def _place(header: NiftiHeader, voxel: tuple[int, ...]) -> str:
    return f"({', '.join(f'{mm:.2f}' for mm in nib.affines.apply_affine(header.affine, voxel))}) mm"


def _mm(sizes: Any) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes) + " mm"
