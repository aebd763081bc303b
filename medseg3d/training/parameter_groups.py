"""Parts of a network that learn at a rate of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def parameter_groups(network: nn.Module, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """The parameters of a network in groups for an optimizer: first all others, then each part with a rate of its own.

    Args:
        network: the network.
        learning_rates: name of a part, as in `network.named_parameters()`, to its learning rate. A part that the
            network lacks makes no group, so that one config serves networks with and without it.

    Example:
        >>> network = nn.ModuleDict({"backbone": nn.Linear(2, 1), "crf": nn.Linear(1, 1)})
        >>> groups = parameter_groups(network, {"crf": 0.01, "head": 0.1})
        >>> [(len(group["params"]), group.get("lr")) for group in groups]
        [(2, None), (2, 0.01)]
    """
    named = dict(network.named_parameters())
    own = {
        part: [name for name in named if name == part or name.startswith(f"{part}.")]  # not "crfs" for "crf"
        for part in learning_rates
    }
    taken = {name for names in own.values() for name in names}
    return [
        {"params": [parameter for name, parameter in named.items() if name not in taken]},
        *(
            {"params": [named[name] for name in names], "lr": learning_rates[part]}
            for part, names in own.items()
            if names
        ),
    ]
