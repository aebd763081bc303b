"""The five papers as data: a JSON file for each, with its tables digit by digit and its networks.

A table has its convention, and flags on what cannot be right in it: what is said of a number follows from the printed
numbers (`tests/reports/test_papers.py` recomputes every flag) or is in the paper's text. `score` and `over` of a
column name the score of ours and the means that are taken in the same way, as far as the paper says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from medseg3d.reports.paper_table import Column, Flag, PaperTable, is_called

_FILES = ("pancreas", "ann", "resunetpp", "deeplabv3plus", "cris")

CONTENT: dict[str, dict[str, Any]] = {
    name: json.loads((files(__name__) / f"{name}.json").read_text(encoding="utf-8")) for name in _FILES
}
"""What each file holds; each name is also the word that the paper's bundle has: `pancreas_nl`, `polyp_ann`."""

PAPERS: dict[str, str] = {paper: content["title"] for paper, content in CONTENT.items()}
"""The title of each paper in a word."""


def _table(paper: str, content: Mapping[str, Any]) -> PaperTable:
    columns = [Column(**column) for column in content["columns"]]
    rows = [dict(zip([column.key for column in columns], row, strict=True)) for row in content["rows"]]
    flags = [Flag(**{**flag, "cells": tuple(map(tuple, flag["cells"]))}) for flag in content["flags"]]
    arguments: dict[str, Any] = {**content, "columns": columns, "rows": rows, "flags": flags}
    return PaperTable(paper, **arguments)


TABLES: dict[str, PaperTable] = {
    name: _table(paper, table) for paper, content in CONTENT.items() for name, table in content["tables"].items()
}
"""Every table by the paper and its number."""


@dataclass(frozen=True)
class PaperNetwork:
    """One network as a paper uses it.

    Attributes:
        name: network and setting.
        paper: key of `PAPERS`.
        definition: its config, as a bundle's `network_def`.
        input_shape: (channels, *spatial) of the paper's input, or of ours where the paper states none.
        paper_millions: the count that the paper prints, in millions; None where it prints none.
        note: what a reader must know to compare the two.
        dice: where the paper has its Dice, by what it is of: key of `TABLES`, row, key of the column.
        printed_dice: key of the column that is printed, if `dice` is derived from it.
    """

    name: str
    paper: str
    definition: Mapping[str, Any]
    input_shape: Sequence[int]
    paper_millions: float | None = None
    note: str = ""
    dice: Mapping[str, Sequence[str]] = field(default_factory=dict)
    printed_dice: str | None = None


PAPER_NETWORKS = [
    PaperNetwork(paper=paper, **network) for paper, content in CONTENT.items() for network in content["networks"]
]
"""Every network of the papers, in the order of its paper's table; those that another paper compares with come again."""


PANCREAS = "pancreas in CT, MSD Task07"
_POLYPS = "polyps in colonoscopy"
KVASIR, CLINIC = f"{_POLYPS}, Kvasir-SEG", f"{_POLYPS}, CVC-ClinicDB"
"""What a Dice is of."""

_CALLED = {KVASIR: "^kvasir$|kvasirseg", CLINIC: "clinicdb|cvc612"}
"""What the folders of the data sets are called, as `PaperTable.data`; Kvasir has others, such as Kvasir-Sessile."""


def data_of(paper: str, *data_sets: str) -> str:
    """What a Dice of a paper's bundle on the data in these folders is of: only points of one kind may stand together.

    Without a folder it is of the data that the paper's name is tied to.

    Example:
        >>> data_of("cris", "data/CVC-ClinicDB"), data_of("ann"), data_of("ann", "data/ETIS")
        ('polyps in colonoscopy, CVC-ClinicDB', 'polyps in colonoscopy, Kvasir-SEG', 'polyps in colonoscopy, ETIS')
        >>> data_of("cris", "data/Kvasir-SEG", "data/CVC-ClinicDB")
        'polyps in colonoscopy, Kvasir-SEG + CVC-ClinicDB'
    """
    if paper == "pancreas":
        return PANCREAS
    name = " + ".join(Path(folder).name for folder in data_sets)
    if len(data_sets) > 1:
        return f"{_POLYPS}, {name}"
    return next((data for data, pattern in _CALLED.items() if is_called(pattern, name)), f"{_POLYPS}, {name}")
