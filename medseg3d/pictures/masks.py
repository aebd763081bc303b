"""Masks and maps of probabilities that images hold, read by their levels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from medseg3d.errors import UserError
from medseg3d.pictures.decoding import as_rgb, decoded, eight_bits, is_sixteen_bit, see_through, sixteen_bits

MASK_THRESHOLD = 127
"""Of 255: a mask pixel above it is foreground."""

MOST_GREY = 0.05
"""Largest share of mask pixels whose level is strictly between 31 and 224 of 255.

The rims of JPEG masks stay outside of that band (Kvasir-SEG: within 7 of 0 and 255), as does the background that some
masks of CVC-ClinicDB hold at levels up to 23.
"""

_BLACK, _WHITE = 31, 224
_COLOURED = 32  # channels of a grey JPEG differ by less, whatever its chroma does

logger = logging.getLogger("medseg3d")


@dataclass(frozen=True)
class GreyPicture:
    """A decoded image of one grey level per pixel, not yet taken for a mask or for a map of probabilities.

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
            UserError: LABEL_SET.
        """
        # 16 bits may hold the levels of 8
        levels = self.levels if self.levels.max() <= 255 else eight_bits(self.levels)
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
        wanted = "a mask of two levels: 0 and 1, 0 and 255, or 0 and 65535"
        remedy = (
            "write background as 0 and foreground as 255, unless it is a photograph, a probability map or a label map"
        )
        raise UserError("LABEL_SET", self.path, found, wanted, remedy)


def read_picture_mask(path: str | Path, upright: bool = False) -> np.ndarray:
    """The mask an image holds, (H, W) bool: its levels above 127 of 255.

    The levels may be 0 and 1, 0 and 255 or 0 and 65535, in 1, 8 or 16 bits, in one channel, in equal channels or in a
    palette, which is decoded by colour. The rims a JPEG adds and the soft edges of a resized mask are thresholded. What
    is refused is a mask that would have to be guessed at: colours, transparency, more than 5 % of grey pixels
    (`MOST_GREY`), no bright level at all (labels 0 and 2), exactly three levels in a lossless file. A mask that covers
    more than half of the image is reported in the log as FOREGROUND; it may be inverted.

    Args:
        path: JPEG, PNG, TIFF or BMP; what counts is the content.
        upright: as in `read_picture`; ask for the same there.

    Raises:
        UserError: as `read_picture`, and LABEL_SET.

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
    """The map of probabilities an image holds, (H, W) float32 in [0, 1]: its level over 255 or, in 16 bits, 65535.

    The image is grey, or in colour of equal channels; it comes in the grid of the file.

    Raises:
        UserError: as `read_picture`, and LABEL_SET for colours or transparency.
    """
    return read_levels(path).probabilities()


def read_levels(path: str | Path, upright: bool = False) -> GreyPicture:
    """A grey image, for callers who look at its levels before they decide what it is.

    Raises:
        UserError: as `read_picture`, and LABEL_SET for colours or transparency.
    """
    path = Path(path)
    image, _ = decoded(path, upright)
    lossy = image.format in ("JPEG", "MPO")
    if is_sixteen_bit(image):
        return GreyPicture(path, sixteen_bits(image), lossy)
    if see_through(image):
        found = "transparent pixels: the mask could be in the colours or in the alpha channel"
        remedy = "write the mask as grey levels without an alpha channel"
        raise UserError("LABEL_SET", path, found, "an opaque black-and-white image", remedy)
    if image.mode not in ("1", "L", "LA"):
        image = as_rgb(image)
        spread = _channel_spread(image)
        if spread > _COLOURED:
            found = f"colours: channels that differ by up to {spread} levels"
            remedy = (
                "write one grey level per pixel; check that it is not a photograph or a mask with one colour per class"
            )
            raise UserError("LABEL_SET", path, found, "grey pixels", remedy)
    return GreyPicture(path, np.array(image.convert("L")), lossy)


def check_size(mask: str | Path, shape: Sequence[int], picture: str | Path, wanted: Sequence[int]) -> None:
    """Refuse a mask whose rows and columns are not those of its image.

    Raises:
        UserError: PAIR_GEOMETRY.
    """
    if tuple(shape[:2]) != tuple(wanted[:2]):
        found, expected = (f"{rows} rows of {columns} pixels" for rows, columns, *_ in (shape, wanted))
        remedy = "a mask must be drawn on the grid of its image"
        raise UserError("PAIR_GEOMETRY", mask, found, f"{expected}, as in {picture}", remedy)


def _channel_spread(image: Image.Image) -> int:
    """The largest difference between two channels of one pixel of an RGB image."""
    red, green, blue = image.split()
    pairs = ((red, green), (green, blue), (blue, red))
    return max(int(np.asarray(ImageChops.difference(*pair)).max()) for pair in pairs)
