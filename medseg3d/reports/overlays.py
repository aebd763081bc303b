"""One case as a figure: the image, both contours, and where they disagree; of a volume in three planes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from medseg3d.errors import UserError
from medseg3d.metrics import ConfusionCounts, dice
from medseg3d.pictures.colours import LABEL_COLOURS
from medseg3d.pictures.masks import read_levels, read_picture_mask
from medseg3d.pictures.reading import read_picture
from medseg3d.reports.painter import (
    Extent,
    border_handles,
    draw_border,
    draw_masks,
    draw_plane,
    error_handles,
    lay_out,
    plane_view,
)
from medseg3d.volumes.geometry import GRID_TOLERANCE, check_pair
from medseg3d.volumes.label_maps import check_labels
from medseg3d.volumes.planes import mask_centre, plane_slices, voxel_indices
from medseg3d.volumes.reading import read_volume, volume_stem


@dataclass(frozen=True)
class ComparedMasks:
    """A prediction and its ground truth, boolean and of one shape, drawn as a 2-D image or as a volume.

    Attributes:
        name: the case, as the title names it.
        image: (X, Y, Z) in HU, or (H, W, 3) uint8; None if only masks are there, which are then drawn on black.
        pred: (*spatial), where the prediction says yes.
        truth: (*spatial), where the label says yes; None if there is no label.
        target: what yes means, such as "pancreas".
    """

    name: str
    image: np.ndarray | None
    pred: np.ndarray
    truth: np.ndarray | None
    target: str

    kind: ClassVar[str] = "image"
    whole: ClassVar[str] = ""

    def size_of(self, n: int) -> str:
        """The size of so many voxels (pixels) in words."""
        raise NotImplementedError

    @cached_property
    def counts(self) -> ConfusionCounts | None:
        """Voxels (pixels) by truth and prediction; None without a ground truth."""
        return None if self.truth is None else ConfusionCounts.from_masks(self.pred, self.truth)

    @property
    def dice(self) -> float | None:
        """Dice of the masks, NaN if both are empty; None without a ground truth."""
        return None if self.counts is None else dice(self.counts)

    @property
    def error_legend(self) -> list[Line2D | Patch]:
        """The kinds of error, each with how much there is of it; nothing without a ground truth."""
        if self.counts is None:
            return []
        sizes = enumerate((self.counts.tp, self.counts.fn, self.counts.fp), start=1)
        return error_handles({kind: self.size_of(n) for kind, n in sizes})

    @property
    def title(self) -> str:
        """Case, Dice where there is a ground truth, and sizes."""
        prediction = f"prediction {self.size_of(self.pred.sum())}{self.whole}"
        prediction += f", {self.kind} not given" if self.image is None else ""
        if self.truth is None:
            return f"{self.name}: {self.target}, no ground truth to compare with, {prediction}"
        shown = "undefined (absent in both)" if self.dice is None or np.isnan(self.dice) else f"{self.dice:.3f}"
        return f"{self.name}: {self.target}, Dice {shown}, ground truth {self.size_of(self.truth.sum())}, {prediction}"


@dataclass(frozen=True)
class OverlayCase(ComparedMasks):
    """What is drawn of one volume.

    Attributes:
        affine: 4x4, voxel index to world millimetres (RAS+).
    """

    affine: np.ndarray

    @cached_property
    def centre_mm(self) -> tuple[float, float, float] | None:
        """World point that the planes go through: in the ground truth, else the prediction; None if both are empty."""
        of_truth = None if self.truth is None else mask_centre(self.truth, self.affine)
        return of_truth or mask_centre(self.pred, self.affine)

    def size_of(self, n: int) -> str:
        """Millilitres."""
        return f"{n * _voxel_ml(self.affine):.1f} ml"


def read_case(
    image_file: str | Path | None,
    truth_file: str | Path | None,
    pred_file: str | Path,
    *,
    name: str | None = None,
    label: int | None = None,
    target: str = "foreground",
    threshold: float | None = None,
    grid_tolerance: float = GRID_TOLERANCE,
) -> OverlayCase:
    """The image and its masks, read from NIfTI files and seen to lie on one grid.

    They are turned to RAS, so that a case looks the same however it is stored, also where two voxels are equally near
    to the centre.

    Args:
        image_file: volume in HU, or None for masks on black.
        truth_file: its label, or None.
        pred_file: the predicted mask.
        name: name of the case; by default that of the image file, or of the prediction.
        label: the label value that is looked at; None takes all values above 0 together.
        target: the word for it in title and legend.
        threshold: of a prediction of probabilities, foreground from there on; None for a mask.
        grid_tolerance: how far a corner of one may lie from that of the other, in voxels.

    Raises:
        UserError: as `medseg3d.volumes.reading.read_volume`; PAIR_GEOMETRY, LABEL_SET.
    """
    image, header = (None, read_volume(pred_file)[1]) if image_file is None else read_volume(image_file)
    to_ras = nib.orientations.io_orientation(header.affine)

    def mask(file: str | Path, threshold: float | None = None) -> np.ndarray:
        array, mask_header = read_volume(file)
        check_pair(header, mask_header, grid_tolerance)
        if threshold is not None:
            return nib.orientations.apply_orientation(array >= threshold, to_ras)
        array = nib.orientations.apply_orientation(check_labels(array, None, file, mask_header), to_ras)
        return array > 0 if label is None else array == label

    return OverlayCase(
        name=name or volume_stem(Path(image_file or pred_file).name),
        image=None if image is None else nib.orientations.apply_orientation(image, to_ras),
        affine=header.affine @ nib.orientations.inv_ornt_aff(to_ras, header.shape),
        pred=mask(pred_file, threshold),
        truth=None if truth_file is None else mask(truth_file),
        target=target,
    )


def draw_case(case: OverlayCase, window_hu: tuple[float, float] = (-160, 240)) -> Figure:
    """A column for each plane; rows whole image, contours and errors, as far as there are any.

    The planes go through the ground truth (through the prediction where there is no ground truth). The lower rows are
    enlarged around it; a frame in the upper row shows where.
    """
    centre = case.centre_mm
    field_mm = field_of_view_mm(case)
    shown = np.broadcast_to(np.float32(window_hu[0]), case.pred.shape) if case.image is None else case.image
    cuts = plane_slices(shown, case.affine, centre)
    pred_cuts = plane_slices(case.pred, case.affine, centre)
    truth_cuts = None if case.truth is None else plane_slices(case.truth, case.affine, centre)
    captions = _captions(case)
    whole = {plane: cut.extent_mm for plane, cut in cuts.items()}
    near = {plane: plane_view(cut, field_mm) for plane, cut in cuts.items()}
    views = {row: whole if row == "image" else near for row in captions}

    figure, axes = lay_out(
        [[view[plane] for plane in cuts] for view in views.values()], case.title, list(captions.items())
    )
    for column, (plane, cut) in enumerate(cuts.items()):
        grid = dict(zip(captions, axes[:, column], strict=True))
        for place, (row, panel) in enumerate(grid.items()):
            draw_plane(panel, cut, plane, views[row][plane], window_hu)
            if place:
                panel.set_title("")
        if "image" in grid:
            left, right, bottom, top = near[plane]
            frame = Rectangle((left, bottom), right - left, top - bottom, fill=False, edgecolor="white", linewidth=0.8)
            grid["image"].add_patch(frame)
        truth = None if truth_cuts is None else truth_cuts[plane].pixels
        draw_masks(grid, truth, pred_cuts[plane].pixels, pred_cuts[plane].extent_mm)
    return figure


def draw_labels(
    image: np.ndarray,
    label: np.ndarray,
    affine: np.ndarray,
    names: Mapping[int, str],
    title: str = "",
    window_hu: tuple[float, float] = (-160, 240),
) -> Figure:
    """A figure of a volume in three planes with the border of each of its labels, and their volumes in ml below.

    Args:
        image: (X, Y, Z), HU.
        label: (X, Y, Z) integer labels on the same grid, 0 is background; the planes go through their centre.
        affine: 4x4, voxel index to world millimetres (RAS+).
        names: of the label values; those of the values above 0 are drawn, at most 7.
        title: a line above.
        window_hu: grey window, black and white end.
    """
    centre = mask_centre(label, affine)
    cuts, label_cuts = plane_slices(image, affine, centre), plane_slices(label, affine, centre)
    voxel_ml = _voxel_ml(affine)
    colours = dict(zip((value for value in names if value > 0), LABEL_COLOURS, strict=False))
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, label=f"{names[value]} {(label == value).sum() * voxel_ml:.1f} ml")
        for value, colour in colours.items()
    ]
    figure, axes = lay_out([[cut.extent_mm for cut in cuts.values()]], title, [("", handles)])
    for panel, (plane, cut) in zip(axes[0], cuts.items(), strict=True):
        draw_plane(panel, cut, plane, cut.extent_mm, window_hu)
        for value, colour in colours.items():
            draw_border(panel, label_cuts[plane].pixels == value, cut.extent_mm, colour, "solid")
    return figure


def _voxel_ml(affine: np.ndarray) -> float:
    """Volume of a voxel in millilitres."""
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000


def field_of_view_mm(case: OverlayCase) -> float | None:
    """Side of the square around the centre that shows the ground truth and a margin; None, the whole, without masks.

    It grows with the prediction by no more than a quarter: one stray voxel must not shrink everything else. What lies
    outside is still counted in the legend.
    """
    centre = case.centre_mm
    if centre is None:
        return None
    reach = _reach_mm(case.pred if case.truth is None or not case.truth.any() else case.truth, case.affine, centre)
    with_pred = _reach_mm(case.pred, case.affine, centre) if case.pred.any() else reach
    return max(40.0, 2.2 * max(reach, min(with_pred, 1.25 * reach)))


def _reach_mm(mask: np.ndarray, affine: np.ndarray, centre: tuple[float, float, float]) -> float:
    """The largest distance, along any one body axis, of a voxel of the mask from the centre."""
    world = voxel_indices(mask) @ affine[:3, :3].T + affine[:3, 3]
    return float(np.abs(world - np.asarray(centre)).max())


def _captions(case: OverlayCase) -> dict[str, list[Line2D | Patch]]:
    """The rows by the words on their left, and the legend below each; what is not there has none."""
    rows: dict[str, list[Line2D | Patch]] = {} if case.image is None else {"image": []}
    rows["contours"] = border_handles(case.truth, case.pred)
    if case.counts is not None:
        rows["errors"] = case.error_legend
    return rows


_WORTH_ENLARGING = 0.6
"""What fills less of the picture's width and height than this is shown enlarged as well."""


@dataclass(frozen=True)
class PictureCase(ComparedMasks):
    """What is drawn of one image."""

    kind = "image"
    whole = " of the image"

    def size_of(self, n: int) -> str:
        """A part of the image."""
        return percent(n / self.pred.size)


def percent(part: float) -> str:
    """A part of a whole; what is there is never rounded to nothing.

    Example:
        >>> percent(0.1234), percent(0.00004), percent(0.0)
        ('12.3 %', '<0.1 %', '0 %')
    """
    if part == 0:
        return "0 %"
    return f"{100 * part:.1f} %" if part >= 0.0005 else "<0.1 %"


def read_picture_case(
    image_file: str | Path | None,
    truth_file: str | Path | None,
    pred_file: str | Path,
    *,
    name: str | None = None,
    target: str = "foreground",
    threshold: float = 0.5,
) -> PictureCase:
    """The image and its masks, read from files and seen to have one size.

    Args:
        image_file: the image, or None for masks on black.
        truth_file: its label, or None.
        pred_file: the predicted mask, or a grey map of probabilities.
        name: name of the case; by default that of the prediction's file.
        target: what the mask shows, in words.
        threshold: probability from which a pixel of such a map counts as foreground.

    Raises:
        UserError: as `medseg3d.pictures.reading.read_picture`; PAIR_GEOMETRY if the sizes differ.
    """
    levels = read_levels(pred_file)
    pred = levels.mask()[0] if levels.is_binary else levels.probabilities() >= threshold

    def of_one_size(array: np.ndarray, file: str | Path) -> np.ndarray:
        if array.shape[:2] != pred.shape:
            raise UserError(
                "PAIR_GEOMETRY",
                file,
                f"{array.shape[1]} x {array.shape[0]} pixels",
                f"{pred.shape[1]} x {pred.shape[0]}, as {Path(pred_file).name} has",
                "give the files that were evaluated together",
            )
        return array

    return PictureCase(
        name=name or Path(pred_file).stem,
        image=None if image_file is None else of_one_size(read_picture(image_file), image_file),
        pred=pred,
        truth=None if truth_file is None else of_one_size(read_picture_mask(truth_file), truth_file),
        target=target,
    )


def draw_picture_case(case: PictureCase) -> Figure:
    """Columns image, contours, errors, as far as there are any; in a second row enlarged, what is small."""
    rows, columns = case.pred.shape
    whole: Extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    near = enlarged_view(case)
    views = [whole] if near is None else [whole, near]
    words = [
        *(["image"] if case.image is not None else []),
        "contours",
        *(["errors"] if case.counts is not None else []),
    ]
    unlegended: list[tuple[str, list[Line2D | Patch]]] = [("", [])] if len(views) > 1 else []
    legend = border_handles(case.truth, case.pred) + case.error_legend
    captions = [*unlegended, ("enlarged" if near else "", legend)]
    figure, grid = lay_out([[view] * len(words) for view in views], case.title, captions)
    for row, view in enumerate(views):
        panels = dict(zip(words, grid[row], strict=True))
        for heading, axes in panels.items():
            axes.imshow(np.zeros((1, 1, 3)) if case.image is None else case.image, extent=whole, aspect="equal")
            axes.set(xlim=view[:2], ylim=view[2:], xticks=[], yticks=[])
            if row == 0:
                axes.set_title(heading, color="white", fontsize=12, pad=5)
            if row == 0 and near is not None:
                left, right, bottom, top = near
                frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=0.8)
                axes.add_patch(frame)
        draw_masks(panels, case.truth, case.pred, whole)
    return figure


def enlarged_view(case: PictureCase) -> Extent | None:
    """Left, right, bottom and top pixel edge of what is shown enlarged; None if there is nothing or it is large anyway.

    In the picture's own proportion, twice as large as the ground truth (as the prediction, where nothing is true), at
    least a tenth of the image. So it is the same for every prediction of a case, and a stray pixel cannot shrink the
    rest.
    """
    shown = case.pred if case.truth is None or not case.truth.any() else case.truth
    if not shown.any():
        return None
    lows, highs, sizes = [], [], shown.shape
    for axis in (0, 1):
        places = np.flatnonzero(shown.any(axis=1 - axis))
        lows.append(places[0])
        highs.append(places[-1] + 1)
    part = max(max(2 * (high - low) / size, 0.1) for low, high, size in zip(lows, highs, sizes, strict=True))
    if part > _WORTH_ENLARGING:
        return None
    edges = []
    for low, high, size in zip(lows, highs, sizes, strict=True):
        start = min(max((low + high - part * size) / 2, 0), size * (1 - part))
        edges.append((start - 0.5, start + part * size - 0.5))
    (top, bottom), (left, right) = edges
    return float(left), float(right), float(bottom), float(top)
