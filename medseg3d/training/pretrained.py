"""A network that begins with weights from elsewhere: an encoder's, or all."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from medseg3d.data.tensors import read_tensors
from medseg3d.faults import Fault
from medseg3d.inference import load_weights
from medseg3d.networks.pretrained import load_pretrained

logger = logging.getLogger("medseg3d")

SUFFIXES = (".pth", ".pt", ".safetensors")
"""Of the files that are taken for weights."""

_NAMED = 3


def with_pretrained_encoder(
    network: nn.Module, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """The network itself on `device`, its `backbone` filled with the weights in a file, which the log gives account of.

    Args:
        network: a network whose encoder is its attribute `backbone`.
        weights: ImageNet weights as `medseg3d.networks.pretrained.load_pretrained` takes them: a file, or a name as
            `find_weights` takes it. None leaves the encoder as it was made, and says so in the log.
        device: where the network goes.

    Raises:
        Fault: PRETRAINED, or as `find_weights` and `medseg3d.data.tensors.read_tensors`.
    """
    if weights is None:
        logger.warning("no --pretrained: the encoder is randomly initialised (the paper uses ImageNet weights)")
        return network.to(device)
    path = find_weights(weights)
    report = load_pretrained(network.get_submodule("backbone"), read_tensors(path), str(path))
    logger.info(
        "%s: %d tensors of the encoder filled, %d missing%s, %d unexpected%s (%s)",
        path,
        report.matched,
        len(report.missing),
        _first(report.missing),
        len(report.unexpected),
        _first(report.unexpected),
        report.layout,
    )
    return network.to(device)


def with_initial_weights(
    network: nn.Module, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """The network itself on `device`, with all the weights in a file for a training to begin with.

    Args:
        network: the network that the file is of.
        weights: a file as `medseg3d.inference.load_weights` takes it, an earlier run's `model.pt` for instance; None
            leaves the network as it was made.
        device: where the network goes.

    Raises:
        Fault: as `load_weights`.
    """
    if weights is None:
        return network.to(device)
    logger.info("the training begins with the weights in %s", weights)
    return load_weights(network, weights, device)


def find_weights(weights: str | Path) -> Path:
    """The file of weights that a path names or, where there is none, a bare name in torch's own folder of weights.

    That folder is `hub/checkpoints` in TORCH_HOME (by default ~/.cache/torch), where torchvision, timm and others leave
    what they download. A name is a file's (`resnet50-11ad3fa6.pth`), or what stands before its suffix, with or without
    the hash that torchvision appends (`resnet50-11ad3fa6`, `resnet50`). Nothing is downloaded.

    Args:
        weights: a path, or a name without a folder.

    Raises:
        Fault: MISSING_WEIGHTS: no such file, and in that folder none of the name or several.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    remedy = "name a file of ImageNet weights with --pretrained, or leave it out to train from scratch"
    if path.name != str(weights):
        raise Fault("MISSING_WEIGHTS", path.absolute(), "no such file", "ImageNet weights", remedy)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    there = sorted(file for file in folder.glob("*") if file.suffix in SUFFIXES)
    exact = [file for file in there if path.name in (file.name, file.stem)]
    found = exact or [file for file in there if file.stem.rpartition("-")[0] == path.name]
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found or there) or "no weights"
    raise Fault(
        "MISSING_WEIGHTS",
        path,
        f"no such file here, and {len(found)} of that name among those in {folder}: {names}",
        "a file, or one name there",
        remedy,
    )


def _first(names: tuple[str, ...]) -> str:
    more = ", ..." if len(names) > _NAMED else ""
    return f" ({', '.join(names[:_NAMED])}{more})" if names else ""
