"""Which cases a report shows, by score and by size, and their images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medseg3d.errors import UserError
from medseg3d.reports.curves import save_figure
from medseg3d.reports.document import Block, Picture, Subheading, Text
from medseg3d.reports.overlays import draw_case, draw_picture_case, read_case, read_picture_case
from medseg3d.reports.runs import CaseFiles, EvaluatedRun
from medseg3d.reports.tables import rank
from medseg3d.reports.wording import SENTENCES, number
from medseg3d.volumes.geometry import GRID_TOLERANCE

DEFAULT_WINDOW_HU = (-160.0, 240.0)
"""Grey window of volumes where the run has recorded none."""


class PickedCase(NamedTuple):
    """A case and why it is shown."""

    role: str
    case: str


def cases_by_score(cases: Sequence[Mapping[str, Any]], n: int = 3) -> list[PickedCase]:
    """So many cases at even steps of rank by Dice: with three, the worst, median and best; none twice.

    Cases whose Dice is undefined (nothing in ground truth and prediction) are not ranked. Of an even number, the lower
    of the two in the middle counts as the median.

    Example:
        >>> scores = {"a": 0.9, "b": 0.2, "c": float("nan"), "d": 0.5}
        >>> rows = [{"case": name, "dice": dice} for name, dice in scores.items()]
        >>> [tuple(picked) for picked in cases_by_score(rows)]
        [('worst', 'b'), ('median', 'd'), ('best', 'a')]
    """
    ranked = [row["case"] for row in sorted((row for row in cases if not math.isnan(row["dice"])), key=rank)]
    if not ranked or n < 1:
        return []
    last = len(ranked) - 1
    places = [i * last // (n - 1) for i in range(n)] if n > 1 else [last // 2]
    return [PickedCase(_role(place, last), ranked[place]) for place in dict.fromkeys(places)]


def cases_by_size(run: EvaluatedRun, class_name: str) -> list[PickedCase]:
    """Of the small, the medium and the large truths the case of median Dice; of two in the middle the lower."""
    rows = {row["case"]: row for row in run.cases(class_name)}
    picked = []
    for size, names in run.strata(class_name).cases.items():
        typical = cases_by_score([rows[name] for name in names], 1)
        picked += [PickedCase(f"{size}, the median of {len(names)} by Dice", case) for _, case in typical]
    return picked


def case_blocks(runs: Sequence[EvaluatedRun], class_name: str, figures: Path, n: int) -> list[Block]:
    """The images of a report: cases by score, then by size, each in every run that has its files.

    Cases are picked by the first run's scores, so that every run shows the same ones. What cannot be drawn is said.

    Args:
        runs: with `files`.
        class_name: the class that is ranked and drawn.
        figures: folder for the PNG files.
        n: cases by score; 0 draws none, by size neither.
    """
    drawable = [run for run in runs if run.files and class_name in run.classes]
    if n < 1 or not drawable:
        return [Text(_why_none(runs, n))]
    first = drawable[0]
    by_score = cases_by_score(first.cases(class_name), n)
    if not by_score:
        return [Text(f"None: no case has a Dice of {class_name}.")]
    seen = {case for _, case in by_score}
    # of few cases each stratum holds one or two, which by score are mostly shown already
    by_size = [picked for picked in cases_by_size(first, class_name) if picked.case not in seen]
    are_pictures = next(iter(first.files.values())).is_picture
    blocks: list[Block] = [Text(f"{SENTENCES['as_stored' if are_pictures else 'radiological']} {SENTENCES['colours']}")]
    if len(drawable) > 1:
        blocks.append(Text(f"Cases are picked by the scores of {first.name}; the other runs show the same ones."))
    missing = [run.name for run in runs if run not in drawable]
    if missing:
        blocks.append(Text(f"Without images, because no files were recorded: {', '.join(missing)}."))
    counter = 0
    for heading, picks in (("By score", by_score), ("By size of the ground truth", by_size)):
        if picks:
            blocks.append(Subheading(heading))
        for role, case in picks:
            for run in drawable:
                counter += 1
                blocks.append(_picture(run, class_name, role, case, figures / f"case_{counter:02d}.png", len(runs) > 1))
    return blocks


def _role(place: int, last: int) -> str:
    if last == 0:
        return "only"
    named = {last // 2: "median", 0: "worst", last: "best"}
    return named.get(place, f"rank {place + 1} of {last + 1}")


def _why_none(runs: Sequence[EvaluatedRun], n: int) -> str:
    if n < 1:
        return "None were requested."
    return (
        "None: no images were given to this report. An evaluation that has files.json names them; evaluate again with "
        "this version to have it written."
        if not any(run.files for run in runs)
        else "None: no run has a case of this class."
    )


def _picture(run: EvaluatedRun, class_name: str, role: str, case: str, png: Path, name_run: bool) -> Picture | Text:
    rows = {row["case"]: row for row in run.cases(class_name)}
    heading = f"{role[:1].upper()}{role[1:]}: {case}" + (f", {run.name}" if name_run else "")
    if case not in rows or case not in run.files:
        return Text(f"{heading}. This run {'has not scored it' if case not in rows else 'has no files of it'}.")
    try:
        title, on_disk = _draw(run, run.files[case], class_name, case, png)
    except UserError as error:
        return Text(f"{heading}. Not drawn: {error}")
    return Picture(
        png,
        alt=f"{title}. {_WHAT_IS_SEEN[run.files[case].is_picture]}",
        caption="",  # its title is in the image
        heading=f"{heading}, Dice {number(rows[case]['dice'])}",
        warning=_disagreement(on_disk, rows[case]["dice"]),
        wide=True,
    )


_WHAT_IS_SEEN = {
    True: "The image, the contours of ground truth and prediction on it, and the errors.",
    False: "Axial, coronal and sagittal plane of the image, of both contours, and of the errors.",
}


def _draw(run: EvaluatedRun, files: CaseFiles, class_name: str, case: str, png: Path) -> tuple[str, float | None]:
    """Write the image; its title and the Dice of what is drawn."""
    if files.is_picture:
        picture = read_picture_case(
            files.image, files.truth, files.pred, name=case, target=class_name, threshold=run.threshold
        )
        save_figure(draw_picture_case(picture), png)
        return picture.title, picture.dice
    volume = read_case(
        files.image,
        files.truth,
        files.pred,
        name=case,
        label=run.label(class_name),
        target=class_name,
        threshold=run.threshold if run.summary.context.get("pred_kind") == "probability" else None,
        grid_tolerance=_grid_tolerance(run),
    )
    low, high = run.config.get("window_hu") or DEFAULT_WINDOW_HU
    save_figure(draw_case(volume, (float(low), float(high))), png)
    return volume.title, volume.dice


def _grid_tolerance(run: EvaluatedRun) -> float:
    """That of the evaluation, by `medseg3d evaluate` or in a training; what is not a number there is not believed."""
    stated = run.summary.context.get("grid_tolerance", run.config.get("grid_tolerance"))
    return stated if isinstance(stated, int | float) else GRID_TOLERANCE


def _disagreement(on_disk: float | None, in_table: float) -> str:
    if (
        on_disk is None
        or math.isclose(on_disk, in_table, abs_tol=0.005)
        or (math.isnan(on_disk) and math.isnan(in_table))
    ):
        return ""
    return (
        f"The mask on disk has a Dice of {number(on_disk)}, scores.csv says {number(in_table)}: "
        "they are not of one run, or not of one label."
    )
