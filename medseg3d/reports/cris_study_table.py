"""The CRIS paper's grid as a study has it: its Tables 1 and 2 with ours beside, and the curves of Figures 3 and 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import quote

from matplotlib.figure import Figure

from medseg3d.evaluation.files import read_curve
from medseg3d.evaluation.wording import taken_of
from medseg3d.files.atomic import atomic_write
from medseg3d.reports.ablation_table import spread
from medseg3d.reports.cris_study_conditions import conditions, differences, unfinished
from medseg3d.reports.cris_study_gains import gains_markdown, titles
from medseg3d.reports.cris_study_results import Study
from medseg3d.reports.curves import PRSeries, draw_pr_panels, pr_series, save_figure
from medseg3d.reports.paper_table import PaperTable, as_markdown
from medseg3d.reports.papers import TABLES, cris_table
from medseg3d.reports.wording import interval, markdown_table

_AP = "AP: area under the steps of precision over recall, the pixels of all pictures pooled."
_CIRCLE = "A circle: recall and precision at the run's threshold."


def write_study(study: Study) -> str:
    """Write study.md and, for every data set with a finished run, `pr_<name>.png`; the text comes back."""
    text = study_markdown(study)
    with atomic_write(study.folder / "study.md", "w") as file:
        file.write(text)
    for name in study.data:
        if study.of(name):
            save_figure(draw_study(study, name), study.folder / f"pr_{name}.png")
    return text


def study_markdown(study: Study) -> str:
    """The paper's tables with ours beside, what each strategy adds, every run, and how it was done."""
    n = len(study.asked)
    done = n - len(study.missing) - len(study.failures)
    blocks = [
        "# The grid of CRIS",
        f"{done} of {n} combinations of data, backbone, strategy and seed are finished. Research only, not for "
        "clinical use.",
        *differences(study),
    ]
    for name in study.data:
        blocks += [f"## {name}", *_of_data(study, name)]
    blocks += ["## How it was done", conditions(study)]
    blocks += [unfinished(study)]
    return "\n\n".join(block.strip() for block in blocks if block) + "\n"


def _of_data(study: Study, name: str) -> list[str]:
    if not study.of(name):
        return ["No run is finished."]
    table = paper_table(study, name)
    parts = study.settings["part"], study.data[name]["cases"][study.settings["part"]]
    return [
        *_tables(study, name, table),
        f"### What each strategy adds, {name}",
        gains_markdown(study, name, table) or "No two strategies of one backbone are finished.",
        f"### Precision and recall, {name}",
        f"![precision and recall, {name}](pr_{quote(name)}.png)",
        "As in the paper's Figures 3 and 4: a panel for each backbone, a line for each strategy and seed, of the part "
        f"{parts[0]}, {parts[1]} pictures. {_AP} {_CIRCLE} A flat piece: many pixels share one "
        "probability.",
        f"### Every run, {name}",
        _scores(study, name),
        _trainings(study, name),
    ]


def paper_table(study: Study, name: str) -> PaperTable:
    """The paper's table of a data set; without its numbers where it has none of it, or the pictures are generated."""
    table = cris_table(name)
    if table is not None and not study.data[name]["phantom"]:
        return table
    form = TABLES["cris_table_1"]
    head = form.columns[0].key
    blank = tuple({key: text if key == head else None for key, text in row.items()} for row in form.rows)
    why = "generated pictures, which say nothing about patients" if study.data[name]["phantom"] else "not in the paper"
    return replace(
        form, name=name, caption=f"{why[:1].upper()}{why[1:]}.", convention="", rows=blank, flags=(), notes=()
    )


def ours(study: Study, name: str, table: PaperTable, over: Literal["cases", "pooled"]) -> dict[str, dict[str, str]]:
    """Our cells of a table, by row and column: mean and spread over seeds; failed and missing ones in words.

    Args:
        study: the study.
        name: of the data set.
        table: the paper's.
        over: pictures, or all their pixels pooled.
    """
    levels = ("data", "backbone", "strategy")
    failed = {tuple(each[level] for level in levels) for each in study.asked if each["run_dir"] in study.failures}
    cells: dict[str, dict[str, str]] = {}
    for strategy, row_name in table.strategies.items():
        for column in table.columns[1:]:
            runs = study.of(name, column.backbone, strategy)
            values = [value for row in runs if (value := study.score(row, column.score, over)) is not None]
            text = spread(values, column.scale, digits=2 if column.scale == 100 else 3)
            if values and len(values) < len(study.seeds):
                text += f" ({len(values)} of {len(study.seeds)} seeds)"
            absent = "failed" if (name, column.backbone, strategy) in failed else "–"
            cells.setdefault(row_name, {})[column.key] = text or absent
    return cells


def _tables(study: Study, name: str, table: PaperTable) -> list[str]:
    runs = [row["run"] for row in study.of(name)]
    dice, dice_pooled, mse = (
        ", or ".join(dict.fromkeys(taken_of(run.summary, run.region, *way) for run in runs))
        for way in (("dice", "cases"), ("dice", "pooled"), ("mse", "cases"))
    )
    pooled = replace(table, caption="The same, ours pooled.", convention="", flags=(), notes=())
    return [
        f"### {'The paper and ours' if _is_printed(table) else 'Scores'}, {name}",
        _as_markdown(table, ours(study, name, table, "cases")),
        f"Ours: Dice, {dice}. MSE, {mse}. Proposed is CRIS.",
        _as_markdown(pooled, ours(study, name, table, "pooled")),
        f"Ours: Dice, {dice_pooled}. MSE, mean over the pixels of all pictures, so that large pictures weigh "
        "more; of pictures of one size it is the mean over pictures.",
    ]


def _as_markdown(table: PaperTable, cells: Mapping[str, Mapping[str, str]]) -> str:
    """Ours beside the paper's numbers; alone where it has none."""
    if _is_printed(table):
        return as_markdown(table, cells)
    head, *columns = table.columns
    plain = (head, *(replace(column, better="") for column in columns))
    rows = tuple({head.key: row, **cells[row]} for row in table.row_names)
    return as_markdown(replace(table, columns=plain, rows=rows))


def _is_printed(table: PaperTable) -> bool:
    return any(row[column.key] is not None for row in table.rows for column in table.columns[1:])


def _scores(study: Study, name: str) -> str:
    """A line for each run: its scores at its threshold and at 0.5."""
    heads = (
        *("backbone", "strategy", "seed", "threshold", "Dice per picture, %", "95 % interval", "at 0.5"),
        *("Dice pooled, %", "at 0.5", "MSE per picture", "MSE pooled", "AP pooled"),
    )
    lines = []
    for row in study.of(name):
        dice, half = row["run"].score(row["run"].region), row["scores_at_half"]
        bounds = [100 * bound for bound in dice.interval or ()]
        lines.append(
            (
                *(row["backbone"], row["strategy"], str(row["seed"]), f"{row['threshold']:.2f}"),
                *(_percent(dice.value), interval(bounds or None, 2), _percent(half["dice_mean"])),
                *(_percent(study.score(row, "dice", "pooled")), _percent(half["dice_pooled"])),
                *(_decimal(study.score(row, "mse", over)) for over in ("cases", "pooled")),
                _decimal(study.score(row, "average_precision", "pooled")),
            )
        )
    return markdown_table(heads, lines, {0, 1})


def _trainings(study: Study, name: str) -> str:
    """A line for each run: how it was trained, what was kept and chosen by which score, how long it took."""
    part, tuned = study.settings["threshold_part"], bool(study.settings["trials"])
    heads = (
        *("backbone", "strategy", "seed", "learning rate", *(["trials"] * tuned), "epochs", "kept"),
        *("its validation Dice, %", f"Dice on {part} at the threshold, %", "parameters"),
        *(*(["tuning, s"] * tuned), "training, s", "evaluating, s"),
    )
    lines = []
    for row in study.of(name):
        epoch, score = study.kept.get(row["run_dir"], ("unknown", None))
        seconds = dict(row["seconds"])
        training = f"{seconds.pop('training'):.0f}" + " (resumed)" * row["resumed"]
        trials = ", ".join(f"{n} {state}" for state, n in row["tuning"]["trials"].items()) if tuned else ""
        lines.append(
            (
                *(row["backbone"], row["strategy"], str(row["seed"]), f"{row['learning_rate']:.3g}"),
                *([trials] * tuned),
                *(str(row["epochs"]), str(epoch), _percent(score), _percent(study.threshold_value(row))),
                f"{row['parameters']:,}",
                *([f"{row['tuning']['seconds']:.0f}"] if tuned else []),
                *(training, f"{sum(seconds.values()):.0f}"),
            )
        )
    return markdown_table(heads, lines, {0, 1})


def draw_study(study: Study, name: str) -> Figure:
    """Precision over recall as in Figures 3 and 4: a panel for each backbone, a line for each strategy and seed."""
    table = paper_table(study, name)
    names = {"cris": "CRIS (proposed)", **{key: row for key, row in table.strategies.items() if key != "cris"}}
    panels = {
        title: [[_series(row, words) for row in study.of(name, backbone, key)] for key, words in names.items()]
        for backbone, title in titles(table).items()
    }
    part = study.settings["part"]
    return draw_pr_panels(
        panels,
        f"{name}, part {part}, {study.data[name]['cases'][part]} pictures",
        f"{_AP} {_CIRCLE}",
    )


def _series(row: Mapping[str, Any], name: str) -> PRSeries:
    return pr_series(name, read_curve(row["run"].folder / "pr.npz"), row["threshold"])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
