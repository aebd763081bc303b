"""Parameters against Dice: the papers' networks and runs of ours, each point with how its Dice was taken."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from medseg3d.errors import UsageError, UserError
from medseg3d.pictures.colours import OKABE_ITO
from medseg3d.reports.curves import INK, new_figure
from medseg3d.reports.paper_table import PaperTable
from medseg3d.reports.papers import PAPER_NETWORKS, PAPERS, TABLES, data_of
from medseg3d.reports.parameters import ParameterRow, papers_of_bundle, recorded_row
from medseg3d.reports.runs import EvaluatedRun, read_runs


@dataclass(frozen=True)
class Point:
    """What is drawn of one network.

    Attributes:
        data: what its Dice is of, as `papers.data_of` names it.
        name: its label.
        group: key of its paper, or "" for a run of ours.
        parameters: in millions, as counted.
        dice: 0 to 1; of a run the mean over cases, of all classes together or the only one.
        convention: how the Dice was taken.
        printed: both as the paper prints them, where that is something else.
    """

    data: str
    name: str
    group: str
    parameters: float
    dice: float
    convention: str
    printed: tuple[float, float] | None = None


def panels_of(rows: Sequence[ParameterRow], runs: Sequence[Point] = ()) -> dict[str, list[Point]]:
    """The points of each kind of data: the papers' networks that are in the rows and have a Dice, then our runs."""
    points = []
    counted = {(row.source, row.network): row for row in rows}
    for each in PAPER_NETWORKS:
        row = counted.get((PAPERS[each.paper], each.name))
        for data, (table_name, table_row, column) in each.dice.items() if row is not None else ():
            table = TABLES[table_name]
            dice, printed = (_fraction(table, table_row, key) for key in (column, each.printed_dice or column))
            if row is None or dice is None or printed is None:
                continue
            millions = row.costs.parameters / 1e6
            as_printed = (each.paper_millions or millions, printed)
            differs = abs(as_printed[0] - millions) > 0.01 * millions or printed != dice
            how = (table.convention, as_printed if differs else None)
            points.append(Point(data, each.name, each.paper, millions, dice, *how))
    panels: dict[str, list[Point]] = {}
    for point in (*points, *runs):
        panels.setdefault(point.data, []).append(point)
    return panels


def _fraction(table: PaperTable, row: str, key: str) -> float | None:
    value = table.value(row, key)
    return None if value is None else value / next(column.scale for column in table.columns if column.key == key)


def scored_runs(folders: Sequence[str | Path]) -> list[Point]:
    """The runs of some evaluation folders, each with the parameters of its network as the evaluation has recorded them.

    Args:
        folders: of evaluations, or of runs that were evaluated.

    Raises:
        UserError: as `medseg3d.reports.runs.read_runs`; `SCORE_FILE` without a mean Dice or a record of the network,
            `BAD_VALUE` for a run of no paper's bundle.
    """
    found = []
    for run in read_runs(folders):
        file = run.folder / "summary.json"
        if not papers_of_bundle(run.bundle):
            wanted = "a run of one of the papers' bundles"
            raise UsageError(
                "BAD_VALUE",
                run.folder / "config.json",
                "no paper in the name of its bundle_root",
                wanted,
                "leave it out",
            )
        parameters = recorded_row(run.summary.context, file, run.name, f"run {run.name}").costs.parameters
        points = run_points(run, parameters)
        if not points:
            raise UserError(
                "SCORE_FILE",
                file,
                "no mean Dice with a value",
                "the scores of cases with foreground",
                "evaluate cases with foreground",
            )
        found += points[:1]
    return found


def run_points(run: EvaluatedRun, parameters: int) -> list[Point]:
    """A run with so many parameters, for each paper that its bundle rebuilds; nothing without a Dice."""
    mean = run.score(run.region)
    if mean is None or mean.value is None:
        return []
    return [
        Point(data_of(paper, *run.data_sets), run.name, "", parameters / 1e6, mean.value, run.taken(mean))
        for paper in papers_of_bundle(run.bundle)
    ]


_MARKS = {
    "pancreas": ("o", OKABE_ITO["blue"]),
    "ann": ("s", OKABE_ITO["vermillion"]),
    "resunetpp": ("^", OKABE_ITO["green"]),
    "deeplabv3plus": ("D", OKABE_ITO["purple"]),
    "cris": ("o", OKABE_ITO["blue"]),
}
"""Shape and colour of a paper's points: either tells them apart alone within a panel."""

_HOLLOW = "hollow: as the paper prints it; filled: parameters as counted here, Dice of the foreground alone"
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200)
_LABEL_PLACES = ((8, 0), (-8, 0), (0, 9), (0, -9), (8, 9), (-8, 9), (8, -9), (-8, -9), (8, 20), (-8, -20), (8, -20))


def draw_parameters(panels: dict[str, list[Point]]) -> Figure:
    """Parameters (log scale) against Dice, a panel for each kind of data.

    Where a paper prints another count, or a Dice that is not the foreground's own, a line leads to a hollow point.
    """
    if not panels:
        raise ValueError("there must be at least one network with a Dice to draw")
    figure, all_axes = new_figure(7.6, 5.4 * len(panels), rows=len(panels))
    for axes, (data, points) in zip(all_axes, panels.items(), strict=True):
        axes.set_title(f"Dice of {data}", color=INK, loc="left")
        _draw_points(axes, points)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_TICKS))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda millions, _: f"{millions:g} M"))
        low, high = min(p.parameters for p in points), max(p.parameters for p in points)
        axes.set_xlim(low / 1.6, high * 1.6)
        axes.margins(y=0.12)
        axes.set(xlabel="parameters, counted (log scale)", ylabel="Dice")
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-0.08, -0.13),
            frameon=False,
            labelcolor=INK,
            fontsize=8,
            handletextpad=0.6,
        )
    figure.draw_without_rendering()  # labels are placed where the axes have come to lie
    for axes, points in zip(all_axes, panels.values(), strict=True):
        _label(axes, points)
    return figure


def _draw_points(axes: Axes, points: Sequence[Point]) -> None:
    explained = set()
    for point in points:
        words = f"{PAPERS[point.group]}: {point.convention}" if point.group else f"ours: {point.convention}"
        label = "_" if words in explained else textwrap.fill(words, 104)
        explained.add(words)
        marker, colour = _MARKS[point.group] if point.group else ("*", OKABE_ITO["orange"])
        axes.plot([point.parameters], [point.dice], marker=marker, color=colour, markersize=7 if point.group else 13,
                  markeredgecolor="white", linestyle="none", label=label, zorder=3)  # fmt: skip
        if point.printed is not None:
            millions, dice = point.printed
            axes.plot([millions, point.parameters], [dice, point.dice], color=colour, linewidth=1, zorder=2)
            axes.plot([millions], [dice], marker=marker, color=colour, markersize=7, linestyle="none",
                      markerfacecolor="white", label="_", zorder=3)  # fmt: skip
    if any(point.printed for point in points):
        axes.plot([], [], marker="o", color=INK, markerfacecolor="white", markersize=7, linestyle="none",
                  label=_HOLLOW)  # fmt: skip


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Put each name next to its point, without covering other names or points."""
    pixels = axes.figure.dpi / 72
    places = [(point.parameters, point.dice) for point in points] + [p.printed for p in points if p.printed]
    taken = [Bbox.from_bounds(x - 4 * pixels, y - 4 * pixels, 8 * pixels, 8 * pixels)
             for x, y in map(axes.transData.transform, places)]  # fmt: skip
    inside = axes.get_window_extent()
    for point in points:
        for right, up in _LABEL_PLACES:
            text = axes.annotate(
                point.name,
                (point.parameters, point.dice),
                xytext=(right, up),
                textcoords="offset points",
                ha="left" if right > 0 else "right" if right < 0 else "center",
                va="bottom" if up > 0 else "top" if up < 0 else "center",
                color=INK,
                fontsize=8,
            )
            box = text.get_window_extent()
            free = not any(box.overlaps(other) for other in taken)
            if free and inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1:
                break
            if (right, up) != _LABEL_PLACES[-1]:
                text.remove()
        taken.append(box)
