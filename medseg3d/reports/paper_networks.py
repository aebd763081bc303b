"""The networks of the five papers as data: how each is built, at which input it is counted, what the paper prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    """

    name: str
    paper: str
    definition: Mapping[str, Any]
    input_shape: tuple[int, ...]
    paper_millions: float | None = None
    note: str = ""


PAPERS: dict[str, str] = {
    "pancreas": "SegResNet with non-local blocks, pancreas CT",
    "ann": "asymmetric non-local network, polyps",
    "resunetpp": "ResUNet++, polyps",
    "deeplabv3plus": "DeepLabv3+, polyps",
    "cris": "conditional refinement (CRIS), polyps",
}
"""The five papers; each key is also the word that its bundle's name has: `pancreas_nl`, `polyp_ann`."""

_PANCREAS_2D = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2}
_SEGRESNET_2D = {"_target_": "medseg3d.networks.SegResNetNL", "init_filters": 32, **_PANCREAS_2D}

PAPER_NETWORKS: tuple[PaperNetwork, ...] = (
    PaperNetwork(
        "SegResNet, no non-local block (2-D, 32 filters)",
        "pancreas",
        {**_SEGRESNET_2D, "nonlocal_blocks": 0},
        (3, 96, 96),
        6.30,
        "the paper prints 6.30 M for SegResNet + 2 non-local blocks; that is the count without them",
    ),
    PaperNetwork(
        "SegResNet + 2 non-local blocks (2-D, 32 filters)",
        "pancreas",
        {**_SEGRESNET_2D, "nonlocal_blocks": 2},
        (3, 96, 96),
        6.30,
        "two blocks of inner width C/2 add 0.26 M to the printed figure, which makes 6.56 M",
    ),
    PaperNetwork(
        "SegResNet + 2 non-local blocks (3-D, 16 filters)",
        "pancreas",
        {"_target_": "medseg3d.networks.SegResNetNL"},
        (1, 96, 96, 96),
        note="the network of the bundle pancreas_nl, for volumes; the paper's table is 2-D",
    ),
    PaperNetwork(
        "UNETR (2-D, 96×96)",
        "pancreas",
        {"_target_": "monai.networks.nets.UNETR", **_PANCREAS_2D, "img_size": 96},
        (3, 96, 96),
        87.56,
    ),
    PaperNetwork(
        "SwinUNETR (2-D)",
        "pancreas",
        {"_target_": "monai.networks.nets.SwinUNETR", **_PANCREAS_2D, "feature_size": 48},
        (3, 96, 96),
        25.14,
    ),
)
"""Every network of the papers, in the order of its paper's table; those that another paper compares with come again."""
