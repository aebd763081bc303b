"""What an experiment came to: mean and spread over seeds of each condition, and its difference to a reference."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg3d.evaluation.experiment_files import read_experiment
from medseg3d.files.atomic import atomic_write
from medseg3d.files.plain import write_json
from medseg3d.reports.ablation_table import spread
from medseg3d.reports.paired import Scores, paired_difference
from medseg3d.reports.runs import run_of_row
from medseg3d.reports.wording import markdown_table, plain_text


def write_experiment_table(folder: str | Path) -> str:
    """Write table.csv, table.json and table.md of the experiment in a folder; the Markdown comes back.

    Raises:
        Fault: `SCORE_FILE` if there is no experiment, or a file of a finished run is absent or damaged.
    """
    folder = Path(folder)
    record = read_experiment(folder, "experiment", "experiment FILE")
    lines = experiment_lines(record, folder)
    text = experiment_markdown(record, lines)
    write_json(folder / "table.json", {"score": record["score"], "part": record["part"], "conditions": lines})
    with atomic_write(folder / "table.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*record["factors"], *_COLUMNS])
        for line in lines:
            own = ("" if line[column] is None else line[column] for column in _COLUMNS)
            writer.writerow([*line["levels"].values(), *own])
    with atomic_write(folder / "table.md", "w") as file:
        file.write(text)
    return text


_COLUMNS = ("class", "seeds", "mean", "sd", "reference", "difference", "low", "high", "cases", "verdict")


def experiment_lines(record: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A dictionary for each condition that has a finished run.

    `mean` and `sd` are over seeds, of the mean over cases. `difference` is to the condition with the level of the
    reference, mean over the cases and seeds that both have; `low` and `high` its 95 % interval by a bootstrap over the
    cases, or over their groups, with the networks held fixed.
    """
    factors, score = list(record["factors"]), record["score"]
    rows: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in record["rows"]:
        rows.setdefault(tuple(row[factor] for factor in factors), []).append(row)
    order = [tuple(run[factor] for factor in factors) for run in record["asked"]]
    lines = []
    for levels in sorted(rows, key=order.index):
        name = rows[levels][0]["evaluation"].classes[0]
        scores = [row["evaluation"].find(name, score) for row in rows[levels]]
        values = [None if each is None else each.value for each in scores]
        known = [value for value in values if value is not None]
        reference = tuple(record["reference"].get(factor, level) for factor, level in zip(factors, levels, strict=True))
        difference = dict.fromkeys(("reference", "difference", "low", "high", "cases", "verdict", "by_seed"))
        if reference != levels and reference in rows:
            found = _difference(rows[levels], rows[reference], folder, record, name)
            difference |= found if found else {}
            difference["reference"] = " ".join(map(str, reference))
        lines.append(
            {
                "levels": dict(zip(factors, levels, strict=True)),
                **{"class": name, "seeds": len(rows[levels]), "values": values},
                "mean": statistics.fmean(known) if known else None,
                "sd": statistics.stdev(known) if len(known) > 1 else None,
                **difference,
            }
        )
    return lines


def _difference(
    ours: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    folder: Path,
    record: Mapping[str, Any],
    name: str,
) -> dict[str, Any]:
    """One condition less another, paired by seed and case; nothing where no seed has both."""
    other_of = {row["seed"]: row for row in others}
    pairs: list[tuple[Scores, Scores]] = []
    groups: dict[str, str] = {}
    for row in ours:
        if row["seed"] in other_of:
            one, other = (run_of_row(folder, each, record["part"]) for each in (row, other_of[row["seed"]]))
            groups |= one.groups(name) | other.groups(name)
            pairs.append((one.values(name, record["score"]), other.values(name, record["score"])))
    if not pairs:
        return {}
    found = paired_difference(pairs, groups)
    low, high = (None if math.isnan(end) else end for end in found.interval)
    return {
        **{"difference": found.value, "low": low, "high": high, "cases": len(found.cases)},
        **{"verdict": found.verdict, "by_seed": list(found.pairs)},
    }


def experiment_markdown(record: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    """The table, how to read it, what was the same for all runs, and what is not in it."""
    factors, score = list(record["factors"]), record["score"]
    heads = [*factors, f"{score}, %", "seeds", "against", "points", "95 % interval", "points by seed", "what it says"]
    cells = [
        [
            *map(str, line["levels"].values()),
            *(spread([value for value in line["values"] if value is not None]), str(line["seeds"])),
            *(line["reference"] or "", "" if line["difference"] is None else f"{100 * line['difference']:+.2f}"),
            "" if line["low"] is None else f"{100 * line['low']:+.2f} to {100 * line['high']:+.2f}",
            *(spread(line["by_seed"] or [], sign=True), line["verdict"] or ""),
        ]
        for line in lines
    ]
    finished = {row["run_dir"] for row in record["rows"]}
    missing = [run["run_dir"] for run in record["asked"] if run["run_dir"] not in {*finished, *record["failures"]}]
    blocks = [
        "# Experiment",
        f"{len(finished)} of {len(record['asked'])} runs are finished. Research only, not for clinical use.",
        markdown_table(heads, cells, range(len(heads))) if lines else "No run is finished.",
        *_how_to_read(record, lines),
        _conditions(record),
        "\n".join(
            [*(f"- {run} failed: {reason}" for run, reason in record["failures"].items())]
            + [f"- not finished: {', '.join(missing)}"] * bool(missing)
        ),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _how_to_read(record: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> list[str]:
    if not lines:
        return []
    of = f"{record['score']} of {lines[0]['class']}, mean over the cases of the part {record['part']}"
    said = [f"{of}; mean ± standard deviation over the seeds."]
    if any(line["difference"] is not None for line in lines):
        said.append(
            "Differences are taken case by case between runs of one seed. Each interval is a bootstrap over cases, or "
            "their groups, with the networks held fixed; one in twenty misses by chance."
        )
    return [" ".join(said)]


def _conditions(record: Mapping[str, Any]) -> str:
    tune, threshold = record["tune"], record["threshold"]
    tuned = f"{plain_text(tune['search'])}, {tune['trials']} trials on the validation set" if tune else "nothing"
    lines = [
        f"Equal for all: {plain_text({key: value for key, value in record['conditions'].items() if value != ''})}.",
        f"Tuned: {tuned}.",
        f"Threshold: {'that of the best ' + threshold['score'] + ' on ' + threshold['part'] if threshold else 'none'}.",
    ]
    for name, data in record["data"].items():
        cases = ", ".join(f"{n} {part}" for part, n in data["cases"].items())
        generated = "; generated pictures or volumes, which say nothing about patients" if data["phantom"] else ""
        lines.append(f"{Path(name).name}: {cases}; split {data['split_hash'][:16]}{generated}.")
    return "\n".join(f"- {line}" for line in lines)
