"""The networks of the five papers: how each is built, at which input it is counted, what the paper prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg3d.reports.paper_table import is_called
from medseg3d.reports.papers import CONTENT


@dataclass(frozen=True)
class PaperNetwork:
    """One network as a paper uses it.

    Attributes:
        name: network and setting.
        paper: key of `medseg3d.reports.papers.PAPERS`.
        definition: its config, as a bundle's `network_def`.
        input_shape: (channels, *spatial) of the paper's input, or of ours where the paper states none.
        paper_millions: the count that the paper prints, in millions; None where it prints none.
        note: what a reader must know to compare the two.
        dice: where the paper has its Dice, by what it is of: key of `papers.TABLES`, row, key of the column.
        printed_dice: key of the column that is printed, if `dice` is derived from it.
    """

    name: str
    paper: str
    definition: Mapping[str, Any]
    input_shape: tuple[int, ...]
    paper_millions: float | None = None
    note: str = ""
    dice: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    printed_dice: str | None = None


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


def _network(paper: str, content: Mapping[str, Any]) -> PaperNetwork:
    dice = {data: (table, row, column) for data, (table, row, column) in content.get("dice", {}).items()}
    return PaperNetwork(paper=paper, **{**content, "input_shape": tuple(content["input_shape"]), "dice": dice})


PAPER_NETWORKS: tuple[PaperNetwork, ...] = tuple(
    _network(paper, network) for paper, content in CONTENT.items() for network in content["networks"]
)
"""Every network of the papers, in the order of its paper's table; those that another paper compares with come again."""
