"""Plain values on disk, JSON and CSV: written whole or not at all, and read back to what was written."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medseg3d.errors import UserError
from medseg3d.files.atomic import atomic_write
from medseg3d.files.stream import check_regular

_TEXTS = {"case", "class", "group"}
_INTEGERS = {"tp", "fp", "fn", "tn", "slice", "n_cases"}


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    r"""Write a JSON object; NaN becomes null, NumPy's numbers and arrays plain ones, a path its text.

    Args:
        path: the file; replaced if it exists.
        content: keys are str at every depth.

    Raises:
        ValueError: a number is infinite.
        TypeError: a key is not str, or a value is nothing that JSON knows.
        UserError: NO_SPACE or NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "summary.json"
        >>> write_json(path, {"seed": 0, "value": float("nan")})
        >>> path.read_text()
        '{\n  "seed": 0,\n  "value": null\n}\n'
    """
    text = json.dumps(_plain(content, Path(path).stem), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """What a file of `write_json` holds; undefined numbers are None.

    Raises:
        UserError: SCORE_FILE if the file is absent or not a JSON object.
    """
    try:
        content = json.loads(read_bytes(path))
    except ValueError as error:  # no JSON, or no UTF-8
        raise damaged(path, f"no JSON ({error})") from error
    if not isinstance(content, dict):
        raise damaged(path, f"a JSON {type(content).__name__}", "a JSON object")
    return content


class CsvTable(NamedTuple):
    r"""A CSV file with columns that it always has: comma, point and "\n" whatever the locale; UTF-8.

    NaN, a score without an answer, is an empty cell: spreadsheets, pandas and R all leave it out of a mean. Numbers
    are written so that reading gives back the same float.

    Attributes:
        columns: those that every row has; further ones of the first row, numbers all, follow them.

    Example:
        >>> import tempfile
        >>> path, table = Path(tempfile.mkdtemp()) / "t.csv", CsvTable(("case", "dice"))
        >>> table.write(path, [{"case": "ct_1", "dice": 0.5, "hd95_mm": float("nan")}])
        >>> path.read_text()
        'case,dice,hd95_mm\nct_1,0.5,\n'
        >>> table.read(path)
        [{'case': 'ct_1', 'dice': 0.5, 'hd95_mm': nan}]
    """

    columns: Sequence[str]

    def write(self, path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows; an existing file is replaced.

        Raises:
            UserError: NO_SPACE or NOT_WRITABLE.
        """
        columns = list(dict.fromkeys([*self.columns, *(rows[0] if rows else ())]))
        with atomic_write(path, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([_cell(column, row[column]) for column in columns] for row in rows)

    def read(self, path: str | Path) -> list[dict[str, Any]]:
        """The rows: names as str, counts as int, all else as float; an empty cell is NaN.

        Raises:
            UserError: SCORE_FILE if the file is absent, lacks a column, or a cell cannot be read; the line is named.
        """
        try:
            # utf-8-sig: spreadsheets put a byte order mark in front when they save
            text = read_bytes(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise damaged(path, f"bytes that are no UTF-8 text (at byte {error.start})") from error
        reader = csv.reader(io.StringIO(text, newline=""))
        columns = next(reader, [])
        missing = [column for column in self.columns if column not in columns]
        if missing:
            raise damaged(path, f"no column {', '.join(missing)}")
        rows = []
        for cells in reader:
            if len(cells) != len(columns):
                found = f"{len(cells)} cells in line {reader.line_num}"
                raise damaged(path, found, f"{len(columns)} cells in every line")
            row: dict[str, Any] = {}
            for column, cell in zip(columns, cells, strict=True):
                try:
                    row[column] = _value(column, cell)
                except ValueError as error:
                    found = f"{cell!r} in column {column}, line {reader.line_num}"
                    raise damaged(path, found, "a number or an empty cell") from error
            rows.append(row)
        return rows


def _cell(column: str, value: Any) -> str:
    if column in _TEXTS:
        return str(value)
    if column in _INTEGERS:
        return str(int(value))
    return "" if math.isnan(value) else repr(float(value))


def _value(column: str, cell: str) -> str | int | float:
    if column in _TEXTS:
        return cell
    if column in _INTEGERS:
        return int(cell)
    return float(cell) if cell else math.nan


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file.

    Raises:
        UserError: SCORE_FILE if it cannot be read; NOT_A_FILE.
    """
    check_regular(path, f"a {Path(path).name}")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise damaged(path, (error.strerror or str(error)).lower()) from error


def damaged(path: str | Path, found: str, wanted: str = "") -> UserError:
    """The error of a file that is not as it was written."""
    wanted = wanted or f"a {Path(path).name} that medseg3d wrote"
    return UserError("SCORE_FILE", path, found, wanted, "run the evaluation again to write it")


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        strange = next((key for key in value if not isinstance(key, str)), None)
        if strange is not None:
            raise TypeError(f"keys of {where} must be str, found {strange!r}")
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
