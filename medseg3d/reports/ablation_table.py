"""What an ablation over non-local blocks came to: the paper's Table 2 beside ours, and the figure of single seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from medseg3d.evaluation.experiment_files import read_experiment
from medseg3d.evaluation.wording import taken_of
from medseg3d.faults import Fault
from medseg3d.pictures.colours import OKABE_ITO
from medseg3d.reports.curves import new_figure
from medseg3d.reports.paired import is_clear
from medseg3d.reports.papers import TABLES
from medseg3d.reports.wording import markdown_table, plain_text

NAME, KNOB = "ablation", "nonlocal_blocks"
"""Of the experiment, whose record is ablation.json, and of its factor."""

_MEANS = {
    "cases": "mean over cases",
    "slices": "mean over slices",
    "groups": "mean over patients",
    "pooled": "all voxels as one case",
}
"""What scores are means over in the tables, where the evaluation has them; its own words say more."""

_SCORES = ("dice", "recall", "specificity")


@dataclass(frozen=True)
class Ablation:
    """A finished or half-finished ablation.

    Attributes:
        record: as `read_experiment` gives it, with one finished run at least.
    """

    record: Mapping[str, Any]

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """One dictionary per finished run."""
        return self.record["rows"]

    @property
    def about(self) -> str:
        """Bundle, overlays, part, seeds, and what was equal for all runs."""
        overlays = f" with {', '.join(self.record['overlays'])}" if self.record["overlays"] else ""
        seeds = ", ".join(map(str, self.seeds))
        return (
            f"{self.record['bundle']}{overlays}, part {self.record['part']}, seeds {seeds}. Mean ± standard deviation "
            f"over seeds. Equal for all runs: {plain_text(self.record['conditions'])}."
        )

    @property
    def class_name(self) -> str:
        """The first class, which the table is about."""
        return self.rows[0]["evaluation"].classes[0]

    @property
    def blocks(self) -> list[int]:
        """Numbers of blocks that have a finished run."""
        return sorted({row[KNOB] for row in self.rows})

    @property
    def seeds(self) -> list[int]:
        """Seeds that have a finished run."""
        return sorted({row["seed"] for row in self.rows})

    @property
    def aggregations(self) -> list[str]:
        """What every run has means over: `cases`, `slices`, `groups`, `pooled`."""
        name = self.class_name
        return [
            over
            for over in _MEANS
            if all(row["evaluation"].find(name, score, over) for score in _SCORES for row in self.rows)
        ]

    def convention(self, over: str) -> str:
        """How the first run's Dice was taken, and of how many."""
        return taken_of(self.rows[0]["evaluation"], self.class_name, "dice", over)

    def values(self, blocks: int, over: str, score: str = "dice") -> dict[int, float]:
        """Seed -> score of the runs with that many blocks; scores without a value are left out."""
        runs = [row for row in self.rows if row[KNOB] == blocks]
        found = {row["seed"]: row["evaluation"].find(self.class_name, score, over) for row in runs}
        return {seed: each.value for seed, each in found.items() if each is not None and each.value is not None}

    def gains(self, blocks: int, over: str) -> list[float]:
        """Dice with that many blocks minus Dice without any, for each seed that has both."""
        ours, base = self.values(blocks, over), self.values(0, over)
        return [ours[seed] - base[seed] for seed in sorted(ours.keys() & base.keys())]


def read_ablation(folder: str | Path) -> Ablation:
    """The ablation in a folder.

    Raises:
        Fault: `SCORE_FILE` if there is no ablation.json, or no run of it is finished.
    """
    content = read_experiment(folder, NAME, "ablation")
    if not content.get("rows"):
        remedy = "rerun the same command to resume; failure.json in the folder of a run says why it failed"
        raise Fault("SCORE_FILE", Path(folder) / f"{NAME}.json", "no finished run", "one or more", remedy)
    return Ablation(content)


def spread(values: Iterable[float], scale: float = 100, sign: bool = False, digits: int = 2) -> str:
    """Mean and standard deviation over seeds as text, by default in percent.

    Example:
        >>> spread([0.5, 0.52]), spread([0.5]), spread([]), spread([0.01, 0.03], sign=True)
        ('51.00 ± 1.41', '50.00', '', '+2.00 ± 1.41')
    """
    numbers = [scale * value for value in values]
    if not numbers:
        return ""
    mean = f"{statistics.fmean(numbers):{'+' if sign else ''}.{digits}f}"
    return f"{mean} ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else mean


def ablation_tables(ablation: Ablation) -> list[tuple[str, list[str], list[list[str]]]]:
    """(caption, column heads, rows of text) for every aggregation of the scores."""
    paper = paper_table_2()
    parameters = {row[KNOB]: row["parameters"] for row in ablation.rows}
    tables = []
    for over in ablation.aggregations:
        heads = [
            *("blocks", "parameters", "paper: Dice %", "paper: Recall %", "paper: Specificity %"),
            *("Dice %", "Recall %", "Specificity %", "Dice against 0 blocks, paired by seed", "runs"),
        ]
        rows = []
        for blocks in ablation.blocks:
            ours = [spread(ablation.values(blocks, over, score).values()) for score in _SCORES]
            gains = ablation.gains(blocks, over) if blocks else []
            better = f" ({sum(gain > 0 for gain in gains)} of {len(gains)} higher)" if gains else ""
            rows.append(
                [
                    str(blocks),
                    f"{parameters[blocks]:,}",
                    *(f"{paper[blocks][score]:.2f}" if blocks in paper else "" for score in _SCORES),
                    *ours,
                    spread(gains, sign=True) + better,
                    str(len(ablation.values(blocks, over))),
                ]
            )
        tables.append((f"{ablation.class_name}, {_MEANS[over]}: {ablation.convention(over)}", heads, rows))
    return tables


def paper_table_2() -> dict[int, dict[str, float]]:
    """Number of blocks -> the paper's Dice, recall and specificity in percent."""
    table = TABLES["pancreas_table_2"]
    return {int(str(row["blocks"])): {score: float(str(row[score])) for score in _SCORES} for row in table.rows}


def conclusion(ablation: Ablation) -> str:
    """What the runs say about the blocks, a sentence for each aggregation, claiming no more than they show.

    A difference is called one only where every seed agrees on its sign and its mean exceeds twice its standard error.
    With few seeds that is a low bar: it guards against reading noise, and proves nothing.
    """
    sentences = []
    for over in ablation.aggregations:
        gains = {blocks: ablation.gains(blocks, over) for blocks in ablation.blocks if blocks}
        gains = {blocks: values for blocks, values in gains.items() if len(values) > 1}
        if not gains:
            return "Fewer than two seeds have a run with and without blocks: nothing can be said about the blocks."
        fewest, most = min(map(len, gains.values())), max(map(len, gains.values()))
        seeds = f"{fewest} seeds" if fewest == most else f"{fewest} to {most} seeds"
        clear = {blocks: statistics.fmean(values) for blocks, values in gains.items() if is_clear(values)}
        if clear:
            said = ", ".join(f"{100 * gain:+.2f} with {blocks}" for blocks, gain in clear.items())
            found = f"against 0 blocks, Dice points beyond the spread of the {seeds}: {said} blocks"
        else:
            found = f"no number of blocks differs from 0 blocks by more than the {seeds} differ among themselves"
        sentences.append(f"{_MEANS[over]}: {found}.")
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}" for sentence in sentences)


def ablation_markdown(ablation: Ablation) -> str:
    """Table 2 of the paper with ours beside it, in every aggregation, and what was held equal."""
    blocks = [f"Ablation over non-local blocks: {ablation.about}"]
    for caption, heads, rows in ablation_tables(ablation):
        blocks += [f"**{caption}**", markdown_table(heads, rows, ())]
    return "\n\n".join([*blocks, conclusion(ablation), PAPER_CONVENTION])


PAPER_CONVENTION = (
    "The paper's column is its Table 2: a 2-D figure whose data split, aggregation and training recipe are not stated, "
    "from one run each without a spread. Ours stand beside it for the order of the rows, not for their height."
)


def draw_ablation(ablation: Ablation) -> Figure:
    """Dice over the number of blocks: every seed a point, their mean a line, one panel for each aggregation."""
    overs = [over for over in ablation.aggregations if over != "pooled"] or ablation.aggregations
    figure, panels = new_figure(4.2 * len(overs), 3.6, columns=len(overs))
    colours = [OKABE_ITO[name] for name in ("blue", "vermillion", "green", "purple")]
    marks = "osD^v"
    for axes, over in zip(panels, overs, strict=True):
        for place, seed in enumerate(ablation.seeds):
            points = [(blocks, ablation.values(blocks, over).get(seed)) for blocks in ablation.blocks]
            known = [(blocks, 100 * value) for blocks, value in points if value is not None]
            axes.plot(
                *zip(*known, strict=True),
                linestyle="none",
                marker=marks[place % len(marks)],
                color=colours[place % len(colours)],
                alpha=0.75,
                label=f"seed {seed}",
            )
        means = [(k, statistics.fmean(ablation.values(k, over).values())) for k in ablation.blocks]
        axes.plot([k for k, _ in means], [100 * mean for _, mean in means], color="#333333", label="mean over seeds")
        axes.set(xlabel="non-local blocks", xticks=ablation.blocks, title=_MEANS[over])
    panels[0].set_ylabel(f"Dice of {ablation.class_name}, %")
    panels[-1].legend(frameon=False, fontsize="small")
    return figure
