"""The networks of the five papers as data: how each is built, at which input it is counted, what the paper prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg3d.reports.paper_table import is_called
from medseg3d.reports.papers import CLINICDB, KVASIR_SEG


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

PAPERS: dict[str, str] = {
    "pancreas": "SegResNet with non-local blocks, pancreas CT",
    "ann": "asymmetric non-local network, polyps",
    "resunetpp": "ResUNet++, polyps",
    "deeplabv3plus": "DeepLabv3+, polyps",
    "cris": "collaborative refinement (CRIS), polyps",
}
"""The five papers; each key is also the word that its bundle's name has: `pancreas_nl`, `polyp_ann`."""


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
    known = {KVASIR: KVASIR_SEG, CLINIC: CLINICDB}
    name = " + ".join(Path(folder).name for folder in data_sets)
    if len(data_sets) > 1:
        return f"{_POLYPS}, {name}"
    return next((data for data, pattern in known.items() if is_called(pattern, name)), f"{_POLYPS}, {name}")


_PANCREAS_2D = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2}
_SEGRESNET_2D = {"_target_": "medseg3d.networks.SegResNetNL", "init_filters": 32, **_PANCREAS_2D}

_UNET = {"_target_": "medseg3d.networks.unet"}
_UNETPP = {"_target_": "medseg3d.networks.unet_plus_plus"}
_SEGNET = {"_target_": "medseg3d.networks.SegNet"}
_REFINED = {"_target_": "medseg3d.networks.RefinedSegmenter"}
_CRF = {"_target_": "medseg3d.networks.CRFRefined"}
_REFINEMENT_NOTE = "the refinement has 76,193 parameters; its channels and kernels are ours, the paper states neither"
_CRF_NOTE = "CRF-as-RNN behind the backbone, 12 parameters; its ten steps in inference are counted"


def _of_both(strategy: str, column: str) -> dict[str, tuple[str, str, str]]:
    """A cell of both tables of the CRIS paper."""
    return {KVASIR: ("cris_table_1", strategy, column), CLINIC: ("cris_table_2", strategy, column)}


PAPER_NETWORKS: tuple[PaperNetwork, ...] = (
    PaperNetwork(
        "SegResNet, no non-local block (2-D, 32 filters)",
        "pancreas",
        {**_SEGRESNET_2D, "nonlocal_blocks": 0},
        (3, 96, 96),
        6.30,
        "the paper prints 6.30 M for SegResNet + 2 non-local blocks; that is the count without them",
        {PANCREAS: ("pancreas_table_2", "0", "dice")},
    ),
    PaperNetwork(
        "SegResNet + 2 non-local blocks (2-D, 32 filters)",
        "pancreas",
        {**_SEGRESNET_2D, "nonlocal_blocks": 2},
        (3, 96, 96),
        6.30,
        "two blocks of inner width C/2 add 0.26 M to the printed figure, which makes 6.56 M",
        {PANCREAS: ("pancreas_table_3", "SegResNet + 2 non-local", "dice")},
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
        dice={PANCREAS: ("pancreas_table_3", "UNETR", "dice")},
    ),
    PaperNetwork(
        "SwinUNETR (2-D)",
        "pancreas",
        {"_target_": "monai.networks.nets.SwinUNETR", **_PANCREAS_2D, "feature_size": 48},
        (3, 96, 96),
        25.14,
        dice={PANCREAS: ("pancreas_table_3", "SwinUNETR", "dice")},
    ),
    PaperNetwork(
        "UMambaEnc (2-D, 96×96)",
        "pancreas",
        {"_target_": "medseg3d.networks.UMambaEnc", **_PANCREAS_2D, "img_size": 96},
        (3, 96, 96),
        39.26,
        "five stages of 64 to 1024 features, as in its public code; the count depends on the input's size, which the "
        "paper does not state: 39.12 M for 256×256, 39.26 M for 224×336, 39.38 M for 288×288",
        {PANCREAS: ("pancreas_table_3", "UMambaEnc", "dice")},
    ),
    PaperNetwork(
        "asymmetric non-local net",
        "ann",
        {"_target_": "medseg3d.networks.AsymmetricNonLocalNet"},
        (3, 512, 1024),
        note="2,360,322 of them are the auxiliary head, which works in training only: GMAC and activations are without",
        dice={KVASIR: ("ann_table_1", "Proposed", "dice_foreground")},
        printed_dice="dice",
    ),
    PaperNetwork(
        "ResUNet++",
        "resunetpp",
        {"_target_": "medseg3d.networks.ResUNetPlusPlus"},
        (3, 352, 352),
        note="as the published code has it; the paper rebuilt here breaks off before its results",
        dice={KVASIR: ("resunetpp_original", "Kvasir-SEG", "dice"), CLINIC: ("resunetpp_original", "CVC-612", "dice")},
    ),
    PaperNetwork(
        "ResUNet",
        "resunetpp",
        {"_target_": "medseg3d.networks.ResUNet"},
        (3, 352, 352),
        note="named as a baseline, no setting stated: 64 to 512 filters, as Zhang et al. have them",
    ),
    PaperNetwork(
        "U-Net",
        "resunetpp",
        _UNET,
        (3, 352, 352),
        note="MONAI's BasicUNet with BatchNorm, 0.07 M more than the original",
    ),
    PaperNetwork(
        "DeepLabv3+, ResNet-50",
        "deeplabv3plus",
        {"_target_": "medseg3d.networks.DeepLabV3Plus"},
        (3, 352, 352),
        note="separable convolutions, as the paper's text has it; 40,347,298 with plain ones",
        dice={KVASIR: ("deeplab_table_2", "Test", "dice")},
    ),
    PaperNetwork(
        "DeepLabv3+, SE-ResNeXt-50",
        "deeplabv3plus",
        {"_target_": "medseg3d.networks.DeepLabV3Plus", "backbone": "seresnext50"},
        (3, 352, 352),
        note="the paper's text names both backbones; its tables do not say which",
    ),
    PaperNetwork(
        "U-Net",
        "cris",
        _UNET,
        (3, 256, 256),
        note="MONAI's BasicUNet with BatchNorm, 0.07 M more than the original",
        dice=_of_both("Backbone", "unet_dice"),
    ),
    PaperNetwork(
        "U-Net + CRF",
        "cris",
        {**_CRF, "backbone": _UNET},
        (3, 256, 256),
        note=_CRF_NOTE,
        dice=_of_both("Backbone+CRF", "unet_dice"),
    ),
    PaperNetwork(
        "U-Net + refinement",
        "cris",
        {**_REFINED, "backbone": _UNET},
        (3, 256, 256),
        note=_REFINEMENT_NOTE,
        dice=_of_both("Proposed", "unet_dice"),
    ),
    PaperNetwork(
        "UNet++",
        "cris",
        _UNETPP,
        (3, 256, 256),
        note="MONAI's BasicUNetPlusPlus with BatchNorm, without the 99 parameters of its unused heads",
        dice=_of_both("Backbone", "unetpp_dice"),
    ),
    PaperNetwork(
        "UNet++ + CRF",
        "cris",
        {**_CRF, "backbone": _UNETPP},
        (3, 256, 256),
        note=_CRF_NOTE,
        dice=_of_both("Backbone+CRF", "unetpp_dice"),
    ),
    PaperNetwork(
        "UNet++ + refinement",
        "cris",
        {**_REFINED, "backbone": _UNETPP},
        (3, 256, 256),
        note=_REFINEMENT_NOTE,
        dice=_of_both("Proposed", "unetpp_dice"),
    ),
    PaperNetwork(
        "SegNet",
        "cris",
        _SEGNET,
        (3, 256, 256),
        note="VGG-16's convolutions with BatchNorm, mirrored",
        dice=_of_both("Backbone", "segnet_dice"),
    ),
    PaperNetwork(
        "SegNet + CRF",
        "cris",
        {**_CRF, "backbone": _SEGNET},
        (3, 256, 256),
        note=_CRF_NOTE,
        dice=_of_both("Backbone+CRF", "segnet_dice"),
    ),
    PaperNetwork(
        "SegNet + refinement",
        "cris",
        {**_REFINED, "backbone": _SEGNET},
        (3, 256, 256),
        note=_REFINEMENT_NOTE,
        dice=_of_both("Proposed", "segnet_dice"),
    ),
)
"""Every network of the papers, in the order of its paper's table; those that another paper compares with come again."""
