"""What is known of a volume before its voxels are read, whatever format it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medseg3d.errors import UserError


@dataclass(frozen=True)
class VolumeHeader:
    """What a checked file says of itself.

    Attributes:
        path: the file.
        shape: voxels along X, Y, Z; a fourth axis of size 1 is dropped.
        affine: (4, 4) float64, voxel index to RAS mm, with orthogonal axes: axes up to 1e-3 (cosine) from
            orthogonal are straightened about the centre of the volume, so that a voxel has one size.
        dtype: type of the stored voxels, before scaling.
        slope: factor from stored to real values.
        intercept: summand from stored to real values.
        geometry: header in the format of the source that holds its geometry to the letter (of NIfTI both forms, their
            codes, pixdim, units) and nothing else: no descriptions, no names.
        warnings: `CODE: sentence` each; odd but usable.
        sha256: of the file's bytes; None when only the header was read.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    slope: float
    intercept: float
    geometry: bytes
    warnings: tuple[str, ...] = ()
    sha256: str | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Mm between neighbouring voxels along X, Y, Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).round(6).tolist()
        return x, y, z


class Voxels(NamedTuple):
    """Where the voxels of a volume are.

    Attributes:
        file: the file they lie in; None for that of the header.
        offset: the byte of the first one, uncompressed; None where they are the last of the file.
        window_bits: `GZIP` or `ZLIB` of `medseg3d.files.stream` where they are compressed apart from their header,
            or 0.
    """

    file: Path | None = None
    offset: int | None = 0
    window_bits: int = 0


def three_axes(path: Path, sizes: Sequence[int]) -> tuple[int, int, int]:
    """The sizes of the axes of one volume; those of size 1 behind the third are dropped.

    Raises:
        UserError: DIMENSIONS.
    """
    kept = list(sizes)
    while len(kept) > 3 and kept[-1] == 1:
        kept.pop()
    if len(kept) != 3 or min(kept) < 2:
        found = f"{len(kept)} axes of sizes {' x '.join(map(str, kept))}"
        remedy = "split a series into single volumes" if len(kept) > 3 else "give the whole volume, not a slice"
        raise UserError("DIMENSIONS", path, found, "one volume of three axes with at least 2 voxels each", remedy)
    return (kept[0], kept[1], kept[2])
