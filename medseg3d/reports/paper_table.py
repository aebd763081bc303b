"""A paper's table as data: what is printed, in which convention, what cannot be, and ours next to it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal

from medseg3d.reports.document import Cell, Table


@dataclass(frozen=True)
class Column:
    """A column of a paper's table.

    Args:
        key: what `rows` have it under.
        name: its heading, unit included.
        better: which end is better; empty where neither is.
        score: the score of ours that answers to it; empty where nothing of ours compares.
        over: what that may be a mean over, the nearest first.
        scale: by how much our fraction is multiplied to be in the column's unit: 100 for per cent.
        derived: whether the numbers are computed here and not printed in the paper.
        backbone: the backbone whose runs' scores may stand here; empty where all may.
    """

    key: str
    name: str
    better: Literal["high", "low", ""] = ""
    score: str = ""
    over: Sequence[str] = ()
    scale: float = 1
    derived: bool = False
    backbone: str = ""

    @property
    def heading(self) -> str:
        """The name, and whether it is ours to answer for."""
        return f"{self.name} (derived)" if self.derived else self.name


@dataclass(frozen=True)
class Flag:
    """What a reader must know before using some cells.

    Args:
        cells: (row, column key) of each.
        statement: what is so.
        why: how it is known.
    """

    cells: Sequence[tuple[str, str]]
    statement: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.statement}: {self.why}" if self.why else self.statement


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper.

    Args:
        paper: key of the paper, as in the names of the bundles.
        name: such as "Table 2".
        caption: what it is a table of.
        convention: how its numbers were taken, as far as the paper says.
        columns: the first one names the row.
        rows: column key to what is printed, digit by digit; None where nothing is.
        notes: what else a reader should know.
        flags: what is wrong with single cells.
        data: a pattern of what the folder of the data set is called, whose runs' scores may stand below: its letters
            and digits alone, in lower case; empty where all may.
        factor: the knob that the rows are of; empty where they are not values of one.
        levels: value of that knob to the row that it compares with, where the row is called otherwise.
        conditions: name to value of what the paper states of how it was done.

    Raises:
        ValueError: a row lacks a column, two rows have one name, or a flag or a level is of no cell or row.
    """

    paper: str
    name: str
    caption: str
    convention: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, str | None]]
    notes: Sequence[str] = ()
    flags: Sequence[Flag] = ()
    data: str = ""
    factor: str = ""
    levels: Mapping[str, str] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys = [column.key for column in self.columns]
        for row in self.rows:
            if list(row) != keys:
                raise ValueError(f"{self.name}: a row must have the columns {keys}, found {list(row)}")
        if len(set(self.row_names)) < len(self.rows):
            raise ValueError(f"{self.name}: row names must differ, found {self.row_names}")
        for flag in self.flags:
            for row_name, key in flag.cells:
                if row_name not in self.row_names or key not in keys:
                    raise ValueError(f"{self.name} has no cell ({row_name!r}, {key!r}) to flag")
        if unknown := set(self.levels.values()) - set(self.row_names):
            raise ValueError(f"{self.name} has no rows {sorted(unknown)} for levels")

    @property
    def row_names(self) -> list[str]:
        """The first cell of each row."""
        return [str(row[self.columns[0].key]) for row in self.rows]

    def is_of(self, *data_sets: str) -> bool:
        """Whether a run on the data in these folders may be set next to the numbers; it may where no folder is known.

        Example:
            >>> columns = (Column("strategy", "Strategy"),)
            >>> table = PaperTable("cris", "Table 2", "", "", columns, (), data="clinicdb")
            >>> table.is_of("data/CVC-ClinicDB"), table.is_of("/data/Kvasir-SEG/")
            (True, False)
        """
        return all(is_called(self.data, Path(folder).name) for folder in data_sets)

    @property
    def marks(self) -> dict[str, Flag]:
        """Letter to flag, in the order of the flags."""
        return dict(zip(ascii_lowercase, self.flags, strict=False))

    def value(self, row: str, column: str) -> float | None:
        """A number, in the unit of the column; None where none is printed.

        Raises:
            KeyError: there is no such row or column.
        """
        text = dict(zip(self.row_names, self.rows, strict=True))[row][column]
        return None if text is None else float(text)

    def best(self, column: Column) -> list[str]:
        """The rows with the best number of a column; several where they are equal, none where nothing is worse."""
        if not column.better:  # the column may hold words
            return []
        values = {row: self.value(row, column.key) for row in self.row_names}
        known = {row: value for row, value in values.items() if value is not None}
        if len(set(known.values())) < 2:
            return []
        best = (max if column.better == "high" else min)(known.values())
        return [row for row, value in known.items() if value == best]


def is_called(pattern: str, name: str) -> bool:
    """Whether the letters and digits of a folder's name, in lower case, have a pattern in them; an unknown name may.

    Example:
        >>> [is_called("kvasirseg", name) for name in ("Kvasir-SEG_880", "Kvasir-Sessile", "")]
        [True, False, True]
    """
    letters = re.sub("[^a-z0-9]", "", name.lower())
    return not letters or re.search(pattern, letters) is not None


Ours = Mapping[str, Mapping[str, str]]
"""Row name to column key to what is written in our cell."""


def as_block(table: PaperTable, ours: Ours | None = None) -> Table:
    """The table as a report has it, a column of ours after each column that we have something for.

    The best of each column is in bold; cells that must not be read without a flag are marked with its letter.

    Args:
        table: the paper's.
        ours: what we found, by row name and column key, written in the unit of the column.
    """
    ours = ours or {}
    heads: list[str] = []
    columns: list[list[Cell | str]] = []
    for column in table.columns:
        best = table.best(column)
        heads.append(column.heading)
        columns.append(
            [
                Cell(row[column.key] or "", mark=_marks(table, name, column.key), strong=name in best)
                for name, row in zip(table.row_names, table.rows, strict=True)
            ]
        )
        if any(column.key in found for found in ours.values()):
            heads.append("ours")
            columns.append([Cell(ours.get(row, {}).get(column.key, ""), own=True) for row in table.row_names])
    return Table(
        f"{table.caption} The paper’s convention: {table.convention}",
        heads,
        [list(row) for row in zip(*columns, strict=True)],
        marks={letter: str(flag) for letter, flag in table.marks.items()},
        lead=f"{table.name}.",
    )


def _marks(table: PaperTable, row: str, column: str) -> str:
    return ", ".join(letter for letter, flag in table.marks.items() if (row, column) in flag.cells)
