"""Pictures with something bright in them, and runs of image bundles in this process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from commands import ROOT
from monai.bundle import ConfigWorkflow
from monai.networks.nets import resnet
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medseg3d.bundle import read_config
from medseg3d.bundle_folders import bundle_directory, completed, read_json
from medseg3d.networks import ResUNetPlusPlus, asymmetric_nonlocal, deeplabv3plus
from medseg3d.networks.backbones import DilatedResNet50

FEATURES = [8, 8, 8, 16]
"""Of a ResUNet++ whose weights are made in no time."""

LENGTH = {"epochs": 2, "iterations_per_epoch": 2, "batch_size": 2, "num_workers": 0}
"""Knobs of a training of seconds."""


class SmallResNet50(DilatedResNet50):
    """One block in each stage and an eighth of the channels; the layers, strides and dilations are the same."""

    channels = (8, 32, 64, 128, 256)

    def __init__(self, in_channels: int = 3, output_stride: int = 8) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resnet, "get_inplanes", lambda: [8, 16, 32, 64])
            patch.setitem(resnet.resnet_params, "resnet50", ("bottleneck", [1, 1, 1, 1], "B", False, True))
            super().__init__(in_channels, output_stride)


@contextmanager
def shallow_encoders() -> Iterator[None]:
    """Context in which the networks with a ResNet-50 have a small one, for what depends on neither depth nor width."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(deeplabv3plus.BACKBONES, "resnet50", SmallResNet50)
        patch.setattr(asymmetric_nonlocal, "DilatedResNet50", SmallResNet50)
        yield


def run_bundle(
    bundle: str, run_id: str, config: str, overlays: tuple[str, ...] = (), **knobs: object
) -> ConfigWorkflow:
    """What `python -m monai.bundle run` does in the root, without the seconds that a process takes to start."""
    with bundle_directory(ROOT / "bundles" / bundle):
        workflow = ConfigWorkflow(
            config_file=[f"bundles/{bundle}/{name}.json" for name in (config, *overlays)],
            workflow_type="train",
            run_id=run_id,
            logging_file=False,
            **knobs,
        )
        workflow.initialize()
        workflow.run()
    return workflow


def train_and_evaluate(bundle: str, folder: Path, overlays: tuple[str, ...] = (), **knobs: object) -> Path:
    """The folder of a run, trained and evaluated on the test set."""
    for run_id, config in (("training", "train"), ("evaluating", "evaluate")):
        run_bundle(bundle, run_id, config, overlays, **knobs, output_dir=str(folder))
    return folder


def parsed(bundle: str, *overlays: str, **knobs: object) -> Callable[[str], Any]:
    """What a key of a bundle's train.json comes to; for tests that run in the root of the repository."""
    parser = read_config([f"bundles/{bundle}/{name}.json" for name in ("train", *overlays)], knobs)
    parser.parse()
    return parser.get_parsed_content


def parameters_of(bundle: str, *overlays: str) -> int:
    """Parameters of a bundle's network, from shapes without values."""
    with torch.device("meta"):
        network = parsed(bundle, *overlays)("network_def")
    return sum(parameter.numel() for parameter in network.parameters())


def anonymous_config(bundle: str, name: str) -> dict:
    """A config of a polyp bundle with what it stands on, without its own name, to be compared with another's."""
    folder = ROOT / "bundles" / bundle
    config = json.dumps(completed(read_json(folder / f"{name}.json"), folder))
    return json.loads(config.replace(bundle, "polyp"))


def overflowing(model_file: Path, folder: Path) -> Path:
    """Weights of the same network, each of them finite, whose logits are not."""
    state = torch.load(model_file, weights_only=True)
    for name, value in state.items():
        if value.ndim > 1:
            value.copy_(torch.where(value < 0, -3e38, 3e38))
        elif name.endswith("bias"):  # of the last layer too, should a ReLU before it let nothing through
            value.fill_(3e38)
    torch.save(state, folder / "overflowing.pt")
    return folder / "overflowing.pt"


def differing_weights(run: Path, other: Path, epoch: int) -> list[str]:
    """Names of the tensors that two runs do not end with alike, in the kept weights and in a checkpoint."""
    found = []
    for name in ("model.pt", f"checkpoints/epoch_{epoch:05d}.pt"):
        states = [torch.load(folder / name, weights_only=True) for folder in (run, other)]
        one, two = (state.get("network", state) for state in states)
        same = {key for key in one.keys() & two.keys() if torch.equal(one[key], two[key])}
        found += [f"{name}: {key}" for key in (one.keys() | two.keys()) - same]
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag to (step, value) of the TensorBoard events in a folder."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def split_knobs(folder: Path) -> dict[str, object]:
    """Overrides that name a folder of images and a split of it with one image each to validate and to test."""
    return {
        "dataset_dir": str(folder),
        "split_file": str(folder.parent / "split.json"),
        "test_cases": 1,
        "val_cases": 1,
    }


def linked_pictures(source: Path, folder: Path, cases: int = 6) -> Path:
    """The first images and masks of a data set, as links in a folder of its name."""
    for part in ("images", "masks"):
        (folder / source.name / part).mkdir(parents=True)
        for path in sorted((source / part).iterdir())[:cases]:
            (folder / source.name / part / path.name).symlink_to(path)
    return folder / source.name


def polyp_folder(folder: Path, cases: int = 6) -> Path:
    """Pictures of 48 x 64 pixels, or turned, with one reddish ellipse each, as JPEG, their masks as JPEG too."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(1, cases + 1):
        shape = (48, 64) if number % 2 else (64, 48)
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        row, column = rng.integers(16, 32, 2)
        mask = ((rows - row) / 8) ** 2 + ((columns - column) / 12) ** 2 < 1
        picture = rng.normal(90, 10, (*shape, 3)) + mask[..., None] * (100, 0, 0)
        for part, levels in (("images", picture), ("masks", np.repeat(255 * mask[..., None], 3, axis=-1))):
            Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(folder / part / f"{number}.jpg", quality=95)
    return folder


def tiny_weights(path: Path, seed: int) -> str:
    """Write random weights, whose masks are neither empty nor full, and their sum; the sum comes back."""
    torch.manual_seed(seed)
    network = ResUNetPlusPlus(features=FEATURES).eval()
    with torch.inference_mode():
        network.head.bias -= network(torch.rand(1, 3, 32, 32)).median()
    path.parent.mkdir(exist_ok=True)
    content = safetensors.torch.save(network.state_dict())
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    return digest
