"""The files of an evaluation: the tables, summary.json and summary.md, files.json and pr.npz.

scores.csv has a line for each case and class, slices.csv for each slice of a volume, groups.csv for each patient or
sequence, and thresholds.csv for each probability from which a voxel may count as foreground.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.evaluation.aggregate import are_grouped, group_counts
from medseg3d.evaluation.page import as_markdown
from medseg3d.evaluation.records import FOREGROUND, Case, Summary
from medseg3d.files.atomic import atomic_path, atomic_write
from medseg3d.files.plain import CsvTable, damaged, read_bytes, read_json, write_json
from medseg3d.metrics import SCORES, BinnedPRCurve, ConfusionCounts

_COUNTS = ("tp", "fp", "fn", "tn")

SCORES_CSV = CsvTable(("case", "class", *SCORES, *_COUNTS, "truth_ml", "pred_ml"))
"""Further scores follow these columns, and `group` where cases have one."""

SLICES_CSV = CsvTable(("case", "class", "slice", *SCORES, *_COUNTS))
"""`slice` is the index along the axis of slices, from 0."""

GROUPS_CSV = CsvTable(("group", "class", "n_cases", *SCORES, *_COUNTS))
"""The counts are sums over the cases of the group."""

THRESHOLDS_CSV = CsvTable(
    ("threshold", "n_cases", *(f"{name}_{kind}" for name in SCORES for kind in ("mean", "pooled")))
)
"""`n_cases` had a probability, and the means leave out what the scores leave out."""

_POINTS = ("precision", "recall", "threshold")
_CURVE_SIZE_LIMIT = 2**30  # bytes of an unpacked pr.npz; it takes 25 MB at most


def write_evaluation(
    output_dir: str | Path,
    cases: Mapping[str, Case],
    summary: Summary,
    thresholds: Sequence[Mapping[str, Any]],
    curve: BinnedPRCurve | None,
) -> None:
    """Write all files of an evaluation or none; summary.json comes last, and what an earlier one left there goes.

    Raises:
        UserError: NO_SPACE or NOT_WRITABLE.
    """
    folder = Path(output_dir)
    tables = {
        "thresholds.csv": (THRESHOLDS_CSV, thresholds),
        "groups.csv": (GROUPS_CSV, _group_rows(cases)),
        "slices.csv": (SLICES_CSV, _slice_rows(cases)),
        "scores.csv": (SCORES_CSV, score_rows(cases)),
    }
    with ExitStack() as stack:
        # what is entered last gets its name first

        def place(name: str) -> Path:
            return stack.enter_context(atomic_path(folder / name))

        write_json(place("summary.json"), summary.as_json())
        with atomic_write(place("summary.md"), "w") as file:
            file.write(as_markdown(summary))
        write_json(place("files.json"), {name: case.files for name, case in cases.items()})
        if curve is not None:
            write_curve(place("pr.npz"), curve)
        written = {name: each for name, each in tables.items() if each[1]}
        for name, (table, rows) in written.items():
            table.write(place(name), rows)
        for name in ({"summary.json", "pr.npz", *tables} - ({"pr.npz"} if curve else set())) - written.keys():
            (folder / name).unlink(missing_ok=True)


def read_summary(path: str | Path) -> Summary:
    """What a summary.json holds.

    Raises:
        UserError: SCORE_FILE if the file is absent, damaged, or of another version.
    """
    return Summary.from_json(read_json(path), path)


def score_row(case: str, name: str, counts: ConfusionCounts, voxel_mm3: float | None = None) -> dict[str, Any]:
    """The row of one case and class in scores.csv: every score, the counts, the volumes in ml.

    Args:
        case: name of the case.
        name: of the class.
        counts: of that class in that case.
        voxel_mm3: volume of a voxel; None for 2-D images, whose volumes are NaN.

    Example:
        >>> row = score_row("ct_1", "pancreas", ConfusionCounts(tp=600, fp=200, fn=400, tn=9000), voxel_mm3=2.5)
        >>> row["recall"], row["truth_ml"], row["pred_ml"]
        (0.6, 2.5, 2.0)
    """
    ml = math.nan if voxel_mm3 is None else voxel_mm3 / 1000
    volumes = {"truth_ml": counts.n_truth * ml, "pred_ml": counts.n_pred * ml}
    return {"case": case, "class": name, **_counted(counts), **volumes}


def score_rows(cases: Mapping[str, Case]) -> list[dict[str, Any]]:
    """The rows of scores.csv: those of `score_row`, all else that was measured, and the group where there is one."""
    classes = list(next(iter(cases.values())).counts) if cases else []
    further = dict.fromkeys(column for name in classes for case in cases.values() for column in case.measured[name])
    return [
        {
            **score_row(key, name, case.counts[name], case.voxel_mm3),
            **{column: case.measured[name].get(column, math.nan) for column in further},
            **({} if case.group is None else {"group": case.group}),
        }
        for key, case in cases.items()
        for name in classes
    ]


def _slice_rows(cases: Mapping[str, Case]) -> list[dict[str, Any]]:
    return [
        {"case": key, "class": name, "slice": index, **_counted(counts)}
        for key, case in cases.items()
        for name, slices in case.slices.items()
        for index, counts in enumerate(slices)
    ]


def _group_rows(cases: Mapping[str, Case]) -> list[dict[str, Any]]:
    classes = next(iter(cases.values())).counts if are_grouped(cases) else ()
    return [
        {"group": group, "class": name, "n_cases": len(counts), **_counted(sum(counts, ConfusionCounts()))}
        for name in classes
        for group, counts in group_counts(name, cases).items()
    ]


def _counted(counts: ConfusionCounts) -> dict[str, Any]:
    scores = {score: function(counts) for score, function in SCORES.items()}
    return {**scores, **{name: getattr(counts, name) for name in _COUNTS}}


def read_files(path: str | Path) -> dict[str, dict[str, str]]:
    """What a files.json holds: case -> `image`, `truth` and `pred`, whichever are known -> path.

    Raises:
        UserError: SCORE_FILE if the file is absent, or is not a JSON object of such objects.
    """
    files = read_json(path)
    for case, kinds in files.items():
        if not isinstance(kinds, dict) or not all(isinstance(name, str) for name in kinds.values()):
            raise damaged(path, f"{kinds!r} for {case}", "a path for each kind of file")
    return files


def write_curve(path: str | Path, curve: BinnedPRCurve) -> None:
    """Write pr.npz: the precision-recall curve of the foreground, to plot and to merge.

    Holds the arrays `foreground/precision`, `foreground/recall` and `foreground/threshold` (float64, as
    `BinnedPRCurve.curve` orders them, for anybody's `numpy.load`) and the counts they come from (int64).

    Raises:
        UserError: NO_SPACE or NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pr.npz"
        >>> curve = BinnedPRCurve()
        >>> curve.update(np.array([-1.0, 2.0]), np.array([0, 1]))
        >>> write_curve(path, curve)
        >>> read_curve(path).average_precision()
        1.0
        >>> np.load(path)["foreground/recall"].tolist()
        [1.0, 1.0, 0.0]
    """
    arrays = {**curve.state(), **dict(zip(_POINTS, curve.curve(), strict=True))}
    named: dict[str, Any] = {f"{FOREGROUND}/{name}": array for name, array in arrays.items()}
    with atomic_write(path) as file:
        np.savez_compressed(file, **named)


def read_curve(path: str | Path) -> BinnedPRCurve:
    """The curve in a pr.npz.

    Raises:
        UserError: SCORE_FILE if the file is absent, damaged, or no pr.npz of this layout.
    """
    content = io.BytesIO(read_bytes(path))
    try:
        with zipfile.ZipFile(content) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > _CURVE_SIZE_LIMIT:
                raise damaged(path, f"{size} bytes when unpacked", f"at most {_CURVE_SIZE_LIMIT}")
            broken = archive.testzip()
            if broken is not None:
                raise zipfile.BadZipFile(f"bad checksum of {broken}")
        content.seek(0)
        with np.load(content, allow_pickle=False) as arrays:
            state = {key.removeprefix(f"{FOREGROUND}/"): arrays[key] for key in arrays.files}
        return BinnedPRCurve.from_state(state)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError) as error:
        # NumPy's own message recommends to load it unsafely
        why = "pickled objects" if "allow_pickle" in str(error) else error
        raise damaged(path, f"no curve in it ({why})") from error
