"""Which parameters of a network learn, and at which rates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from monai.utils import ensure_tuple
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from medseg3d.errors import UsageError, UserError


def freeze_parameters(network: nn.Module, patterns: str | Sequence[str]) -> list[str]:
    """Take parameters of a network out of the training, in place, and give their names.

    `SegmentationTrainer` also keeps the statistics of frozen norms (`frozen_norms`) as they are.

    Args:
        network: the network.
        patterns: of names as in `network.named_parameters()`, with the wildcards of `fnmatch`, in which `*` stands for
            dots too. A pattern that matches a module's name takes all that is in it: `encoder.0` is `encoder.0.*`.

    Raises:
        UserError: `BAD_VALUE` for a pattern that matches nothing, or where all together leave nothing to learn.

    Example:
        >>> network = nn.ModuleDict({"encoder": nn.Linear(2, 1), "head": nn.Linear(1, 1)})
        >>> freeze_parameters(network, ["enc*", "head.bias"])
        ['encoder.weight', 'encoder.bias', 'head.bias']
    """
    patterns, learning = ensure_tuple(patterns), dict(network.named_parameters())
    for pattern in patterns:
        if not any(_first_match(name, [pattern]) for name in learning):
            raise _without_match("--freeze", pattern, network)
    frozen = [name for name in learning if _first_match(name, patterns)]
    if len(frozen) == len(learning):
        raise UsageError(
            "BAD_VALUE",
            "--freeze",
            f"all {len(learning)} parameters",
            "at least one trainable parameter",
            "freeze fewer parts",
        )
    for name in frozen:
        learning[name].requires_grad_(False)
    return frozen


def frozen_norms(network: nn.Module) -> list[nn.Module]:
    """The norms whose weight and bias are frozen and that count statistics while they train, as BatchNorm does.

    In training mode they would normalise by the batch and count on, and so be others than the trained ones.
    """
    return [
        module
        for module in network.modules()
        if isinstance(module, _NormBase)
        and module.track_running_stats
        and module.affine
        and not any(parameter.requires_grad for parameter in module.parameters())
    ]


def parameter_groups(
    network: nn.Module,
    learning_rate: float,
    lr_factors: Mapping[str, float] | None = None,
    learning_rates: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """The parameters that learn in groups for an optimizer: first those at `learning_rate`, then each at its own rate.

    (MONAI's `generate_param_groups` takes functions instead of patterns, which a command line cannot give, and
    takes a parameter that two of them match twice.)

    Args:
        network: the network.
        learning_rate: of what no pattern matches.
        lr_factors: pattern, as `freeze_parameters` takes it, to what the rate of its parameters is multiplied with. Of
            several that match a parameter the first counts.
        learning_rates: the same with rates instead of `learning_rate`, for parts that not every network of a
            bundle has: one that matches nothing makes no group.

    Raises:
        UserError: `BAD_VALUE` for a pattern of `lr_factors` that none of the parameters that learn is left for.

    Example:
        >>> network = nn.ModuleDict({"encoder": nn.Linear(2, 1), "head": nn.Linear(1, 1)})
        >>> groups = parameter_groups(network, 0.5, {"enc*": 0.1})
        >>> [(len(group["params"]), group["lr"]) for group in groups]
        [(2, 0.5), (2, 0.05)]
    """
    factors, rates = lr_factors or {}, learning_rates or {}
    groups: dict[tuple[str | None, str | None], list[nn.Parameter]] = {(None, None): []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            key = _first_match(name, rates), _first_match(name, factors)
            groups.setdefault(key, []).append(parameter)
    used = {pattern for _, pattern in groups}
    if unused := [pattern for pattern in factors if pattern not in used]:
        raise _without_match("--lr_factors", unused[0], network)
    return [
        {
            "params": parameters,
            "lr": (learning_rate if part is None else rates[part]) * (1 if pattern is None else factors[pattern]),
        }
        for (part, pattern), parameters in groups.items()
    ]


def _first_match(name: str, patterns: Iterable[str]) -> str | None:
    return next((each for each in patterns if any(fnmatchcase(part, each) for part in _with_modules(name))), None)


def _with_modules(name: str) -> Iterator[str]:
    """The names of the modules that a parameter is in, outermost first, and its own."""
    parts = name.split(".")
    return (".".join(parts[: n + 1]) for n in range(len(parts)))


def _without_match(knob: str, pattern: str, network: nn.Module) -> UserError:
    parts = ", ".join(f"{name}*" for name, child in network.named_children() if any(True for _ in child.parameters()))
    found = f"{pattern!r}, which matches no parameter of this {type(network).__name__} that is not frozen"
    return UsageError("BAD_VALUE", knob, found, f"a pattern of the names of its parameters, as {parts}", "correct it")


def learning_rate_factor(
    iteration: int,
    epochs: int,
    iterations_per_epoch: int,
    power: float = 0.9,
    floor: float = 0.0,
    drop_epochs: Sequence[int] = (),
    gamma: float = 0.1,
) -> float:
    """What the first learning rate is multiplied with, for `torch.optim.lr_scheduler.LambdaLR` called per iteration.

    `floor + (1 - floor) * (1 - iteration / iterations) ** power`, times `gamma` for every drop that is past.
    A function of the iteration alone: a resumed run continues with it, and one that was made longer goes by its new
    length. (torch's `PolynomialLR` has no floor.) Where the floor is mmsegmentation's `eta_min` over the first rate,
    this is what its recursion comes to.

    Args:
        iteration: iterations done, from 0.
        epochs: of the whole training; from its end on the factor stays what it was.
        iterations_per_epoch: iterations of each.
        power: 1 for a straight line, 0 for none.
        floor: share of the first rate that the power comes down to.
        drop_epochs: numbers of epochs after which the rate is `gamma` times what it was.
        gamma: as above.

    References:
        Liu, Rabinovich and Berg, ParseNet, 2015, https://arxiv.org/abs/1506.04579, for the power.

    Example:
        >>> [round(learning_rate_factor(step, 2, 2, power=1.0, floor=0.2), 2) for step in range(5)]
        [1.0, 0.8, 0.6, 0.4, 0.2]
        >>> [round(learning_rate_factor(step, 2, 2, power=0.0, drop_epochs=[1]), 2) for step in range(5)]
        [1.0, 1.0, 0.1, 0.1, 0.1]
    """
    left = max(0.0, 1 - iteration / (epochs * iterations_per_epoch))
    drops = sum(iteration >= epoch * iterations_per_epoch for epoch in drop_epochs)
    return (floor + (1 - floor) * left**power) * gamma**drops
