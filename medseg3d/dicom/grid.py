"""Where the planes of a DICOM series lie, and whether they make an even grid of voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medseg3d.dicom.sources import SourceFile
from medseg3d.errors import UserError
from medseg3d.volumes.geometry import GRID_TOLERANCE, LPS_TO_RAS, SPACING_MM, in_mm

_SAME_PLACE = 0.01  # mm
_SAME_AXES = 1e-3  # cosine
_WORTH_A_WORD = 0.02  # voxels: positions in whole hundredths of a millimetre
_EXPORT = "export the series again"


@dataclass(frozen=True)
class Plane:
    """One image of a series, a file or a frame of one.

    Attributes:
        file: where it is.
        frame: its index in the file.
        rows: pixels along its columns.
        columns: pixels along its rows.
        position: (3,) LPS mm of the centre of its first pixel.
        axes: (2, 3) unit vectors, along the rows and along the columns.
        spacing: mm between neighbouring rows and between neighbouring columns.
        scaling: slope and intercept from stored values to HU; None where neither is said.
        unit: RescaleType.
        padding: HU of the pixels outside the field of view, or None.
        lossy: whether it was compressed with loss.
        bits: allocated for a pixel.
    """

    file: SourceFile
    frame: int
    rows: int
    columns: int
    position: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float]
    scaling: tuple[float, float] | None
    unit: str
    padding: float | None
    lossy: bool
    bits: int

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector that makes a right-handed system with the axes."""
        return np.cross(self.axes[0], self.axes[1])

    def lies_at(self, other: Plane) -> bool:
        """Whether another one has the same place along the normal."""
        return abs(float((self.position - other.position) @ self.normal)) < _SAME_PLACE


def planes_of(file: SourceFile, tags: Dataset) -> list[Plane]:
    """The images of a file, of a multi-frame one all of them.

    Raises:
        UserError: MISSING_TAG, DTYPE, GEOMETRY.
    """
    frames = int(tags.get("NumberOfFrames") or 1)
    per_frame = tags.get("PerFrameFunctionalGroupsSequence")
    if not per_frame:
        if frames > 1:
            raise _missing(file, "PerFrameFunctionalGroupsSequence")
        return [_plane(file, tags, 0, ())]
    if len(per_frame) != frames:
        raise _missing(file, f"PerFrameFunctionalGroupsSequence of {frames} frames")
    shared = tuple(tags.get("SharedFunctionalGroupsSequence") or ())
    return [_plane(file, tags, number, (groups, *shared)) for number, groups in enumerate(per_frame)]


def sorted_planes(planes: Sequence[Plane]) -> list[Plane]:
    """Planes of one size, spacing and orientation in the order of their places along the normal.

    Raises:
        UserError: DIMENSIONS, naming two files.
    """
    first = planes[0]
    for plane in planes:
        differences = (
            ("size", (plane.rows, plane.columns) == (first.rows, first.columns)),
            ("pixel spacing", np.allclose(plane.spacing, first.spacing, rtol=1e-3)),
            ("orientation", np.abs(plane.axes - first.axes).max() < _SAME_AXES),
        )
        for what, same in differences:
            if not same:
                found = f"another {what} than {first.file.path.name}"
                remedy = "use a folder with the slices of one volume only"
                raise UserError("DIMENSIONS", plane.file.path, found, "slices of one volume", remedy)
    normal = first.normal
    return sorted(planes, key=lambda plane: (float(plane.position @ normal), str(plane.file.path), plane.frame))


def even_grid(source: Path, planes: Sequence[Plane]) -> tuple[np.ndarray, tuple[float, float, float], list[str]]:
    """Affine (4, 4) from voxel (column, row, slice) to RAS mm, the voxel sizes, and what is odd.

    Of planes as `sorted_planes` gives them, no two at one place.

    Raises:
        UserError: DIMENSIONS (a single slice), GANTRY_TILT, SLICE_GAP, SPACING_RANGE.
    """
    first, last = planes[0], planes[-1]
    if len(planes) < 2 or first.lies_at(last):
        found = "a single slice" if len(planes) < 2 else "slices at one place"
        raise UserError("DIMENSIONS", source, found, "a volume of at least 2", "name the folder of the series")
    positions = np.array([plane.position for plane in planes])
    normal = first.normal
    along = (positions - positions[0]) @ normal
    step = float(along[-1]) / (len(planes) - 1)
    aside = (positions - positions[0] - np.outer(along, normal)) @ first.axes.T  # (slice, axis) mm
    row_mm, column_mm = first.spacing
    shift = np.abs(aside / (column_mm, row_mm)).max(axis=1)
    if shift.max() > GRID_TOLERANCE:
        worst = int(shift.argmax())
        mm = float(np.linalg.norm(aside[worst]))
        angle = float(np.degrees(np.arctan2(mm, along[worst])))
        found = f"{mm:.1f} mm off the normal through {first.file.path.name}, a tilt of {angle:.1f} degrees"
        wanted = f"slices aligned within {GRID_TOLERANCE:g} voxels"
        remedy = "resample the series onto an orthogonal grid first"
        raise UserError("GANTRY_TILT", planes[worst].file.path, found, wanted, remedy)
    uneven = np.abs(along / step - np.arange(len(planes)))
    if uneven.max() > GRID_TOLERANCE:
        steps = np.diff(along)
        wide = int(np.abs(steps - np.median(steps)).argmax())
        found = f"{steps[wide]:.4g} mm between {planes[wide].file.path.name} and {planes[wide + 1].file.path.name}"
        wanted = f"{np.median(steps):.4g} mm, as between the others"
        raise UserError("SLICE_GAP", source, found, wanted, "add the missing slices, or resample the series")
    spacing = (round(column_mm, 6), round(row_mm, 6), round(step, 6))
    if min(spacing) < SPACING_MM[0] or max(spacing) > SPACING_MM[1]:
        wanted = f"{SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm"
        raise UserError("SPACING_RANGE", last.file.path, f"voxels of {in_mm(spacing)}", wanted, _EXPORT)
    worst_mm = float(max(uneven.max() * step, np.abs(aside).max()))
    odd = max(uneven.max(), shift.max()) > _WORTH_A_WORD
    remarks = [f"GEOMETRY: slices lie up to {worst_mm:.3g} mm off an even grid; taken as even"] if odd else []
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.axes[0] * column_mm, first.axes[1] * row_mm
    affine[:3, 2], affine[:3, 3] = normal * step, first.position
    return LPS_TO_RAS @ affine, spacing, remarks


def _plane(file: SourceFile, tags: Dataset, frame: int, groups: Sequence[Dataset]) -> Plane:
    """One plane; in an enhanced file what is said of it stands in the groups of its frame or in the shared ones."""

    def value(macro: str, keyword: str, count: int = 0) -> Any:
        places = [item for group in groups for item in group.get(macro) or ()] if groups else [tags]
        found = next((place.get(keyword) for place in places if place.get(keyword) not in (None, "")), None)
        if not count:
            return found
        return _numbers(file, keyword, found, count)

    if int(tags.get("SamplesPerPixel") or 1) != 1:
        raise UserError("DTYPE", file.path, "colour images", "one value for each pixel", "use the original CT series")
    rows, columns, bits = (
        int(_numbers(file, name, tags.get(name), 1)[0]) for name in ("Rows", "Columns", "BitsAllocated")
    )
    slope = value("PixelValueTransformationSequence", "RescaleSlope")
    intercept = value("PixelValueTransformationSequence", "RescaleIntercept")
    scaling = None
    if slope is not None or intercept is not None:
        scaling = (
            _numbers(file, "RescaleSlope", 1 if slope is None else slope, 1)[0],
            _numbers(file, "RescaleIntercept", 0 if intercept is None else intercept, 1)[0],
        )
    spacing = value("PixelMeasuresSequence", "PixelSpacing", 2)
    padding = tags.get("PixelPaddingValue")
    return Plane(
        file,
        frame,
        rows,
        columns,
        np.array(value("PlanePositionSequence", "ImagePositionPatient", 3)),
        _axes(file, value("PlaneOrientationSequence", "ImageOrientationPatient", 6)),
        (spacing[0], spacing[1]),
        scaling,
        str(value("PixelValueTransformationSequence", "RescaleType") or "").upper(),
        float(padding) * (scaling or (1, 0))[0] + (scaling or (1, 0))[1] if isinstance(padding, int) else None,
        str(tags.get("LossyImageCompression")) == "01",
        bits,
    )


def _axes(file: SourceFile, cosines: Sequence[float]) -> np.ndarray:
    axes = np.array(cosines).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > _SAME_AXES or abs(float(axes[0] @ axes[1])) > _SAME_AXES:
        raise UserError("GEOMETRY", file.path, "axes that are not orthogonal", "orthogonal unit vectors", _EXPORT)
    return axes / lengths[:, None]


def _numbers(file: SourceFile, keyword: str, found: Any, count: int) -> list[float]:
    try:
        numbers = [float(number) for number in (found if count > 1 else [found])]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all() or (keyword in _POSITIVE and min(numbers) <= 0):
        raise _missing(file, keyword)
    return numbers


_POSITIVE = ("Rows", "Columns", "BitsAllocated", "PixelSpacing")


def _missing(file: SourceFile, keyword: str) -> UserError:
    return UserError(
        "MISSING_TAG",
        file.path,
        f"no usable {keyword}",
        "all tags that define the geometry and intensities of a CT",
        _EXPORT,
    )
