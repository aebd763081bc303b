"""Parameter counts of a bundle's network, of its compared networks, and of the paper's own setting."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medseg3d.bundle import bundle_directory, bundle_folder, config_files, read_config

PANCREAS_TABLE_3: dict[str, tuple[dict[str, Any], float, str]] = {
    "SegResNet, no non-local block (2-D, 32 filters)": (
        {
            "_target_": "medseg3d.networks.SegResNetNL",
            **{"spatial_dims": 2, "init_filters": 32, "in_channels": 3, "out_channels": 2, "nonlocal_blocks": 0},
        },
        6.30,
        "the paper prints 6.30 M for SegResNet + 2 non-local blocks; that is the count without them",
    ),
    "SegResNet + 2 non-local blocks (2-D, 32 filters)": (
        {
            "_target_": "medseg3d.networks.SegResNetNL",
            **{"spatial_dims": 2, "init_filters": 32, "in_channels": 3, "out_channels": 2, "nonlocal_blocks": 2},
        },
        6.30,
        "two blocks of inner width C/2 add 0.26 M to the printed figure",
    ),
    "UNETR (2-D, 96×96)": (
        {"_target_": "UNETR", "in_channels": 3, "out_channels": 2, "img_size": 96, "spatial_dims": 2},
        87.56,
        "",
    ),
    "SwinUNETR (2-D)": (
        {"_target_": "SwinUNETR", "in_channels": 3, "out_channels": 2, "feature_size": 48, "spatial_dims": 2},
        25.14,
        "",
    ),
}
"""Networks of the pancreas paper's Table 3 in the setting its counts have: 2-D, 3 input channels, 2 classes."""


@dataclass(frozen=True)
class ParameterRow:
    """One line of the report.

    Attributes:
        network: name and setting.
        parameters: number of parameters.
        trainable: how many of them are trained.
        checkpoint_mib: size of the float32 state dict in MiB, buffers included.
        paper_millions: the paper's figure in millions, None where it has none.
        note: what a reader must know to compare the two.
    """

    network: str
    parameters: int
    trainable: int
    checkpoint_mib: float
    paper_millions: float | None = None
    note: str = ""


def count_parameters(
    network_def: Mapping[str, Any], name: str, paper: float | None = None, note: str = ""
) -> ParameterRow:
    """Build a network from its config and count.

    Example:
        >>> row = count_parameters({"_target_": "medseg3d.networks.SegResNetNL", "nonlocal_blocks": 0}, "SegResNet")
        >>> row.parameters, row.checkpoint_mib > 17
        (4700914, True)
    """
    network = ConfigParser({"network": dict(network_def)}).get_parsed_content("network")
    sizes = [parameter.numel() for parameter in network.parameters()]
    return ParameterRow(
        name,
        sum(sizes),
        sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        sum(value.numel() * value.element_size() for value in network.state_dict().values()) / 2**20,
        paper,
        note,
    )


def parameter_report(
    bundle: str | Path,
    compare: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> list[ParameterRow]:
    """Counts of a bundle's network, its ablation over non-local blocks, compared networks, and the paper's Table 3.

    Args:
        bundle: the bundle's folder.
        compare: overlays beside its train.json, without `.json` (`unetr`, `swinunetr`).
        overrides: knobs, as in training.

    Raises:
        Fault: `MISSING_BUNDLE`, `UNKNOWN_KNOB`, or `MISSING_OVERLAY` with the overlays there are.
    """
    folder = bundle_folder(bundle)
    rows = [count_parameters(_network_def(folder, (), overrides), f"{folder.name} (this config)")]
    if "nonlocal_blocks" in json.loads((folder / "train.json").read_text(encoding="utf-8")):
        for blocks in range(5):
            definition = _network_def(folder, (), {**(overrides or {}), "nonlocal_blocks": blocks})
            rows.append(count_parameters(definition, f"{folder.name}, {blocks} non-local block{'s' * (blocks != 1)}"))
    for name in compare:
        rows.append(count_parameters(_network_def(folder, (name,), overrides), f"{folder.name}, {name}"))
    if folder.name.startswith("pancreas"):
        rows += [count_parameters(*(row[0], name, *row[1:])) for name, row in PANCREAS_TABLE_3.items()]
    return rows


def as_markdown(rows: Sequence[ParameterRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| network | parameters | millions | trainable | float32 weights, MiB | paper, millions | note |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        paper = "" if row.paper_millions is None else f"{row.paper_millions:.2f}"
        lines.append(
            f"| {row.network} | {row.parameters:,} | {row.parameters / 1e6:.2f} | {row.trainable:,} "
            f"| {row.checkpoint_mib:.1f} | {paper} | {row.note} |"
        )
    return "\n".join(lines)


def as_json(rows: Sequence[ParameterRow]) -> str:
    """The rows as a JSON list."""
    return json.dumps([asdict(row) for row in rows], indent=2)


def _network_def(folder: Path, overlays: Sequence[str], overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    with bundle_directory(folder):
        parser = read_config(config_files(folder, "train.json", overlays), overrides)
        parser.parse()
        return _resolved(parser, "network_def")


def _resolved(parser: ConfigParser, key: str) -> dict[str, Any]:
    """The network's config with every reference replaced by its value, so that it stands alone."""
    return {
        name: value if name.startswith("_") else parser.get_parsed_content(f"{key}::{name}")
        for name, value in parser[key].items()
    }
