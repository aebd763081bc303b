"""One picture of a colonoscopy or one slice as a figure: the picture, both borders, and the errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from medseg3d.errors import UserError
from medseg3d.pictures.masks import read_levels, read_picture_mask
from medseg3d.pictures.reading import read_picture
from medseg3d.reports.overlays import ComparedMasks
from medseg3d.reports.painter import Extent, border_handles, draw_masks, lay_out

_WORTH_ENLARGING = 0.6
"""What fills less of the picture's width and height than this is shown enlarged as well."""


@dataclass(frozen=True)
class PictureCase(ComparedMasks):
    """What is drawn of one picture."""

    @property
    def title(self) -> str:
        """Case, Dice where there is a ground truth, and how much of the picture the masks fill."""
        prediction = f"prediction {percent(self.pred.mean())} of the picture"
        prediction += ", picture not given" if self.image is None else ""
        return self.titled(lambda mask: percent(mask.mean()), prediction)


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
    """The picture and its masks, read from files and seen to have one size.

    Args:
        image_file: the picture, or None for masks on black.
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
    """Columns picture, borders, errors, as far as there are any; in a second row enlarged, what is small."""
    rows, columns = case.pred.shape
    whole: Extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    near = enlarged_view(case)
    views = [whole] if near is None else [whole, near]
    words = [
        *(["picture"] if case.image is not None else []),
        "borders",
        *(["errors"] if case.counts is not None else []),
    ]
    unlegended: list[tuple[str, list[Line2D | Patch]]] = [("", [])] if len(views) > 1 else []
    legend = border_handles(case.truth, case.pred) + case.error_legend(lambda n: percent(n / case.pred.size))
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
    least a tenth of the picture. So it is the same for every prediction of a case, and a stray pixel cannot shrink the
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
