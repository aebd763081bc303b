"""The header of a NIfTI file, decoded by nibabel and checked field by field before a voxel is read.

It says twice where its voxels lie, in two forms with their codes, and their sizes once more: believed where they agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from medseg3d.errors import UserError
from medseg3d.files.stream import REWRITE, ByteStream, truncated
from medseg3d.limits import VOXELS
from medseg3d.volumes.geometry import GRID_TOLERANCE, checked_affine, grid_shift, in_mm
from medseg3d.volumes.header import VolumeHeader, Voxels, three_axes

_HEADER_BYTES = {1: 348, 2: 540}  # by the version of NIfTI
_MAX_OFFSET = 1 << 26  # room for any header extension
_HALF_TURN = 1e-7  # 1 less the square of a quaternion's length: below it nifti_clib and ITK read a half turn
_TOO_LONG = 1e-3  # by which that square may exceed 1: quaternions rounded to float32 or to a few digits
_UNITS = {1: "metre", 3: "micron"}  # xyzt_units & 7; 2 is mm, 0 unknown
_GEOMETRY_FIELDS = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def parsed_nifti(path: Path, stream: ByteStream) -> tuple[VolumeHeader, Voxels]:
    """The checked header and where the voxels are; the stream stands right behind the header."""
    raw = _decoded(path, stream)
    shape = _shape(path, raw)
    dtype = _dtype(path, raw)
    VOXELS.check(path, shape)
    offset = _offset(path, raw, stream)
    slope, intercept = _scaling(path, raw)
    raw, repairs = _repaired(path, raw, shape)
    if np.isinf(raw["scl_slope"]):
        slope_said = float(raw["scl_slope"])
        repairs += (f"HEADER: a slope of {slope_said:g} means no scaling; the voxels are as stored",)
    affine, warnings = _affine_of(path, raw, shape)
    warnings = [*repairs, *warnings]
    header = VolumeHeader(path, shape, affine, dtype, slope, intercept, _bare_geometry(raw, shape), tuple(warnings))
    return header, Voxels(offset=offset)


def geometry_of(shape: Sequence[int], affine: np.ndarray) -> bytes:
    """`VolumeHeader.geometry` of a volume that was not NIfTI: both forms with code 1 (scanner), in mm."""
    raw = nib.Nifti1Header()
    raw.set_data_shape(shape)
    raw.set_sform(affine, 1)
    raw.set_qform(affine, 1)
    raw.set_xyzt_units("mm")
    return _bare_geometry(raw, shape)


def _decoded(path: Path, stream: ByteStream) -> nib.Nifti1Header:
    head = stream.take(_HEADER_BYTES[1])
    sizes = {int.from_bytes(head[:4], order): order for order in ("little", "big")}
    version = next((number for number, size in _HEADER_BYTES.items() if size in sizes), None)
    if version is None:
        found = _kind(head)
        raise UserError(
            "NOT_NIFTI", path, found, "a volume in NIfTI, NRRD or MetaImage", "download or convert it again"
        )
    head += stream.take(_HEADER_BYTES[version] - _HEADER_BYTES[1])
    if len(head) < _HEADER_BYTES[version]:
        raise truncated(path, len(head), _HEADER_BYTES[version])
    order = "<" if sizes[_HEADER_BYTES[version]] == "little" else ">"
    raw = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(head, order, check=False)
    magic = bytes(raw["magic"])
    if magic.startswith(b"ni"):
        raise UserError(
            "NOT_NIFTI", path, "the header of a two-file NIfTI (.hdr and .img)", "one .nii or .nii.gz", "convert it"
        )
    if not magic.startswith(b"n+"):
        raise UserError("NOT_NIFTI", path, f"an Analyze header (magic {magic!r})", "a NIfTI file", "convert it")
    return raw


def _kind(head: bytes) -> str:
    """What bytes that are not a NIfTI header most probably are."""
    start = head.lstrip()[:64].lower()
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer instead of the file it points to"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "a web page or message instead of the file"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head.startswith(b"NRRD"):
        return "an NRRD file inside a gzip"
    return f"bytes that are not a NIfTI header ({head[:8].hex(' ')})"


def _shape(path: Path, raw: nib.Nifti1Header) -> tuple[int, int, int]:
    dim = [int(size) for size in raw["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise UserError(
            "HEADER", path, f"the dimensions {dim}", "a number of axes from 1 to 7, then positive sizes", REWRITE
        )
    return three_axes(path, dim[1 : dim[0] + 1])


def _dtype(path: Path, raw: nib.Nifti1Header) -> np.dtype:
    try:
        dtype = raw.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise UserError(
            "HEADER", path, f"the unknown data type {int(raw['datatype'])}", "a type NIfTI has", REWRITE
        ) from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        name = {"c": "complex", "V": "RGB or binary"}.get(dtype.kind, str(dtype))
        raise UserError(
            "DTYPE", path, f"{name} voxels", "one real number per voxel, up to 64 bits", "convert the image"
        )
    return np.dtype(dtype.str)


def _offset(path: Path, raw: nib.Nifti1Header, stream: ByteStream) -> int:
    least = raw.single_vox_offset
    offset = float(raw["vox_offset"]) or least  # 0 is what nibabel and others leave in place of the least
    if not least <= offset <= min(stream.most_bytes, _MAX_OFFSET) or offset != int(offset):
        raise UserError("HEADER", path, f"voxels starting at byte {offset:g}", f"a whole number from {least}", REWRITE)
    return int(offset)


def _scaling(path: Path, raw: nib.Nifti1Header) -> tuple[float, float]:
    try:
        slope, intercept = raw.get_slope_inter()  # None, None: slope 0 or NaN means no scaling
    except HeaderDataError as error:
        raise UserError("HEADER", path, str(error), "a finite slope and intercept", REWRITE) from None
    return (1.0, 0.0) if slope is None else (float(slope), float(intercept))


def _affine_of(path: Path, raw: nib.Nifti1Header, shape: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    """The affine nibabel would use, with orthogonal axes, and what is odd about it."""
    forms = {name: int(raw[f"{name}_code"]) for name in ("sform", "qform")}
    sform, qform = raw.get_sform(), _qform(raw)
    used = next((name for name, code in forms.items() if code), None)
    affine = {"sform": sform, "qform": qform}[used] if used else raw.get_base_affine()
    affine = np.asarray(affine, np.float64)
    unit = _UNITS.get(int(raw["xyzt_units"]) & 7)
    affine, warnings = checked_affine(path, affine, shape, used or "header", unit)
    if all(forms.values()):
        shift = grid_shift(shape, sform, qform)
        if shift.voxels > GRID_TOLERANCE:
            warnings.append(f"GEOMETRY_AMBIGUOUS: sform and qform lie {shift} apart at a corner; the sform is used")
    elif used is None:
        warnings.append(
            "GEOMETRY_AMBIGUOUS: neither sform nor qform is set, and programs place such an image differently; "
            "only the voxel sizes are used, as in nibabel"
        )
    spacing, pixdim = np.linalg.norm(affine[:3, :3], axis=0), np.abs(raw["pixdim"][1:4].astype(float))
    if not np.allclose(pixdim, spacing, rtol=1e-3):
        warnings.append(
            f"GEOMETRY_AMBIGUOUS: pixdim says {in_mm(pixdim)}, the {used} {in_mm(spacing)}; the {used} is used"
        )
    if unit:
        warnings.append(f"GEOMETRY_AMBIGUOUS: the unit is {unit}, the voxel sizes look like mm; mm is used")
    return affine, warnings


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
            raise UserError("HEADER", path, f"the {name} code {code}", "a code from 0 to 5", REWRITE)
        whole[f"{name}_code"] = 0
        repairs.append(f"{name} code {code} is not valid; the {other}, which agrees, is used")
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
        repairs.append(f"pixdim says {in_mm(pixdim)}, taken for {in_mm(whole['pixdim'][1:4])}")
    return whole, tuple(f"HEADER: {repair}" for repair in repairs)


def _bare_geometry(raw: nib.Nifti1Header, shape: Sequence[int]) -> bytes:
    """`VolumeHeader.geometry`: a header that says where the voxels lie, and nothing else."""
    bare = type(raw)(endianness="<")
    for name in _GEOMETRY_FIELDS:
        bare[name] = raw[name]
    bare.set_data_shape(shape)
    bare.set_data_dtype(np.uint8)
    return bare.binaryblock


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
