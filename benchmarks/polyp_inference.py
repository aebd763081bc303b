"""What the networks of the polyp bundles cost in inference: pictures per second in several precisions and memory
layouts, and how far their labels agree with plain float32.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from harness import Arm, Report, argument_parser, run_benchmark
from monai.bundle import ConfigParser
from torch import nn

from medseg3d.bundle import read_config
from medseg3d.bundle_folders import bundle_directory, config_files
from medseg3d.inference import load_weights
from medseg3d.knobs import split_name
from medseg3d.networks.costs import network_costs
from medseg3d.networks.memory_format import channels_last
from medseg3d.phantoms.polyps import make_polyp_phantom
from medseg3d.pictures.reading import read_picture

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
NETWORKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "polyp_ann": ("polyp_ann", ()),
    "polyp_resunetpp": ("polyp_resunetpp", ()),
    "kvasir_clinicdb128": ("polyp_resunetpp", ("kvasir_clinicdb128",)),
    "unet": ("polyp_resunetpp", ("unet",)),
    "resunet": ("polyp_resunetpp", ("resunet",)),
    "polyp_deeplabv3plus": ("polyp_deeplabv3plus", ()),
    "seresnext50": ("polyp_deeplabv3plus", ("seresnext50",)),
}
"""Bundle and overlays of every network."""
SHIPPED = {"kvasir_clinicdb128"}
"""Those whose weights come with the bundle."""
COMMON_SIZE = (352, 352)

PLAIN = "float32"
ARMS: dict[str, dict[str, tuple[torch.dtype | None, bool]]] = {
    "cpu": {
        PLAIN: (None, False),
        "float32, channels last": (None, True),
        "bfloat16": (torch.bfloat16, False),
        "bfloat16, channels last": (torch.bfloat16, True),
    },
    "cuda": {  # convolutions may round float32 to tf32, as they do in a training
        PLAIN: (None, False),
        "float32, channels last": (None, True),
        "float16, channels last": (torch.float16, True),
        "bfloat16, channels last": (torch.bfloat16, True),
    },
}
"""Of every device: what is autocast to, and whether memory is channels last."""


class Margins(NamedTuple):
    """By how much the polyp's logit exceeds the background's, (B, H, W) float32, and where its label begins."""

    values: np.ndarray
    trained: bool

    def level(self) -> float:
        """0; their median where weights are random, so that half of the pixels are polyp and many near the border."""
        return 0.0 if self.trained else float(np.median(self.values))


class Subject(NamedTuple):
    """A network at one size of its input.

    Args:
        name: key of `NETWORKS`.
        run: folder of a training run, whose config and weights are taken; None for the bundle's and random ones.
        picture: file of a picture; None for a generated one.
        size: rows and columns that it is brought to.
        batch_size: how many times it goes into a batch.
    """

    name: str
    run: Path | None
    picture: Path | None
    size: tuple[int, int]
    batch_size: int


def config_of(name: str, run: Path | None) -> ConfigParser:
    """The bundle's config of a network, with a run's knobs; what a run recorded that is code stays unread."""
    bundle, overlays = NETWORKS[name]
    files = config_files(BUNDLES / bundle, "train.json", overlays)
    with bundle_directory(BUNDLES / bundle):
        parser = read_config(files)
        if run is None:
            return parser
        recorded = json.loads((run / "config.json").read_text(encoding="utf-8"))
        return read_config(files, {key: value for key, value in recorded.items() if key in parser and is_plain(value)})


def is_plain(value: object) -> bool:
    """Whether a value is a number, a word or a list of such, nothing that a ConfigParser resolves."""
    if isinstance(value, list):
        return all(map(is_plain, value))
    return isinstance(value, (int, float)) or (isinstance(value, str) and not value.startswith(("$", "@", "%")))


def make_call(subject: Subject, arm: str, device: str) -> Callable[[], Margins]:
    """A call from the normalized batch, on the device, to the margins in the CPU's memory."""
    dtype, layout = ARMS[device][arm]
    parser = config_of(subject.name, subject.run)
    images = batch(subject, parser).to(device)
    weights = weights_of(subject, parser)
    network = make_network(subject, parser, weights).to(device)
    if layout:
        images, network = channels_last(images), channels_last(network)

    def call() -> Margins:
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype is not None):
            logits = network(images).float()
            margins = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        return Margins(margins.cpu().numpy(), trained=weights is not None)  # .cpu() waits for a GPU

    return call


def batch(subject: Subject, parser: ConfigParser) -> torch.Tensor:
    """(batch_size, 3, H, W) float32: the picture, resized and normalized with the bundle's mean and deviation."""
    if subject.picture is None:
        picture = make_polyp_phantom(0, size=subject.size, polyps=1).picture
    else:
        picture = read_picture(subject.picture)
    image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None] / 255
    image = F.interpolate(image, subject.size, mode="bilinear", antialias=True)
    mean, std = (
        torch.tensor(parser.get_parsed_content(key)).view(1, -1, 1, 1) for key in ("channel_mean", "channel_std")
    )
    return ((image - mean) / std).repeat(subject.batch_size, 1, 1, 1).contiguous()


def weights_of(subject: Subject, parser: ConfigParser) -> Path | None:
    """The file of trained weights: the run's, or the bundle's own; None where there is none."""
    if subject.run is not None:
        return subject.run / "model.pt"
    return BUNDLES.parent / parser.get_parsed_content("model_file") if subject.name in SHIPPED else None


def make_network(subject: Subject, parser: ConfigParser, weights: Path | None) -> nn.Module:
    """The network in eval mode with the weights of a file, or with random ones of seed 0."""
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    if weights is not None:
        load_weights(network, weights)
        return network.to(memory_format=torch.contiguous_format).eval()
    # with the statistics of a new BatchNorm the numbers of a deep random network grow out of all bounds
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    small = F.interpolate(batch(subject, parser)[:1], (128, 128), mode="bilinear", antialias=True)
    with torch.no_grad():
        network.train()(torch.cat([small, small.flip(3)]))
    return network.eval()


def label_agreement(plain: Margins, own: Margins) -> dict[str, float]:
    """How far the labels of an arm are from those of plain float32; no Dice where neither has a polyp."""
    level = plain.level()
    one, other = plain.values > level, own.values > level
    found = {"polyp %": float(100 * one.mean()), "differing labels, ppm": float(1e6 * np.mean(one != other))}
    both = np.count_nonzero(one) + np.count_nonzero(other)
    return found | ({"1 - Dice": 1 - 2 * np.count_nonzero(one & other) / both} if both else {})


def subjects(arguments: argparse.Namespace, runs: Mapping[str, Path]) -> list[Subject]:
    """The networks asked for, each at its bundle's size and at the common one."""
    found = []
    for name in arguments.networks:
        parser = config_of(name, runs.get(name))
        own = tuple(parser.get_parsed_content("picture_size"))
        for size in dict.fromkeys((own, COMMON_SIZE)):
            found.append(Subject(name, runs.get(name), arguments.picture, size, arguments.batch_size))
    return found


def case_name(subject: Subject, device: str) -> str:
    """How a network at a size is called in the table, with its parameters and its work for one picture."""
    parser = config_of(subject.name, subject.run)
    network = parser.get_parsed_content("network_def")
    costs = network_costs(network, (parser.get_parsed_content("in_channels"), *subject.size))
    return (
        f"{subject.name} {subject.size[0]}×{subject.size[1]}, {costs.parameters / 1e6:.2f} M, "
        f"{costs.macs / 1e9:.1f} GMAC"
        + (", trained" if weights_of(subject, parser) else "")
        + (f", {device}" * (device != "cpu"))
    )


def add_rates(report: Report, batch_size: int) -> str:
    """Give every row of the report its pictures per second, and say them in lines of their own."""
    lines = []
    for row in report.rows:
        row.comparison = {"images/s": batch_size / row.median_s, **row.comparison}
        lines.append(f"{row.case}: {row.arm}: {row.comparison['images/s']:.3g} images/s")
    return "\n".join(lines)


def named_runs(words: Sequence[str]) -> dict[str, Path]:
    """Run folders by the network's name.

    Raises:
        ValueError: a word that is not NAME=FOLDER, or a name that no network has.
    """
    runs = dict(split_name(word) for word in words)
    for name in runs:
        if name not in NETWORKS:
            raise ValueError(f"--runs wants NAME=FOLDER with a name of {', '.join(NETWORKS)}, found {name!r}")
    return {name: folder.resolve() for name, folder in runs.items()}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument(
        "--runs", nargs="+", default=[], metavar="NAME=FOLDER", help="take config and model.pt of this training run"
    )
    parser.add_argument("--picture", type=Path, help="an image instead of a generated one")
    parser.add_argument("--batch-size", type=int, default=1, help="images per forward pass (default: %(default)s)")
    parser.add_argument(
        "--devices", nargs="+", choices=ARMS, help="where to run (default: on the CPU, and on a GPU where there is one)"
    )
    arguments = parser.parse_args()
    try:
        runs = named_runs(arguments.runs)
    except ValueError as error:
        parser.error(str(error))
    devices = arguments.devices or ["cpu"] + ["cuda"] * torch.cuda.is_available()
    arms = [
        Arm(arm, partial(make_call, subject, arm, device), case=case)
        for device in devices
        for subject in subjects(arguments, runs)
        for case in [case_name(subject, device)]
        for arm in ARMS[device]
    ]
    report = run_benchmark(
        "Inference with the networks of the polyp bundles",
        arms,
        baseline=PLAIN,
        compare=label_agreement,
        repeats=arguments.repeats,
        threads=arguments.threads,
        description=(
            f"The network alone, {arguments.batch_size} image{'s' * (arguments.batch_size != 1)} per forward pass, "
            "in eval and inference mode, from a normalized float32 batch in memory to float32 logits; nothing is "
            "resized, restored or written. Every network at its bundle's image size and at 352×352. Parameters include "
            "heads that are only used in training, GMAC do not. *bfloat16* and *float16*: autocast. The bundles run "
            "inference channels last, in the precision that `--precision auto` chooses for the device. "
            "*differing labels*, *1 - Dice*: compared with plain float32, on "
            + ("a generated image" if arguments.picture is None else arguments.picture.name)
            + ". Where a case does not say *trained*, weights are random (seed 0, BatchNorm with the statistics of the "
            "image) and the threshold is the median of float32: borders are everywhere, so this is a hard case and "
            "says nothing about Dice with trained weights. "
            + ("" if "cuda" in devices else "No GPU was available, so there is no arm for one. ")
            + "The machine was shared with other jobs: trust the ratios and the CPU time, not the images per second."
        ),
    )
    print(add_rates(report, arguments.batch_size))
    if arguments.output is not None:
        report.save(arguments.output)


if __name__ == "__main__":
    main()
