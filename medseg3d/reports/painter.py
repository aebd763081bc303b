"""How a mask is drawn on an image, in every figure: contours, areas of error, legends, planes with their scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke

from medseg3d.pictures.colours import ERROR_COLOURS, PREDICTION, TRUTH
from medseg3d.pictures.overlays import error_map
from medseg3d.volumes.planes import PlaneSlice

Line = Literal["solid", "dashed", "dotted", "none"]
Extent = tuple[float, float, float, float]
"""Left, right, bottom and top edge, as `imshow(extent=)` takes them."""

TRUTH_STYLE: tuple[str, Line] = (TRUTH, "solid")
PRED_STYLE: tuple[str, Line] = (PREDICTION, "dashed")


@dataclass(frozen=True)
class ErrorStyle:
    """How one kind of voxel is drawn: colour, line and hatch each tell the three kinds apart alone."""

    name: str
    colour: str
    line: Line
    hatch: str


ERROR_STYLES: Mapping[int, ErrorStyle] = {
    1: ErrorStyle("TP", ERROR_COLOURS[1], "none", ""),
    2: ErrorStyle("FN", ERROR_COLOURS[2], "solid", "////"),
    3: ErrorStyle("FP", ERROR_COLOURS[3], "dotted", "...."),
}


def border_handles(truth: np.ndarray | None, pred: np.ndarray) -> list[Line2D | Patch]:
    """Legend of the two contours; an empty mask is called so."""
    styles = {"ground truth": (truth, TRUTH_STYLE), "prediction": (pred, PRED_STYLE)}
    return [
        Line2D([], [], color=colour, linestyle=line, label=name if mask.any() else f"{name}: empty")
        for name, (mask, (colour, line)) in styles.items()
        if mask is not None
    ]


def error_handles(sizes: Mapping[int, str]) -> list[Line2D | Patch]:
    """Legend of the kinds of error, each with its size in words."""
    return [
        Patch(
            facecolor=to_rgba(style.colour, 0.75 if style.line == "none" else 0.45),
            edgecolor=style.colour,
            linestyle="solid" if style.line == "none" else style.line,
            linewidth=0 if style.line == "none" else 1.3,
            hatch=style.hatch,
            label=f"{style.name} {sizes[value]}",
        )
        for value, style in ERROR_STYLES.items()
    ]


def lay_out(
    rows: list[list[Extent]],
    title: str,
    captions: list[tuple[str, list[Line2D | Patch]]],
) -> tuple[Figure, np.ndarray]:
    """A black figure with one axes for each view, and the axes as (rows, columns).

    Args:
        rows: the views, all of one row in one scale.
        title: a line above.
        captions: for each row the words on its left and the handles of the legend below it.
    """
    width, margin, gap, header, line = 11.0, 0.4, 0.15, 0.75, 0.4  # inches
    sizes = [[(abs(left - right), abs(top - bottom)) for left, right, bottom, top in row] for row in rows]
    scales = [(width - margin - gap * len(row)) / sum(w for w, _ in row) for row in sizes]  # inches for each mm
    heights = [scale * max(h for _, h in row) for scale, row in zip(scales, sizes, strict=True)]
    total = header + sum(heights) + sum(line if handles else gap for _, handles in captions)
    figure = Figure(figsize=(width, total), dpi=120, facecolor="black")
    FigureCanvasAgg(figure)  # without pyplot: no global state, no window, safe in threads
    figure.text(0.5, 1 - 0.25 / total, title, color="white", ha="center", va="center", fontsize=13)

    grid = np.empty((len(rows), len(rows[0])), dtype=object)
    top = total - header
    for r, (words, handles) in enumerate(captions):
        middle = top - heights[r] / 2
        figure.text(
            0.2 / width, middle / total, words, color="white", rotation=90, ha="center", va="center", fontsize=12
        )
        left = margin
        for c, (w, h) in enumerate((w * scales[r], h * scales[r]) for w, h in sizes[r]):
            grid[r, c] = figure.add_axes((left / width, (middle - h / 2) / total, w / width, h / total))
            left += w + gap
        top -= heights[r] + (line if handles else gap)
        if handles:
            figure.legend(
                handles=handles, ncols=len(handles), loc="center", bbox_to_anchor=(0.5, (top + line / 2) / total),
                frameon=False, labelcolor="white", handlelength=3, handleheight=1.1, fontsize=12,
            )  # fmt: skip
    return figure, grid


def draw_masks(panels: Mapping[str, Axes], truth: np.ndarray | None, pred: np.ndarray, extent: Extent) -> None:
    """Draw both contours on the panel `contours`, and with a ground truth the differences on the panel `errors`."""
    if truth is not None:
        draw_border(panels["contours"], truth, extent, *TRUTH_STYLE)
        errors = error_map(truth, pred)
        for value, style in ERROR_STYLES.items():
            draw_area(panels["errors"], errors == value, extent, style)
    draw_border(panels["contours"], pred, extent, *PRED_STYLE)


def draw_border(axes: Axes, mask: np.ndarray, extent: Extent, colour: str, line: Line) -> None:
    """Draw the border of a mask, which has the edges `extent`."""
    if mask.any():
        axes.contour(*_padded(mask, extent), levels=[0.5], colors=[colour], linewidths=1.5, linestyles=[line])


def draw_area(axes: Axes, where: np.ndarray, extent: Extent, style: ErrorStyle) -> None:
    """Draw one kind of error as an area."""
    if not where.any():
        return
    rgba = np.zeros((*where.shape, 4))
    rgba[where] = to_rgba(style.colour, 0.45)
    axes.imshow(rgba, extent=extent, aspect="equal", interpolation="nearest")
    x, y, mask = _padded(where, extent)
    if style.hatch:
        hatched = axes.contourf(x, y, mask, levels=[0.5, 1.5], colors=["none"], hatches=[style.hatch])
        hatched.set_edgecolor(style.colour)
        hatched.set_linewidth(0)
    if style.line != "none":
        axes.contour(x, y, mask, levels=[0.5], colors=[style.colour], linewidths=1.3, linestyles=[style.line])


def _padded(mask: np.ndarray, extent: Extent) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres of columns and rows and the mask, with an empty pixel around it to close borders at the edge."""
    left, right, bottom, top = extent
    rows, columns = mask.shape
    x = left + (right - left) * (np.arange(-1, columns + 1) + 0.5) / columns
    y = top + (bottom - top) * (np.arange(-1, rows + 1) + 0.5) / rows
    return x, y, np.pad(mask, 1).astype(float)


def plane_view(cut: PlaneSlice, field_mm: float | None) -> tuple[float, float, float, float]:
    """Left, right, bottom and top edge in mm of what is shown of a cut."""
    left, right, bottom, top = cut.extent_mm
    if field_mm is None:
        return cut.extent_mm
    (column, row), half = cut.centre_mm, field_mm / 2
    return min(left, column + half), max(right, column - half), max(bottom, row - half), min(top, row + half)


def draw_plane(
    axes: Axes,
    cut: PlaneSlice,
    plane: str,
    view: tuple[float, float, float, float],
    window_hu: tuple[float, float],
) -> None:
    """Draw one cut in grey, `view` (left, right, bottom, top in mm) of it, with the letters of the directions."""
    axes.imshow(
        cut.pixels,
        cmap="gray",
        vmin=window_hu[0],
        vmax=window_hu[1],
        extent=cut.extent_mm,
        aspect="equal",
        interpolation="nearest",
    )
    left, right, bottom, top = view
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{plane}, slice {cut.index}", color="white", fontsize=9, pad=4)
    ends = (
        (0.015, 0.5, "left", "center"),
        (0.985, 0.5, "right", "center"),
        (0.5, 0.02, "center", "bottom"),
        (0.5, 0.98, "center", "top"),
    )
    outline = [Stroke(linewidth=4, foreground="black"), Normal()]  # white on bone
    style: dict[str, Any] = {"color": "white", "fontweight": "bold", "path_effects": outline}
    for letter, (x, y, horizontal, vertical) in zip(cut.letters, ends, strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, ha=horizontal, va=vertical, fontsize=11, **style)
    bar = _bar_length(abs(left - right))
    direction = np.sign(right - left)
    x, y = left + direction * 0.05 * abs(right - left), bottom + 0.05 * (top - bottom)
    axes.plot([x, x + direction * bar], [y, y], color="white", linewidth=2.5, path_effects=outline, gid="scale bar")
    axes.text(x, y + 0.015 * (top - bottom), f"{bar:g} mm", fontsize=8, va="bottom", **style)


def _bar_length(width_mm: float) -> float:
    """A round length of about a fifth of the width: 1, 2 or 5 times a power of ten."""
    target = width_mm / 5
    power = 10 ** np.floor(np.log10(target))
    return float(max(step for step in (1 * power, 2 * power, 5 * power) if step <= target))
