"""One case as a picture: the image, the ground truth, the prediction and where the two disagree, in three planes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from medseg3d.metrics import ConfusionCounts, dice
from medseg3d.pictures.colours import LABEL_COLOURS
from medseg3d.reports.painter import (
    border_handles,
    draw_border,
    draw_masks,
    draw_plane,
    error_handles,
    lay_out,
    plane_view,
)
from medseg3d.volumes.grids import GRID_TOLERANCE, check_pair
from medseg3d.volumes.label_maps import check_labels
from medseg3d.volumes.planes import mask_centre, plane_slices, voxel_indices
from medseg3d.volumes.reading import read_volume, volume_stem


@dataclass(frozen=True)
class ComparedMasks:
    """A prediction and its ground truth, boolean and of one shape, drawn as a picture or as a volume.

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

    @cached_property
    def counts(self) -> ConfusionCounts | None:
        """Voxels (pixels) by truth and prediction; None without a ground truth."""
        return None if self.truth is None else ConfusionCounts.from_masks(self.pred, self.truth)

    @property
    def dice(self) -> float | None:
        """Dice of the masks, NaN if both are empty; None without a ground truth."""
        return None if self.counts is None else dice(self.counts)

    def error_legend(self, size_of: Callable[[int], str]) -> list[Line2D | Patch]:
        """Hits, missed and false alarms with how much there is of each; nothing without a ground truth."""
        if self.counts is None:
            return []
        return error_handles({1: size_of(self.counts.tp), 2: size_of(self.counts.fn), 3: size_of(self.counts.fp)})

    def titled(self, size_of: Callable[[np.ndarray], str], prediction: str) -> str:
        """Case, Dice and size (by `size_of`) of the ground truth where there is one, what is said of the prediction."""
        if self.truth is None:
            return f"{self.name}: {self.target}, no ground truth to compare with, {prediction}"
        shown = "undefined (absent in both)" if self.dice is None or np.isnan(self.dice) else f"{self.dice:.3f}"
        return f"{self.name}: {self.target}, Dice {shown}, truth {size_of(self.truth)}, {prediction}"


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

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres."""
        return _voxel_ml(self.affine)

    @property
    def title(self) -> str:
        """Case, Dice where there is a ground truth, and volumes in ml."""
        prediction = f"prediction {self._ml(self.pred)}" + (", image not given" if self.image is None else "")
        return self.titled(self._ml, prediction)

    def _ml(self, mask: np.ndarray) -> str:
        return f"{mask.sum() * self.voxel_ml:.1f} ml"


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
    """A column for each plane; rows whole image, borders and errors, as far as there are any.

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
    rows["borders"] = border_handles(case.truth, case.pred)
    if case.counts is not None:
        rows["errors"] = case.error_legend(lambda n: f"{n * case.voxel_ml:.1f} ml")
    return rows
