"""A network that begins with somebody else's encoder."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from medseg3d.data.tensors import read_tensors
from medseg3d.networks.pretrained import load_pretrained

logger = logging.getLogger("medseg3d")


def with_pretrained_encoder(
    network: nn.Module, path: str | Path | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """The network itself on `device`, its `backbone` filled with the weights in a file.

    Args:
        network: a network whose encoder is its attribute `backbone`.
        path: ImageNet weights as `medseg3d.networks.pretrained.load_pretrained` takes them; None leaves the encoder
            as it was made, and says so in the log.
        device: where the network goes.

    Raises:
        Fault: PRETRAINED, or as `medseg3d.data.tensors.read_tensors`.
    """
    if path is None:
        logger.warning("no --pretrained_file: the encoder begins at random, unlike the paper's")
        return network.to(device)
    encoder = network.get_submodule("backbone")
    report = load_pretrained(encoder, read_tensors(path), str(path))
    logger.info(
        "%s: %d tensors of the encoder filled, %d missing, %d unexpected (%s)",
        path,
        report.matched,
        len(report.missing),
        len(report.unexpected),
        report.layout,
    )
    return network.to(device)
