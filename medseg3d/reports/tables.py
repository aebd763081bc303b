"""The tables of a report: every number with its convention, its interval and its n, of one run or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medseg3d.evaluation.records import Score, Summary
from medseg3d.evaluation.wording import KINDS, OVER, UNITS, WORDS, kind_of
from medseg3d.metrics import SCORES
from medseg3d.reports.curves import PRSeries
from medseg3d.reports.document import Cell, ColumnKind, Table
from medseg3d.reports.paired import paired_difference
from medseg3d.reports.runs import EvaluatedRun
from medseg3d.reports.wording import interval, number, plural

MOST_CASES = 30
"""Lines of the table of cases; the rest stands in scores.csv."""

_DICES = {
    ("dice", "cases"): OVER["cases"],
    ("dice", "groups"): OVER["groups"],
    ("dice", "slices"): OVER["slices"],
    ("dice", "pooled"): OVER["pooled"],
    ("mdice", "two_classes"): "two classes, background and foreground",
    ("dice_pranet256", "cases"): "mean over 256 thresholds and cases",
}
"""Every way to take a Dice."""

_COUNTS = ("tp", "fp", "fn")


def score_tables(runs: Sequence[EvaluatedRun]) -> list[Table]:
    """For each class a table of each way to take the scores, with interval, spread, n and convention.

    What the conventions of a table have in common is its caption; what is left stands next to each number. Several runs
    are columns.
    """
    tables = []
    for name in dict.fromkeys(name for run in runs for name in run.summary.classes):
        whole = [run.summary.pick(class_name=name, size="", data_set="") for run in runs]
        for kind, heading in KINDS.items():
            chosen = [[score for score in scores if kind_of(score) == kind] for scores in whole]
            if any(chosen):
                tables.append(_score_table(runs, chosen, f"{name}, {heading}"))
    return tables


def convention_table(runs: Sequence[EvaluatedRun], class_name: str) -> Table:
    """Dice of one class by every convention that was recorded: the same masks, other numbers."""
    rows: list[list[Cell | str]] = []
    for (score, over), name in _DICES.items():
        found = [run.score(class_name, score, over) for run in runs]
        if any(found):
            rows.append([name, *(_value_cell(each, with_n=True) for each in found), _conventions(runs, found)])
    return Table(
        "the same masks by every convention. Only numbers of one line may be compared with each other, or with a paper "
        "that says that it is of this line.",
        ["convention", *(run.name if len(runs) > 1 else "Dice" for run in runs), ("how it is computed", "words")],
        rows,
        lead=f"Dice of {class_name}:",
    )


def emptiness_notes(runs: Sequence[EvaluatedRun]) -> list[str]:
    """For each run and class how many cases are empty in ground truth or prediction, or missed."""
    return [
        f"{', '.join([*([run.name] if len(runs) > 1 else []), count.class_name])}: of {plural(count.n, 'case')} "
        f"{count.empty_truth} empty in the ground truth, {count.empty_pred} empty in the prediction, "
        f"{count.missed} completely missed."
        for run in runs
        for count in run.summary.cases
        if not count.size and not count.data_set
    ]


def common_parts(conventions: Sequence[str]) -> tuple[str, list[str]]:
    """What several conventions share, part by part between semicolons, and what is left of each.

    Example:
        >>> common_parts(["mean over cases; empty left out; on the grid", "mean over cases; all counted; on the grid"])
        ('mean over cases; on the grid', ['empty left out', 'all counted'])
    """
    parts = [convention.split("; ") for convention in conventions]
    shared = [part for part in parts[0] if all(part in others for others in parts)] if parts else []
    return "; ".join(shared), ["; ".join(part for part in each if part not in shared) for each in parts]


def baseline_table(run: EvaluatedRun, class_name: str, baselines: Sequence[tuple[str, float, int, str]]) -> Table:
    """A run next to baselines on the same cases (name, mean Dice over cases, n, how it was obtained), by Dice."""
    own = run.score(class_name)
    value, n = (math.nan, 0) if own is None or own.value is None else (own.value, own.n)
    rows = [(value, "this run", n, "the network of this report", True)]
    rows += [(dice, name, n, how, False) for name, dice, n, how in baselines]
    rows.sort(key=lambda row: math.inf if math.isnan(row[0]) else -row[0])
    return Table(
        f"{class_name}: mean Dice over cases; a full bar is 1",
        ["method", "Dice", ("", "bar"), "n", ("how it was obtained", "words")],
        [
            [
                name,
                number(value),
                Cell("", percent=0 if math.isnan(value) else round(100 * value, 1), own=is_own),
                str(n),
                how,
            ]
            for value, name, n, how, is_own in rows
        ],
    )


def difference_table(runs: Sequence[EvaluatedRun], class_name: str, score: str = "dice") -> Table | None:
    """Every further run against the first, case by case on the cases they share; None for a single run."""
    if len(runs) < 2:
        return None
    first, *others = runs
    of_group = first.groups(class_name)
    rows: list[list[Cell | str]] = []
    reference = first.values(class_name, score)
    for run in others:
        difference = paired_difference([(run.values(class_name, score), reference)], of_group)
        rows.append(
            [
                f"{run.name} against {first.name}",
                f"{difference.value:+.3f}" if difference.cases else "undefined",
                interval(difference.interval),
                str(len(difference.cases)),
                *(str(n) for n in difference.signs.values()),
                difference.verdict,
            ]
        )
    heads = ["runs", f"difference of {WORDS[score].label}", "95 % interval", "cases", "higher", "equal", "lower"]
    return Table(
        f"{class_name}: mean over cases of the difference of {WORDS[score].label}, the same case in both runs",
        [*heads, ("what the cases say", "words")],
        rows,
        note=f"The interval is a bootstrap over {'groups of cases' if of_group else 'cases'} with both networks held "
        "fixed. It says how far these cases carry, not what another seed would give.",
    )


def strata_table(runs: Sequence[EvaluatedRun], class_name: str) -> Table:
    """Scores of the small, the medium and the large by the ground truth's size."""
    names = ("dice", "iou", "recall", "precision")
    counts = [
        (run, count) for run in runs for count in run.summary.cases if count.class_name == class_name and count.size
    ]
    rows: list[list[Cell | str]] = [
        [
            *([run.name] if len(runs) > 1 else []),
            *(count.size, str(count.n)),
            *(_value_cell(run.score(class_name, name, size=count.size)) for name in names),
        ]
        for run, count in counts
    ]
    heads: list[str | tuple[str, ColumnKind]] = ["run"] if len(runs) > 1 else []
    heads += [("ground truth", "text"), "cases", *(WORDS[name].label for name in names)]
    edges = dict.fromkeys(_edges_in_words(run.summary, class_name) for run in runs)
    caption = f"{class_name}: mean over the cases of each size; below each value its 95 % interval"
    return Table(caption, heads, rows, note=" ".join(edges))


def case_table(run: EvaluatedRun) -> Table:
    """Every case: class by class, the worst Dice first, undefined ones last; of very many the worst `MOST_CASES`."""
    classes = run.classes
    in_ml = not all(math.isnan(row["truth_ml"]) for row in run.rows)
    columns: list[str | tuple[str, ColumnKind]] = ["case"]
    if len(classes) > 1:
        columns.append(("class", "text"))
    heads = [name if name in {"Dice", "IoU"} else name.lower() for name in (WORDS[each].label for each in SCORES)]
    heads += ["truth ml", "predicted ml"] if in_ml else []
    columns += [*heads, *(count.upper() for count in _COUNTS)]
    rows: list[list[Cell | str]] = []
    for row in sorted(run.rows, key=lambda row: (classes.index(row["class"]), *rank(row))):
        words = [row["case"], row["class"]] if len(classes) > 1 else [row["case"]]
        scores = [number(row[score]) for score in SCORES]
        volumes = [number(row["truth_ml"], 1), number(row["pred_ml"], 1)] if in_ml else []
        rows.append([*words, *scores, *volumes, *(f"{row[count]:,}" for count in _COUNTS)])
    caption = ("By class, worst" if len(classes) > 1 else "Worst") + " Dice first. "
    caption += f"TP, FP and FN are {'voxels' if in_ml else 'pixels'} on the grid of the scores."
    return Table(caption, columns, rows[:MOST_CASES], note=_shortened(len(rows)))


def shared_case_table(runs: Sequence[EvaluatedRun], class_name: str) -> Table:
    """Dice of every case in every run, the worst mean first."""
    by_run = [run.values(class_name, "dice") for run in runs]
    cases = dict.fromkeys(case for each in by_run for case in each)

    def order(case: str) -> tuple[float, str]:
        known = [each[case] for each in by_run if not math.isnan(each.get(case, math.nan))]
        return (sum(known) / len(known) if known else math.inf, case)

    rows = [
        [case, *(number(each[case]) if case in each else "not scored" for each in by_run)]
        for case in sorted(cases, key=order)
    ]
    return Table(
        f"{class_name}: Dice of each case, worst mean over the runs first",
        ["case", *(run.name for run in runs)],
        rows[:MOST_CASES],
        note=_shortened(len(rows)),
    )


def curve_table(series: Sequence[PRSeries]) -> Table:
    """The numbers of the precision-recall figure."""
    return Table(
        "All voxels of a run pooled. Average precision is the area under the steps, without interpolation; recall, "
        "precision and Dice are those at the threshold that was used.",
        [
            *("curve", "average precision", "threshold", "recall", "precision", "Dice, pooled", "guessing"),
            ("highest Dice on these cases", "words"),
        ],
        [
            [
                each.name,
                number(each.average_precision),
                f"{each.threshold:g}",
                *(number(value) for value in each.operating_point),
                number(each.dice),
                f"{each.prevalence:.2g}",
                "undefined"
                if each.best is None
                else f"{number(each.best[1])} at threshold {each.best[0]:.3g}, chosen with the ground truth",
            ]
            for each in series
        ],
    )


def rank(row: Mapping[str, Any]) -> tuple[float, str]:
    """The order of cases: worst Dice first, undefined ones last."""
    return (math.inf if math.isnan(row["dice"]) else row["dice"], row["case"])


def _score_table(runs: Sequence[EvaluatedRun], scores: Sequence[Sequence[Score]], lead: str) -> Table:
    """One table: rows are scores, of one run with columns for everything known, of several with a column each."""
    found = [{(score.score, score.over): score for score in each} for each in scores]
    keys = list(dict.fromkeys(key for each in found for key in each))
    shared, own = common_parts([_conventions(runs, [each.get(key) for each in found]) for key in keys])
    columns: list[str | tuple[str, ColumnKind]] = ["score"]
    rows: list[list[Cell | str]]
    if len(runs) == 1:
        optional = {
            "95 % interval": [_interval(score) for score in scores[0]],
            "sd": ["" if score.sd is None else _shown(score, score.sd) for score in scores[0]],
            "n": [str(score.n) for score in scores[0]],
            "left out": ["" if score.left_out is None else str(score.left_out) for score in scores[0]],
        }
        shown = {head: cells for head, cells in optional.items() if any(cells)}
        columns += ["value", *shown]
        values = [_shown(score, score.value) for score in scores[0]]
        rows = [list(row) for row in zip(map(_label, keys), values, *shown.values(), strict=True)]
    else:
        columns += [run.name for run in runs]
        rows = [[_label(key), *(_value_cell(each.get(key), with_n=True) for each in found)] for key in keys]
    if any(own):
        columns.append(("how it is computed", "words"))
        rows = [[*row, words] for row, words in zip(rows, own, strict=True)]
    return Table(f"{shared}." if shared else "", columns, rows, lead=f"{lead}{':' if shared else '.'}")


def _label(key: tuple[str, str]) -> str:
    return WORDS[key[0]].label


def _conventions(runs: Sequence[EvaluatedRun], scores: Sequence[Score | None]) -> str:
    """How a score of each run was taken, run by run where they differ."""
    words = {run.name: run.taken(score) for run, score in zip(runs, scores, strict=True) if score is not None}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return "; ".join(f"{run}: {taken.replace('; ', ', ')}" for run, taken in words.items())


def _value_cell(score: Score | None, with_n: bool = False) -> Cell:
    if score is None:
        return Cell("not recorded")
    small = ", ".join(part for part in (_interval(score), f"n {score.n}" if with_n else "") if part)
    return Cell(_shown(score, score.value), small=small)


def _shown(score: Score, value: float | None) -> str:
    return number(value, WORDS[score.score].decimals)


def _interval(score: Score) -> str:
    return interval(score.interval, WORDS[score.score].decimals)


def _edges_in_words(summary: Summary, class_name: str) -> str:
    edges, unit = summary.size_edges(class_name), UNITS[summary.settings.size_unit]
    return f"Small is below {edges[0]:.4g} {unit}, large is at least {edges[1]:.4g} {unit}." if edges else ""


def _shortened(n: int) -> str:
    return f"The {MOST_CASES} worst of {n} lines; all of them are in scores.csv." if n > MOST_CASES else ""
