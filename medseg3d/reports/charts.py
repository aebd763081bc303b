"""Dice over the threshold, the size of what there is to find, and what an experiment varies; the speed of a machine."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from medseg3d.evaluation.wording import OVER, UNITS, WORDS
from medseg3d.pictures.colours import OKABE_ITO
from medseg3d.reports.comparison import Comparison, Levels
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


def draw_levels(comparison: Comparison, data: str) -> Figure:
    """The score over the levels of the last factor, a panel for each kind of mean but the pooled one.

    Every seed is a point; a line of means over seeds for each combination of the other factors.
    """
    *others, factor = comparison.varied
    overs = [over for over in comparison.overs if over != "pooled"] or comparison.overs
    conditions = [levels for levels in comparison.conditions(data) if comparison.rows(levels)]
    shown = list(dict.fromkeys(comparison.level(levels, factor) for levels in conditions))
    places = {level: level if isinstance(level, int | float) else place for place, level in enumerate(shown)}
    lines: dict[str, list[tuple[float, Levels]]] = {}
    for levels in conditions:
        name = ", ".join(str(comparison.level(levels, each)) for each in others)
        lines.setdefault(name, []).append((places[comparison.level(levels, factor)], levels))
    figure, panels = new_figure(max(4.2 * len(overs), 5.4), 3.6, columns=len(overs))
    for axes, over in zip(panels, overs, strict=True):
        for index, (name, points) in enumerate(lines.items()):
            colour, dash = line_style(index)
            values = [(x, comparison.values(levels, comparison.score, over)) for x, levels in points]
            means = [(x, 100 * statistics.fmean(of_seed.values())) for x, of_seed in values if of_seed]
            axes.plot(*zip(*means, strict=True), color=colour, linestyle=dash, label=name or "mean over seeds")
            for seed, marker in zip(comparison.seeds, cycle(_MARKERS), strict=False):
                known = [(x, 100 * of_seed[seed]) for x, of_seed in values if seed in of_seed]
                places_of = zip(*known, strict=True) if known else ([], [])
                label = f"seed {seed}" if index == 0 else "_"
                axes.scatter(*places_of, marker=marker, color=colour, alpha=0.75, label=label)
        axes.set(xlabel=factor, title=OVER[over])
        axes.set_xticks(list(places.values()), [str(level) for level in places])
    panels[0].set_ylabel(f"{WORDS[comparison.score].label} of {comparison.class_name}, %")
    panels[-1].legend(frameon=False, fontsize="small")
    return figure


_COLOURS = {"float32": OKABE_ITO["blue"], "bfloat16": OKABE_ITO["orange"]}
_HATCHES = {"float32": "", "bfloat16": "//"}
_STAGES = ("read", "preprocess", "network", "restore", "write")


def draw_bench(found: Mapping[str, Any]) -> Figure:
    """Rates of the engines next to the machine's convolution limits, and the seconds of each stage."""
    figure, (engines, stages) = new_figure(9.6, 3.6, columns=2)
    rows = [row for row in found["engines"] if "median" in row]
    labels = [f"{row['engine']}\n{row['precision']}" for row in rows]
    for place, row in enumerate(rows):
        colour, hatch = _COLOURS[row["precision"]], _HATCHES[row["precision"]]
        bar = engines.bar(place, row["gflops"], color=colour, hatch=hatch, edgecolor="white")
        engines.bar_label(bar, [f"{1000 * row['median']:.0f} ms"], color=INK, fontsize=8)
    for precision, limit in found["limits"]["convolution"].items():
        label = f"convolution limit, {precision}"
        engines.axhline(limit, color=_COLOURS[precision], linestyle="--", linewidth=1, label=label)
    engines.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, frameon=False)
    engines.set_xticks(range(len(rows)), labels, fontsize=8)
    engines.set_ylabel("GFLOP/s")
    engines.margins(y=0.1)
    values = [found["stages"][stage] for stage in _STAGES]
    bars = stages.barh(_STAGES[::-1], values[::-1], color=OKABE_ITO["sky"])
    stages.bar_label(bars, [f"{value:.3g} s" for value in values[::-1]], color=INK, fontsize=8, padding=2)
    stages.set_xlabel(f"seconds (network: {found['stages']['engine']}, {found['stages']['precision']})")
    stages.margins(x=0.15)
    make_room(figure)
    return figure
