"""The header of a MetaImage (.mha, or .mhd next to its voxels), https://itk.org/Wiki/ITK/MetaIO/Documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medseg3d.errors import UserError
from medseg3d.files.stream import ZLIB, ByteStream
from medseg3d.volumes.geometry import LPS_TO_RAS
from medseg3d.volumes.header import VolumeHeader, Voxels, three_axes
from medseg3d.volumes.text_header import Fields, header_lines, lps_columns, text_header

MAGICS = (b"ObjectType", b"NDims", b"Comment")

_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4"},
    **{"MET_LONG": "i4", "MET_ULONG": "u4"},  # of 4 bytes, whatever the machine
    **{"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_WRITTEN = {"u1": "MET_UCHAR", "f4": "MET_FLOAT"}
_SPELLINGS = {
    **dict.fromkeys(("Position", "Origin"), "Offset"),
    **dict.fromkeys(("Rotation", "Orientation"), "TransformMatrix"),
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_GEOMETRY = ("TransformMatrix", "Offset", "ElementSpacing")
_IDENTITY = "1 0 0 0 1 0 0 0 1"
_DIGITS = 12  # room for the size of the compressed voxels, which is known at their end


def parsed_metaimage(path: Path, stream: ByteStream) -> tuple[VolumeHeader, Voxels]:
    """The checked header and where the voxels are; the stream stands right behind the header."""
    fields = _fields(path, header_lines(path, stream))
    if fields.get("ObjectType", "Image") != "Image":
        raise fields.error(f"an object of type {fields['ObjectType'][:40]!r}", "an Image")
    dimension = fields.whole_numbers("NDims", 1)[0]
    shape = three_axes(path, fields.whole_numbers("DimSize", dimension))
    lps = np.eye(4)
    lps[:3, :3] = _of_three(fields, "TransformMatrix", dimension, 2).T
    lps[:3, :3] *= _of_three(fields, "ElementSpacing", dimension, 1)
    lps[:3, 3] = _of_three(fields, "Offset", dimension, 1)
    said = {name: fields[name] for name in _GEOMETRY} if dimension == 3 else _said(LPS_TO_RAS @ lps)
    return text_header(path, shape, _dtype(fields), lps, _as_bytes(said)), _voxels(fields, stream)


def geometry_of_metaimage(affine: np.ndarray) -> bytes:
    """`VolumeHeader.geometry` of a volume that was no MetaImage."""
    return _as_bytes(_said(affine))


def head_of_metaimage(array: np.ndarray, geometry: bytes, signature: str, compressed_bytes: int) -> bytes:
    """The header of a file whose voxels follow, compressed; its length does not depend on theirs."""
    sizes = " ".join(map(str, array.shape))
    return (
        b"ObjectType = Image\n"
        + geometry
        + f"Comment = {signature}\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\n"
        f"CompressedDataSize = {compressed_bytes:0{_DIGITS}d}\nDimSize = {sizes}\n"
        f"ElementType = {_WRITTEN[array.dtype.str[1:]]}\nElementDataFile = LOCAL\n".encode()
    )


def _fields(path: Path, lines: Sequence[str]) -> Fields:
    said = {"Offset": "0 0 0", "TransformMatrix": _IDENTITY, "HeaderSize": "0"}
    for line in lines:
        name, _, value = line.partition("=" if "=" in line else ":")
        said[_SPELLINGS.get(name.strip(), name.strip())] = value.strip()
    said.setdefault("ElementSpacing", said.get("ElementSize", "1 1 1"))
    return Fields(path, said)


def _of_three(fields: Fields, name: str, dimension: int, axes: int) -> np.ndarray:
    """What a field says of the three axes of space."""
    found = np.array(fields.numbers(name, dimension**axes)).reshape((dimension,) * axes)
    return found[(slice(3),) * axes]


def _dtype(fields: Fields) -> np.dtype:
    kind, channels = fields.get("ElementType", ""), fields.get("ElementNumberOfChannels", "1")
    if channels != "1" or kind.endswith("_ARRAY"):
        found = f"voxels of {channels[:8]} channels ({kind[:40]})"
        raise UserError("DTYPE", fields.path, found, "one real number per voxel, up to 64 bits", "convert the image")
    if kind not in _TYPES:
        raise fields.error(f"the type {kind[:40]!r}", "a type MetaImage has")
    is_big = fields.get("BinaryDataByteOrderMSB", "False").lower() == "true"
    return np.dtype(_TYPES[kind]).newbyteorder(">" if is_big else "<")


def _voxels(fields: Fields, stream: ByteStream) -> Voxels:
    if fields.get("BinaryData", "False").lower() != "true":
        raise fields.error("voxels written as text", "BinaryData = True")
    for name, identity in (("ElementToIntensityFunctionSlope", 1), ("ElementToIntensityFunctionOffset", 0)):
        if name in fields and fields.numbers(name, 1) != [identity]:
            raise fields.error(f"{name} {fields[name][:40]}, which ITK does not apply", f"{identity}")
    file = fields.get("ElementDataFile", "")
    if not file or file.upper().startswith("LIST") or "%" in file:
        raise fields.error(f"ElementDataFile {file[:80]!r}", "LOCAL, or the one file that holds the voxels")
    skip = fields.whole_numbers("HeaderSize", 1, least=-1)[0]
    inside = file.upper() == "LOCAL"
    compressed = fields.get("CompressedData", "False").lower() == "true"
    return Voxels(
        None if inside else fields.data_file(file),
        None if skip < 0 else stream.position if inside else skip,
        ZLIB if compressed else 0,
    )


def _said(affine: np.ndarray) -> dict[str, str]:
    steps, origin = lps_columns(affine)
    spacing = np.linalg.norm(steps, axis=0)
    values = (steps / spacing).T, origin, spacing
    texts = [" ".join(repr(float(number)) for number in value.ravel()) for value in values]
    return dict(zip(_GEOMETRY, texts, strict=True))


def _as_bytes(fields: Mapping[str, str]) -> bytes:
    return b"NDims = 3\n" + "".join(f"{name} = {value}\n" for name, value in fields.items()).encode()
