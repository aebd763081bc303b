"""The files that hold scores: the tables, summary.json, files.json and pr.npz of a run folder.

Each is written whole or not at all, and read back to what was written. Of the tables, scores.csv has a line for each
case and class, slices.csv for each slice of a volume, groups.csv for each patient or sequence, and thresholds.csv for
each probability from which a voxel may count as foreground.
"""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.data.atomic import atomic_write
from medseg3d.data.stream import check_regular
from medseg3d.faults import Fault
from medseg3d.metrics import SCORES, BinnedPRCurve, ConfusionCounts

_COUNTS = ("tp", "fp", "fn", "tn")
SCORE_COLUMNS = ("case", "class", *SCORES, *_COUNTS, "truth_ml", "pred_ml")
"""The columns that every scores.csv begins with; those of further scores follow."""

SLICE_COLUMNS = ("case", "class", "slice", *SCORES, *_COUNTS)
"""The columns of slices.csv; `slice` is the index along the axis of slices, from 0."""

GROUP_COLUMNS = ("group", "class", "n_cases", *SCORES, *_COUNTS)
"""The columns of groups.csv; the counts are sums over the cases of the group."""

THRESHOLD_COLUMNS = ("threshold", "n_cases", *(f"{name}_{kind}" for name in SCORES for kind in ("mean", "pooled")))
"""The columns of thresholds.csv; `n_cases` had a probability, and the means leave out what the scores leave out."""

_TEXTS = {"case", "class", "group"}
_INTEGERS = {*_COUNTS, "slice", "n_cases"}

_FILE_KINDS = ("image", "truth", "pred")
_POINTS = ("precision", "recall", "threshold")
_CURVE_SIZE_LIMIT = 2**30  # bytes of an unpacked pr.npz; a class takes 25 MB at most


def score_row(case: str, label: str, counts: ConfusionCounts, voxel_mm3: float | None = None) -> dict[str, Any]:
    """The row of one case and class: every score, the counts, the volumes in ml.

    Args:
        case: name of the case.
        label: name of the class.
        counts: of that class in that case.
        voxel_mm3: volume of a voxel; None for pictures, whose volumes are NaN.

    Example:
        >>> row = score_row("ct_1", "pancreas", ConfusionCounts(tp=600, fp=200, fn=400, tn=9000), voxel_mm3=2.5)
        >>> row["recall"], row["truth_ml"], row["pred_ml"]
        (0.6, 2.5, 2.0)
    """
    ml = math.nan if voxel_mm3 is None else voxel_mm3 / 1000
    return {
        "case": case,
        "class": label,
        **{name: score(counts) for name, score in SCORES.items()},
        **{name: getattr(counts, name) for name in _COUNTS},
        "truth_ml": counts.n_truth * ml,
        "pred_ml": counts.n_pred * ml,
    }


def write_scores(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    r"""Write scores.csv, a line for each case and class.

    NaN, a score without an answer, is an empty cell: spreadsheets, pandas and R all leave it out of a mean. Numbers
    are written so that reading gives back the same float. Comma, point and "\n" whatever the locale; UTF-8.

    Args:
        path: the file; replaced if it exists.
        rows: as `score_row` makes them; further columns hold numbers (`group` is a text) and are the same in every
            row.

    Raises:
        ValueError: a column is missing, rows differ in their columns, a case and class comes twice, or a number is
            infinite.
        Fault: NO_SPACE or NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scores.csv"
        >>> write_scores(path, [score_row("ct_1", "pancreas", ConfusionCounts(tp=1, fn=1, tn=2))])
        >>> print(path.read_text().splitlines()[1])
        ct_1,pancreas,0.6666666666666666,0.5,0.5,1.0,1.0,0.75,1,0,1,2,,
    """
    _write_table(path, rows, SCORE_COLUMNS, ("case", "class"))


def read_scores(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a scores.csv: case, class and group as str, counts as int, all else as float; an empty cell is NaN.

    Raises:
        Fault: SCORE_FILE if the file is absent, is not a scores.csv, or a cell cannot be read; the line is named.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scores.csv"
        >>> write_scores(path, [score_row("ct_1", "pancreas", ConfusionCounts(tp=3, tn=1))])
        >>> read_scores(path)[0]["dice"], read_scores(path)[0]["tp"], read_scores(path)[0]["truth_ml"]
        (1.0, 3, nan)
    """
    return _read_table(path, "scores.csv", SCORE_COLUMNS)


def write_slices(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write slices.csv, a line for each slice of each case and class; otherwise as `write_scores`."""
    _write_table(path, rows, SLICE_COLUMNS, ("case", "class", "slice"))


def read_slices(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a slices.csv, as `read_scores` reads them."""
    return _read_table(path, "slices.csv", SLICE_COLUMNS)


def write_groups(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write groups.csv, a line for each patient or sequence and class; otherwise as `write_scores`."""
    _write_table(path, rows, GROUP_COLUMNS, ("group", "class"))


def read_groups(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a groups.csv, as `read_scores` reads them."""
    return _read_table(path, "groups.csv", GROUP_COLUMNS)


def write_thresholds(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write thresholds.csv, a line for each threshold; otherwise as `write_scores`."""
    _write_table(path, rows, THRESHOLD_COLUMNS, ("threshold",))


def read_thresholds(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a thresholds.csv, as `read_scores` reads them."""
    return _read_table(path, "thresholds.csv", THRESHOLD_COLUMNS)


def write_summary(path: str | Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json: numbers with their conventions and what they were made from, as the caller gives them.

    NaN becomes null, NumPy's numbers and arrays plain ones, a path its text.

    Args:
        path: the file; replaced if it exists.
        summary: keys are str at every depth. A bare score name such as "dice" is no key: it does not say which mean
            it is of.

    Raises:
        ValueError: a key is a bare score name, or a number is infinite.
        TypeError: a key is not str, or a value is nothing that JSON knows.
        Fault: NO_SPACE or NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "summary.json"
        >>> write_summary(path, {"seed": 0, "dice_mean": {"value": float("nan"), "n": 0}})
        >>> print(path.read_text())
        {
          "seed": 0,
          "dice_mean": {
            "value": null,
            "n": 0
          }
        }
        <BLANKLINE>
    """
    text = json.dumps(_plain(summary, where="summary"), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def read_summary(path: str | Path) -> dict[str, Any]:
    """What a summary.json holds; undefined numbers are None.

    Raises:
        Fault: SCORE_FILE if the file is absent or not a JSON object.
    """
    return _read_json(path, "summary.json")


def write_files(path: str | Path, files: Mapping[str, Mapping[str, str | Path]]) -> None:
    """Write files.json: where the image, the truth and the prediction of each case lie, whichever are known.

    Args:
        path: the file; replaced if it exists.
        files: case -> {"image", "truth", "pred"} -> path.

    Raises:
        ValueError: a case has a file of another kind.
        Fault: NO_SPACE or NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "files.json"
        >>> write_files(path, {"ct_1": {"truth": Path("labelsTr") / "ct_1.nii.gz"}})
        >>> read_files(path)
        {'ct_1': {'truth': 'labelsTr/ct_1.nii.gz'}}
    """
    for case, kinds in files.items():
        unknown = set(kinds) - set(_FILE_KINDS)
        if unknown:
            raise ValueError(f"files of {case} must be {', '.join(_FILE_KINDS)}, found {', '.join(sorted(unknown))}")
    with atomic_write(path, "w") as file:
        json.dump(
            {case: {kind: str(name) for kind, name in kinds.items()} for case, kinds in files.items()}, file, indent=2
        )
        file.write("\n")


def read_files(path: str | Path) -> dict[str, dict[str, str]]:
    """What a files.json holds.

    Raises:
        Fault: SCORE_FILE if the file is absent, or is no JSON object of such objects.
    """
    files = _read_json(path, "files.json")
    for case, kinds in files.items():
        if not isinstance(kinds, dict) or not all(isinstance(name, str) for name in kinds.values()):
            raise _fault(path, f"{kinds!r} for {case}", "files.json", "a path for each kind of file")
    return files


def write_curve(path: str | Path, curves: Mapping[str, BinnedPRCurve]) -> None:
    """Write pr.npz: the precision-recall curve of each class, to plot and to merge.

    Holds for a class "pancreas" the arrays `pancreas/precision`, `pancreas/recall` and `pancreas/threshold` (float64,
    as `BinnedPRCurve.curve` orders them, for anybody's `numpy.load`) and the counts they come from (int64).

    Args:
        path: the file; replaced if it exists.
        curves: the curve of each class by its name.

    Raises:
        ValueError: there are no curves, or a name is empty or has a "/".
        Fault: NO_SPACE or NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pr.npz"
        >>> curve = BinnedPRCurve()
        >>> curve.update(np.array([-1.0, 2.0]), np.array([0, 1]))
        >>> write_curve(path, {"pancreas": curve})
        >>> read_curve(path)["pancreas"].average_precision()
        1.0
        >>> np.load(path)["pancreas/recall"].tolist()
        [1.0, 1.0, 0.0]
    """
    if not isinstance(curves, Mapping):
        raise TypeError(f"curves must map class names to curves, found {type(curves).__name__}")
    if not curves:
        raise ValueError("curves must hold at least one class, found none")
    arrays: dict[str, np.ndarray] = {}
    for name, curve in curves.items():
        if not name or "/" in name:
            raise ValueError(f'a class name must not be empty nor have a "/", found {name!r}')
        arrays |= {f"{name}/{key}": array for key, array in curve.state().items()}
        arrays |= {f"{name}/{key}": array for key, array in zip(_POINTS, curve.curve(), strict=True)}
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its allow_pickle is no array of ours


def read_curve(path: str | Path) -> dict[str, BinnedPRCurve]:
    """The curve of each class in a pr.npz.

    Raises:
        Fault: SCORE_FILE if the file is absent, damaged, or no pr.npz of this layout.
    """
    content = io.BytesIO(_read(path, "pr.npz"))
    try:
        with zipfile.ZipFile(content) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > _CURVE_SIZE_LIMIT:
                raise _fault(path, f"{size} bytes when unpacked", "pr.npz", f"at most {_CURVE_SIZE_LIMIT}")
            damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"bad checksum of {damaged}")
        content.seek(0)
        states: dict[str, dict[str, np.ndarray]] = {}
        with np.load(content, allow_pickle=False) as arrays:
            for key in arrays.files:
                name, _, array = key.rpartition("/")
                states.setdefault(name, {})[array] = arrays[key]
        return {name: BinnedPRCurve.from_state(state) for name, state in states.items()}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError) as error:
        # NumPy's own message recommends to load it unsafely
        why = "pickled objects" if "allow_pickle" in str(error) else error
        raise _fault(path, f"no curves in it ({why})", "pr.npz") from error


def _write_table(
    path: str | Path, rows: Iterable[Mapping[str, Any]], required: Sequence[str], key: Sequence[str]
) -> None:
    rows = list(rows)
    columns = _columns(rows, required, key)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row, column, key) for column in columns] for row in rows)
    with atomic_write(path, "w") as file:
        file.write(text.getvalue())


def _read_table(path: str | Path, what: str, required: Sequence[str]) -> list[dict[str, Any]]:
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front when they save
        text = _read(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fault(path, f"bytes that are no UTF-8 text (at byte {error.start})", what) from error
    reader = csv.reader(io.StringIO(text, newline=""))
    columns = next(reader, [])
    missing = [column for column in required if column not in columns]
    if missing:
        raise _fault(path, f"no column {', '.join(missing)}", what)
    rows = []
    for cells in reader:
        if len(cells) != len(columns):
            found = f"{len(cells)} cells in line {reader.line_num}"
            raise _fault(path, found, what, f"{len(columns)} cells in every line")
        row: dict[str, Any] = {}
        for column, cell in zip(columns, cells, strict=True):
            try:
                row[column] = _value(column, cell)
            except ValueError as error:
                found = f"{cell!r} in column {column}, line {reader.line_num}"
                raise _fault(path, found, what, "a number or an empty cell") from error
        rows.append(row)
    return rows


def _columns(rows: list[Mapping[str, Any]], required: Sequence[str], key: Sequence[str]) -> list[str]:
    first = list(rows[0]) if rows else []
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        missing = [column for column in required if column not in row]
        if missing:
            raise ValueError(f"every row must have {', '.join(required)}; found one without {', '.join(missing)}")
        if set(row) != set(first):
            raise ValueError(f"all rows must have the same columns, found {first} and {list(row)}")
        identity = tuple(str(row[column]) for column in key)
        if identity in seen:
            raise ValueError(f"each {' and '.join(key)} must come once, found {identity} twice")
        seen.add(identity)
    return [*required, *(column for column in first if column not in required)]


def _cell(row: Mapping[str, Any], column: str, key: Sequence[str]) -> str:
    value = row[column]
    if column in _TEXTS:
        return str(value)
    if column in _INTEGERS:
        return str(int(value))
    number = float(value)
    if math.isinf(number):
        raise ValueError(f"{column} of {row[key[0]]} must be finite or NaN, found {number}")
    return "" if math.isnan(number) else repr(number)


def _value(column: str, cell: str) -> str | int | float:
    if column in _TEXTS:
        return cell
    if column in _INTEGERS:
        return int(cell)
    return float(cell) if cell else math.nan


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"keys of {where} must be str, found {key!r}")
            if key in SCORES and not isinstance(item, str):  # words are no score but the knob `precision`
                raise ValueError(f"{where}.{key} must say what mean it is, as {key}_mean or {key}_pooled do")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError(f"{where} must be finite or NaN, found {value}")
        return None if math.isnan(value) else value
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(f"{where} must be a number, text, list or dict, found {type(value).__name__}")


def _read_json(path: str | Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(_read(path, what))
    except ValueError as error:  # no JSON, or no UTF-8
        raise _fault(path, f"no JSON ({error})", what) from error
    if not isinstance(content, dict):
        raise _fault(path, f"a JSON {type(content).__name__}", what, "a JSON object")
    return content


def _read(path: str | Path, what: str) -> bytes:
    check_regular(path, f"a {what}")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _fault(path, (error.strerror or str(error)).lower(), what) from error


def _fault(path: str | Path, found: str, what: str, wanted: str = "") -> Fault:
    return Fault(
        "SCORE_FILE", path, found, wanted or f"a {what} that medseg3d wrote", "run the evaluation again to write it"
    )
