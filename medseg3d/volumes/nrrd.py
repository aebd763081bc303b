"""The header of an NRRD file (.nrrd, or .nhdr next to its voxels), http://teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medseg3d.errors import UserError
from medseg3d.files.folders import harmless
from medseg3d.files.stream import GZIP, ByteStream
from medseg3d.volumes.geometry import LPS_TO_RAS
from medseg3d.volumes.header import VolumeHeader, Voxels, three_axes
from medseg3d.volumes.text_header import Fields, header_lines, lps_columns, text_header

MAGIC = b"NRRD"

_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    **{"float": "f4", "double": "f8"},
}
_WRITTEN = {"u1": "uchar", "f4": "float"}
_LPS = "left-posterior-superior"
_SPACES = {  # to LPS
    **dict.fromkeys((_LPS, "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
_ENCODINGS = {"raw": 0, "gzip": GZIP, "gz": GZIP}
_BIG_ENDIAN = {"little": False, "big": True}
_SPELLINGS = {"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip"}
_VECTOR = re.compile(r"\(([^()]*)\)|none")


def parsed_nrrd(path: Path, stream: ByteStream) -> tuple[VolumeHeader, Voxels]:
    """The checked header and where the voxels are; the stream stands right behind the header."""
    fields = _fields(path, header_lines(path, stream))
    dimension = fields.whole_numbers("dimension", 1)[0]
    sizes = fields.whole_numbers("sizes", dimension)
    vectors = _vectors(fields, "space directions", dimension)
    # an axis of size 1 without direction, as of a list of segments, is none of space
    kept = [axis for axis in range(dimension) if sizes[axis] > 1 or not vectors or vectors[axis]]
    shape = three_axes(path, [sizes[axis] for axis in kept])
    lps, warnings = _placed(fields, [vectors[axis] for axis in kept[:3]] if vectors else None, dimension)
    said = _to_the_letter(fields) if dimension == 3 else _said(LPS_TO_RAS @ lps)
    return text_header(path, shape, _dtype(fields), lps, _as_bytes(said), warnings), _voxels(fields, stream)


def geometry_of_nrrd(affine: np.ndarray) -> bytes:
    """`VolumeHeader.geometry` of a volume that was no NRRD."""
    return _as_bytes(_said(affine))


def head_of_nrrd(array: np.ndarray, geometry: bytes, signature: str) -> bytes:
    """The header of a file whose voxels follow, gzipped."""
    kind = _WRITTEN[array.dtype.str[1:]]
    sizes = " ".join(map(str, array.shape))
    fields = f"content: {signature}\ntype: {kind}\ndimension: 3\nsizes: {sizes}\nkinds: domain domain domain\n"
    return geometry.replace(b"\n", f"\n{fields}endian: little\nencoding: gzip\n".encode(), 1) + b"\n"


def _fields(path: Path, lines: Sequence[str]) -> Fields:
    """The fields by their names in lower case; comments and keys of one's own (`:=`) are none."""
    said = {"byte skip": "0"}
    for line in lines[1:]:
        name, separator, value = line.partition(":")
        if separator and not name.startswith("#") and not value.startswith("="):
            name = name.strip().lower()
            said[_SPELLINGS.get(name, name)] = value.strip()
    return Fields(path, said)


def _placed(fields: Fields, vectors: Sequence[list[float]] | None, dimension: int) -> tuple[np.ndarray, list[str]]:
    """The affine to LPS mm, and what is odd about it."""
    space = fields.get("space", "").lower()
    if space.endswith("-time"):
        raise fields.error(f"the space {space}", "one without time")
    lps = np.eye(4)
    if vectors is None:
        if space or "axis mins" in fields:
            raise fields.error("no space directions", "a direction for each axis")
        lps[:3, :3] = np.diag(fields.numbers("spacings", dimension)[:3])
    else:
        origin = _vectors(fields, "space origin", 1) or [[0.0, 0.0, 0.0]]
        if any(len(vector) != 3 for vector in (*vectors, *origin)):
            found = (
                f"space directions {fields['space directions'][:80]!r}, origin {fields.get('space origin', '')[:40]!r}"
            )
            raise fields.error(found, "three numbers each")
        lps[:3, :3], lps[:3, 3] = np.transpose(vectors), origin[0]
    warnings = []
    if space not in _SPACES:
        said = f"the space {harmless(space[:40])} does not say" if space else "no space says"
        warnings.append(f"GEOMETRY_AMBIGUOUS: {said} where left and right are; taken for {_LPS}, as ITK does")
    return np.diag([*_SPACES.get(space, (1, 1, 1)), 1]) @ lps, warnings


def _said(affine: np.ndarray) -> dict[str, str]:
    steps, origin = lps_columns(affine)
    directions = " ".join(_vector(step) for step in steps.T)
    return {"space": _LPS, "space directions": directions, "space origin": _vector(origin)}


def _to_the_letter(fields: Mapping[str, str]) -> dict[str, str]:
    """The numbers that say where the voxels are, as they are written; no other word of the source."""
    said = {"space": fields["space"]} if fields.get("space", "").lower() in _SPACES else {}
    if "spacings" in fields and "space directions" not in fields:
        return {**said, "spacings": fields["spacings"]}
    said = said or {"space dimension": "3"}
    names = [name for name in ("space directions", "space origin") if name in fields]
    return {**said, **{name: " ".join(match[0] for match in _VECTOR.finditer(fields[name])) for name in names}}


def _vectors(fields: Fields, name: str, count: int) -> list[list[float]]:
    """The vectors of a field, an empty one for `none`; nothing where there is no such field."""
    if name not in fields:
        return []
    found = [match[1] for match in _VECTOR.finditer(fields[name])]
    try:
        vectors = [[float(number) for number in (text or "").split(",") if text] for text in found]
    except ValueError:
        vectors = []
    if len(vectors) != count:
        raise fields.error(f"{name} {fields[name][:80]!r}", f"{count} vectors of numbers")
    return vectors


def _dtype(fields: Fields) -> np.dtype:
    kind = fields.get("type", "").lower()
    if kind == "block":
        wanted = "one real number per voxel, up to 64 bits"
        raise UserError("DTYPE", fields.path, "blocks of bytes", wanted, "convert the image")
    dtype, is_big = np.dtype(_TYPES.get(kind, "V")), _BIG_ENDIAN.get(fields.get("endian", "").lower())
    if dtype.kind == "V" or (is_big is None and dtype.itemsize > 1):
        raise fields.error(f"the type {kind!r}, endian {fields.get('endian')!r}", "a type NRRD has, and its order")
    return dtype.newbyteorder(">" if is_big else "<")


def _voxels(fields: Fields, stream: ByteStream) -> Voxels:
    encoding = fields.get("encoding", "").lower()
    if encoding not in _ENCODINGS:
        raise fields.error(f"the encoding {encoding[:40]!r}", f"one of {', '.join(_ENCODINGS)}")
    skip = fields.whole_numbers("byte skip", 1, least=0 if _ENCODINGS[encoding] else -1)[0]
    if fields.get("line skip", "0") != "0":
        raise fields.error(f"line skip {fields['line skip'][:40]!r}", "voxels behind a number of bytes")
    file = fields.get("data file")
    if file is None:
        return Voxels(None, None if skip < 0 else stream.position + skip, _ENCODINGS[encoding])
    if file.upper().startswith("LIST") or "%" in file:
        raise fields.error(f"voxels in several files ({file[:80]!r})", "one data file")
    return Voxels(fields.data_file(file), None if skip < 0 else skip, _ENCODINGS[encoding])


def _vector(numbers: np.ndarray) -> str:
    return f"({','.join(repr(float(number)) for number in numbers)})"


def _as_bytes(fields: Mapping[str, str]) -> bytes:
    return b"NRRD0004\n" + "".join(f"{name}: {value}\n" for name, value in fields.items()).encode()
