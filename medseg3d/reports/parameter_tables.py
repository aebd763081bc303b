"""The report on parameters as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict

from medseg3d.evaluation.page import markdown_table
from medseg3d.reports.parameters import ParameterRow
from medseg3d.reports.wording import SENTENCES

COLUMNS: tuple[tuple[str, Callable[[ParameterRow], str]], ...] = (
    ("parameters", lambda row: f"{row.costs.parameters:,}"),
    ("millions", lambda row: f"{row.costs.parameters / 1e6:.2f}"),
    ("paper, millions", lambda row: "" if row.paper_millions is None else f"{row.paper_millions:.2f}"),
    ("trainable", lambda row: f"{row.costs.trainable:,}"),
    ("GMAC", lambda row: f"{row.costs.macs / 1e9:.2f}"),
    ("activations, MiB", lambda row: f"{row.numbers['activation_mib']:.1f}"),
    ("backward, MiB", lambda row: f"{row.numbers['backward_mib']:.1f}"),
    ("weights, MiB", lambda row: f"{row.numbers['checkpoint_mib']:.1f}"),
    ("input", lambda row: "×".join(map(str, row.input_shape))),
)
"""Heading and cell of every column between the network's name and its note."""


def as_text(rows: Sequence[ParameterRow], depth: int = 0) -> str:
    """The rows as aligned columns, a block for each source, the notes and the modules down to `depth` below."""
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    headings = [heading.rpartition(", ") for heading, _ in COLUMNS]
    table = [
        ["", *(first for first, _, _ in headings), ""],
        ["", *(last for _, _, last in headings), "note"],
        *(
            [
                f"  {row.network}",
                *(cell(row) for _, cell in COLUMNS),
                f"[{notes.index(row.note) + 1}]" if row.note else "",
            ]
            for row in rows
        ),
    ]
    lines = _aligned(table)
    text = lines[:2]
    for index, row in enumerate(rows):
        if index == 0 or row.source != rows[index - 1].source:
            text.append(row.source)
        text.append(lines[2 + index])
    below = [[f"[{number}] {note}" for number, note in enumerate(notes, start=1)], SENTENCES["counted"]]
    for remarks in filter(None, below):
        text += ["", *(textwrap.fill(remark, 120, subsequent_indent="  ") for remark in remarks)]
    for row in rows if depth else ():
        text += [
            "",
            f"{row.network} ({row.source}), module by module",
            *_aligned(_module_table(row, depth, indent="  ")),
        ]
    return "\n".join(text)


def as_markdown(rows: Sequence[ParameterRow], depth: int = 0) -> str:
    """The rows as a Markdown table, what the columns mean, and a table of modules down to `depth` for each network."""
    table = [["network", "of", *(heading for heading, _ in COLUMNS), "note"]]
    table += [[row.network, row.source, *(cell(row) for _, cell in COLUMNS), row.note] for row in rows]
    heads, *lines = table
    text = [markdown_table(heads, lines, {0, 1, len(heads) - 1}), "", *(f"- {line}" for line in SENTENCES["counted"])]
    for row in rows if depth else ():
        heads, *lines = _module_table(row, depth, indent="&emsp;")
        text += ["", f"### {row.network} ({row.source})", "", markdown_table(heads, lines, {0, 1})]
    return "\n".join(text)


def as_csv(rows: Sequence[ParameterRow], depth: int = 0) -> str:
    """The rows as CSV, numbers in full; with a depth, a network's modules follow it, named in the column `module`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shared = ("network", "source", "parameters", "macs")
    whole = ("trainable", "activation_mib", "backward_mib", "checkpoint_mib", "paper_millions", "note")
    writer.writerow([*shared, "module", "kind", "input_shape", *whole])
    for row in rows:
        values = {**vars(row), **row.numbers}
        first = [values[key] for key in shared]
        writer.writerow([*first, "", "", "x".join(map(str, row.input_shape)), *(values[key] for key in whole)])
        for module in _down_to(row, depth):
            cells = [row.network, row.source, module.parameters, module.macs, module.path, module.kind]
            writer.writerow([*cells, *[""] * (1 + len(whole))])
    return text.getvalue().rstrip("\n")


def as_json(rows: Sequence[ParameterRow], depth: int = 0) -> str:
    """The rows as a JSON list, each with its `modules` down to `depth`."""
    items = []
    for row in rows:
        about = {key: value for key, value in vars(row).items() if key != "costs"}
        items.append({**about, **row.numbers, "modules": [asdict(module) for module in _down_to(row, depth)]})
    return json.dumps(items, indent=2, ensure_ascii=False)


FORMATS: dict[str, Callable[[Sequence[ParameterRow], int], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
}
"""Name of a format to what writes it."""


def _down_to(row: ParameterRow, depth: int) -> list:
    return [module for module in row.costs.modules if module.depth <= depth]


def _module_table(row: ParameterRow, depth: int, indent: str) -> list[list[str]]:
    """Heading and one line per module, its name indented by its depth."""
    table = [["module", "kind", "parameters", "share", "GMAC", "share"]]
    for module in _down_to(row, depth):
        table.append(
            [
                indent * (module.depth - 1) + module.path.rpartition(".")[2],
                module.kind,
                f"{module.parameters:,}",
                f"{module.parameters / row.costs.parameters:.1%}" if row.costs.parameters else "",
                f"{module.macs / 1e9:.3f}",
                f"{module.macs / row.costs.macs:.1%}" if row.costs.macs else "",
            ]
        )
    return table


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines with words to the left and numbers to the right, two spaces between."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = {0, *(index for index, heading in enumerate(table[0]) if heading == "kind")}
    return [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
