"""The weights of a trained network, out of a file and into the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from medseg3d.errors import UserError
from medseg3d.files.tensors import read_tensors_and_sum, state_of_network
from medseg3d.networks.memory_format import channels_last


def load_weights(network: nn.Module, path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The network itself, on `device` and in channels-last memory, with every weight of a file and no other.

    Args:
        network: the network the file was trained with.
        path: a state dict as `torch.save` wrote it, also in the dictionaries and behind the prefixes that
            `medseg3d.files.tensors.state_of_network` knows. If `path.sha256` lies next to it, it has to agree.
        device: where the network goes.

    Returns:
        `network`, with the file's SHA-256 in its attribute `weights_sha256`.

    Raises:
        UserError: MISSING_WEIGHTS, CHECKSUM, NON_FINITE, or CHECKPOINT: not a file of tensors, or of another network.
    """
    path = Path(path)
    content, digest = read_tensors_and_sum(path)
    state = state_of_network(content, network.state_dict())
    _check_fit(network, state, path)
    network.load_state_dict(state)
    network.weights_sha256 = digest  # type: ignore[assignment]
    return channels_last(network.to(device))


class Fit(NamedTuple):
    """How the tensors in a file lie over those of a network, by name.

    Attributes:
        fitting: of the same name, shape and kind, floating or whole numbers.
        missing: of the network, that the file lacks.
        unexpected: of the file, that the network has no place for.
        of_another_shape: `name (shape in the file) for (shape in the network)`.
        of_another_kind: `name dtype in the file for dtype in the network`.
    """

    fitting: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    of_another_shape: tuple[str, ...]
    of_another_kind: tuple[str, ...]

    def __str__(self) -> str:
        groups = {name.replace("_", " "): names for name, names in self._asdict().items() if name != "fitting"}
        return ", ".join(f"{len(names)} {what} ({names[0]}, ...)" for what, names in groups.items() if names)


def fit_of(network: nn.Module, state: Mapping[str, Any]) -> Fit:
    """How a state dict fits a network.

    Example:
        >>> str(fit_of(nn.Linear(2, 1), {"weight": torch.zeros(3, 2), "scale": torch.zeros(1)}))
        '1 missing (bias, ...), 1 unexpected (scale, ...), 1 of another shape (weight (3, 2) for (1, 2), ...)'
    """
    own = network.state_dict()
    both = {name: (state[name], value) for name, value in own.items() if name in state}
    shapes = {
        name: f"{name} {tuple(getattr(found, 'shape', ()))} for {tuple(wanted.shape)}"
        for name, (found, wanted) in both.items()
        if getattr(found, "shape", ()) != wanted.shape
    }
    kinds = {
        name: f"{name} {getattr(found, 'dtype', type(found).__name__)} for {wanted.dtype}"
        for name, (found, wanted) in both.items()
        if not (isinstance(found, torch.Tensor) and found.is_floating_point() == wanted.is_floating_point())
    }
    return Fit(
        tuple(name for name in both if name not in shapes and name not in kinds),
        tuple(name for name in own if name not in state),
        tuple(name for name in state if name not in own),
        tuple(shapes.values()),
        tuple(kinds.values()),
    )


def _check_fit(network: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    fit = fit_of(network, state)
    if misfits := str(fit):
        wanted = f"the {len(network.state_dict())} tensors of this {type(network).__name__}"
        remedy = "none of the names belong to this network: save only network.state_dict()"
        if len(fit.unexpected) < len(state):
            remedy = (
                "is this the bundle and overlay it was trained with? are --init_filters, --nonlocal_blocks and "
                "--num_classes those of the training?"
            )
        raise UserError("CHECKPOINT", path, f"weights of a different network: {misfits}", wanted, remedy)
