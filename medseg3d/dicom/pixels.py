"""Stored pixels of a DICOM file, of any transfer syntax that a codec is there for, turned into Hounsfield units."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from medseg3d.dicom.gdcm_process import GdcmProcess
from medseg3d.dicom.grid import Plane
from medseg3d.dicom.sources import SourceFile
from medseg3d.errors import UserError
from medseg3d.limits import VOXELS

_BESIDE_PIXELS = 64 << 20  # bytes of a file that are no pixels: private tags, overlays, functional groups
_INFLATED = 4  # bytes for each voxel that a volume may have: twice what CT stores
_META_BYTES = 4096  # hold the file's own header, group 0002
_CHUNK = 1 << 20
_BY_GDCM = (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGExtended12Bit, uid.JPEGBaseline8Bit)
_CODECS = {
    uid.RLELossless: "pydicom",
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000), "pillow"),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), "pyjpegls"),
    **dict.fromkeys(_BY_GDCM, "gdcm"),
}
"""Transfer syntax -> plugin of pydicom."""

_COPY = "copy or download the file again"
_EXPORT = "export the series again"


def check_size(source: Path, planes: Sequence[Plane]) -> None:
    """Refuse from the headers what would not fit: a volume too large, or a file beyond what its pixels need.

    Raises:
        UserError: TOO_LARGE.
    """
    voxels = sum(plane.rows * plane.columns for plane in planes)
    VOXELS.check(source, (planes[0].columns, planes[0].rows, len(planes)), voxels)
    needed: dict[SourceFile, int] = {}
    for plane in planes:
        needed[plane.file] = needed.get(plane.file, 0) + plane.rows * plane.columns * plane.bits // 8
    for file, pixels in needed.items():
        if file.size > 2 * pixels + _BESIDE_PIXELS:
            raise UserError("TOO_LARGE", file.path, f"{file.size} bytes", f"room for {pixels} of pixels", _EXPORT)


def check_inflated(file: SourceFile, opened: IO[bytes]) -> bool:
    """Whether a file is deflated; what it inflates to is counted first, without being kept.

    Raises:
        UserError: TOO_LARGE; TRUNCATED, where the stream is damaged or does not end.
    """
    head = opened.read(_META_BYTES)
    if DeflatedExplicitVRLittleEndian.encode() not in head:
        return False
    # (0002,0000) UL, the length of the file's own header, stands right behind the letters DICM
    opened.seek(144 + int.from_bytes(head[140:144], "little"))
    stream, count = zlib.decompressobj(wbits=-zlib.MAX_WBITS), 0
    most = min(_INFLATED * VOXELS.most, file.size * 64 + _BESIDE_PIXELS)
    try:
        data = opened.read(_CHUNK)
        while data and not stream.eof:
            count += len(stream.decompress(data, _CHUNK))
            if count > most:
                raise UserError("TOO_LARGE", file.path, f"more than {most} bytes inflated", "an image", _EXPORT)
            data = stream.unconsumed_tail or opened.read(_CHUNK)
    except zlib.error as error:
        raise UserError(
            "TRUNCATED", file.path, f"damaged deflated data after {count} bytes", "all of it", _COPY
        ) from error
    if not stream.eof:
        raise UserError("TRUNCATED", file.path, f"the end of the deflated data after {count} bytes", "all of it", _COPY)
    return True


def hounsfield(
    file: SourceFile, content: bytes, tags: Dataset, planes: Mapping[int, Plane], gdcm: GdcmProcess
) -> Iterator[tuple[int, np.ndarray]]:
    """Each plane (rows, columns) of a file in float32, with its key, of those wanted (`planes`).

    `content` is all of the file, `tags` the same, parsed; `gdcm` decodes the transfer syntaxes that nothing else does.

    Raises:
        UserError: TRUNCATED, DECODE, DTYPE.
    """
    if "PixelData" not in tags:
        raise UserError("TRUNCATED", file.path, "incomplete pixel data", "every pixel", _COPY)
    first = next(iter(planes.values()))
    syntax = UID(tags.file_meta.get("TransferSyntaxUID") or "")
    if not syntax.is_transfer_syntax or syntax.is_encapsulated:
        plugin = _codec(file, syntax)
        _check_codestreams(file, tags, first)
        tags.pixel_array_options(decoding_plugin=plugin)
    try:
        pixels = gdcm.pixels(content) if syntax in _BY_GDCM else tags.pixel_array
    except Exception as error:  # the codecs raise of many kinds
        short = not syntax.is_encapsulated and isinstance(error, ValueError)
        code, found = ("TRUNCATED", "fewer pixels than") if short else ("DECODE", f"damaged {syntax.name} pixels for")
        raise UserError(code, file.path, f"{found} {first.rows} x {first.columns}", "every pixel", _COPY) from error
    frames = pixels if pixels.ndim == 3 else pixels[None]
    if frames.shape[1:] != (first.rows, first.columns) or len(frames) <= max(plane.frame for plane in planes.values()):
        raise UserError("DTYPE", file.path, f"pixels of shape {pixels.shape}", f"{first.rows} x {first.columns}", _COPY)
    for key, plane in planes.items():
        slope, intercept = plane.scaling or (1.0, 0.0)
        yield key, (frames[plane.frame].astype(np.float64) * slope + intercept).astype(np.float32)


def _codec(file: SourceFile, syntax: UID) -> str:
    """The plugin of pydicom that decodes a transfer syntax.

    Raises:
        UserError: DECODE.
    """
    plugin = _CODECS.get(syntax)
    if plugin is not None and plugin in get_decoder(syntax).available_plugins:
        return plugin
    found = f"the transfer syntax {syntax.name} ({syntax})"
    remedy = 'pip install "medseg3d[dicom]"; if that does not help, convert it with gdcmconv --raw'
    raise UserError("DECODE", file.path, found, "one with an installed codec", remedy)


def _check_codestreams(file: SourceFile, tags: Dataset, plane: Plane) -> None:
    """A compressed image says its own size too, by which a codec allocates: it has to be that of the header."""
    try:
        frames = list(generate_frames(tags.PixelData, number_of_frames=int(tags.get("NumberOfFrames") or 1)))
    except Exception as error:
        raise UserError("TRUNCATED", file.path, "an incomplete sequence of fragments", "every pixel", _COPY) from error
    for frame in frames:
        said = _codestream_shape(frame)
        if said is not None and (said[:2] != (plane.rows, plane.columns) or said[2] > plane.bits or said[3] != 1):
            found = f"a compressed image of {said[0]} x {said[1]}, {said[2]} bits, {said[3]} components"
            wanted = f"{plane.rows} x {plane.columns}, at most {plane.bits} bits, 1 component, as the header says"
            raise UserError("DECODE", file.path, found, wanted, _EXPORT)


def _codestream_shape(frame: bytes) -> tuple[int, int, int, int] | None:
    """Rows, columns, bits and components by a JPEG 2000, JPEG or JPEG-LS codestream; None for any other."""
    if frame[:4] == b"\xff\x4f\xff\x51" and len(frame) > 42:  # JPEG 2000: SOC, SIZ
        width, height, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20))
        return height - top, width - left, (frame[42] & 0x7F) + 1, int.from_bytes(frame[40:42], "big")
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # SOF of JPEG-LS, of JPEG
            rows, columns = (int.from_bytes(frame[at + start : at + start + 2], "big") for start in (5, 7))
            return rows, columns, frame[at + 4], frame[at + 9]
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
