"""The report on an experiment: each condition, the paper's table next to ours, differences, curves, every run."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg3d import __version__
from medseg3d.data.splits import SET_NAMES
from medseg3d.evaluation.wording import OVER, WORDS, taken_of
from medseg3d.files.atomic import atomic_write
from medseg3d.files.plain import write_json
from medseg3d.reports.charts import draw_levels
from medseg3d.reports.comparison import Comparison, Gain, Levels, Row, read_comparison
from medseg3d.reports.curves import draw_pr_panels, pr_series, save_figure
from medseg3d.reports.document import Block, Bullets, ColumnKind, Document, Picture, Section, Table, Text, as_markdown
from medseg3d.reports.paper_table import Column, PaperTable, as_block
from medseg3d.reports.papers import TABLES
from medseg3d.reports.parameters import papers_of_bundle
from medseg3d.reports.wording import SENTENCES, command_line, duration, interval, plain_text, spread

_COLUMNS = ("class", "seeds", "mean", "sd", "reference", "difference", "low", "high", "cases", "verdict")


def write_comparison(folder: str | Path, name: str) -> str:
    """Write the report on the experiment in a folder, and its table; the Markdown comes back.

    The report is NAME.md, table.md for an experiment without a name, with figures next to it; table.csv and table.json
    hold a line for each condition and what it is compared with.

    Raises:
        UserError: `SCORE_FILE` if there is no experiment, or a file of a finished run is absent or damaged.
    """
    comparison = read_comparison(folder, name)
    folder, record = comparison.folder, comparison.record
    done = f"{len(record['rows'])} of {len(record['asked'])} runs are finished."
    opening = [Text(done, lead="Research software, not for clinical use.", style="notice")]
    sections = comparison_sections(comparison, folder)
    document = Document(comparison.title, opening, sections, f"Written by medseg3d {__version__}.")
    text, lines = as_markdown(document, folder), comparison_lines(comparison)
    write_json(folder / "table.json", {"score": comparison.score, "part": record["part"], "conditions": lines})
    with atomic_write(folder / "table.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*comparison.factors, *_COLUMNS])
        for line in lines:
            own = ("" if line[column] is None else line[column] for column in _COLUMNS)
            writer.writerow([*line["levels"].values(), *own])
    with atomic_write(folder / f"{'table' if name == 'experiment' else name}.md", "w") as file:
        file.write(text)
    return text


def comparison_lines(comparison: Comparison) -> list[dict[str, Any]]:
    """A dictionary for each condition that has a finished run and each that it is compared with.

    `mean` and `sd` are over seeds, of the mean over cases. `difference` is to the condition `reference`, mean over the
    cases and seeds that both have; `low` and `high` its 95 % interval by a bootstrap over the cases, or over their
    groups, with the networks held fixed.
    """
    lines = []
    for data in comparison.data:
        gains = [gain for gain in comparison.gains(data) if len(gain.pairs) == 1]
        for levels in filter(comparison.rows, comparison.conditions(data)):
            values = [comparison.value(row, comparison.score) for row in comparison.rows(levels)]
            known = [value for value in values if value is not None]
            about = {
                "levels": dict(zip(comparison.factors, levels, strict=True)),
                **{"class": comparison.class_name, "seeds": len(values), "values": values},
                "mean": statistics.fmean(known) if known else None,
                "sd": statistics.stdev(known) if len(known) > 1 else None,
                **dict.fromkeys(("reference", "difference", "low", "high", "cases", "verdict", "by_seed")),
            }
            of_it = [gain for gain in gains if gain.pairs[0][0] == levels]
            lines += [{**about, **_difference(gain, comparison.score)} for gain in of_it] or [about]
    return lines


def _difference(gain: Gain, score: str) -> dict[str, Any]:
    found = gain.scores[score]
    low, high = (None if math.isnan(end) else end for end in found.interval)
    return {
        **{"reference": " ".join(map(str, gain.pairs[0][1])), "difference": found.value, "low": low, "high": high},
        **{"cases": len(found.cases), "verdict": found.verdict, "by_seed": list(found.pairs)},
    }


def comparison_sections(comparison: Comparison, figures: Path, prefix: str = "", name: str = "") -> list[Section]:
    """A section for each data set, and one on how it was done; the figures are written.

    Args:
        comparison: what an experiment has come to.
        figures: folder for the PNG files.
        prefix: what the names of the files and the addresses of the sections begin with.
        name: what the headings begin with.
    """
    contents = {data or "Results": _data_blocks(comparison, data, figures, prefix) for data in comparison.data}
    contents["How it was done"] = [Bullets(_conditions(comparison))]
    return [
        Section(f"{prefix}{place}", f"{name}: {heading}" if name else heading, blocks)
        for place, (heading, blocks) in enumerate(contents.items(), start=1)
    ]


def _data_blocks(comparison: Comparison, data: str, figures: Path, prefix: str) -> list[Block]:
    if not comparison.rows_of(data):
        return [Text("No run is finished.")]
    blocks: list[Block] = [_condition_table(comparison, data)]
    tables, gains, suffix = paper_tables(comparison, data), comparison.gains(data), f"_{data}" if data else ""
    for table in tables:
        differ = _other_conditions(comparison, data, table)
        blocks += [Text(f"{'; '.join(differ)}.", lead="Conditions that differ from the paper's:")] * bool(differ)
        for over in comparison.overs:
            cells = ours(comparison, data, table, over)
            if cells:
                block = as_block(table, cells)
                blocks.append(replace(block, caption=f"{block.caption} Ours: {OVER[over]}."))
        blocks += [Bullets(table.notes)] * bool(table.notes)
    if gains:
        blocks.append(_gain_table(comparison, gains, tables))
    if comparison.varied:
        png = save_figure(draw_levels(comparison, data), figures / f"{prefix}scores{suffix}.png")
        words = (
            f"{_label(comparison)} of {comparison.class_name}: each point is a run, lines connect the means over seeds."
        )
        blocks.append(Picture(png, alt=words, caption=words, wide=True))
    blocks += _curves(comparison, data, figures / f"{prefix}pr{suffix}.png")
    return [*blocks, *_run_tables(comparison, data)]


def _heads(words: Sequence[str], numbers: Sequence[str]) -> list[tuple[str, ColumnKind]]:
    return [*((name, "text") for name in words), *((name, "number") for name in numbers)]


def _label(comparison: Comparison) -> str:
    return WORDS[comparison.score].label


def _condition_table(comparison: Comparison, data: str) -> Table:
    """Each condition by every mean that all runs have."""
    first, score, overs = comparison.rows_of(data)[0], comparison.score, comparison.overs
    rows = []
    for levels in comparison.conditions(data):
        runs = comparison.rows(levels)
        words = [str(comparison.level(levels, name)) for name in comparison.varied]
        cells = [_cell(comparison, levels, score, over, 100) for over in overs]
        parameters = f"{runs[0]['parameters']:,}" if runs else ""
        rows.append([*words, *cells, str(len(runs)), parameters])
    taken = (taken_of(first["evaluation"], comparison.class_name, score, over) for over in overs)
    return Table(
        f"{_label(comparison)} of {comparison.class_name} on the {SET_NAMES[comparison.record['part']]}, in %; mean ± "
        "standard deviation over seeds.",
        _heads(comparison.varied, [*(OVER[over] for over in overs), "seeds", "parameters"]),
        rows,
        note=" ".join(f"{each[:1].upper()}{each[1:]}." for each in taken),
    )


def _cell(comparison: Comparison, levels: Levels, score: str, over: str, scale: float) -> str:
    """Mean and spread over seeds, how many of them where some have none; in words what has failed or is not there."""
    values = comparison.values(levels, score, over).values()
    if not values:
        runs = {run["run_dir"] for run in comparison.record["asked"] if comparison.levels(run) == levels}
        return "failed" if runs & comparison.record["failures"].keys() else "–"
    n = len(comparison.seeds)
    few = f" ({len(values)} of {n} seeds)" if len(values) < n else ""
    return spread(values, scale, digits=2 if scale == 100 else 3) + few


def paper_tables(comparison: Comparison, data: str) -> list[PaperTable]:
    """The tables of the bundle's paper that match a data set's runs, by what is varied; none for phantoms."""
    folders, varied = comparison.data[data], set(comparison.varied)
    if any(each["phantom"] for each in folders.values()):
        return []
    return [
        table
        for table in TABLES.values()
        if table.paper in papers_of_bundle(comparison.record["bundle"])
        and table.factor in varied <= {table.factor, "backbone"}
        and table.is_of(*([data] if data else folders))
    ]


def ours(comparison: Comparison, data: str, table: PaperTable, over: str) -> dict[str, dict[str, str]]:
    """Our cells of a paper's table, by row and column, of scores with one kind of mean."""
    cells: dict[str, dict[str, str]] = {}
    for levels in comparison.conditions(data):
        for column in _columns_of(comparison, table, levels):
            if over in column.over:
                text = _cell(comparison, levels, column.score, over, column.scale)
                cells.setdefault(_row_of(comparison, table, levels), {})[column.key] = text
    return cells


def _row_of(comparison: Comparison, table: PaperTable, levels: Levels) -> str:
    level = str(comparison.level(levels, table.factor))
    return table.levels.get(level, level)


def _columns_of(comparison: Comparison, table: PaperTable, levels: Levels) -> list[Column]:
    """The columns that a condition has scores for."""
    backbones = ("", comparison.level(levels, "backbone"))
    return [column for column in table.columns[1:] if column.score and column.backbone in backbones]


def _other_conditions(comparison: Comparison, data: str, table: PaperTable) -> list[str]:
    """What the paper states of its conditions and ours are not."""
    record, sets = comparison.record, comparison.data[data].values()
    cases = [sum(each["cases"][part] for each in sets) for part in ("train", "val", "test")]
    found = {
        **record["conditions"],
        **{"cases": sum(cases), "split": "/".join(f"{100 * n / sum(cases):.0f}" for n in cases)},
        **{"trials": (record["tune"] or {}).get("trials", 0), "scored on": record["part"]},
        "threshold chosen on": (record["threshold"] or {}).get("part"),
    }
    stated = table.conditions.items()
    return [f"{name} {found.get(name)}, not {value}" for name, value in stated if found.get(name) != value]


def _gain_table(comparison: Comparison, gains: Sequence[Gain], tables: Sequence[PaperTable]) -> Table:
    """What conditions differ by, and what the paper's do."""
    score, compared = comparison.score, list(comparison.record["reference"])
    others = [name for name in comparison.varied if name not in compared]
    rows: list[dict[str, str]] = []
    for gain in gains:
        found, (one, other) = gain.scores[score], gain.pairs[0]
        sides = [" ".join(str(comparison.level(levels, name)) for name in compared) for levels in (one, other)]
        several = f"mean of {len(gain.pairs)}" if len(gain.pairs) > 1 else ""
        row = {name: several or str(comparison.level(one, name)) for name in others}
        row |= {"difference": " − ".join(sides), "paper, points": _of_paper(comparison, tables, gain)}
        row |= {"points": f"{100 * found.value:+.2f}", "95 % interval": _signed(found.interval, 100, 2)}
        row["higher / lower"] = f"{found.signs['higher']} / {found.signs['lower']}" if found.cases else ""
        row |= {f"by seed, {OVER[over]}": spread(values, sign=True) for over, values in gain.by_seed.items()}
        if "mse" in gain.scores:
            mse = gain.scores["mse"]
            row |= {"MSE": f"{mse.value:+.4f}", "its 95 % interval": _signed(mse.interval, 1, 4)}
        rows.append({**row, "what it says": found.verdict})
    heads = [head for head in rows[0] if any(row[head] for row in rows)]
    words = {*others, "difference", "what it says"}
    n = " or ".join(str(n) for n in sorted({len(gain.scores[score].cases) for gain in gains} - {0}))
    return Table(
        f"Differences in {_label(comparison)} between two conditions{f' on the same {n} cases' if n else ''}.",
        [(head, "text" if head in words else "number") for head in heads],
        [[row[head] for head in heads] for row in rows],
        note=SENTENCES["compared"],
    )


def _of_paper(comparison: Comparison, tables: Sequence[PaperTable], gain: Gain) -> str:
    """The paper's difference in points; nothing where it has none."""
    found = []
    for table, (one, other) in ((table, pair) for table in tables for pair in gain.pairs):
        rows = [_row_of(comparison, table, levels) for levels in (one, other)]
        columns = [each for each in _columns_of(comparison, table, one) if each.score == comparison.score]
        for column in columns if set(rows) <= set(table.row_names) else ():
            ends = [table.value(row, column.key) for row in rows]
            found += [ends[0] - ends[1]] if ends[0] is not None and ends[1] is not None else []
    return f"{statistics.fmean(found):+.2f}" if found else ""


def _signed(bounds: Sequence[float], scale: float, digits: int) -> str:
    return " to ".join(f"{scale * end:+.{digits}f}" for end in bounds if not math.isnan(end))


def _curves(comparison: Comparison, data: str, png: Path) -> list[Block]:
    """Precision over recall: a panel for each combination of the factors but the last, whose levels are lines."""
    panels: dict[str, list[list[Any]]] = {}
    for levels in comparison.conditions(data):
        *title, name = [str(comparison.level(levels, name)) for name in comparison.varied] or [comparison.class_name]
        runs = [(row, comparison.runs.get(row["run_dir"])) for row in comparison.rows(levels)]
        panels.setdefault(", ".join(title), []).append(
            [
                pr_series(name, run.curve, row.get("threshold", 0.5))
                for row, run in runs
                if run is not None and run.curve is not None
            ]
        )
    if not any(series for lines in panels.values() for series in lines):
        return []
    words = f"Precision and recall{f', {data}' if data else ''}, {SET_NAMES[comparison.record['part']]}"
    save_figure(draw_pr_panels(panels, words), png)
    return [Picture(png, alt=words, caption=f"{words}. {SENTENCES['drawn']}", wide=True)]


def _run_tables(comparison: Comparison, data: str) -> list[Table]:
    """A line for each run: its scores, and how it was trained; columns that no run has anything in are left out."""
    rows, names = comparison.rows_of(data), [*comparison.varied, "seed"]
    tables = []
    for caption, columns in (("Scores of each run.", _SCORES), ("Training of each run.", _TRAINING)):
        cells = {head: [text(comparison, row) for row in rows] for head, text in columns.items()}
        shown = {head: column for head, column in cells.items() if any(column)}
        lines = zip(*([str(row[name]) for row in rows] for name in names), *shown.values(), strict=True)
        tables.append(Table(caption, _heads(names, list(shown)), [list(line) for line in lines]))
    return tables


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _bounds(comparison: Comparison, row: Row) -> str:
    found = comparison.find(row, comparison.score)
    return interval([100 * end for end in found.interval] if found and found.interval else None, 2)


def _raw(score: str, over: str) -> Callable[[Comparison, Row], str]:
    def text(comparison: Comparison, row: Row) -> str:
        value = comparison.value(row, score, over)
        return "" if value is None else f"{value:.4f}"

    return text


def _at_half(key: str) -> Callable[[Comparison, Row], str]:
    return lambda comparison, row: _percent(row.get("scores_at_half", {}).get(f"{comparison.score}_{key}"))


Columns = Mapping[str, Callable[[Comparison, Row], str]]
"""Heading of a column to its cell of a run."""

_SCORES: Columns = {
    "threshold": lambda comparison, row: f"{row['threshold']:.2f}" if "threshold" in row else "",
    "mean over cases, %": lambda comparison, row: _percent(comparison.value(row, comparison.score)),
    "95 % interval": _bounds,
    "mean at 0.5, %": _at_half("mean"),
    "pooled, %": lambda comparison, row: _percent(comparison.value(row, comparison.score, "pooled")),
    "pooled at 0.5, %": _at_half("pooled"),
    "MSE": _raw("mse", "cases"),
    "MSE pooled": _raw("mse", "pooled"),
    "AP pooled": _raw("average_precision", "pooled"),
}
_TRAINING: Columns = {
    "learning rate": lambda comparison, row: f"{row['learning_rate']:.3g}",
    "trials": lambda comparison, row: plain_text((row["tuning"] or {}).get("trials", {})),
    "epochs": lambda comparison, row: str(row["epochs"] or ""),
    "kept": lambda comparison, row: str(comparison.kept.get(row["run_dir"], ("",))[0]),
    "its validation Dice, %": lambda comparison, row: _percent(comparison.kept.get(row["run_dir"], ("", None))[1]),
    "chosen threshold's score, %": lambda comparison, row: _percent(comparison.threshold_value(row)),
    "tuning, s": lambda comparison, row: f"{row['tuning']['seconds']:.0f}" if row["tuning"] else "",
    "training, s": lambda comparison, row: f"{row['seconds']['training']:.0f}" + " (resumed)" * bool(row["resumed"]),
    "evaluating, s": lambda comparison, row: f"{sum(row['seconds'].values()) - row['seconds']['training']:.0f}",
}


def _conditions(comparison: Comparison) -> list[str]:
    """What was the same for all runs, what was chosen where, on which cases, in which time; what is not there."""
    record, rows = comparison.record, comparison.record["rows"]
    tune, threshold = record["tune"], record["threshold"]
    equal = {**record["conditions"], **record["knobs"]}
    same = {name: value for name, value in equal.items() if value != "" and name not in (tune or {}).get("search", ())}
    trials = f", of {plain_text(tune['knobs'])}" if tune and tune.get("knobs") else ""
    searched = f"{plain_text(tune['search'])}, {tune['trials']} trials{trials}, on the validation set" if tune else ""
    overlays = f" with {plain_text(record['overlays'])}" if record["overlays"] else ""
    chosen = f"best {threshold['score']} on the {SET_NAMES[threshold['part']]}" if threshold else "none"
    lines = [
        *record.get("notes", ()),
        f"Bundle {record['bundle']}{overlays}. The same for all runs: {plain_text(same)}.",
        f"Tuned: {searched or 'nothing'}.",
        f"Threshold: {chosen}.",
        f"Seeds of the trainings: {plain_text(comparison.seeds)}.",
    ]
    for folder, data in record["data"].items():
        generated = "; generated images, which say nothing about patients" if data["phantom"] else ""
        split = f"split {data['split_hash'][:16]}, {Path(data['split_file']).name}, the same for all runs"
        cases = ", ".join(f"{n} {part}" for part, n in data["cases"].items())
        lines.append(f"{Path(folder).name}: {cases}; {split}{generated}.")
    kept = [(comparison.kept[row["run_dir"]][0], row["epochs"]) for row in rows if row["run_dir"] in comparison.kept]
    last = sum(epoch == epochs for epoch, epochs in kept)
    if last and not comparison.keeps_last:
        lines.append(
            f"{last} of {len(kept)} trainings were best in their last epoch: longer ones might score higher and "
            "change the order."
        )
    if rows:
        spent = {
            "training": sum(row["seconds"]["training"] for row in rows),
            "evaluating": sum(sum(row["seconds"].values()) - row["seconds"]["training"] for row in rows),
            "tuning": sum((row["tuning"] or {}).get("seconds", 0.0) for row in rows),
        }
        said = ", ".join(f"{name} {duration(seconds)}" for name, seconds in spent.items() if seconds)
        at = f"; {record['jobs']} in parallel, on {record['machine']}" if "machine" in record else ""
        resumed = sum(bool(row["resumed"]) for row in rows)
        rest = f"; for the {resumed} resumed runs, only the time since resuming" if resumed else ""
        lines.append(f"Wall-clock time, summed over {len(rows)} runs: {said}{rest}{at}.")
    versions = dict.fromkeys(plain_text(row["versions"]) for row in rows if row["versions"])
    lines += [f"Versions: {'; or '.join(versions)}."] * bool(versions)
    if record.get("command"):
        lines.append(f"Last command: {command_line([Path(record['command'][0]).name, *record['command'][1:]])}")
    lines += [f"{run} failed: {reason}" for run, reason in record["failures"].items()]
    return lines + [f"Not finished: {', '.join(comparison.missing)}"] * bool(comparison.missing)
