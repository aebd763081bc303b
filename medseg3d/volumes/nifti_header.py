"""The header of a NIfTI file, decoded by nibabel and checked field by field before a voxel is read."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from medseg3d.errors import UserError
from medseg3d.files.stream import REWRITE, ByteStream, truncated
from medseg3d.limits import VOXELS
from medseg3d.volumes.header import VolumeHeader, Voxels, three_axes
from medseg3d.volumes.nifti_geometry import affine_of, bare_geometry, repaired

_HEADER_BYTES = {1: 348, 2: 540}  # by the version of NIfTI
_MAX_OFFSET = 1 << 26  # room for any header extension


def parsed_nifti(path: Path, stream: ByteStream) -> tuple[VolumeHeader, Voxels]:
    """The checked header and where the voxels are; the stream stands right behind the header."""
    raw = _decoded(path, stream)
    shape = _shape(path, raw)
    dtype = _dtype(path, raw)
    VOXELS.check(path, shape)
    offset = _offset(path, raw, stream)
    slope, intercept = _scaling(path, raw)
    raw, repairs = repaired(path, raw, shape)
    if np.isinf(raw["scl_slope"]):
        repairs = (
            *repairs,
            f"HEADER: a slope of {float(raw['scl_slope']):g} asks for no scaling; the voxels are as stored",
        )
    affine, warnings = affine_of(path, raw, shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0).round(6).tolist()
    geometry = bare_geometry(raw, shape)
    return VolumeHeader(
        path, shape, affine, tuple(spacing), dtype, slope, intercept, geometry, (*repairs, *warnings)
    ), Voxels(offset=offset)


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
    """What bytes that are no NIfTI header most probably are."""
    start = head.lstrip()[:64].lower()
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer instead of the file it points to"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "a web page or message instead of the file"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head.startswith(b"NRRD"):
        return "an NRRD file inside of a gzip"
    return f"bytes that are no NIfTI header ({head[:8].hex(' ')})"


def _shape(path: Path, raw: nib.Nifti1Header) -> tuple[int, int, int]:
    dim = [int(size) for size in raw["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise UserError("HEADER", path, f"the dimensions {dim}", "a count from 1 to 7, then positive sizes", REWRITE)
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
        slope, intercept = raw.get_slope_inter()  # None, None: slope 0 or NaN asks for no scaling
    except HeaderDataError as error:
        raise UserError("HEADER", path, str(error), "a finite slope and intercept", REWRITE) from None
    return (1.0, 0.0) if slope is None else (float(slope), float(intercept))
