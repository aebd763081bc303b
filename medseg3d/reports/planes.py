"""Three planes of a volume with its masks: the picture by which a mirrored or shifted mask is seen at once.

Every input orientation gives the same picture, because the volume is brought to RAS first. The display is the
radiological one: axial slices are seen from the feet (patient right on the left of the picture, anterior on top),
coronal ones from the front, sagittal ones with anterior on the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from medseg3d.data.colours import OKABE_ITO

MASK_COLOURS = tuple(OKABE_ITO[name] for name in ("orange", "sky", "purple", "green", "yellow", "vermillion", "blue"))

ERROR_NAMES = {1: "true positive", 2: "missed", 3: "false alarm"}
ERROR_COLOURS = {1: OKABE_ITO["green"], 2: OKABE_ITO["vermillion"], 3: OKABE_ITO["sky"]}

# plane: (RAS axis it is cut across, RAS axis of the columns, RAS axis of the rows)
_PLANES = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))  # low and high end of each RAS axis


@dataclass(frozen=True)
class PlaneSlice:
    """One cut as it is shown: row 0 is the top of the picture, column 0 its left edge.

    Args:
        pixels: the 2-D array (rows, columns).
        extent_mm: left, right, bottom, top edges in mm from the volume's first voxel, as `imshow(extent=)` takes them.
            Numbers run with the RAS axes, so that left > right: the patient's right is shown on the left.
        letters: where the left, right, bottom and top edges lie in the patient (`R`, `L`, `A`, `P`, `S`, `I`).
        index: voxel index of the cut along its RAS axis.
        centre_mm: column and row of the point that the planes go through, on the scale of `extent_mm`.
    """

    pixels: np.ndarray
    extent_mm: tuple[float, float, float, float]
    letters: tuple[str, str, str, str]
    index: int
    centre_mm: tuple[float, float]


def plane_slices(
    volume: np.ndarray, affine: np.ndarray, centre: Sequence[float] | None = None
) -> dict[str, PlaneSlice]:
    """The axial, coronal and sagittal cut through one point, in radiological display.

    Args:
        volume: (X, Y, Z) array in any orientation; only views of it are taken.
        affine: 4x4 matrix from its voxel indices to world millimetres (RAS+).
        centre: world point in mm (RAS+) that the three planes go through; the middle of the volume if None.

    Returns:
        Plane name (`axial`, `coronal`, `sagittal`) to `PlaneSlice`. An oblique volume is cut along its own axes,
        each named by the body axis nearest to it.

    Raises:
        ValueError: the volume is not 3-D, or the affine is not 4x4.

    Example:
        >>> volume = np.zeros((4, 5, 6))
        >>> volume[3, 4, 5] = 7  # the most right, anterior, superior voxel
        >>> cut = plane_slices(volume, np.diag([2, 2, 3, 1]), centre=(6, 8, 15))["axial"]
        >>> cut.pixels[0, 0], cut.letters, cut.extent_mm  # right is on the left, anterior on top
        (np.float64(7.0), ('R', 'L', 'P', 'A'), (7.0, -1.0, -1.0, 9.0))
    """
    ras, ras_affine = _to_ras(volume, affine)
    spacing = np.linalg.norm(ras_affine[:3, :3], axis=0)
    point = _voxel_of(centre, ras_affine, ras.shape)
    cuts = {}
    for plane, (across, columns, rows) in _PLANES.items():
        # both shown axes run against their RAS axis: leftmost is R (or A), topmost is A (or S)
        pixels = ras[(slice(None),) * across + (point[across],)].T[::-1, ::-1]
        low, high = -0.5 * spacing, (np.array(ras.shape) - 0.5) * spacing
        extent = (float(high[columns]), float(low[columns]), float(low[rows]), float(high[rows]))
        letters = (_LETTERS[columns][1], _LETTERS[columns][0], _LETTERS[rows][0], _LETTERS[rows][1])
        middle = (float(point[columns] * spacing[columns]), float(point[rows] * spacing[rows]))
        cuts[plane] = PlaneSlice(pixels, extent, letters, int(point[across]), middle)
    return cuts


def mask_centre(mask: np.ndarray, affine: np.ndarray) -> tuple[float, float, float] | None:
    """World point (mm, RAS+) of the mask voxel nearest to the mask's centroid; None for an empty mask.

    The centroid of a curved organ may lie outside it; a plane through a voxel of the mask always shows some of it.

    Example:
        >>> mask = np.zeros((9, 9, 9), bool)
        >>> mask[2, 2, 2] = mask[6, 2, 2] = True  # the centroid (4, 2, 2) is not in the mask
        >>> mask_centre(mask, np.diag([2.0, 2.0, 2.0, 1.0]))
        (4.0, 4.0, 4.0)
    """
    voxels = voxel_indices(np.asarray(mask) > 0)
    if len(voxels) == 0:
        return None
    affine = np.asarray(affine, dtype=float)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    nearest = world[np.argmin(((world - world.mean(axis=0)) ** 2).sum(axis=1))]
    x, y, z = (float(value) for value in nearest)
    return x, y, z


def voxel_indices(mask: np.ndarray) -> np.ndarray:
    """(n, 3) indices of the voxels of a boolean mask, as `np.argwhere` gives them and, of few voxels, much sooner."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)


def error_map(truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """uint8 map of a prediction against the truth: 1 true positive, 2 missed, 3 false alarm, 0 where both are empty.

    Draw it with `three_planes({"": error_map(...)}, label_names=ERROR_NAMES, colours=ERROR_COLOURS, fill=True)`.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> error_map(np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0]))
        array([1, 2, 3, 0], dtype=uint8)
    """
    truth, pred = np.asarray(truth) > 0, np.asarray(pred) > 0
    if truth.shape != pred.shape:
        raise ValueError(f"truth and pred must have one shape, got {truth.shape} and {pred.shape}")
    return np.select([truth & pred, truth, pred], [1, 2, 3], 0).astype(np.uint8)


def three_planes(
    volume: np.ndarray,
    affine: np.ndarray,
    masks: Mapping[str, np.ndarray] | None = None,
    output_png: str | Path = "planes.png",
    *,
    window_hu: tuple[float, float] = (-160, 240),
    centre: Sequence[float] | None = None,
    title: str = "",
    label_names: Mapping[int, str] | None = None,
    colours: Mapping[int, str] | None = None,
    fill: bool = False,
    field_mm: float | None = None,
    dpi: int = 110,
) -> Path:
    """Write a PNG of the axial, coronal and sagittal plane with the masks on them; its path comes back.

    Args:
        volume: (X, Y, Z) image in HU (or any unit that `window_hu` is given in).
        affine: 4x4 matrix from voxel indices to world millimetres (RAS+).
        masks: name to integer label array on the grid of `volume`, drawn in this order, each value above 0 in a
            colour of its own. An empty mask keeps its place in the legend as "name: empty".
        output_png: file to write; its folder is created.
        window_hu: grey window, black and white end.
        centre: world point in mm that the planes go through. If None: the voxel nearest to the centroid of the first
            mask that is not empty, else the middle of the volume.
        title: one line above the planes.
        label_names: name of each value above 0, shown in the legend.
        colours: colour of each value, for all masks; by default every (mask, value) gets the next of `MASK_COLOURS`.
        fill: colour the area instead of drawing its border.
        field_mm: show only a square of this side around the centre; all of the volume if None.
        dpi: dots per inch of the PNG.

    Raises:
        ValueError: a mask's shape differs from the volume's.
    """
    masks = dict(masks or {})
    for name, mask in masks.items():
        if np.shape(mask) != np.shape(volume):
            raise ValueError(f"mask {name!r} has shape {np.shape(mask)}, the volume {np.shape(volume)}")
    if centre is None:
        centre = next((point for mask in masks.values() if (point := mask_centre(mask, affine)) is not None), None)
    cuts = plane_slices(volume, affine, centre)
    mask_cuts = {name: plane_slices(mask, affine, centre) for name, mask in masks.items()}
    entries = _legend_entries(masks, label_names or {}, colours)

    view = {plane: plane_view(cut, field_mm) for plane, cut in cuts.items()}
    widths = [abs(left - right) for left, right, _, _ in view.values()]
    heights = [top - bottom for _, _, bottom, top in view.values()]
    inches_per_mm = 4.6 / max(heights)
    footer, header = (0.45 if entries else 0.1), (0.75 if title else 0.4)
    size = (sum(widths) * inches_per_mm + 0.3 * 4, max(heights) * inches_per_mm + footer + header)
    figure = Figure(figsize=size, dpi=dpi, facecolor="black")
    FigureCanvasAgg(figure)  # without pyplot: no global state, no window, safe in threads

    x = 0.3
    for (plane, cut), width, height in zip(cuts.items(), widths, heights, strict=True):
        w, h = width * inches_per_mm, height * inches_per_mm
        y = footer + (max(heights) * inches_per_mm - h) / 2
        axes = figure.add_axes((x / size[0], y / size[1], w / size[0], h / size[1]))
        draw_plane(axes, cut, plane, view[plane], window_hu)
        for name, value, _, colour in entries:
            if value:
                _draw_mask(axes, mask_cuts[name][plane], value, colour, fill)
        x += w + 0.3
    if title:
        figure.text(0.5, 1 - 0.22 / size[1], title, color="white", ha="center", va="center", fontsize=11)
    if entries:
        handles = [
            Line2D([], [], color=colour, linewidth=7 if fill else 2.5, label=text) for *_, text, colour in entries
        ]
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, labelcolor="white")
    output_png = Path(output_png)
    output_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output_png, facecolor="black")
    return output_png


def _to_ras(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A view of the volume with axes turned to RAS+, and its affine."""
    volume, affine = np.asarray(volume), np.asarray(affine, dtype=float)
    if volume.ndim != 3:
        raise ValueError(f"volume must have 3 axes, got shape {volume.shape}")
    if affine.shape != (4, 4):
        raise ValueError(f"affine must be 4x4, got shape {affine.shape}")
    orientation = nib.orientations.io_orientation(affine)
    turned = nib.orientations.apply_orientation(volume, orientation)
    return turned, affine @ nib.orientations.inv_ornt_aff(orientation, volume.shape)


def _voxel_of(centre: Sequence[float] | None, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Voxel index nearest to a world point, kept inside the volume."""
    if centre is None:
        return np.array(shape) // 2
    inverse = np.linalg.inv(affine)
    index = np.rint(inverse[:3, :3] @ np.asarray(centre, dtype=float) + inverse[:3, 3]).astype(int)
    return np.clip(index, 0, np.array(shape) - 1)


def _legend_entries(
    masks: Mapping[str, np.ndarray], label_names: Mapping[int, str], colours: Mapping[int, str] | None
) -> list[tuple[str, int, str, str]]:
    """(mask name, value, legend text, colour) of everything that is to be drawn; value 0 stands for an empty mask."""
    entries: list[tuple[str, int, str, str]] = []
    for name, mask in masks.items():
        values = [int(value) for value in np.unique(mask) if value > 0]
        for value in values or [0]:
            told_apart = len(values) > 1 or not name
            label = label_names.get(value, str(value) if told_apart else "") if value else ""
            text = " ".join(part for part in (name, label) if part) + ("" if value else ": empty")
            colour = MASK_COLOURS[len(entries) % len(MASK_COLOURS)]
            entries.append((name, value, text, (colours or {}).get(value, colour)))
    return entries


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


def _draw_mask(axes: Axes, cut: PlaneSlice, value: int, colour: str, fill: bool) -> None:
    mask = cut.pixels == value
    if not mask.any():
        return
    if fill:
        rgba = np.zeros((*mask.shape, 4))
        rgba[mask] = to_rgba(colour, 0.55)
        axes.imshow(rgba, extent=cut.extent_mm, aspect="equal", interpolation="nearest")
        return
    # a border of one pixel, so that a mask on the edge of the picture is closed; centres of the pixels in mm
    left, right, bottom, top = cut.extent_mm
    rows, columns = mask.shape
    x = left + (right - left) * (np.arange(-1, columns + 1) + 0.5) / columns
    y = top + (bottom - top) * (np.arange(-1, rows + 1) + 0.5) / rows
    axes.contour(x, y, np.pad(mask, 1).astype(float), levels=[0.5], colors=[colour], linewidths=1.3)
