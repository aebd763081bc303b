"""Masks and maps of volumes, written in the geometry of their image, whole or not at all."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import nibabel as nib
import numpy as np

from medseg3d.files.atomic import atomic_path
from medseg3d.files.signature import SIGNATURE
from medseg3d.files.stream import GZIP, ZLIB
from medseg3d.volumes.metaimage import geometry_of_metaimage, head_of_metaimage
from medseg3d.volumes.nifti import geometry_of
from medseg3d.volumes.nrrd import geometry_of_nrrd, head_of_nrrd
from medseg3d.volumes.reading import read_volume

_FASTEST = 1  # of zlib: masks shrink to a hundredth all the same


def write_mask(
    path: str | Path, mask: np.ndarray, geometry: bytes | None = None, affine: np.ndarray | None = None
) -> str:
    """The sha256 of the mask file just written: uint8, read back and compared before it gets its name.

    Args:
        path: the file to write, in the format of its name: `.nii.gz`, `.nii`, `.nrrd` or `.mha`; an existing one is
            replaced once the new one is whole.
        mask: (X, Y, Z) uint8.
        geometry: `VolumeHeader.geometry` of the image the mask belongs to. Where both are of one format it comes out to
            the letter (of NIfTI both forms, their codes, pixdim and units), so that every viewer lays the mask on the
            image.
        affine: voxel to RAS mm, for images of another format; in NIfTI sform and qform with code 1 (scanner).

    Raises:
        ValueError: not a uint8 volume, or not of the shape of `geometry`.
        UserError: NO_SPACE, NOT_WRITABLE, or CHECKSUM and the like when the disk does not give back what was written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "ct_seg.nii.gz"
        >>> digest = write_mask(file, np.ones((4, 5, 6), np.uint8), affine=np.diag([1, 1, 3, 1]))
        >>> nib.load(file).get_fdata().sum(), len(digest)
        (np.float64(120.0), 64)
    """
    if mask.dtype != np.uint8 or mask.ndim != 3:
        raise ValueError(f"mask must be a uint8 array of 3 axes, found {mask.dtype} of {mask.ndim}")
    return _write_volume(path, mask, geometry, affine)


def write_probabilities(
    path: str | Path, prob: np.ndarray, geometry: bytes | None = None, affine: np.ndarray | None = None
) -> str:
    """As `write_mask`, a map of probabilities: (X, Y, Z) float32 in [0, 1], read back and compared as a mask is.

    Raises:
        ValueError: not such a volume, or not of the shape of `geometry`.
        UserError: as `write_mask`.
    """
    if prob.dtype != np.float32 or prob.ndim != 3 or not np.all((prob >= 0) & (prob <= 1)):
        raise ValueError(f"prob must be a float32 array of 3 axes in [0, 1], found {prob.dtype} of {prob.ndim}")
    return _write_volume(path, prob, geometry, affine)


def _write_volume(path: str | Path, array: np.ndarray, geometry: bytes | None, affine: np.ndarray | None) -> str:
    form = _FORMS.get(Path(path).suffix.lower(), _NIFTI)
    if geometry is None or _form_of(geometry) is not form:
        if affine is None:
            raise ValueError(f"an affine must say where the volume lies, found none, nor the geometry for {path}")
        geometry = form.geometry_of(array.shape, affine)
    with atomic_path(path) as temporary:
        form.write(temporary, array, geometry)
        written, header = read_volume(temporary)
        # slice by slice: comparing makes an array of its own
        same = all(map(np.array_equal, written.T, array.T))
        if not same or header.geometry != geometry:
            raise OSError(f"{path}: the volume read back is not the one written")
    assert header.sha256 is not None  # read_volume hashes
    return header.sha256


def _write_nifti(path: Path, array: np.ndarray, geometry: bytes) -> None:
    version = nib.Nifti1Image if len(geometry) == nib.Nifti1Header.sizeof_hdr else nib.Nifti2Image
    header = version.header_class(geometry)
    if header.get_data_shape() != array.shape:
        raise ValueError(f"mask must have the shape {header.get_data_shape()} of its image, found {array.shape}")
    header.set_data_dtype(array.dtype)
    image = version(array, None, header)  # no affine: one would reset the forms and their codes
    image.header["descrip"] = SIGNATURE.encode()
    image.to_filename(path)


def _write_nrrd(path: Path, array: np.ndarray, geometry: bytes) -> None:
    with open(path, "wb") as file:
        file.write(head_of_nrrd(array, geometry, SIGNATURE))
        _deflate(file, array, GZIP)


def _write_metaimage(path: Path, array: np.ndarray, geometry: bytes) -> None:
    with open(path, "wb") as file:
        file.write(head_of_metaimage(array, geometry, SIGNATURE, 0))
        size = _deflate(file, array, ZLIB)
        file.seek(0)
        file.write(head_of_metaimage(array, geometry, SIGNATURE, size))


def _deflate(file: BinaryIO, array: np.ndarray, window_bits: int) -> int:
    """The bytes that the voxels take compressed, little endian, X the fastest axis."""
    start, packer = file.tell(), zlib.compressobj(_FASTEST, wbits=window_bits)
    for part in array.T:
        file.write(packer.compress(part.astype(part.dtype.newbyteorder("<"), copy=False).tobytes()))
    file.write(packer.flush())
    return file.tell() - start


class _Form(NamedTuple):
    """A format of volumes: what begins its geometry, how that is made of shape and affine, and who writes it."""

    first: bytes
    geometry_of: Callable[[tuple[int, ...], np.ndarray], bytes]
    write: Callable[[Path, np.ndarray, bytes], None]


_NIFTI = _Form(b"", geometry_of, _write_nifti)
_FORMS = {
    ".nrrd": _Form(b"NRRD", lambda _, affine: geometry_of_nrrd(affine), _write_nrrd),
    ".mha": _Form(b"NDims", lambda _, affine: geometry_of_metaimage(affine), _write_metaimage),
}


def _form_of(geometry: bytes) -> _Form:
    return next((form for form in _FORMS.values() if geometry.startswith(form.first)), _NIFTI)
