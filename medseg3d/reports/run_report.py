"""The report on runs and experiments: report.html, report.md and figures, written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medseg3d.errors import UsageError
from medseg3d.evaluation.experiment_files import find_record
from medseg3d.files.atomic import TEMPORARY_PREFIX, atomic_write, folder_errors
from medseg3d.knobs import split_name
from medseg3d.reports.bundle_blocks import paper_blocks, parameter_blocks
from medseg3d.reports.comparison import Comparison, read_comparison
from medseg3d.reports.document import as_html, as_markdown
from medseg3d.reports.page import Remarks, build_document
from medseg3d.reports.runs import EvaluatedRun, read_runs, unique_names

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
        cases: how many cases are drawn by score; 0 for no pictures.
        bundle: name of the bundle of runs that have recorded none.
        class_name: class that the headline, the ranking and the pictures are about.

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
        raise UsageError("BAD_VALUE", f"--class {class_name}", "no class of these runs", f"one of {', '.join(known)}")
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
            f"a folder of that name without a {PAGE} beside it",
            "a new folder, or one that holds an older report",
            "-o for another folder",
        )
    with folder_errors(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=output_dir))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
