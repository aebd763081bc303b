"""What each strategy of the CRIS grid adds to the same backbone: differences on the same pictures, with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medseg3d.reports.ablation_table import spread
from medseg3d.reports.cris_study_results import Study
from medseg3d.reports.paired import PairedDifference, Scores, paired_difference
from medseg3d.reports.paper_table import PaperTable
from medseg3d.reports.wording import markdown_table

CONTRASTS = (("fcn", "backbone"), ("crf", "backbone"), ("cris", "backbone"), ("cris", "fcn"), ("cris", "crf"))
"""Strategy less strategy: what each adds, and what CRIS adds to either rival."""

_NAMES = {"backbone": "Backbone", "fcn": "FCN", "crf": "CRF", "cris": "CRIS"}
_AGAINST = {"backbone": "the backbone alone", "fcn": "the same refinement without turns (FCN)", "crf": "CRF"}


class Gain(NamedTuple):
    """One strategy less another.

    Attributes:
        backbones: the backbone; several for the mean over them.
        one: the strategy.
        other: the one that it is compared with.
        dice: difference of the Dice per picture, 0 to 1.
        mse: difference of the mean squared error per picture.
        paper: difference of the paper's Dice in points; None where it has none.
    """

    backbones: tuple[str, ...]
    one: str
    other: str
    dice: PairedDifference
    mse: PairedDifference
    paper: float | None


def gains(study: Study, name: str, table: PaperTable) -> list[Gain]:
    """The differences of the finished strategies of each backbone, and those of the mean over backbones.

    Runs are paired by seed: a seed that only one of both strategies has is left out.

    Args:
        study: the study.
        name: of the data set.
        table: the paper's.
    """
    runs = {(row["backbone"], row["strategy"], row["seed"]): row for row in study.of(name)}
    backbones = list(titles(table))
    found = []
    for one, other in CONTRASTS:
        seeds = {
            backbone: {seed for seed in study.seeds if {(backbone, one, seed), (backbone, other, seed)} <= runs.keys()}
            for backbone in backbones
        }
        having = tuple(backbone for backbone in backbones if seeds[backbone])
        for group in [*((backbone,) for backbone in having), *([having] if len(having) > 1 else [])]:
            shared = sorted(set.intersection(*(seeds[backbone] for backbone in group)))
            pairs = [[[runs[b, each, seed] for b in group] for each in (one, other)] for seed in shared]
            if pairs:
                dice, mse = (_difference(pairs, score) for score in ("dice", "mse"))
                found.append(Gain(group, one, other, dice, mse, _of_paper(table, group, one, other)))
    return sorted(found, key=lambda gain: (len(gain.backbones) > 1, backbones.index(gain.backbones[0])))


def gains_markdown(study: Study, name: str, table: PaperTable) -> str:
    """The differences in a table, what they say of CRIS in a sentence, and how they are to be read; or nothing."""
    found = gains(study, name, table)
    if not found:
        return ""
    several = len(study.seeds) > 1
    heads = [
        *("backbone", "difference", "paper, Dice points", "Dice points", "95 % interval", "higher / lower"),
        *(["Dice points by seed"] * several),
        *("MSE", "95 % interval", "what the Dice says"),
    ]
    lines = []
    for each in found:
        signs = each.dice.signs
        cells = [
            titles(table)[each.backbones[0]] if len(each.backbones) == 1 else f"mean of {len(each.backbones)}",
            f"{_NAMES[each.one]} − {_NAMES[each.other]}",
            "" if each.paper is None else f"{each.paper:+.2f}",
            f"{100 * each.dice.value:+.2f}",
            _interval(each.dice, 100, 2),
            f"{signs['higher']} / {signs['lower']}",
            *([f"{spread(each.dice.pairs, sign=True)}, n={len(each.dice.pairs)}"] * several),
            f"{each.mse.value:+.4f}",
            _interval(each.mse, 1, 4),
            each.dice.verdict,
        ]
        lines.append(cells)
    table_of_gains = markdown_table(heads, lines, {0, 1, len(heads) - 1})
    blocks = [table_of_gains, conclusion(found, table), _how_to_read(study, name, found)]
    return "\n\n".join(block for block in blocks if block)


def _how_to_read(study: Study, name: str, found: Sequence[Gain]) -> str:
    n = " or ".join(str(n) for n in sorted({len(each.dice.cases) for each in found}))
    drawn = "patients or sequences" if any(_groups(row) for row in study.of(name)) else "pictures"
    of_seeds = (
        "Runs are paired by seed, and a picture counts with its mean over the seeds; nothing is concluded where the "
        "seeds differ in sign, or their mean is within twice its standard error."
        if len(study.seeds) > 1
        else "It says how far these pictures carry. Another seed may move the difference by more: one cannot tell."
    )
    return (
        f"One strategy less another, mean over the same {n} pictures; higher / lower: in how many of them the Dice is. "
        f"Each interval is a bootstrap over {drawn} with the networks held fixed. {of_seeds} One interval in twenty "
        "misses by chance: look at what agrees."
    )


def conclusion(found: Sequence[Gain], table: PaperTable) -> str:
    """What the Dice says of CRIS against each of the others, claiming no more than the intervals show."""
    sentences = []
    for other, words in _AGAINST.items():
        by_sign: dict[int, list[str]] = {1: [], -1: [], 0: []}
        for each in found:
            if (each.one, each.other) == ("cris", other) and len(each.backbones) == 1:
                by_sign[each.dice.sign].append(f"{titles(table)[each.backbones[0]]} ({100 * each.dice.value:+.1f})")
        said = [
            f"{word} with {', '.join(by_sign[sign])}"
            for sign, word in ((1, "higher"), (-1, "lower"), (0, "undecided"))
            if by_sign[sign]
        ]
        if said:
            sentences.append(f"against {words}: {'; '.join(said)}")
    if not sentences:
        return ""
    return f"**CRIS, Dice per picture:** {'. '.join(f'{each[0].upper()}{each[1:]}' for each in sentences)}."


def titles(table: PaperTable) -> Mapping[str, str]:
    """Knob of each backbone -> its name in the paper's table."""
    return {column.backbone: column.name.rpartition(" Dice")[0] for column in table.columns if column.scale == 100}


def _interval(difference: PairedDifference, scale: float, digits: int) -> str:
    ends = [f"{scale * end:+.{digits}f}" for end in difference.interval if not math.isnan(end)]
    return " to ".join(ends)


def _difference(pairs: Sequence[Sequence[Sequence[Mapping[str, Any]]]], score: str) -> PairedDifference:
    """Of pairs, one for each seed, of the runs with either strategy, one for each backbone."""
    scores = [[_mean([row["run"].values(row["run"].region, score) for row in rows]) for rows in pair] for pair in pairs]
    return paired_difference([(one, other) for one, other in scores], _groups(pairs[0][0][0]))


def _groups(row: Mapping[str, Any]) -> dict[str, str]:
    """Picture -> its patient or sequence; empty where none is known."""
    return row["run"].groups(row["run"].region)


def _mean(runs: Sequence[Scores]) -> Scores:
    """Picture -> mean over runs, of the pictures that all have."""
    return {case: statistics.fmean(run[case] for run in runs) for case in runs[0] if all(case in run for run in runs)}


def _of_paper(table: PaperTable, backbones: Sequence[str], one: str, other: str) -> float | None:
    columns = [column.key for column in table.columns if column.scale == 100 and column.backbone in backbones]
    printed = [[table.value(table.strategies[each], key) for key in columns] for each in (one, other)]
    differences = [a - b for a, b in zip(*printed, strict=True) if a is not None and b is not None]
    return statistics.fmean(differences) if differences else None
