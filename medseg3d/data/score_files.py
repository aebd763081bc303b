"""The files that hold scores: scores.csv, summary.json and pr.npz of a run folder.

All three are written whole or not at all, and read back to what was written.
"""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.data.atomic import atomic_write
from medseg3d.faults import Fault
from medseg3d.metrics import SCORES, BinnedPRCurve, ConfusionCounts

_TEXTS = ("case", "class")
_COUNTS = ("tp", "fp", "fn", "tn")
SCORE_COLUMNS = (*_TEXTS, *SCORES, *_COUNTS, "truth_ml", "pred_ml")
"""The columns that every scores.csv begins with; those of further scores follow."""

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
        rows: as `score_row` makes them; further columns hold numbers and are the same in every row.

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
    rows = list(rows)
    columns = _columns(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row, column) for column in columns] for row in rows)
    with atomic_write(path, "w") as file:
        file.write(text.getvalue())


def read_scores(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a scores.csv: case and class as str, counts as int, all else as float; an empty cell is NaN.

    Raises:
        Fault: SCORE_FILE if the file is absent, is not a scores.csv, or a cell cannot be read; the line is named.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scores.csv"
        >>> write_scores(path, [score_row("ct_1", "pancreas", ConfusionCounts(tp=3, tn=1))])
        >>> read_scores(path)[0]["dice"], read_scores(path)[0]["tp"], read_scores(path)[0]["truth_ml"]
        (1.0, 3, nan)
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front when they save
        text = _read(path, "scores.csv").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fault(path, f"bytes that are no UTF-8 text (at byte {error.start})", "scores.csv") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    columns = next(reader, [])
    missing = [column for column in SCORE_COLUMNS if column not in columns]
    if missing:
        raise _fault(path, f"no column {', '.join(missing)}", "scores.csv")
    rows = []
    for cells in reader:
        if len(cells) != len(columns):
            found = f"{len(cells)} cells in line {reader.line_num}"
            raise _fault(path, found, "scores.csv", f"{len(columns)} cells in every line")
        row: dict[str, Any] = {}
        for column, cell in zip(columns, cells, strict=True):
            try:
                row[column] = _value(column, cell)
            except ValueError as error:
                found = f"{cell!r} in column {column}, line {reader.line_num}"
                raise _fault(path, found, "scores.csv", "a number or an empty cell") from error
        rows.append(row)
    return rows


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
    try:
        summary = json.loads(_read(path, "summary.json"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise _fault(path, f"no JSON ({error})", "summary.json") from error
    if not isinstance(summary, dict):
        raise _fault(path, f"a JSON {type(summary).__name__}", "summary.json", "a JSON object")
    return summary


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


def _columns(rows: list[Mapping[str, Any]]) -> list[str]:
    first = list(rows[0]) if rows else []
    seen: set[tuple[str, str]] = set()
    for row in rows:
        missing = [column for column in SCORE_COLUMNS if column not in row]
        if missing:
            raise ValueError(f"every row must have {', '.join(SCORE_COLUMNS)}; found one without {', '.join(missing)}")
        if set(row) != set(first):
            raise ValueError(f"all rows must have the same columns, found {first} and {list(row)}")
        key = (str(row["case"]), str(row["class"]))
        if key in seen:
            raise ValueError(f"each case and class must come once, found {key} twice")
        seen.add(key)
    return [*SCORE_COLUMNS, *(column for column in first if column not in SCORE_COLUMNS)]


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if column in _TEXTS:
        return str(value)
    if column in _COUNTS:
        return str(int(value))
    number = float(value)
    if math.isinf(number):
        raise ValueError(f"{column} of {row['case']} must be finite or NaN, found {number}")
    return "" if math.isnan(number) else repr(number)


def _value(column: str, cell: str) -> str | int | float:
    if column in _TEXTS:
        return cell
    if column in _COUNTS:
        return int(cell)
    return float(cell) if cell else math.nan


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys of {where} must be str, found {key!r}")
            if key in SCORES:
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


def _read(path: str | Path, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _fault(path, (error.strerror or str(error)).lower(), what) from error


def _fault(path: str | Path, found: str, what: str, wanted: str = "") -> Fault:
    return Fault(
        "SCORE_FILE", path, found, wanted or f"a {what} that medseg3d wrote", "run the evaluation again to write it"
    )
