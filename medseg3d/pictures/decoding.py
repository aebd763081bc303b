"""Files of images, decoded by Pillow once their headers and checksums let them pass."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from medseg3d.errors import UserError
from medseg3d.files.pillow import pillow_unbounded
from medseg3d.files.stream import opened
from medseg3d.limits import PIXELS

_PNG = b"\x89PNG\r\n\x1a\n"
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
_BEGINNINGS = (b"\xff\xd8\xff", _PNG, b"II*\0", b"MM\0*", b"BM")
_PART = 1 << 20
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF
_KNOWN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns an image upright."""

_INVERSE = {6: 8, 8: 6}  # the other turns undo themselves


def read_size(path: str | Path) -> tuple[int, int]:
    """Rows and columns of an image by its header; which of them is which an EXIF orientation may change.

    Raises:
        UserError: MISSING_FILE, UNREADABLE, NOT_A_FILE, EMPTY, TOO_LARGE, DECODE, DIMENSIONS, BIT_DEPTH.
    """
    path = Path(path)
    with _opened(path) as (image, _):
        return image.height, image.width


def decoded(path: Path, upright: bool) -> tuple[Image.Image, int]:
    """The one image in a file, decoded, in the grid asked for and of a mode known here, and its EXIF orientation."""
    with _opened(path) as (image, file):
        if image.format == "PNG":
            _check_png(path, file)
        with pillow_unbounded():  # which has no word for odd tags either
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            white_is_zero = image.format == "TIFF" and image.getexif().get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        # Pillow looks at the size of a TIFF once more; so large an image is decoded by itself
        with pillow_unbounded() if math.prod(image.size) > PIXELS.default else nullcontext():
            image.load()
        if white_is_zero and is_sixteen_bit(image):
            # Pillow counts from black whatever a TIFF of 16 bits says; of 1 and 8 bits it knows
            form, image = image.format, Image.fromarray(65535 - sixteen_bits(image))
            image.format = form
        turned = image.format == "TIFF"  # Pillow turns these, and only these, as it loads them
        turn = _INVERSE.get(orientation, orientation) if turned and not upright else orientation
        if turn in TURNS and turned != upright:
            form, image = image.format, image.transpose(TURNS[turn])
            image.format = form
        return image, orientation


def is_sixteen_bit(image: Image.Image) -> bool:
    """Whether an image is grey in 16 bits."""
    # Pillow before 11.3 opens a 16-bit PNG as mode I
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def sixteen_bits(image: Image.Image) -> np.ndarray:
    """The levels (H, W) uint16 of such an image."""
    return np.array(image).astype(np.uint16)


def eight_bits(levels: np.ndarray) -> np.ndarray:
    """The nearest 8-bit level of each 16-bit level: 65535 is 257 times 255."""
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def see_through(image: Image.Image) -> bool:
    """Whether a pixel is not opaque, by an alpha channel, a palette entry or a transparent colour."""
    return image.has_transparency_data and bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def as_rgb(image: Image.Image) -> Image.Image:
    """The image in three channels of 8 bits."""
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Image.Image, IO[bytes]]]:
    """The one image in a file, its header read and checked, and the file; what goes wrong in the context is an error.

    Raises:
        UserError: as `read_picture`.
    """
    with opened(path, "an image", "DECODE") as file:
        if path.stat().st_size == 0:
            raise UserError("EMPTY", path, "0 bytes", "an image", "copy the file again")
        try:
            with pillow_unbounded():
                image: Image.Image = Image.open(file, formats=_FORMATS)
                _check_header(path, image)
            yield image, file
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a decoder raises anything when its bytes are bad
            raise _decode_error(path, error) from error


def _check_png(path: Path, file: IO[bytes]) -> None:
    """Refuse a PNG of which a chunk has not its checksum: Pillow decodes pixels without looking at theirs.

    Raises:
        UserError: CHECKSUM, TRUNCATED.
    """
    pillow_reads_from = file.tell()
    file.seek(len(_PNG))
    kind = b""
    while kind != b"IEND":
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        checksum = zlib.crc32(kind)
        while length and (part := file.read(min(length, _PART))):
            checksum = zlib.crc32(part, checksum)
            length -= len(part)
        stored = file.read(4)
        if length or len(stored) < 4:
            raise _decode_error(path, EOFError("the end of the file within a chunk"))
        if int.from_bytes(stored, "big") != checksum:
            found = f"a damaged chunk {kind!r} before byte {file.tell()}"
            remedy = "copy or download it again; its pixels are not reliable"
            raise UserError("CHECKSUM", path, found, "an intact file", remedy)
    file.seek(pillow_reads_from)


def _check_header(path: Path, image: Image.Image) -> None:
    width, height = image.size
    PIXELS.check(path, (width, height))
    # a photograph with a second image in it (MPO) begins with the one that is meant
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if pages > 1:
        raise UserError("DIMENSIONS", path, f"{pages} pages", "one image", "split it into single images")
    if image.mode not in _KNOWN_MODES and not is_sixteen_bit(image):
        kind = {"F": "floating-point pixels", "I": "32-bit pixels"}.get(image.mode)
        found = kind or f"pixels of mode {image.mode}"
        wanted = "8 bits per channel, or 1 or 16 bits of grey"
        raise UserError(
            "BIT_DEPTH" if kind else "DECODE", path, found, wanted, "convert it, choosing how grey values are scaled"
        )


def _decode_error(path: Path, error: Exception) -> UserError:
    if isinstance(error, UnidentifiedImageError):
        with open(path, "rb") as file:
            head = file.read(8)
        if not head.startswith(_BEGINNINGS):
            found = f"not JPEG, PNG, TIFF or BMP (it begins with {head.hex(' ')})"
            return UserError("DECODE", path, found, "an image in one of these formats", "convert or download it again")
        found = "a header that is cut off or damaged"
    else:
        found = str(error).partition("\n")[0] or type(error).__name__
    cut_off = isinstance(error, EOFError) or "truncated" in found.lower() or "cut off" in found
    return UserError("TRUNCATED" if cut_off else "DECODE", path, found, "a complete image", "copy the file again")
