"""The five papers as data: a JSON file for each, with its tables digit by digit and its networks.

A table has its convention, and flags on what cannot be right in it: what is said of a number follows from the printed
numbers (`tests/reports/test_papers.py` recomputes every flag) or is in the paper's text. `score` and `over` of a
column name the score of ours and the means that are taken in the same way, as far as the paper says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from medseg3d.reports.paper_table import Column, Flag, PaperTable

_FILES = ("pancreas", "ann", "resunetpp", "deeplabv3plus", "cris")

CONTENT: dict[str, dict[str, Any]] = {
    name: json.loads((files(__name__) / f"{name}.json").read_text(encoding="utf-8")) for name in _FILES
}
"""What each file holds; each name is also the word that the paper's bundle has: `pancreas_nl`, `polyp_ann`."""

PAPERS: dict[str, str] = {paper: content["title"] for paper, content in CONTENT.items()}
"""The title of each paper in a word."""


def _column(content: Mapping[str, Any]) -> Column:
    arguments: dict[str, Any] = {**content, "over": tuple(content.get("over", ()))}
    return Column(**arguments)


def _table(paper: str, content: Mapping[str, Any]) -> PaperTable:
    columns = tuple(_column(column) for column in content["columns"])
    keys = [column.key for column in columns]
    flags = tuple(
        Flag(tuple((row, key) for row, key in flag["cells"]), flag["statement"], flag.get("why", ""))
        for flag in content["flags"]
    )
    return PaperTable(
        paper=paper,
        name=content["name"],
        caption=content["caption"],
        convention=content["convention"],
        columns=columns,
        rows=tuple(dict(zip(keys, row, strict=True)) for row in content["rows"]),
        notes=tuple(content["notes"]),
        flags=flags,
        data=content.get("data", ""),
        factor=content.get("factor", ""),
        levels=content.get("levels", {}),
        conditions=content.get("conditions", {}),
    )


TABLES: dict[str, PaperTable] = {
    name: _table(paper, table) for paper, content in CONTENT.items() for name, table in content["tables"].items()
}
"""Every table by the paper and its number."""
