"""A run on one HTML page: what was run, every number with its convention, the curves, the cases, what it all means.

The page is one file. Pictures and styles are inside, there is no script, and nothing is fetched from anywhere: it can
be mailed, archived, and opened without a network.
"""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medseg3d import __version__
from medseg3d.data.atomic import atomic_write
from medseg3d.data.score_files import read_curve, read_scores, read_summary
from medseg3d.faults import Fault
from medseg3d.reports.curves import PRSeries, draw_pr, draw_training, pr_series, read_training_curves, save_figure
from medseg3d.reports.overlays import draw_case, read_case

SCORE_NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "recall": "Recall",
    "specificity": "Specificity",
    "precision": "Precision",
    "accuracy": "Accuracy",
}

MEANING = (
    "Dice is twice the overlap of prediction and truth over the sum of their sizes: 1 is perfect, 0 is no overlap. "
    "It is harsh on small organs, where one voxel of border is a large part of the whole.",
    "A mean over cases gives each case the same weight. A pooled score, like the precision-recall curve, gives each "
    "voxel the same weight, so that large organs count for more. The two answer different questions.",
    "Specificity and accuracy are close to 1 for any small organ, whatever is predicted, because nearly all voxels are "
    "background. They are shown for completeness and are no evidence of quality.",
)

PHANTOM_LIMITS = (
    "The images are generated phantoms, drawn by a program. A score on them shows that data, training, inference and "
    "evaluation work together on this machine. It says nothing about accuracy on patients.",
    "Phantoms are easier than patients: one generator made the training and the test cases, and no scanner, disease or "
    "reader differs between them. Figures from here must not be compared with published ones.",
)

GENERAL_LIMITS = (
    "Differences smaller than the spread between cases, given as the standard deviation (sd), should not be read as "
    "better or worse.",
    "One training with one seed was measured. Another seed gives other numbers.",
)


@dataclass(frozen=True)
class CaseFiles:
    """The NIfTI files of one case, on one grid; `truth` may be missing."""

    image: str | Path
    truth: str | Path | None
    pred: str | Path


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


@dataclass(frozen=True)
class Goal:
    """The mean Dice that the run had to reach, and why reaching it proves something."""

    dice: float
    why: str


@dataclass(frozen=True)
class Picture:
    """A figure of the page: the file, what a reader who cannot see it is told, the words above and below it."""

    file: Path
    alt: str
    caption: str
    heading: str = ""
    warning: str = ""


def write_page(
    run_dir: str | Path,
    output_html: str | Path,
    *,
    title: str,
    data: str,
    phantoms: bool,
    case_files: Mapping[str, CaseFiles] | None = None,
    class_name: str | None = None,
    label: int | None = None,
    events_dir: str | Path | None = None,
    baselines: Sequence[Baseline] = (),
    goal: Goal | None = None,
    seconds: Mapping[str, float] | None = None,
    facts: Mapping[str, str] | None = None,
    command: str | None = None,
    operating_threshold: float = 0.5,
    window_hu: tuple[float, float] = (-160, 240),
) -> Path:
    """Write the report of a run as one self-contained HTML file; its path comes back.

    Reads `scores.csv` and `summary.json` of the run folder, and `pr.npz` and the TensorBoard events where there are
    any; what is missing is said on the page. The pictures are also left as PNG files beside the page, in the folder
    `<name of the page>_figures`.

    Args:
        run_dir: folder of an evaluation.
        output_html: page to write, whole or not at all; an older one is replaced.
        title: heading of the page.
        data: what the images are and how many, in a few words.
        phantoms: whether they were generated; the page then says at the top that no patient was seen.
        case_files: files of each case in scores.csv; the worst, median and best are drawn. None: no pictures of cases.
        class_name: class that the headline and the ranking of cases are about; by default the first of scores.csv.
        label: its value in the masks; by default its place among the classes, or all values above 0 if it is alone.
        events_dir: folder of the training's TensorBoard events; by default the run folder.
        baselines: what to compare the mean Dice with.
        goal: what the mean Dice had to reach.
        seconds: what took how long.
        facts: more rows for "What was run".
        command: the command to show; by default the one in summary.json.
        operating_threshold: probability from which a voxel counts as foreground.
        window_hu: grey window of the pictures.

    Raises:
        Fault: SCORE_FILE; or as the readers of the images, PAIR_GEOMETRY and others.
        ValueError: scores.csv has no such class; `case_files` lacks a case that is to be drawn.
    """
    run_dir, output_html = Path(run_dir), Path(output_html)
    summary, rows = read_summary(run_dir / "summary.json"), read_scores(run_dir / "scores.csv")
    classes = list(dict.fromkeys(row["class"] for row in rows))
    if not classes:
        raise Fault(
            "SCORE_FILE", run_dir / "scores.csv", "no case in it", "a line for each case", "evaluate some cases"
        )
    class_name = class_name or classes[0]
    if class_name not in classes:
        raise ValueError(f"class_name must be one of {classes}, the classes of scores.csv, found {class_name!r}")
    if label is None and len(classes) > 1:
        label = classes.index(class_name) + 1
    cases = [row for row in rows if row["class"] == class_name]
    dice = summary["scores"][class_name]["dice_mean"]["value"]

    figures = output_html.with_name(f"{output_html.stem}_figures")
    html = _template().render(
        title=title,
        phantoms=phantoms,
        headline=headline(summary, class_name, cases),
        goal=goal,
        goal_reached=goal is not None and dice is not None and dice >= goal.dice,
        command=command or _command_line(summary.get("command")),
        facts=run_facts(summary, data, seconds or {}, facts or {}),
        score_tables=score_tables(summary),
        comparison=comparison(summary, class_name, baselines) if baselines else [],
        class_name=class_name,
        several_classes=len(classes) > 1,
        case_table=case_table(rows, classes),
        curve=_pr_picture(run_dir / "pr.npz", figures / "pr.png", operating_threshold, len(cases)),
        training=_training_picture(Path(events_dir or run_dir), figures / "training.png"),
        overlays=[
            _case_picture(role, row, _files_of(row["case"], case_files), figures, label, window_hu)
            for role, row in picked_cases(cases)
        ]
        if case_files
        else [],
        meaning=MEANING,
        limits=(PHANTOM_LIMITS if phantoms else ()) + GENERAL_LIMITS,
        data_uri=data_uri,
        made_by=f"Written by medseg3d {__version__}.",
    )
    with atomic_write(output_html, "w") as file:
        file.write(html)
    return output_html


def picked_cases(cases: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """The worst, median and best case by Dice, each with its role; fewer if there are fewer, none twice.

    Cases whose Dice is undefined (nothing in truth and prediction) are not ranked. Of an even number, the lower of
    the two in the middle counts as the median.

    Example:
        >>> scores = {"a": 0.9, "b": 0.2, "c": float("nan"), "d": 0.5}
        >>> rows = [{"case": name, "dice": dice} for name, dice in scores.items()]
        >>> [(role, row["case"]) for role, row in picked_cases(rows)]
        [('worst', 'b'), ('median', 'd'), ('best', 'a')]
    """
    ranked = sorted((row for row in cases if not math.isnan(row["dice"])), key=_rank)
    if len(ranked) < 3:
        roles = [["only"], ["worst", "best"]][len(ranked) - 1] if ranked else []
        return list(zip(roles, ranked, strict=True))
    return [("worst", ranked[0]), ("median", ranked[(len(ranked) - 1) // 2]), ("best", ranked[-1])]


def number(value: float | None, decimals: int = 3) -> str:
    """A score in a table: never rounded to a 0 or 1 that it is not.

    Example:
        >>> [number(value) for value in (0.84266, 0.99987, 1 - 1e-7, 1.0, 0.00002, 0.0, None, float("nan"))]
        ['0.843', '0.9999', '>0.9999', '1.000', '<0.0001', '0.000', 'undefined', 'undefined']
    """
    if value is None or math.isnan(value):
        return "undefined"
    for shown in (f"{value:.{decimals}f}", f"{value:.{decimals + 1}f}"):
        if float(shown) not in (0.0, 1.0) or float(shown) == value:
            return shown
    step = 10.0 ** -(decimals + 1)
    bound = float(shown)
    return f">{bound - step:.{decimals + 1}f}" if value < bound else f"<{bound + step:.{decimals + 1}f}"


def headline(summary: Mapping[str, Any], class_name: str, cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The one number of the run, the words that belong to it, and how it is taken."""
    mean = summary["scores"][class_name]["dice_mean"]
    known = [row["dice"] for row in cases if not math.isnan(row["dice"])]
    spread = f", from {number(min(known))} to {number(max(known))}" if len(known) > 1 else ""
    return {
        "value": number(mean["value"]),
        "words": f"mean Dice of {class_name}, {_plural(mean['n'], 'case')}{spread}",
        "convention": mean["convention"],
    }


def run_facts(
    summary: Mapping[str, Any], data: str, seconds: Mapping[str, float], extra: Mapping[str, str]
) -> list[tuple[str, str]]:
    """The rows of "What was run": the data, what took how long, what the summary states, the versions."""
    facts = [("data", data)]
    facts += [(f"time for {name}", duration(value)) for name, value in seconds.items()]
    facts += [(name, str(value)) for name, value in extra.items()]
    for name, value in summary.items():
        if name not in {"scores", "command", "versions"} and value is not None:
            facts.append((name.replace("_", " "), _plain_text(value)))
    if summary.get("versions"):
        facts.append(("versions", _plain_text(summary["versions"])))
    return facts


def duration(seconds: float) -> str:
    """A span of time as a person says it.

    Example:
        >>> duration(4.21), duration(341), duration(7384)
        ('4.2 s', '5 min 41 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def score_tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each class a table of means over cases and one of pooled scores, with spread, n and convention.

    What the conventions of a table have in common is its caption; what is left stands beside each number.
    """
    tables = []
    for name, scores in summary["scores"].items():
        entries = {"": {name: scores}} if "value" in scores else _by_kind(scores)  # or a score of all classes together
        for kind, group in entries.items():
            shared, own = common_parts([entry["convention"] for entry in group.values()])
            words = [_score_row(key, entry, parts) for (key, entry), parts in zip(group.items(), own, strict=True)]
            caption = f"{name}: {shared}" if kind else shared
            tables.append({"caption": caption or name, "rows": words, "note": "", "has_words": any(own)})
            for column in ("sd", "left_out"):
                tables[-1][f"has_{column}"] = any(row[column] for row in words)
        if "n_cases" in scores:
            tables[-1]["note"] = _emptiness_note(scores)
    return tables


def common_parts(conventions: Sequence[str]) -> tuple[str, list[str]]:
    """What several conventions share, part by part between semicolons, and what is left of each.

    Example:
        >>> common_parts(["mean over cases; empty left out; on the grid", "mean over cases; all counted; on the grid"])
        ('mean over cases; on the grid', ['empty left out', 'all counted'])
    """
    parts = [convention.split("; ") for convention in conventions]
    shared = [part for part in parts[0] if all(part in others for others in parts)] if parts else []
    return "; ".join(shared), ["; ".join(part for part in each if part not in shared) for each in parts]


def comparison(summary: Mapping[str, Any], class_name: str, baselines: Sequence[Baseline]) -> list[dict[str, Any]]:
    """The rows that set this run beside the baselines, the highest Dice first; undefined ones last."""
    own = summary["scores"][class_name]["dice_mean"]
    own_value = math.nan if own["value"] is None else own["value"]
    rows = [(own_value, "this run", own["n"], "the network of this report", True)]
    rows += [(each.dice, each.name, each.n, each.how, False) for each in baselines]
    rows.sort(key=lambda row: math.inf if math.isnan(row[0]) else -row[0])
    return [
        {
            "name": name,
            "value": number(value),
            "percent": 0 if math.isnan(value) else round(100 * value, 1),
            "n": n,
            "how": how,
            "own": is_own,
        }
        for value, name, n, how, is_own in rows
    ]


def case_table(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """Column heads and cells of the table of cases: class by class, the worst Dice first, undefined ones last."""
    counts = ("tp", "fp", "fn")
    columns = [{"name": "case", "number": False}]
    if len(classes) > 1:
        columns.append({"name": "class", "number": False})
    heads = [name if name in {"Dice", "IoU"} else name.lower() for name in SCORE_NAMES.values()]
    heads += ["truth ml", "predicted ml", *(count.upper() for count in counts)]
    columns += [{"name": head, "number": True} for head in heads]
    cells = []
    for row in sorted(rows, key=lambda row: (classes.index(row["class"]), *_rank(row))):
        words = [row["case"], row["class"]] if len(classes) > 1 else [row["case"]]
        scores = [number(row[score]) for score in SCORE_NAMES]
        volumes = [number(row["truth_ml"], 1), number(row["pred_ml"], 1)]
        cells.append([*words, *scores, *volumes, *(f"{row[count]:,}" for count in counts)])
    return {"columns": columns, "rows": cells}


def data_uri(file: str | Path) -> str:
    """A PNG file as the address of a picture inside the page."""
    return "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode("ascii")


def _rank(row: Mapping[str, Any]) -> tuple[float, str]:
    return (math.inf if math.isnan(row["dice"]) else row["dice"], row["case"])


def _plural(n: int, word: str) -> str:
    return f"1 {word}" if n == 1 else f"{n} {word}s"


def _command_line(command: str | Sequence[str] | None) -> str:
    if isinstance(command, str):
        return command
    # MONAI's lists of config files hold single quotes: double ones around them stay readable
    return " ".join(
        f'"{word}"' if "'" in word and not set('"$`\\!') & set(word) else shlex.quote(word) for word in command or []
    )


def _plain_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain_text(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain_text(each) for each in value)
    return str(value)


def _by_kind(scores: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The scores of a class by how they are taken, the last word of their name: `mean`, `pooled`."""
    kinds: dict[str, dict[str, Mapping[str, Any]]] = {}
    for key, entry in scores.items():
        if isinstance(entry, Mapping):
            kinds.setdefault(key.rpartition("_")[2], {})[key] = entry
    return kinds


def _score_row(key: str, entry: Mapping[str, Any], convention: str) -> dict[str, str]:
    score = key.rpartition("_")[0]
    return {
        "name": SCORE_NAMES.get(score, key.replace("_", " ").capitalize()),
        "key": key,
        "value": number(entry["value"]),
        "sd": "" if entry.get("sd") is None else number(entry["sd"]),
        "n": str(entry["n"]),
        "left_out": str(entry["n_nan"]) if "n_nan" in entry else "",
        "convention": convention,
    }


def _emptiness_note(scores: Mapping[str, Any]) -> str:
    words = {
        "n_empty_truth": "empty in the truth",
        "n_empty_pred": "empty in the prediction",
        "n_missed": "missed whole",
    }
    parts = [f"{scores[key]} {text}" for key, text in words.items() if key in scores]
    return f"Of {_plural(scores['n_cases'], 'case')}: {', '.join(parts)}." if parts and "n_cases" in scores else ""


def _files_of(case: str, case_files: Mapping[str, CaseFiles]) -> CaseFiles:
    if case not in case_files:
        raise ValueError(f"case_files must hold every case of scores.csv, {case!r} is missing")
    return case_files[case]


def _pr_picture(file: Path, png: Path, threshold: float, n: int) -> Picture | None:
    if not file.exists():
        return None
    series = [pr_series(name, curve, threshold) for name, curve in read_curve(file).items()]
    save_figure(draw_pr(series), png)
    sentences = " ".join(_pr_sentence(each) for each in series)
    return Picture(
        png,
        alt=f"Precision over recall. {sentences}",
        caption=f"Voxels of {_plural(n, 'case')} pooled. AP, average precision, is the area under the steps;"
        f" the circle is the operating point, threshold {threshold:g}; the dotted line is the precision of guessing."
        f" {sentences}",
    )


def _pr_sentence(series: PRSeries) -> str:
    recall, precision = (number(value) for value in series.operating_point)
    return (
        f"{series.name.capitalize()}: average precision {number(series.average_precision)}; at threshold "
        f"{series.threshold:g} recall {recall} and precision {precision}; guessing {series.prevalence:.2g}."
    )


def _training_picture(folder: Path, png: Path) -> Picture | None:
    try:
        curves = read_training_curves(folder)
    except Fault as fault:
        if fault.code != "NO_EVENTS":
            raise
        return None
    save_figure(draw_training(curves), png)
    sentences = []
    if "train_loss" in curves:
        steps, losses = curves["train_loss"]
        sentences.append(
            f"Training loss over {_plural(len(steps), 'iteration')}, from {losses[0]:.3f} to {losses[-1]:.3f}."
        )
    if "val_dice_mean" in curves:
        _, scores = curves["val_dice_mean"]
        times = "once" if len(scores) == 1 else f"{len(scores)} times"
        sentences.append(f"Validation Dice, mean over cases, measured {times}, at best {number(np.nanmax(scores))}.")
    alt = " ".join(sentences) or "Neither training loss nor validation Dice was logged."
    return Picture(
        png,
        alt=alt,
        caption=f"{alt} Validation has cases of its own and may be measured on the resampled grid: its Dice is not the "
        "headline's.",
    )


def _case_picture(
    role: str,
    row: Mapping[str, Any],
    files: CaseFiles,
    figures: Path,
    label: int | None,
    window_hu: tuple[float, float],
) -> Picture:
    case = read_case(files.image, files.truth, files.pred, name=row["case"], label=label, target=row["class"])
    png = figures / f"case_{role}.png"  # not by the case's name, which may hold anything
    save_figure(draw_case(case, window_hu), png)
    return Picture(
        png,
        alt=f"{case.title}. Axial, coronal and sagittal plane of the image, of both borders, and of the errors.",
        caption=f"{case.title}.",
        heading=f"{role.capitalize()} case: {row['case']}, Dice {number(row['dice'])}",
        warning=_disagreement(case.dice, row["dice"]),
    )


def _disagreement(on_disk: float | None, in_table: float) -> str:
    if on_disk is None or math.isclose(on_disk, in_table, abs_tol=0.005):
        return ""
    return (
        f"The mask on disk has a Dice of {number(on_disk)}, scores.csv says {number(in_table)}: "
        "they are not of one run, or not of one label."
    )


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
