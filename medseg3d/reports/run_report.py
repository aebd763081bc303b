"""The report on runs and experiments: report.html, report.md and figures, written whole or not at all."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medseg3d import __version__
from medseg3d.errors import UsageError
from medseg3d.evaluation.experiment_files import find_record
from medseg3d.evaluation.wording import kind_of
from medseg3d.files.atomic import TEMPORARY_PREFIX, atomic_write, folder_errors
from medseg3d.knobs import split_name
from medseg3d.reports.bundle_blocks import paper_blocks, parameter_blocks
from medseg3d.reports.case_pictures import case_blocks
from medseg3d.reports.charts import draw_sizes
from medseg3d.reports.comparison import Comparison, read_comparison
from medseg3d.reports.comparison_blocks import comparison_sections
from medseg3d.reports.curve_blocks import curve_blocks, of_runs, threshold_blocks, training_blocks
from medseg3d.reports.curves import save_figure
from medseg3d.reports.document import (
    Block,
    Bullets,
    Cell,
    Code,
    Document,
    Facts,
    Picture,
    Section,
    Subheading,
    Table,
    Text,
    as_html,
    as_markdown,
)
from medseg3d.reports.runs import EvaluatedRun, read_runs, unique_names
from medseg3d.reports.tables import (
    baseline_table,
    case_table,
    convention_table,
    difference_table,
    emptiness_notes,
    score_tables,
    shared_case_table,
    strata_table,
)
from medseg3d.reports.wording import SENTENCES, command_line, interval, number, plain_text, plural

PAGE = "report.html"
MARKDOWN = "report.md"
FIGURES = "figures"


def report(
    paths: Sequence[str | Path],
    output_dir: str | Path,
    *,
    title: str | None = None,
    cases: int = 3,
    bundle: str = "",
    class_name: str | None = None,
) -> Path:
    """Write the report of some runs and experiments; the path of its HTML page comes back.

    Args:
        paths: folders of evaluations, of runs with `evaluation_*` folders, or of experiments; `NAME=FOLDER` names one.
        output_dir: gets `report.html`, which holds everything, and `report.md` with `figures/*.png`.
        title: heading; by default made from the names of the runs.
        cases: how many cases are drawn by score; 0 for no images.
        bundle: name of the bundle of runs that have recorded none.
        class_name: class that the headline, the ranking and the images are about.

    Raises:
        UserError: `NO_INPUT` without a path; `MISSING_FILE`, `NO_EVALUATION`, `SCORE_FILE` for what a path names;
            `BAD_VALUE` for a class that no run has; `NOT_EMPTY` if `output_dir` has a folder `figures` that is no
            report's; `NOT_WRITABLE`, `NO_SPACE`.
    """
    if not paths:
        raise UsageError("NO_INPUT", "report", "no run", "the folder of a run or of an evaluation", "name one")
    runs = read_runs(paths, bundle)
    named = [split_name(path) for path in paths]
    folders = [(name, folder) for name, folder in named if find_record(folder)]
    short = unique_names([folder for _, folder in folders])
    experiments = [
        (name or other, read_comparison(folder, find_record(folder)))
        for (name, folder), other in zip(folders, short, strict=True)
    ]
    known = list(dict.fromkeys(each for run in runs for each in run.classes))
    if class_name is not None and class_name not in known:
        raise UsageError(
            "BAD_VALUE",
            f"--class {class_name}",
            "no class of these runs",
            f"one of {', '.join(known)}",
            "correct the name, or leave it out",
        )
    names = [run.name for run in runs] + [name for name, _ in experiments]
    return write_report(
        runs, output_dir, title=title or ", ".join(names), experiments=experiments, cases=cases, class_name=class_name
    )


def write_report(
    runs: Sequence[EvaluatedRun],
    output_dir: str | Path,
    *,
    title: str,
    experiments: Sequence[tuple[str, Comparison]] = (),
    cases: int = 3,
    class_name: str | None = None,
    remarks: Remarks | None = None,
    with_networks: bool = True,
) -> Path:
    """Write the report of runs that were read, and of experiments by name, in place of an older one; see `report`.

    The papers' tables and the sizes of networks are shown `with_networks`, which are built and counted in some seconds.

    Raises:
        ValueError: there is neither a run nor an experiment, or no run has that class.
        UserError: as `report`.
    """
    if not runs and not experiments:
        raise ValueError("runs must hold at least one run where there is no experiment, found none")
    output_dir = Path(output_dir)
    with _staging(output_dir) as staging:
        document = build_document(
            runs,
            staging / FIGURES,
            title=title,
            experiments=experiments,
            papers=paper_blocks(runs) if with_networks else (),
            parameters=parameter_blocks(runs, staging / FIGURES) if with_networks else (),
            class_name=class_name,
            cases=cases,
            remarks=remarks,
        )
        html, markdown = as_html(document), as_markdown(document, staging)
        # until here nothing has been changed; the page comes last, as the sign that the rest is there
        if (output_dir / FIGURES).exists():
            shutil.rmtree(output_dir / FIGURES)
        if (staging / FIGURES).exists():
            (staging / FIGURES).rename(output_dir / FIGURES)
        for name, text in ((MARKDOWN, markdown), (PAGE, html)):
            with atomic_write(output_dir / name, "w") as file:
                file.write(text)
    return output_dir / PAGE


@contextmanager
def _staging(output_dir: Path) -> Iterator[Path]:
    """A folder for what is being made, within the folder that it will lie in."""
    if (output_dir / FIGURES).exists() and not (output_dir / PAGE).exists():
        raise UsageError(
            "NOT_EMPTY",
            output_dir / FIGURES,
            f"a folder of that name, but no {PAGE} next to it",
            "a new folder, or one with an earlier report",
            "choose another folder with -o",
        )
    with folder_errors(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=output_dir))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


_NOT_FACTS = {"command", "versions", "warnings"}
_MOST_WARNINGS = 20


@dataclass(frozen=True)
class Remarks:
    """What the caller of a report knows beyond the files of the runs.

    Args:
        opening: what stands below the headline.
        baselines: what to compare the first run's mean Dice with: name, Dice, n, a sentence on how it was obtained.
        facts: names and what they stand for, among the details of the first run.
    """

    opening: Sequence[Block] = ()
    baselines: Sequence[tuple[str, float, int, str]] = ()
    facts: Sequence[tuple[str, str]] = ()


def build_document(
    runs: Sequence[EvaluatedRun],
    figures: Path,
    *,
    title: str,
    experiments: Sequence[tuple[str, Comparison]] = (),
    papers: Sequence[Block] = (),
    parameters: Sequence[Block] = (),
    class_name: str | None = None,
    cases: int = 3,
    remarks: Remarks | None = None,
) -> Document:
    """The whole report, of one run or more unless there is an experiment; its figures (PNG) are written.

    It has the blocks of the papers' tables and on the networks' sizes, where there are any. The class that the
    headline, the ranking and the pictures are about is by default the first run's first.

    Raises:
        ValueError: no run has that class.
    """
    remarks = remarks or Remarks()
    known = list(dict.fromkeys(name for run in runs for name in run.classes))
    class_name = class_name or (known[0] if known else "")
    if runs and class_name not in known:
        raise ValueError(f"class_name must be one of {known}, the classes of scores.csv, found {class_name!r}")
    sections = [
        section
        for place, (name, each) in enumerate(experiments, start=1)
        for section in comparison_sections(each, figures, f"experiment_{place}_", name)
    ]
    if runs:
        of_cases = case_table(runs[0]) if len(runs) == 1 else shared_case_table(runs, class_name)
        sections = [
            Section("scores", "Scores", _score_blocks(runs, class_name)),
            *_comparison_sections(runs, class_name, remarks),
            *([Section("papers", "The papers' tables", papers)] if papers else []),
            *sections,
            Section("sizes", "Small, medium and large", _size_blocks(runs, class_name, figures)),
            Section("cases", "Each case", [of_cases]),
            Section("pr", "Precision and recall", curve_blocks(runs, figures)),
            Section("thresholds", "The threshold", threshold_blocks(runs, figures)),
            Section("training", "Training", training_blocks(runs, figures)),
            Section("pictures", "Example cases", case_blocks(runs, class_name, figures, cases)),
        ]
    if parameters:
        sections.append(Section("parameters", "Parameters", parameters))
    if runs:
        sections.append(Section("run", "Run details", _fact_blocks(runs, remarks)))
    phantoms = any(run.is_phantom for run in runs)
    sections.append(Section("meaning", "What these numbers do and do not mean", _meaning_blocks(runs, phantoms)))
    return Document(
        title,
        _opening(runs, class_name, phantoms, remarks),
        sections,
        f"Written by medseg3d {__version__}.",
    )


def _opening(runs: Sequence[EvaluatedRun], class_name: str, phantoms: bool, remarks: Remarks) -> list[Block]:
    images = " The images of this run are generated phantoms, not patients." if phantoms else ""
    if phantoms and not all(run.is_phantom for run in runs):
        images = f" The images of {', '.join(run.name for run in runs if run.is_phantom)} are generated phantoms."
    blocks: list[Block] = [Text(images.strip(), lead="Research software, not for clinical use.", style="notice")]
    if len(runs) == 1:
        blocks += _headline(runs[0], class_name)
    elif runs:
        blocks.append(_headline_table(runs, class_name))
    return [*blocks, *remarks.opening]


def _headline(run: EvaluatedRun, class_name: str) -> list[Block]:
    """The one number of the run, the words that belong to it, and how it is computed."""
    mean = run.score(class_name)
    if mean is None:
        return [Text("not scored", lead=f"{class_name}:", style="headline")]
    known = [row["dice"] for row in run.cases(class_name) if not math.isnan(row["dice"])]
    words = f"mean Dice of {class_name}, {plural(mean.n, 'case')}"
    words += f", from {number(min(known))} to {number(max(known))}" if len(known) > 1 else ""
    bounds = interval(mean.interval)
    words += f"; 95 % interval of the mean {bounds}" if bounds else ""
    return [Text(words, lead=number(mean.value), style="headline"), Text(run.taken(mean), style="soft")]


def _headline_table(runs: Sequence[EvaluatedRun], class_name: str) -> Table:
    rows: list[list[Cell | str]] = []
    conventions = set()
    for run in runs:
        mean, ap = run.score(class_name), run.score(run.region, "average_precision", "pooled")
        conventions |= set() if mean is None else {run.taken(mean)}
        dice = Cell("not scored")
        if mean is not None:
            dice = Cell(number(mean.value), small=interval(mean.interval), strong=True)
        area = "not recorded" if ap is None else number(ap.value)
        about = [run.bundle or "not recorded", str(run.summary.context.get("part") or "")]
        rows.append([run.name, dice, "" if mean is None else str(mean.n), area, *about])
    differ = "" if len(conventions) == 1 else " These runs were scored by different conventions; see Scores."
    return Table(
        f"Mean Dice of {class_name} with its 95 % interval: {'; or '.join(sorted(conventions))}.{differ}",
        ["run", "Dice", "cases", "average precision", ("bundle", "text"), ("part", "text")],
        rows,
    )


def _score_blocks(runs: Sequence[EvaluatedRun], class_name: str) -> list[Block]:
    blocks: list[Block] = [convention_table(runs, class_name), *score_tables(runs)]
    notes = emptiness_notes(runs)
    if notes:
        blocks.append(Bullets(notes))
    without = [run.name for run in runs if not _has_intervals(run)]
    if without:
        blocks.append(Text(f"No 95 % intervals{of_runs(runs, without)}: too few cases."))
    for run in runs:
        warnings = [plain_text(warning) for warning in run.summary.warnings]
        if warnings:
            blocks.append(Subheading("Warnings of the evaluation" + (f": {run.name}" if len(runs) > 1 else "")))
            more = [f"and {len(warnings) - _MOST_WARNINGS} more, in summary.json"] * (len(warnings) > _MOST_WARNINGS)
            blocks.append(Bullets([*warnings[:_MOST_WARNINGS], *more]))
    return blocks


def _comparison_sections(runs: Sequence[EvaluatedRun], class_name: str, remarks: Remarks) -> list[Section]:
    sections = []
    if remarks.baselines:
        words = (
            "A Dice means little alone. These were measured on the same cases; a network that has learnt something is "
            "above all of them."
        )
        table = baseline_table(runs[0], class_name, remarks.baselines)
        sections.append(Section("comparison", "Baselines", [Text(words), table]))
    differences = difference_table(runs, class_name)
    if differences is not None:
        words = (
            "Two means over the same cases are compared case by case: most of the spread between cases is common to "
            "both runs and cancels."
        )
        sections.append(Section("differences", "Paired comparison", [Text(words), differences]))
    return sections


def _size_blocks(runs: Sequence[EvaluatedRun], class_name: str, figures: Path) -> list[Block]:
    having = [run for run in runs if class_name in run.classes]
    blocks: list[Block] = [strata_table(having, class_name)]
    figure = draw_sizes(having, class_name)
    if figure is not None:
        colours = ", with a different colour and shape for each run" if len(having) > 1 else ""
        words = f"Dice of {class_name} over the size of the ground truth, a mark for each case{colours}."
        png = save_figure(figure, figures / "sizes.png")
        caption = f"{words} Dotted lines separate small, medium and large; cases without ground truth are not shown."
        blocks.append(Picture(png, alt=words, caption=caption))
    return blocks


def _fact_blocks(runs: Sequence[EvaluatedRun], remarks: Remarks) -> list[Block]:
    blocks: list[Block] = []
    for index, run in enumerate(runs):
        if len(runs) > 1:
            blocks.append(Subheading(run.name))
        stated = run.summary.context
        if stated.get("command"):
            blocks.append(Code(command_line(stated["command"])))
        facts = [("evaluation", str(run.folder))]
        facts += [("bundle", run.bundle)] if run.bundle else []
        if index == 0:
            facts += remarks.facts
        for name, value in stated.items():
            if name not in _NOT_FACTS and value is not None:
                facts.append((name.replace("_", " "), plain_text(value)))
        if run.summary.intervals:
            facts.append(("intervals", plain_text(run.summary.intervals)))
        if stated.get("versions"):
            facts.append(("versions", plain_text(stated["versions"])))
        blocks.append(Facts(facts))
    return blocks


def _meaning_blocks(runs: Sequence[EvaluatedRun], phantoms: bool) -> list[Block]:
    present = {"", "background", *(kind_of(score) for run in runs for score in run.summary.scores)}
    present |= {"interval"} if any(_has_intervals(run) for run in runs) else set()
    meaning = [sentence for kind, sentences in SENTENCES["scores"].items() if kind in present for sentence in sentences]
    return [
        Subheading("What they mean"),
        Bullets(meaning),
        Subheading("What they do not mean"),
        Bullets([*(SENTENCES["phantoms"] if phantoms else ()), *SENTENCES["limits"]]),
    ]


def _has_intervals(run: EvaluatedRun) -> bool:
    return any(score.interval for score in run.summary.scores)
