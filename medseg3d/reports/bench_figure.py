"""What `medseg3d bench` measured, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from medseg3d.pictures.colours import OKABE_ITO
from medseg3d.reports.curves import INK, make_room, new_figure

_COLOURS = {"float32": OKABE_ITO["blue"], "bfloat16": OKABE_ITO["orange"]}
_HATCHES = {"float32": "", "bfloat16": "//"}
_STAGES = ("read", "preprocess", "network", "restore", "write")


def draw_bench(found: Mapping[str, Any]) -> Figure:
    """Rates of the engines beside the machine's convolution limits, and the seconds of each stage."""
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
