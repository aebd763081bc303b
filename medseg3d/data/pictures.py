"""Pictures and masks of pictures as they are found in the wild, read by colour and never by accident.

Pillow decodes JPEG, PNG, TIFF and BMP. What its usual recipe, `np.asarray(Image.open(file).convert("RGB"))`, gets wrong
is put right or refused here: 16 bits saturate there, and are inverted where a TIFF counts from white; palettes are
taken for labels, a TIFF is turned where a JPEG is not, a mask of levels 0 and 1 becomes empty at the threshold, the
checksums of a PNG are not all looked at, and a failure names no file.

Orientation: arrays come in the grid in which the file stores its rows, whatever its EXIF orientation says, because
masks mostly are drawn on that grid and carry no tag. With `upright=True` each file, picture or mask, is turned as its
own tag asks. Ask for the same of a picture and of its mask.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from medseg3d.data.atomic import atomic_path
from medseg3d.data.outputs import SIGNATURE
from medseg3d.data.pillow import pillow_unbounded
from medseg3d.data.stream import opened
from medseg3d.faults import Fault
from medseg3d.limits import PIXELS

MASK_THRESHOLD = 127
"""Of 255: a mask pixel above it is foreground."""

MOST_GREY = 0.05
"""Largest share of mask pixels whose level is strictly between 31 and 224 of 255.

The rims of JPEG masks stay outside of that band (Kvasir-SEG: within 7 of 0 and 255), as does the background that some
masks of CVC-ClinicDB hold at levels up to 23.
"""

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp")
"""Of the files in folders that are taken for pictures, in any case of letters."""

_PNG = b"\x89PNG\r\n\x1a\n"
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
_BEGINNINGS = (b"\xff\xd8\xff", _PNG, b"II*\0", b"MM\0*", b"BM")
_BLACK, _WHITE = 31, 224
_PART = 1 << 20
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF
_SMALL = 8  # pixels: a side that no photograph has
_COLOURED = 32  # channels of a grey JPEG differ by less, whatever its chroma does
_KNOWN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INVERSE = {6: 8, 8: 6}  # the other turns undo themselves

logger = logging.getLogger("medseg3d")


@dataclass(frozen=True)
class GreyPicture:
    """A decoded picture of one grey level per pixel, not yet taken for a mask or for a map of probabilities.

    Attributes:
        path: the file.
        levels: (H, W) uint8 or uint16, as stored; a palette is decoded by colour, one bit is 0 or 255.
        lossy: whether it is a JPEG, whose levels are not quite those that were written.
    """

    path: Path
    levels: np.ndarray
    lossy: bool

    @property
    def full(self) -> int:
        """The level that stands for 1: 255 or 65535."""
        return int(np.iinfo(self.levels.dtype).max)

    @property
    def is_binary(self) -> bool:
        """Whether it has at most two levels."""
        low, high = self.levels.min(), self.levels.max()
        return bool(np.all((self.levels == low) | (self.levels == high)))

    def mask(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """The mask (H, W) bool and its warnings, `CODE: sentence` each; see `read_picture_mask`.

        Raises:
            Fault: LABEL_SET.
        """
        # 16 bits may hold the levels of 8
        levels = self.levels if self.levels.max() <= 255 else _eight_bits(self.levels)
        # bincount would widen every pixel to 64 bits
        counts = np.array(Image.fromarray(levels.astype(np.uint8, copy=False)).histogram())
        self._check_mask(counts)
        mask = levels > (0 if counts[1] and not counts[2:].any() else MASK_THRESHOLD)
        share = np.count_nonzero(mask) / mask.size
        if share > 0.5:
            return mask, (f"FOREGROUND: {share:.0%} of the pixels are foreground; is the mask inverted?",)
        return mask, ()

    def probabilities(self) -> np.ndarray:
        """(H, W) float32 in [0, 1]: the level over 255 or 65535."""
        return self.levels.astype(np.float32) / np.float32(self.full)

    def _check_mask(self, counts: np.ndarray) -> None:
        present = np.flatnonzero(counts)
        brightest = int(present[-1])
        grey = float(counts[_BLACK + 1 : _WHITE].sum() / counts.sum())
        between = [level for level in present[1:-1] if level == 1 or _BLACK < level < _WHITE]
        if brightest < _WHITE and not (brightest == 0 or (brightest == 1 and not self.lossy)):
            found = f"nothing brighter than level {brightest} of 255"
        elif grey > MOST_GREY:
            found = f"{grey:.0%} of the pixels at grey levels from {_BLACK + 1} to {_WHITE - 1} of 255"
        elif not self.lossy and len(present) == 3 and between:
            found = f"three levels, {', '.join(map(str, present))}, as of three classes"
        else:
            return
        raise Fault(
            "LABEL_SET",
            self.path,
            found,
            "a mask of two levels: 0 and 1, 0 and 255, or 0 and 65535",
            "write background as 0 and foreground as 255; is it a photograph, or a map of probabilities or labels?",
        )


def read_picture(path: str | Path, upright: bool = False) -> np.ndarray:
    """A picture as RGB, (H, W, 3) uint8: row, column, channel, never transposed.

    1-bit, grey, palette, RGBA, CMYK and YCbCr become RGB as Pillow's `convert` does. 16-bit grey is divided by 257 and
    rounded, so that `257 * level` comes back as `level`; of 16-bit colour Pillow keeps the upper 8. What is odd goes to
    the log: see `read_with_remarks`.

    Args:
        path: JPEG, PNG, TIFF or BMP; what counts is the content.
        upright: whether to turn it as its EXIF orientation asks, instead of keeping the grid of the file.

    Raises:
        Fault: MISSING_FILE, UNREADABLE, NOT_A_FILE, EMPTY, TOO_LARGE (`medseg3d.limits.PIXELS`, before decoding),
            TRUNCATED, DECODE, CHECKSUM (PNG), DIMENSIONS (several pages), BIT_DEPTH (float or 32-bit pixels).

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "polyp.png"
        >>> Image.new("RGB", (3, 2), (255, 0, 7)).save(file)
        >>> read_picture(file).shape, read_picture(file)[0, 0].tolist()
        ((2, 3, 3), [255, 0, 7])
    """
    picture, remarks = read_with_remarks(path, upright)
    for remark in remarks:
        logger.warning("%s: %s", path, remark)
    return picture


def read_with_remarks(path: str | Path, upright: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    """A picture as `read_picture` gives it, and what is odd about it, `CODE: sentence` each.

    Odd are TRANSPARENCY (dropped), CMYK (no colour profile is applied), PALETTE, BILEVEL, an EXIF ORIENTATION that is
    not followed, and a SIZE of a side below 8 pixels.

    Raises:
        Fault: as `read_picture`.
    """
    image, orientation = _loaded(Path(path), upright)
    width, height = image.size
    see_through = not _is_sixteen_bit(image) and _see_through(image)
    odd = {
        "TRANSPARENCY: dropped, the colours below are kept": see_through,
        "CMYK: converted to RGB without a colour profile": image.mode == "CMYK",
        "PALETTE: the colours of its palette are kept, its indices are not": image.mode in ("P", "PA"),
        "BILEVEL: one bit a pixel, black and white alone": image.mode == "1",
        f"ORIENTATION: {orientation} by its EXIF, which turns it in a viewer; read and segmented as stored": (
            orientation in _TURNS and not upright
        ),
        f"SIZE: {width} x {height} pixels": min(width, height) < _SMALL,
    }
    if _is_sixteen_bit(image):
        pixels = np.repeat(_eight_bits(_sixteen_bits(image))[..., None], 3, axis=-1)
    else:
        pixels = np.array(_as_rgb(image))
    return pixels, tuple(remark for remark, is_so in odd.items() if is_so)


def read_picture_mask(path: str | Path, upright: bool = False) -> np.ndarray:
    """The mask a picture holds, (H, W) bool: its levels above 127 of 255.

    The levels may be 0 and 1, 0 and 255 or 0 and 65535, in 1, 8 or 16 bits, in one channel, in equal channels or in a
    palette, which is decoded by colour. The rims a JPEG adds and the soft edges of a resized mask are thresholded. What
    is refused is a mask that would have to be guessed at: colours, transparency, more than 5 % of grey pixels
    (`MOST_GREY`), no bright level at all (labels 0 and 2), exactly three levels in a lossless file. A mask that covers
    more than half of the picture is reported in the log as FOREGROUND; it may be inverted.

    Args:
        path: JPEG, PNG, TIFF or BMP; what counts is the content.
        upright: as in `read_picture`; ask for the same there.

    Raises:
        Fault: as `read_picture`, and LABEL_SET.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "mask.png"
        >>> Image.fromarray(np.array([[0, 1, 1], [0, 0, 0]], np.uint8)).save(file)
        >>> read_picture_mask(file).astype(int).tolist()
        [[0, 1, 1], [0, 0, 0]]
    """
    mask, remarks = read_levels(path, upright).mask()
    for remark in remarks:
        logger.warning("%s: %s", path, remark)
    return mask


def read_grey(path: str | Path) -> np.ndarray:
    """The map of probabilities a picture holds, (H, W) float32 in [0, 1]: its level over 255 or, in 16 bits, 65535.

    Args:
        path: a grey picture, or a colour picture of equal channels, in the grid of the file.

    Raises:
        Fault: as `read_picture`, and LABEL_SET for colours or transparency.
    """
    return read_levels(path).probabilities()


def read_levels(path: str | Path, upright: bool = False) -> GreyPicture:
    """A grey picture, for callers who look at its levels before they decide what it is.

    Raises:
        Fault: as `read_picture`, and LABEL_SET for colours or transparency.
    """
    path = Path(path)
    image, _ = _loaded(path, upright)
    lossy = image.format in ("JPEG", "MPO")
    if _is_sixteen_bit(image):
        return GreyPicture(path, _sixteen_bits(image), lossy)
    if _see_through(image):
        raise Fault(
            "LABEL_SET",
            path,
            "transparent pixels: colour and transparency may each hold a mask",
            "an opaque picture of black and white",
            "write the mask as grey levels without an alpha channel",
        )
    if image.mode not in ("1", "L", "LA"):
        image = _as_rgb(image)
        spread = _channel_spread(image)
        if spread > _COLOURED:
            raise Fault(
                "LABEL_SET",
                path,
                f"colours: channels that differ by up to {spread} levels",
                "grey pixels",
                "write one grey level per pixel; is it a photograph, or does each colour stand for a class?",
            )
    return GreyPicture(path, np.array(image.convert("L")), lossy)


def read_size(path: str | Path) -> tuple[int, int]:
    """Rows and columns of a picture by its header; which of them is which an EXIF orientation may change.

    Raises:
        Fault: MISSING_FILE, UNREADABLE, NOT_A_FILE, EMPTY, TOO_LARGE, DECODE, DIMENSIONS, BIT_DEPTH.
    """
    path = Path(path)
    with _opened(path) as (image, _):
        return image.height, image.width


def write_picture_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write a mask as 8-bit grey PNG of levels 0 and 255, which appears whole or not at all.

    Args:
        path: the file, `.png`; an existing one is replaced once the new one is whole.
        mask: (H, W), boolean or of values 0 and 1.

    Raises:
        ValueError: not a mask, or not the name of a PNG.
        Fault: NO_SPACE, NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "mask.png"
        >>> write_picture_mask(file, np.eye(2))
        >>> read_picture_mask(file).tolist()
        [[True, False], [False, True]]
    """
    foreground = mask == 1
    if mask.ndim != 2 or not np.all(foreground | (mask == 0)):
        raise ValueError(f"mask must be (H, W) of 0 and 1, found {mask.dtype} of shape {mask.shape}")
    write_png(Path(path), foreground.astype(np.uint8) * 255)


def write_grey(path: str | Path, prob: np.ndarray) -> None:
    """Write probabilities as 16-bit grey PNG, which appears whole or not at all.

    What `read_grey` gives back is within half a level, 1/131070, of what was written, and above 0.5 where that was: 0.5
    itself, the tie that a mask counts as background, lies between two levels and becomes the lower one.

    Args:
        path: the file, `.png`; an existing one is replaced once the new one is whole.
        prob: (H, W), floating point, in [0, 1].

    Raises:
        ValueError: not probabilities, or not the name of a PNG.
        Fault: NO_SPACE, NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "prob.png"
        >>> write_grey(file, np.array([[0, 0.5, 1]]))
        >>> read_grey(file).round(4).tolist()
        [[0.0, 0.5, 1.0]]
    """
    if prob.ndim != 2 or prob.dtype.kind != "f" or not np.all((prob >= 0) & (prob <= 1)):
        raise ValueError(f"prob must be (H, W) of floats in [0, 1], found {prob.dtype} of shape {prob.shape}")
    write_png(Path(path), np.ceil(prob.astype(np.float64) * 65535 - 0.5).astype(np.uint16))


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write pixels as PNG that says where it comes from, read back before it gets its name.

    Compressed for speed: a mask comes out smaller than by Pillow's default, a map of probabilities a tenth larger in a
    seventh of the time.

    Args:
        path: the file, `.png`; an existing one is replaced once the new one is whole.
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8.

    Raises:
        ValueError: not the name of a PNG.
        Fault: NO_SPACE, NOT_WRITABLE.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, so that every pixel is kept, found {path}")
    origin = PngInfo()
    origin.add_text("Software", SIGNATURE)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(
            temporary, format="PNG", pnginfo=origin, compress_level=1, compress_type=zlib.Z_RLE
        )
        with pillow_unbounded():
            read_back = Image.open(temporary)
        with read_back as written:
            if not np.array_equal(np.asarray(written), pixels):
                raise OSError(f"{path}: the picture read back is not the picture written")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Image.Image, IO[bytes]]]:
    """The one picture in a file, its header read and checked, and the file; what goes wrong in the context is a fault.

    Raises:
        Fault: as `read_picture`.
    """
    with opened(path, "a picture", "DECODE") as file:
        if path.stat().st_size == 0:
            raise Fault("EMPTY", path, "0 bytes", "a picture", "copy the file again")
        try:
            with pillow_unbounded():
                image: Image.Image = Image.open(file, formats=_FORMATS)
                _check_header(path, image)
            yield image, file
        except (Fault, MemoryError):
            raise
        except Exception as error:  # a decoder raises anything when its bytes are bad
            raise _decode_fault(path, error) from error


def _loaded(path: Path, upright: bool) -> tuple[Image.Image, int]:
    """The one picture in a file, decoded, in the grid asked for and of a mode known here, and its EXIF orientation."""
    with _opened(path) as (image, file):
        if image.format == "PNG":
            _check_png(path, file)
        with pillow_unbounded():  # which has no word for odd tags either
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            white_is_zero = image.format == "TIFF" and image.getexif().get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        # Pillow looks at the size of a TIFF once more; so large a picture is decoded by itself
        with pillow_unbounded() if math.prod(image.size) > PIXELS.default else nullcontext():
            image.load()
        if white_is_zero and _is_sixteen_bit(image):
            # Pillow counts from black whatever a TIFF of 16 bits says; of 1 and 8 bits it knows
            form, image = image.format, Image.fromarray(65535 - _sixteen_bits(image))
            image.format = form
        turned = image.format == "TIFF"  # Pillow turns these, and only these, as it loads them
        turn = _INVERSE.get(orientation, orientation) if turned and not upright else orientation
        if turn in _TURNS and turned != upright:
            form, image = image.format, image.transpose(_TURNS[turn])
            image.format = form
        return image, orientation


def _check_png(path: Path, file: IO[bytes]) -> None:
    """Refuse a PNG of which a chunk has not its checksum: Pillow decodes pixels without looking at theirs.

    Raises:
        Fault: CHECKSUM, TRUNCATED.
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
            raise _decode_fault(path, EOFError("the end of the file within a chunk"))
        if int.from_bytes(stored, "big") != checksum:
            raise Fault(
                "CHECKSUM",
                path,
                f"a chunk {kind!r} that is damaged before byte {file.tell()}",
                "an intact file",
                "copy or download it again; its pixels cannot be trusted",
            )
    file.seek(pillow_reads_from)


def _check_header(path: Path, image: Image.Image) -> None:
    width, height = image.size
    PIXELS.check(path, (width, height))
    # a photograph with a second picture in it (MPO) begins with the one that is meant
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if pages > 1:
        raise Fault("DIMENSIONS", path, f"{pages} pages", "one picture", "split it into single pictures")
    if image.mode not in _KNOWN_MODES and not _is_sixteen_bit(image):
        kind = {"F": "floating-point pixels", "I": "32-bit pixels"}.get(image.mode)
        raise Fault(
            "BIT_DEPTH" if kind else "DECODE",
            path,
            kind or f"pixels of mode {image.mode}",
            "8 bits per channel, or 1 or 16 bits of grey",
            "convert it and choose the scale",
        )


def _is_sixteen_bit(image: Image.Image) -> bool:
    # Pillow before 11.3 opens a 16-bit PNG as mode I
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def _sixteen_bits(image: Image.Image) -> np.ndarray:
    return np.array(image).astype(np.uint16)


def _eight_bits(levels: np.ndarray) -> np.ndarray:
    """The nearest 8-bit level of each 16-bit level: 65535 is 257 times 255."""
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _see_through(image: Image.Image) -> bool:
    """Whether a pixel is not opaque, by an alpha channel, a palette entry or a transparent colour."""
    return image.has_transparency_data and bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _channel_spread(image: Image.Image) -> int:
    """The largest difference between two channels of one pixel of an RGB picture."""
    red, green, blue = image.split()
    pairs = ((red, green), (green, blue), (blue, red))
    return max(int(np.asarray(ImageChops.difference(*pair)).max()) for pair in pairs)


def _decode_fault(path: Path, error: Exception) -> Fault:
    if isinstance(error, UnidentifiedImageError):
        with open(path, "rb") as file:
            head = file.read(8)
        if not head.startswith(_BEGINNINGS):
            return Fault(
                "DECODE",
                path,
                f"no JPEG, PNG, TIFF or BMP (it begins with {head.hex(' ')})",
                "a picture of one of these formats",
                "convert or download it again",
            )
        found = "a header that is cut off or damaged"
    else:
        found = str(error).partition("\n")[0] or type(error).__name__
    cut_off = isinstance(error, EOFError) or "truncated" in found.lower() or "cut off" in found
    return Fault("TRUNCATED" if cut_off else "DECODE", path, found, "a whole picture", "copy the file again")
