"""Pictures and masks of images as they are found in the wild, read by colour and never by accident.

Pillow decodes JPEG, PNG, TIFF and BMP. What its usual recipe, `np.asarray(Image.open(file).convert("RGB"))`, gets wrong
is put right or refused here: 16 bits saturate there, and are inverted where a TIFF counts from white; palettes are
taken for labels, a TIFF is turned where a JPEG is not, a mask of levels 0 and 1 becomes empty at the threshold, the
checksums of a PNG are not all looked at, and a failure names no file.

Orientation: arrays come in the grid in which the file stores its rows, whatever its EXIF orientation says, because
masks mostly are drawn on that grid and carry no tag. With `upright=True` each file, image or mask, is turned as its
own tag asks. Ask for the same of an image and of its mask.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from medseg3d.pictures.decoding import TURNS, as_rgb, decoded, eight_bits, is_sixteen_bit, see_through, sixteen_bits

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp")
"""Of the files in folders that are taken for images, in any case of letters."""

_SMALL = 8  # pixels: a side that no photograph has

logger = logging.getLogger("medseg3d")


def read_picture(path: str | Path, upright: bool = False) -> np.ndarray:
    """An image as RGB, (H, W, 3) uint8: row, column, channel, never transposed.

    1-bit, grey, palette, RGBA, CMYK and YCbCr become RGB as Pillow's `convert` does. 16-bit grey is divided by 257 and
    rounded, so that `257 * level` comes back as `level`; of 16-bit colour Pillow keeps the upper 8. What is odd goes to
    the log: see `read_with_remarks`.

    Args:
        path: JPEG, PNG, TIFF or BMP; what counts is the content.
        upright: whether to turn it as its EXIF orientation asks, instead of keeping the grid of the file.

    Raises:
        UserError: MISSING_FILE, UNREADABLE, NOT_A_FILE, EMPTY, TOO_LARGE (`medseg3d.limits.PIXELS`, before decoding),
            TRUNCATED, DECODE, CHECKSUM (PNG), DIMENSIONS (several pages), BIT_DEPTH (float or 32-bit pixels).

    Example:
        >>> import tempfile
        >>> from PIL import Image
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
    """An image as `read_picture` gives it, and what is odd about it, `CODE: sentence` each.

    Odd are TRANSPARENCY (dropped), CMYK (no colour profile is applied), PALETTE, BILEVEL, an EXIF ORIENTATION that is
    not followed, and a SIZE of a side below 8 pixels.

    Raises:
        UserError: as `read_picture`.
    """
    image, orientation = decoded(Path(path), upright)
    width, height = image.size
    transparent = not is_sixteen_bit(image) and see_through(image)
    odd = {
        "TRANSPARENCY: dropped, the colours below are kept": transparent,
        "CMYK: converted to RGB without a colour profile": image.mode == "CMYK",
        "PALETTE: the colours of its palette are kept, its indices are not": image.mode in ("P", "PA"),
        "BILEVEL: one bit per pixel, only black and white": image.mode == "1",
        f"ORIENTATION: {orientation} by its EXIF, which turns it in a viewer; read and segmented as stored": (
            orientation in TURNS and not upright
        ),
        f"SIZE: {width} x {height} pixels": min(width, height) < _SMALL,
    }
    if is_sixteen_bit(image):
        pixels = np.repeat(eight_bits(sixteen_bits(image))[..., None], 3, axis=-1)
    else:
        pixels = np.array(as_rgb(image))
    return pixels, tuple(remark for remark, is_so in odd.items() if is_so)
