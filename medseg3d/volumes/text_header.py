"""What NRRD and MetaImage have in common: a header of text, and voxels behind it or in a file that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medseg3d.errors import UserError
from medseg3d.files.folders import path_inside
from medseg3d.files.stream import REWRITE, ByteStream
from medseg3d.limits import VOXELS
from medseg3d.volumes.geometry import LPS_TO_RAS, checked_affine
from medseg3d.volumes.header import VolumeHeader

_MOST = 1 << 20  # bytes of a header: that of a segmentation has several lines for each of its segments
_LONGEST_NAME = 255


class Fields(dict[str, str]):
    """The fields of a header by their names, and the path of the file that they are of."""

    def __init__(self, path: Path, said: Mapping[str, str]) -> None:
        super().__init__(said)
        self.path = path

    def error(self, found: str, wanted: str) -> UserError:
        """The refusal of what the header says."""
        return UserError("HEADER", self.path, found, wanted, REWRITE)

    def numbers(self, name: str, count: int) -> list[float]:
        """The numbers of a field, so many of them.

        Raises:
            UserError: HEADER.
        """
        said = self.get(name)
        try:
            found = [float(number) for number in (said or "").split()]
        except ValueError:
            found = []
        if len(found) != count:
            wanted = f"{count} numbers for it" if count > 1 else "a number for it"
            raise self.error(f"no {name}" if said is None else f"{name} {said[:80]!r}", wanted)
        return found

    def whole_numbers(self, name: str, count: int, least: int = 1) -> list[int]:
        """The whole numbers of a field, so many of them, none below `least`.

        Raises:
            UserError: HEADER.
        """
        found = self.numbers(name, count)
        if not all(least <= number < 2**63 and number == number // 1 for number in found):
            raise self.error(f"{name} {self[name][:80]!r}", f"whole numbers from {least}")
        return [int(number) for number in found]

    def data_file(self, name: str) -> Path:
        """The file of the voxels that the header names, in its folder or below it.

        Raises:
            UserError: PATH_ESCAPE; HEADER for what can be no name.
        """
        found = f"voxels in {name[:80]!r}"
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise self.error(found, "the name of a file")
        file = path_inside(self.path.parent, name)
        if file is None:
            remedy = "put both into one folder and correct the header; do not trust such a file from an unknown source"
            raise UserError("PATH_ESCAPE", self.path, found, "a file in the folder of the header", remedy)
        return file


def header_lines(path: Path, stream: ByteStream) -> list[str]:
    """The lines of a header up to an empty one, to one that says where the voxels are, or to the end of the file.

    Raises:
        UserError: HEADER, for a header without end.
    """
    lines, left = [], _MOST
    while line := stream.line(left).decode("utf-8", "replace"):
        lines.append(line)
        left -= len(line)
        if left <= 0:
            raise UserError("HEADER", path, f"a header of {_MOST} bytes or more", "a line that ends it", REWRITE)
        if line.startswith("ElementDataFile"):
            break
    return lines


def text_header(
    path: Path,
    shape: tuple[int, int, int],
    dtype: np.dtype,
    lps: np.ndarray,
    geometry: bytes,
    warnings: Sequence[str] = (),
) -> VolumeHeader:
    """The checked header of a volume that lies where a NIfTI file of it would.

    `lps` is (4, 4), voxel index to LPS mm; `warnings` are what is odd so far.

    Raises:
        UserError: TOO_LARGE, GEOMETRY, SPACING_RANGE.
    """
    VOXELS.check(path, shape)
    # in float32, as NIfTI has it, so that one scan in two formats is one scan to the last bit
    with np.errstate(over="ignore"):  # what overflows is refused as not finite
        affine = (LPS_TO_RAS @ lps).astype(np.float32).astype(np.float64)
    affine, odd = checked_affine(path, affine, shape, "header")
    return VolumeHeader(path, shape, affine, dtype, 1.0, 0.0, geometry, (*warnings, *odd))


def lps_columns(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps along the axes (3, 3), one a column, and the place of the first voxel (3,), in LPS mm, of a RAS affine."""
    lps = LPS_TO_RAS @ affine + 0.0  # no negative zeros
    return lps[:3, :3], lps[:3, 3]
