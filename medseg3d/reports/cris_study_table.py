"""The CRIS paper's grid as a study has it: its Tables 1 and 2 with ours beside, and the curves of Figures 3 and 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from medseg3d.data.atomic import atomic_write
from medseg3d.data.score_files import read_curve, read_summary, write_summary
from medseg3d.faults import Fault
from medseg3d.reports.ablation_table import spread
from medseg3d.reports.cris_study import BACKBONES, RECORD, STRATEGIES, Combination, failures, rows
from medseg3d.reports.curves import PRSeries, draw_pr_panels, pr_series, save_figure
from medseg3d.reports.paper_table import PaperTable, as_markdown
from medseg3d.reports.papers import TABLES

_PAPER_CASES = {"kvasir": 1000, "clinicdb": 612}
"""Pictures of the data sets as the paper has them, by `PaperTable.data`."""

_PAPER_SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
_PAPER_TRIALS = 20
_PAPER_BATCH = 4


@dataclass(frozen=True)
class Study:
    """A finished or half-finished study.

    Attributes:
        folder: where it is.
        settings: what all runs have in common.
        data: name -> folder, manifest, its hash, pictures of each part, whether generated.
        conditions: knobs that the result depends on.
        asked: the combinations that it shall have.
        rows: one dictionary per finished combination.
        failures: folder of each failed combination -> why.
    """

    folder: Path
    settings: Mapping[str, Any]
    data: Mapping[str, Mapping[str, Any]]
    conditions: Mapping[str, Any]
    asked: Sequence[Combination]
    rows: Sequence[Mapping[str, Any]]
    failures: Mapping[str, str]

    def of(self, data: str, backbone: str = "", strategy: str = "") -> list[Mapping[str, Any]]:
        """The finished runs of a data set, a backbone and a strategy, by seed; empty words leave a choice open."""
        found = [
            row
            for row in self.rows
            if row["data"] == data and backbone in ("", row["backbone"]) and strategy in ("", row["strategy"])
        ]
        order = {name: place for place, name in enumerate((*BACKBONES, *STRATEGIES))}
        return sorted(found, key=lambda row: (order[row["backbone"]], order[row["strategy"]], row["seed"]))

    @property
    def missing(self) -> list[Combination]:
        """The combinations that were asked for and are neither finished nor failed."""
        there = {row["run_dir"] for row in self.rows} | set(self.failures)
        return [each for each in self.asked if str(each) not in there]


def read_study(folder: str | Path) -> Study:
    """The study in a folder, with what is finished by now.

    Raises:
        Fault: `SCORE_FILE` if there is none.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file():
        raise Fault("SCORE_FILE", folder, f"no {RECORD}", "the folder of a study", "run medseg3d study cris first")
    content = read_summary(folder / RECORD)
    return Study(
        folder,
        content["settings"],
        content["data"],
        content["conditions"],
        [Combination(*each) for each in content["asked"]],
        rows(folder),
        failures(folder),
    )


def write_study(study: Study) -> str:
    """Write study.md, study.json and, for every data set with a finished run, `pr_<name>.png`; the text comes back."""
    text = study_markdown(study)
    with atomic_write(study.folder / "study.md", "w") as file:
        file.write(text)
    record = read_summary(study.folder / RECORD)
    write_summary(study.folder / RECORD, {**record, "rows": study.rows, "failures": study.failures})
    for name in study.data:
        if study.of(name):
            save_figure(draw_study(study, name), study.folder / f"pr_{name}.png")
    return text


def study_markdown(study: Study) -> str:
    """The paper's tables with ours beside, per picture and pooled; every run; the conditions, and how they differ."""
    blocks = ["# The grid of CRIS", _conditions(study)]
    for name in study.data:
        blocks += [f"## {name}", *_tables(study, name), _runs(study, name)]
        blocks += [f"![precision and recall, {name}](pr_{name}.png)"] * bool(study.of(name))
    blocks += [_unfinished(study)] * bool(study.missing or study.failures)
    return "\n\n".join(block.strip() for block in blocks if block) + "\n"


def paper_table(study: Study, name: str) -> PaperTable:
    """The paper's table of a data set; without its numbers where it has none of it, or the pictures are generated."""
    table = next((each for each in TABLES.values() if each.paper == "cris" and each.is_of(name)), None)
    if table is not None and not study.data[name]["phantom"]:
        return table
    form = TABLES["cris_table_1"]
    head = form.columns[0].key
    blank = tuple({key: text if key == head else None for key, text in row.items()} for row in form.rows)
    why = "generated pictures, which say nothing about patients" if study.data[name]["phantom"] else "not in the paper"
    return replace(form, name=name, caption=f"{why[:1].upper()}{why[1:]}.", rows=blank, flags=(), notes=())


def ours(study: Study, name: str, table: PaperTable, dice: str) -> dict[str, dict[str, str]]:
    """Our cells of a table, by row and column: mean and spread over seeds; failed and missing ones in words.

    Args:
        study: the study.
        name: of the data set.
        table: the paper's.
        dice: `dice_mean` or `dice_pooled`; the squared error stands beside the former alone, being a mean over
            pictures.
    """
    failed = {each[:3] for each in study.asked if str(each) in study.failures}
    cells: dict[str, dict[str, str]] = {}
    for strategy, row_name in table.strategies.items():
        for column in table.columns[1:]:
            key = dice if dice in column.ours else "mse_mean" if "mse_mean" in column.ours else ""
            if not key or (key == "mse_mean" and dice != "dice_mean"):
                continue
            runs = study.of(name, column.backbone, strategy)
            values = [row["scores"][key] for row in runs if row["scores"][key] is not None]
            text = spread(values, column.scale, digits=2 if column.scale == 100 else 3)
            absent = "failed" if (name, column.backbone, strategy) in failed else "–"
            cells.setdefault(row_name, {})[column.key] = text or absent
    return cells


def _tables(study: Study, name: str) -> list[str]:
    runs = study.of(name)
    if not runs:
        return ["No run is finished."]
    table = paper_table(study, name)
    first = as_markdown(table, ours(study, name, table, "dice_mean"))
    taken = runs[0]["conventions"]
    how = f"Ours: Dice, {taken['dice_mean']}. MSE, {taken['mse_mean']}."
    pooled_columns = tuple(column for column in table.columns if not column.backbone or "dice_pooled" in column.ours)
    pooled = replace(
        table,
        caption=f"The same with ours pooled: {taken['dice_pooled']}.",
        convention="The squared error of all pixels pooled was not taken.",
        columns=pooled_columns,
        rows=tuple({column.key: row[column.key] for column in pooled_columns} for row in table.rows),
        flags=(),
        notes=(),
    )
    return [first, how, as_markdown(pooled, ours(study, name, pooled, "dice_pooled"))]


def _runs(study: Study, name: str) -> str:
    """A line for each run: what was chosen, and the scores at that threshold and at 0.5."""
    heads = (
        *("backbone", "strategy", "seed", "learning rate", "epochs", "threshold", "Dice per picture, %", "at 0.5"),
        *("Dice pooled, %", "at 0.5", "MSE", "AP", "parameters", "training, s"),
    )
    lines = [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for row in study.of(name):
        scores, half = row["scores"], row["scores_at_half"]
        cells = (
            *(row["backbone"], row["strategy"], str(row["seed"]), f"{row['learning_rate']:.3g}", str(row["epochs"])),
            f"{row['threshold']:.2f}",
            *(_percent(each[key]) for key in ("dice_mean", "dice_pooled") for each in (scores, half)),
            *(_decimal(scores[key], 4) for key in ("mse_mean", "average_precision")),
            *(f"{row['parameters']:,}", f"{row['seconds']['training']:.0f}" + " (resumed)" * row["resumed"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _conditions(study: Study) -> str:
    settings = study.settings
    values = {key: value for key, value in {**study.conditions, **settings["knobs"]}.items() if value != ""}
    if settings["trials"]:
        values.pop("learning_rate", None)
    tuned = f"learning rate of each tuned from 1e-6 to 1e-2 in {settings['trials']} trials"
    if settings["tune_epochs"]:
        tuned += f" of {settings['tune_epochs']} epochs"
    versions: Mapping[str, str] = next((row["versions"] for row in study.rows), {})
    lines = [
        "Nothing but data, backbone, strategy, seed and learning rate differs between the runs.",
        "",
        f"- Equal for all: {', '.join(f'{key} {value}' for key, value in values.items())}.",
        f"- {tuned[:1].upper()}{tuned[1:]}." if settings["trials"] else "- One learning rate for all, not tuned.",
        f"- Threshold: that of the best mean Dice per picture on the part {settings['threshold_part']}, of 99; scored "
        f"is the part {settings['part']}.",
        f"- Seeds: {', '.join(str(seed) for seed in sorted({each.seed for each in study.asked}))}"
        + ("; mean ± standard deviation." if len({each.seed for each in study.asked}) > 1 else "."),
    ]
    for name, data in study.data.items():
        parts = ", ".join(f"{n} {part}" for part, n in data["cases"].items())
        lines.append(f"- {name}: {parts}; split {data['split_hash'][:16]}, the same lists for all runs.")
    if versions:
        lines.append(f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.")
    return "\n".join([*lines, *(f"- {line}" for line in differences(study))])


def differences(study: Study) -> list[str]:
    """Sentences on where the conditions are not those that the paper states, and what it does not state."""
    differ = []
    for name, data in study.data.items():
        table = next((each for each in TABLES.values() if each.paper == "cris" and each.is_of(name)), None)
        if data["phantom"]:
            differ.append(f"{name} is generated")
            continue
        n = sum(data["cases"].values())
        shares = {part: data["cases"][part] / n for part in _PAPER_SHARES}
        if table is not None and n != _PAPER_CASES[table.data]:
            differ.append(f"{n} pictures of {name}, not {_PAPER_CASES[table.data]}")
        if any(abs(shares[part] - share) > 0.01 for part, share in _PAPER_SHARES.items()):
            said = "/".join(f"{100 * share:.0f}" for share in shares.values())
            differ.append(f"{name} split {said}, not 70/15/15")
    settings = study.settings
    if settings["trials"] != _PAPER_TRIALS:
        differ.append(f"{settings['trials'] or 'no'} trials of the learning rate, not {_PAPER_TRIALS}")
    if settings["tune_epochs"]:
        differ.append(f"trials of {settings['tune_epochs']} epochs, trainings of {study.conditions.get('epochs')}")
    if settings["threshold_part"] != "train":
        differ.append(f"the threshold chosen on the part {settings['threshold_part']}, not train")
    if settings["part"] != "test":
        differ.append(f"scored on the part {settings['part']}, not test")
    batch = study.conditions.get("batch_size")
    if batch != _PAPER_BATCH:
        differ.append(f"batches of {batch}, not {_PAPER_BATCH}")
    unstated = "The paper does not state size, length, augmentation, selection, how means are taken, and how many runs."
    if not differ:
        return [f"Where the paper states a condition, ours is the same. {unstated}"]
    return [f"**Not the paper's conditions:** {'; '.join(differ)}. {unstated}"]


def _unfinished(study: Study) -> str:
    lines = [f"- {name} failed: {reason}" for name, reason in study.failures.items()]
    lines += [f"- {each} is not finished" for each in study.missing]
    return "\n".join(["## Not in the tables", "", *lines])


def draw_study(study: Study, name: str) -> Figure:
    """Precision over recall as in Figures 3 and 4: a panel for each backbone, a line for each strategy, first seed."""
    table = paper_table(study, name)
    titles = {column.backbone: column.name.rpartition(" Dice")[0] for column in table.columns if column.scale == 100}
    panels: dict[str, list[PRSeries | None]] = {}
    for backbone, title in titles.items():
        runs = {strategy: study.of(name, backbone, strategy)[:1] for strategy in STRATEGIES}
        panels[title] = [_series(study, runs[each], table.strategies[each]) for each in STRATEGIES]
    return draw_pr_panels(panels)


def _series(study: Study, runs: Sequence[Mapping[str, Any]], name: str) -> PRSeries | None:
    if not runs:
        return None
    curves = read_curve(study.folder / runs[0]["run_dir"] / f"evaluation_{study.settings['part']}" / "pr.npz")
    return pr_series(name, next(iter(curves.values())), runs[0]["threshold"])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _decimal(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
