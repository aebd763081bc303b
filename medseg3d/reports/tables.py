"""The tables of a report: every number with its convention, its interval and its n, of one run or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg3d.reports.curves import PRSeries
from medseg3d.reports.document import Cell, ColumnKind, Table
from medseg3d.reports.paired import paired_difference
from medseg3d.reports.runs import EvaluatedRun
from medseg3d.reports.wording import interval, number, plural

SCORE_NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "recall": "Recall",
    "specificity": "Specificity",
    "precision": "Precision",
    "accuracy": "Accuracy",
    "hd95_mm": "HD95, mm",
    "mean_surface_distance_mm": "Mean surface distance, mm",
    "surface_dice": "Surface Dice",
    "mse": "MSE",
    "mae": "MAE",
    "dice_background": "Dice of the background",
    "iou_background": "IoU of the background",
    "weighted_f": "Weighted F-measure",
    "s_measure": "S-measure",
    "e_measure_mean": "E-measure, mean over thresholds",
    "e_measure_max": "E-measure, best threshold",
    "e_measure_adaptive": "E-measure, adaptive threshold",
    "max_dice": "Dice, best threshold",
    "max_iou": "IoU, best threshold",
    "max_recall": "Recall, best threshold",
    "max_specificity": "Specificity, best threshold",
    "mdice": "mDice",
    "miou": "mIoU",
    "mrecall": "mRecall (its “mAcc”)",
    "mprecision": "mPrecision",
    "aacc": "aAcc",
}

AGGREGATIONS = ("mean", "group_mean", "slice_mean", "pooled", "mmseg")
"""How the scores of a class are taken, by the end of their keys."""

KINDS = {
    "mean": "mean over cases",
    "group_mean": "mean over groups",
    "slice_mean": "mean over slices",
    "pooled": "pooled",
    "surface": "distances between surfaces, mean over cases",
    "probability": "errors and ranking of the probabilities, mean over cases",
    "mmseg": "two classes, background and foreground, as mmsegmentation",
    "pranet256": "256 thresholds and structure, as PraNet",
    "": "other",
}
"""The tables of a class in their order: kind to heading."""

_OF_SCORE = {
    **dict.fromkeys(("hd95_mm", "mean_surface_distance_mm", "surface_dice"), "surface"),
    **dict.fromkeys(("mse", "mae", "average_precision"), "probability"),
    **dict.fromkeys(("dice_background", "iou_background"), "mmseg"),
    **dict.fromkeys(("weighted_f", "s_measure"), "pranet256"),
}

MOST_CASES = 30
"""Lines of the table of cases; the rest stands in scores.csv."""

_DICES = {
    "dice_mean": "mean over cases",
    "dice_group_mean": "mean over groups",
    "dice_slice_mean": "mean over slices",
    "dice_pooled": "pooled",
    "mdice_mmseg": "two classes, background and foreground",
    "dice_pranet256_mean": "mean over 256 thresholds and cases",
}
_COUNTS = ("tp", "fp", "fn")
_CASE_SCORES = ("dice", "iou", "recall", "specificity", "precision", "accuracy")


@dataclass(frozen=True)
class Baseline:
    """Something simple that was measured on the same cases, to compare with.

    Args:
        name: such as "untrained network".
        dice: its mean Dice over cases.
        n: cases it is the mean of.
        how: one sentence on how it was obtained.
    """

    name: str
    dice: float
    n: int
    how: str


def split_key(key: str) -> tuple[str, str]:
    """Score and kind of a key of summary.json; the kind is one of `KINDS`.

    Example:
        >>> [split_key(key) for key in ("hd95_mm_mean", "dice_slice_mean", "mdice_mmseg", "max_dice_pranet256")]
        [('hd95_mm', 'surface'), ('dice', 'slice_mean'), ('mdice', 'mmseg'), ('max_dice', 'pranet256')]
        >>> split_key("something_else")
        ('something_else', '')
    """
    if "_pranet256" in key:
        return key.partition("_pranet256")[0], "pranet256"
    for ending in sorted(AGGREGATIONS, key=len, reverse=True):
        if key.endswith(f"_{ending}"):
            score = key.removesuffix(f"_{ending}")
            return score, "pranet256" if score.startswith("e_measure") else _OF_SCORE.get(score, ending)
    return key, "pranet256" if key.startswith("e_measure") else ""


def score_name(score: str) -> str:
    """A score as a table's line names it."""
    return SCORE_NAMES.get(score, score.replace("_", " ").capitalize())


def score_value(score: str, value: float | None) -> str:
    """A score in a table; millimetres have one decimal."""
    return number(value, 1 if score.endswith("_mm") else 3)


def score_tables(runs: Sequence[EvaluatedRun]) -> list[Table]:
    """For each class a table of each way to take the scores, with interval, spread, n and convention.

    What the conventions of a table have in common is its caption; what is left stands beside each number. Several runs
    are columns.
    """
    tables = []
    names = dict.fromkeys(name for run in runs for name in run.summary["scores"])
    for name in names:
        entries = {run.name: run.summary["scores"].get(name, {}) for run in runs}
        if any("value" in each for each in entries.values()):  # a score of all classes together
            entries = {run: {name: each} if each else {} for run, each in entries.items()}
            tables.append(_score_table(entries, "all classes together"))
            continue
        kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for each in entries.values():
            for key, entry in each.items():
                if _is_entry(entry) and key not in kinds[split_key(key)[1]]:
                    kinds[split_key(key)[1]].append(key)
        for kind, keys in kinds.items():
            if keys:
                chosen = {run: {key: each[key] for key in keys if key in each} for run, each in entries.items()}
                tables.append(_score_table(chosen, f"{name}, {KINDS[kind]}"))
    return tables


def convention_table(runs: Sequence[EvaluatedRun], class_name: str) -> Table:
    """Dice of one class by every convention that was recorded: the same masks, other numbers."""
    rows: list[list[Cell | str]] = []
    for key, name in _DICES.items():
        entries = {run.name: run.scores(class_name) for run in runs if key in run.scores(class_name)}
        if entries:
            cells = [_value_cell("dice", run.scores(class_name).get(key), with_n=True) for run in runs]
            rows.append([name, *cells, _convention(entries, key)])
    heads: list[tuple[str, ColumnKind]] = [(run.name if len(runs) > 1 else "Dice", "number") for run in runs]
    return Table(
        "the same masks by every convention. Only numbers of one line may be compared with each other, or with a paper "
        "that says that it is of this line.",
        [("convention", "text"), *heads, ("how it is taken", "words")],
        rows,
        lead=f"Dice of {class_name}:",
    )


def emptiness_notes(runs: Sequence[EvaluatedRun]) -> list[str]:
    """For each run and class how many cases are empty in truth or prediction, or missed."""
    words = {
        "n_empty_truth": "empty in the truth",
        "n_empty_pred": "empty in the prediction",
        "n_missed": "completely missed",
    }
    notes = []
    for run in runs:
        for name, scores in run.summary["scores"].items():
            parts = [f"{scores[key]} {text}" for key, text in words.items() if key in scores]
            if parts and "n_cases" in scores:
                of_what = ", ".join([*([run.name] if len(runs) > 1 else []), name])
                notes.append(f"{of_what}: of {plural(scores['n_cases'], 'case')} {', '.join(parts)}.")
    return notes


def common_parts(conventions: Sequence[str]) -> tuple[str, list[str]]:
    """What several conventions share, part by part between semicolons, and what is left of each.

    Example:
        >>> common_parts(["mean over cases; empty left out; on the grid", "mean over cases; all counted; on the grid"])
        ('mean over cases; on the grid', ['empty left out', 'all counted'])
    """
    parts = [convention.split("; ") for convention in conventions]
    shared = [part for part in parts[0] if all(part in others for others in parts)] if parts else []
    return "; ".join(shared), ["; ".join(part for part in each if part not in shared) for each in parts]


def baseline_table(run: EvaluatedRun, class_name: str, baselines: Sequence[Baseline]) -> Table:
    """The rows that set a run beside the baselines, the highest Dice first; undefined ones last."""
    own = run.scores(class_name)["dice_mean"]
    own_value = math.nan if own["value"] is None else own["value"]
    rows = [(own_value, "this run", own["n"], "the network of this report", True)]
    rows += [(each.dice, each.name, each.n, each.how, False) for each in baselines]
    rows.sort(key=lambda row: math.inf if math.isnan(row[0]) else -row[0])
    return Table(
        f"{class_name}: mean Dice over cases; a full bar would be 1",
        [("method", "text"), ("Dice", "number"), ("", "bar"), ("n", "number"), ("how it was obtained", "words")],
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
    of_group = {row["case"]: row["group"] for row in first.cases(class_name) if "group" in row}
    rows: list[list[Cell | str]] = []
    reference = _by_case(first, class_name, score)
    for run in others:
        difference = paired_difference([(_by_case(run, class_name, score), reference)], of_group)
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
    heads: list[tuple[str, ColumnKind]] = [("runs", "text"), (f"difference of {score_name(score)}", "number")]
    heads += [
        ("95 % interval", "number"),
        ("cases", "number"),
        *((word, "number") for word in ("higher", "equal", "lower")),
    ]
    return Table(
        f"{class_name}: mean over cases of the difference of {score_name(score)}, the same case in both runs",
        [*heads, ("what the cases say", "words")],
        rows,
        note=f"The interval is a bootstrap over {'groups of cases' if of_group else 'cases'} with both networks held "
        "fixed. It says how far these cases carry, not what another seed would give.",
    )


def strata_table(runs: Sequence[EvaluatedRun], class_name: str) -> Table | None:
    """Scores of the small, the medium and the large by the truth's size; None if no run has them."""
    keys = ("dice_mean", "iou_mean", "recall_mean", "precision_mean")
    rows: list[list[Cell | str]] = []
    edges = []
    for run in runs:
        strata = run.scores(class_name).get("strata")
        if not strata:
            continue
        edges.append(_edges_in_words(strata))
        for size in ("small", "medium", "large"):
            entries = strata.get(size, {})
            n = entries.get("n_cases", entries.get("dice_mean", {}).get("n", 0))
            cells = [_value_cell(split_key(key)[0], entries.get(key)) for key in keys]
            rows.append([*([run.name] if len(runs) > 1 else []), size, str(n), *cells])
    if not rows:
        return None
    heads: list[tuple[str, ColumnKind]] = [("run", "text")] if len(runs) > 1 else []
    heads += [("truth", "text"), ("cases", "number")]
    heads += [(score_name(split_key(key)[0]), "number") for key in keys]
    return Table(
        f"{class_name}: mean over the cases of each size; below each value its 95 % interval",
        heads,
        rows,
        note=" ".join(dict.fromkeys(edges)),
    )


def case_table(run: EvaluatedRun) -> Table:
    """Every case: class by class, the worst Dice first, undefined ones last; of very many the worst `MOST_CASES`."""
    classes = run.classes
    in_ml = not all(math.isnan(row["truth_ml"]) for row in run.rows)
    columns: list[tuple[str, ColumnKind]] = [("case", "text")]
    if len(classes) > 1:
        columns.append(("class", "text"))
    heads = [name if name in {"Dice", "IoU"} else name.lower() for name in map(score_name, _CASE_SCORES)]
    heads += ["truth ml", "predicted ml"] if in_ml else []
    columns += [(head, "number") for head in (*heads, *(count.upper() for count in _COUNTS))]
    rows: list[list[Cell | str]] = []
    for row in sorted(run.rows, key=lambda row: (classes.index(row["class"]), *rank(row))):
        words = [row["case"], row["class"]] if len(classes) > 1 else [row["case"]]
        scores = [number(row[score]) for score in _CASE_SCORES]
        volumes = [number(row["truth_ml"], 1), number(row["pred_ml"], 1)] if in_ml else []
        rows.append([*words, *scores, *volumes, *(f"{row[count]:,}" for count in _COUNTS)])
    caption = ("By class, worst" if len(classes) > 1 else "Worst") + " Dice first. "
    caption += f"TP, FP and FN are {'voxels' if in_ml else 'pixels'} on the grid of the scores."
    return Table(caption, columns, rows[:MOST_CASES], note=_shortened(len(rows)))


def shared_case_table(runs: Sequence[EvaluatedRun], class_name: str) -> Table:
    """Dice of every case in every run, the worst mean first."""
    by_run = [_by_case(run, class_name, "dice") for run in runs]
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
        [("case", "text"), *((run.name, "number") for run in runs)],
        rows[:MOST_CASES],
        note=_shortened(len(rows)),
    )


def curve_table(series: Sequence[PRSeries]) -> Table:
    """The numbers of the precision-recall figure."""
    return Table(
        "All voxels of a run pooled. Average precision is the area under the steps, without interpolation; recall, "
        "precision and Dice are those at the threshold that was used.",
        [
            ("curve", "text"),
            *(
                (name, "number")
                for name in ("average precision", "threshold", "recall", "precision", "Dice, pooled", "guessing")
            ),
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
                else f"{number(each.best[1])} at threshold {each.best[0]:.3g}, chosen with the truth in sight",
            ]
            for each in series
        ],
    )


def rank(row: Mapping[str, Any]) -> tuple[float, str]:
    """The order of cases: worst Dice first, undefined ones last."""
    return (math.inf if math.isnan(row["dice"]) else row["dice"], row["case"])


def _by_case(run: EvaluatedRun, class_name: str, score: str) -> dict[str, float]:
    return {row["case"]: row[score] for row in run.cases(class_name)}


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, Mapping) and "value" in entry


def _score_table(entries: Mapping[str, Mapping[str, Any]], lead: str) -> Table:
    """One table: rows are scores, of one run with columns for everything known, of several with a column each."""
    keys = list(dict.fromkeys(key for each in entries.values() for key in each))
    shared, own = common_parts([_convention(entries, key) for key in keys])
    columns: list[tuple[str, ColumnKind]] = [("score", "text")]
    rows: list[list[Cell | str]] = []
    if len(entries) == 1:
        (only,) = entries.values()
        optional = {
            "95 % interval": [_interval(split_key(key)[0], entry) for key, entry in only.items()],
            "sd": [
                "" if entry.get("sd") is None else score_value(split_key(key)[0], entry["sd"])
                for key, entry in only.items()
            ],
            "n": [str(entry.get("n", "")) for entry in only.values()],
            "left out": [str(entry.get("n_nan", "")) for entry in only.values()],
        }
        shown = {head: cells for head, cells in optional.items() if any(cells)}
        columns += [("value", "number"), *((head, "number") for head in shown)]
        for index, (key, entry) in enumerate(only.items()):
            score = split_key(key)[0]
            cells = [cells[index] for cells in shown.values()]
            rows.append([score_name(score), score_value(score, entry["value"]), *cells])
    else:
        columns += [(run, "number") for run in entries]
        for key in keys:
            score = split_key(key)[0]
            rows.append(
                [score_name(score), *(_value_cell(score, each.get(key), with_n=True) for each in entries.values())]
            )
    columns.append(("name in summary.json", "code"))
    for row, key, words in zip(rows, keys, own, strict=True):
        row += [key, words]
    columns.append(("how it is taken", "words"))
    if not any(own):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table(f"{shared}." if shared else "", columns, rows, lead=f"{lead}{':' if shared else '.'}")


def _convention(entries: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """The convention of a score, run by run where they differ."""
    words = {
        run: str(each[key].get("convention", "convention not recorded")) for run, each in entries.items() if key in each
    }
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return "; ".join(f"{run}: {convention.replace('; ', ', ')}" for run, convention in words.items())


def _value_cell(score: str, entry: Mapping[str, Any] | None, with_n: bool = False) -> Cell:
    if entry is None:
        return Cell("not recorded")
    small = ", ".join(
        part for part in (_interval(score, entry), f"n {entry['n']}" if with_n and "n" in entry else "") if part
    )
    return Cell(score_value(score, entry["value"]), small=small)


def _interval(score: str, entry: Mapping[str, Any]) -> str:
    return interval(entry.get("ci95"), 1 if score.endswith("_mm") else 3)


def _edges_in_words(strata: Mapping[str, Any]) -> str:
    edges = [edge for edge in strata.get("edges", []) if edge is not None]
    if len(edges) != 2:
        return ""
    unit = strata.get("unit", "")
    return f"Small is a truth below {edges[0]:.4g} {unit}, large one from {edges[1]:.4g} {unit} on.".replace(" ,", ",")


def _shortened(n: int) -> str:
    return f"The {MOST_CASES} worst of {n} lines; all of them are in scores.csv." if n > MOST_CASES else ""
