"""Masks and maps written as PNG, whole or not at all."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medseg3d.files.atomic import atomic_path
from medseg3d.files.pillow import pillow_unbounded
from medseg3d.files.signature import SIGNATURE
from medseg3d.files.stream import file_sha256


def write_picture_mask(path: str | Path, mask: np.ndarray) -> str:
    """Write a mask as 8-bit grey PNG of levels 0 and 255, whole or not at all; the sha256 of the file comes back.

    Args:
        path: the file, `.png`; an existing one is replaced once the new one is whole.
        mask: (H, W), boolean or of values 0 and 1.

    Raises:
        ValueError: not a mask, or not the name of a PNG.
        UserError: NO_SPACE, NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> from medseg3d.pictures.masks import read_picture_mask
        >>> file = Path(tempfile.mkdtemp()) / "mask.png"
        >>> digest = write_picture_mask(file, np.eye(2))
        >>> read_picture_mask(file).tolist()
        [[True, False], [False, True]]
    """
    foreground = mask == 1
    if mask.ndim != 2 or not np.all(foreground | (mask == 0)):
        raise ValueError(f"mask must be (H, W) of 0 and 1, found {mask.dtype} of shape {mask.shape}")
    return write_png(Path(path), foreground.astype(np.uint8) * 255)


def write_grey(path: str | Path, prob: np.ndarray) -> str:
    """Write probabilities as 16-bit grey PNG, whole or not at all; the sha256 of the file comes back.

    What `read_grey` gives back is within half a level, 1/131070, of what was written, and above 0.5 where that was: 0.5
    itself, the tie that a mask counts as background, lies between two levels and becomes the lower one.

    Args:
        path: the file, `.png`; an existing one is replaced once the new one is whole.
        prob: (H, W), floating point, in [0, 1].

    Raises:
        ValueError: not probabilities, or not the name of a PNG.
        UserError: NO_SPACE, NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> from medseg3d.pictures.masks import read_grey
        >>> file = Path(tempfile.mkdtemp()) / "prob.png"
        >>> digest = write_grey(file, np.array([[0, 0.5, 1]]))
        >>> read_grey(file).round(4).tolist()
        [[0.0, 0.5, 1.0]]
    """
    if prob.ndim != 2 or prob.dtype.kind != "f" or not np.all((prob >= 0) & (prob <= 1)):
        raise ValueError(f"prob must be (H, W) of floats in [0, 1], found {prob.dtype} of shape {prob.shape}")
    return write_png(Path(path), np.ceil(prob.astype(np.float64) * 65535 - 0.5).astype(np.uint16))


def write_png(path: Path, pixels: np.ndarray) -> str:
    """The sha256 of the PNG just written, which says where it comes from and is read back before it gets its name.

    Compressed for speed: a mask comes out smaller than by Pillow's default, a map of probabilities a tenth larger in a
    seventh of the time.

    Args:
        path: the file, `.png`; an existing one is replaced once the new one is whole.
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8.

    Raises:
        ValueError: not the name of a PNG.
        UserError: NO_SPACE, NOT_WRITABLE.
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
                raise OSError(f"{path}: the image read back is not the image written")
        digest = file_sha256(temporary)
    return digest
