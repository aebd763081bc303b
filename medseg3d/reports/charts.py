"""Dice over the threshold, and Dice over the size of what there is to find."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from medseg3d.evaluation.wording import UNITS
from medseg3d.reports.curves import INK, line_style, make_room, new_figure, wrapped
from medseg3d.reports.runs import EvaluatedRun

_MARKERS = "osD^vP"


def draw_thresholds(runs: Sequence[EvaluatedRun]) -> Figure:
    """Dice over the probability from which a voxel counts; a circle marks the threshold that was used.

    Of one run both means are drawn, over cases and of the pooled counts, of several the mean over cases alone.
    """
    figure, (axes,) = new_figure(5.4, 4.0)
    kinds = {"dice_mean": "mean over cases"} | ({"dice_pooled": "pooled"} if len(runs) == 1 else {})
    index = 0
    for run in runs:
        thresholds = np.array([row["threshold"] for row in run.thresholds])
        for key, kind in kinds.items():
            values = np.array([row[key] for row in run.thresholds])
            colour, dash = line_style(index)
            index += 1
            axes.plot(
                thresholds, values, color=colour, linestyle=dash, label=wrapped(kind if len(runs) == 1 else run.name)
            )
            used = np.interp(run.threshold, thresholds, values)
            axes.plot([run.threshold], [used], marker="o", markersize=8, markerfacecolor="white",
                      markeredgecolor=colour, markeredgewidth=2, linestyle="none", zorder=4)  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="threshold of the probability")
    axes.set_ylabel("Dice" if len(runs) == 1 else "Dice, mean over cases")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, labelcolor=INK)
    make_room(figure)
    return figure


def draw_sizes(runs: Sequence[EvaluatedRun], class_name: str) -> Figure | None:
    """Dice of every case over the size of its ground truth, small and large parted; None if no case has both.

    The size is in the unit of the first run's strata, on a scale of powers of ten.
    """
    figure, (axes,) = new_figure(5.4, 4.0)
    unit = runs[0].summary.settings.size_unit
    drawn = 0
    for index, run in enumerate(runs):
        sizes = run.sizes(class_name, unit)
        points = [
            (sizes[row["case"]], row["dice"])
            for row in run.cases(class_name)
            if sizes[row["case"]] > 0 and not math.isnan(row["dice"])
        ]
        drawn += len(points)
        axes.plot(
            [size for size, _ in points],
            [dice for _, dice in points],
            linestyle="none",
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4.5 if len(points) < 200 else 3,
            color=line_style(index)[0],
            markeredgewidth=0,
            alpha=0.65,
            label=wrapped(run.name),
        )
    if not drawn:
        return None
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(ylim=(-0.02, 1.02), xlabel=f"size of the ground truth, {UNITS[unit]}", ylabel="Dice of the case")
    for edge in runs[0].strata(class_name).edges:
        if not math.isnan(edge):
            axes.axvline(edge, color=INK, linestyle=(0, (1, 2)), linewidth=1)
    if len(runs) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, labelcolor=INK)
    make_room(figure)
    return figure
