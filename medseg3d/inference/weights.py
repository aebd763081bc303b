"""The weights of a trained network, out of a file and into the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg3d.data.tensors import read_tensors_and_sum, state_of_network
from medseg3d.faults import Fault
from medseg3d.networks.memory_format import channels_last


def load_weights(network: nn.Module, path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The network itself, on `device` and in channels-last memory, with every weight of a file and no other.

    Args:
        network: the network the file was trained with.
        path: a state dict as `torch.save` wrote it, also in the dictionaries and behind the prefixes that
            `medseg3d.data.tensors.state_of_network` knows. If `path.sha256` lies beside it, it has to agree.
        device: where the network goes.

    Returns:
        `network`, with the file's SHA-256 in its attribute `weights_sha256`.

    Raises:
        Fault: MISSING_WEIGHTS, CHECKSUM, NON_FINITE, or CHECKPOINT: not a file of tensors, or of another network.
    """
    path = Path(path)
    content, digest = read_tensors_and_sum(path)
    state = state_of_network(content, network.state_dict())
    _check_fit(network, state, path)
    network.load_state_dict(state)
    network.weights_sha256 = digest  # type: ignore[assignment]
    return channels_last(network.to(device))


def _check_fit(network: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    shapes = [
        f"{name} {found[name]} for {wanted[name]}" for name in wanted if found.get(name, wanted[name]) != wanted[name]
    ]
    groups = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": shapes,
    }
    groups["of another kind"] = [
        f"{name} {getattr(state[name], 'dtype', type(state[name]).__name__)} for {value.dtype}"
        for name, value in network.state_dict().items()
        if name in found
        and not (isinstance(state[name], torch.Tensor) and state[name].is_floating_point() == value.is_floating_point())
    ]
    misfits = [f"{len(names)} {what} ({names[0]}, ...)" for what, names in groups.items() if names]
    if misfits:
        raise Fault(
            "CHECKPOINT",
            path,
            f"weights of another network: {', '.join(misfits)}",
            f"the {len(wanted)} tensors of this {type(network).__name__}",
            "is this the bundle and overlay it was trained with? are --init_filters, --nonlocal_blocks and "
            "--num_classes those of the training?"
            if found.keys() & wanted.keys()
            else "no name is one of this network's: save network.state_dict() of the network alone",
        )
