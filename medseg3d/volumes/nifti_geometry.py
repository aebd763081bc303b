"""Where a NIfTI header puts its voxels: two forms, their codes and pixdim, believed where they agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg3d.errors import UserError
from medseg3d.files.stream import REWRITE
from medseg3d.volumes.geometry import checked_affine
from medseg3d.volumes.grids import GRID_TOLERANCE, grid_shift, in_mm

_HALF_TURN = 1e-7  # 1 less the square of a quaternion's length: below it nifti_clib and ITK read a half turn
_TOO_LONG = 1e-3  # by which that square may exceed 1: quaternions rounded to float32 or to a few digits

_UNITS = {1: "metre", 3: "micron"}  # xyzt_units & 7; 2 is mm, 0 unknown
_GEOMETRY_FIELDS = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def affine_of(path: Path, raw: nib.Nifti1Header, shape: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
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
            "GEOMETRY_AMBIGUOUS: neither sform nor qform is set, programs place such an image differently; "
            "voxel sizes alone are used, as nibabel does"
        )
    spacing, pixdim = np.linalg.norm(affine[:3, :3], axis=0), np.abs(raw["pixdim"][1:4].astype(float))
    if not np.allclose(pixdim, spacing, rtol=1e-3):
        warnings.append(
            f"GEOMETRY_AMBIGUOUS: pixdim says {in_mm(pixdim)}, the {used} {in_mm(spacing)}; the {used} is used"
        )
    if unit:
        warnings.append(f"GEOMETRY_AMBIGUOUS: the unit is {unit}, the voxel sizes look like mm; mm is used")
    return affine, warnings


def repaired(
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
        repairs.append(f"pixdim says {in_mm(pixdim)}, taken for {in_mm(whole['pixdim'][1:4])}")
    return whole, tuple(f"HEADER: {repair}" for repair in repairs)


def geometry_of(shape: Sequence[int], affine: np.ndarray) -> bytes:
    """`VolumeHeader.geometry` of a volume that was no NIfTI: both forms with code 1 (scanner), in mm."""
    raw = nib.Nifti1Header()
    raw.set_data_shape(shape)
    raw.set_sform(affine, 1)
    raw.set_qform(affine, 1)
    raw.set_xyzt_units("mm")
    return bare_geometry(raw, shape)


def bare_geometry(raw: nib.Nifti1Header, shape: Sequence[int]) -> bytes:
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
