"""Parameters, multiplications and memory of a bundle's network, of those it is compared with, and of the papers'."""

from __future__ import annotations

import csv
import functools
import io
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medseg3d.bundle import read_config
from medseg3d.bundle_folders import CONFIGS, bundle_directory, bundle_folder, config_files
from medseg3d.errors import UsageError, UserError
from medseg3d.evaluation.page import markdown_table
from medseg3d.networks.costs import NetworkCosts, network_costs
from medseg3d.reports.papers import PAPER_NETWORKS, PAPERS
from medseg3d.reports.wording import SENTENCES

ABLATION = range(5)
"""Numbers of non-local blocks in the pancreas paper's Table 2."""


@dataclass(frozen=True)
class ParameterRow:
    """One line of the report.

    Attributes:
        network: name and setting.
        source: the paper or the bundle that it is the network of.
        input_shape: (channels, *spatial) of the input that work and memory are counted for.
        costs: of one such input, and of the modules.
        paper_millions: the paper's figure in millions, None where it has none.
        note: what a reader must know to compare the two.
    """

    network: str
    source: str
    input_shape: Sequence[int]
    costs: NetworkCosts
    paper_millions: float | None = None
    note: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """Name to number, memory in MiB."""
        costs, mib = self.costs, 2**20
        return {
            **{"parameters": costs.parameters, "trainable": costs.trainable, "macs": costs.macs},
            **{"activation_mib": costs.activation_bytes / mib, "backward_mib": costs.backward_bytes / mib},
            "checkpoint_mib": costs.checkpoint_bytes / mib,
        }


def paper_report(papers: Sequence[str] = ()) -> list[ParameterRow]:
    """Every network of the papers, or of some papers.

    Args:
        papers: keys of `PAPERS`; none for all.

    Raises:
        UserError: `BAD_VALUE` for a paper that there is not.

    Example:
        >>> [f"{row.costs.parameters / 1e6:.2f} M" for row in paper_report(["resunetpp"])]
        ['4.06 M', '8.22 M', '31.11 M']
    """
    for paper in papers:
        if paper not in PAPERS:
            raise UsageError(
                "BAD_VALUE",
                f"--paper {paper}",
                "no paper of that name",
                f"one of {', '.join(PAPERS)}",
                "correct the name",
            )
    return [_paper_row(place) for place, each in enumerate(PAPER_NETWORKS) if not papers or each.paper in papers]


def bundle_report(
    bundle: str | Path,
    compare: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    ablation: bool = False,
) -> list[ParameterRow]:
    """A bundle's network, and those it is compared with, for one input of the bundle's `roi_size`.

    Args:
        bundle: the bundle's folder.
        compare: overlays next to its train.json, without `.json` (`unetr`, `swinunetr`).
        overrides: knobs, as in training.
        ablation: whether the network is counted with 0 to 4 non-local blocks too.

    Raises:
        UserError: `MISSING_BUNDLE`, `UNKNOWN_KNOB` (for the ablation too, if the bundle has no `nonlocal_blocks`),
            `MISSING_OVERLAY` with the overlays there are, or `BAD_CONFIG` without a `network_def` or a `roi_size`.
    """
    folder, overrides = bundle_folder(bundle), dict(overrides or {})
    settings: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [("this config", (), overrides)]
    if ablation:
        settings += [
            (f"{n} non-local block{'s' * (n != 1)}", (), {**overrides, "nonlocal_blocks": n}) for n in ABLATION
        ]
    settings += [(name, (name,), overrides) for name in compare]
    config, rows = folder / _config(folder), []
    with bundle_directory(folder):
        for name, overlays, knobs in settings:
            parser = read_config(config_files(folder, config.name, overlays), knobs)
            shape = _input_shape(parser, config)
            costs = network_costs(parser.get_parsed_content("network_def"), shape)
            rows.append(ParameterRow(f"{folder.name}, {name}", f"bundle {folder.name}", shape, costs))
    return rows


def recorded_row(summary: Mapping[str, Any], file: Path, name: str, source: str) -> ParameterRow:
    """The network of a run, by the plain values that its evaluation has recorded; its config is code and stays unread.

    Args:
        summary: content of summary.json, with the `network_record` of the network under `network`.
        file: that file, for messages.
        name: what to call the network.
        source: where it comes from.

    Raises:
        UserError: `SCORE_FILE` without such a record, or with a value in it that is not a number.
    """
    record = summary.get("network")
    if not isinstance(record, Mapping):
        raise UserError(
            "SCORE_FILE", file, "no record of the network", "its size under network", "run the evaluation again"
        )
    counted = [each.name for each in fields(NetworkCosts) if each.name != "modules"]
    numbers: dict[str, Any] = {name: record.get(name) for name in counted}
    shape: Any = record.get("input_shape")
    for key, values in {"input_shape": shape, **{key: [value] for key, value in numbers.items()}}.items():
        if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
            wanted = "whole numbers, none negative"
            raise UserError(
                "SCORE_FILE", f"{file}, network#{key}", repr(record.get(key)), wanted, "run the evaluation again"
            )
    return ParameterRow(name, source, shape, NetworkCosts(modules=(), **numbers))


def papers_of_bundle(bundle: str | Path) -> list[str]:
    """The papers whose word the bundle's name has.

    Example:
        >>> papers_of_bundle("bundles/pancreas_nl_2d"), papers_of_bundle("bundles/mine")
        (['pancreas'], [])
    """
    return [paper for paper in PAPERS if paper in Path(bundle).resolve().name.split("_")]


@functools.cache  # seconds each
def _paper_row(place: int) -> ParameterRow:
    """The network at that place in `PAPER_NETWORKS`."""
    each = PAPER_NETWORKS[place]
    network = ConfigParser({"network": dict(each.definition)}).get_parsed_content("network")
    costs = network_costs(network, each.input_shape)
    return ParameterRow(each.name, PAPERS[each.paper], each.input_shape, costs, each.paper_millions, each.note)


def _config(folder: Path) -> str:
    return next(name for name in CONFIGS if (folder / name).is_file())


def _input_shape(parser: ConfigParser, config: Path) -> tuple[int, ...]:
    for key, wanted in (
        ("network_def", "the network's _target_ and arguments under that key"),
        ("roi_size", "the spatial size of the network's input"),
    ):
        if key not in parser:
            raise UserError("BAD_CONFIG", config, f"no {key}", wanted, "add it")
    if "in_channels" in parser["network_def"]:
        channels = parser.get_parsed_content("network_def::in_channels")
    elif "in_channels" in parser:
        channels = parser.get_parsed_content("in_channels")
    else:
        metadata = ConfigParser.load_config_file(config.parent / "metadata.json")
        channels = metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    return (channels, *parser.get_parsed_content("roi_size"))


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
