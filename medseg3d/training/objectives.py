"""What a training minimises: one loss all along, or several in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from medseg3d.errors import UsageError
from medseg3d.knobs import choice

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""From what the network returns and the labels to a scalar."""


@dataclass(frozen=True)
class Objective:
    """A loss, and how the network is called for it.

    Attributes:
        loss: from what the network returns, in float32, and the labels to a scalar.
        name: what TensorBoard calls it.
        network_arguments: handed to the network's `forward` with the pictures.
    """

    loss: Loss
    name: str = ""
    network_arguments: Mapping[str, Any] = field(default_factory=dict)


class AlternatingObjectives:
    """Objectives that take turns, one per epoch or one per step, the first one first.

    Whose turn it is follows from the epoch or the iteration alone, so that a resumed training goes on in turn. A
    parameter that an objective does not reach has no gradient in its turn, and no optimizer moves it then, not even by
    its momentum.

    Args:
        objectives: at least one; several need names of their own.
        interleave: "epoch" or "step": how long a turn is.

    Raises:
        ValueError: no objective, or two of one name.
        UserError: `BAD_VALUE` for another `interleave`.

    References:
        CRIS, https://arxiv.org/abs/2405.19672: equation 3 alternates by the epoch, from 0; the sentence before it,
        "in each epoch", may be read as by the step.

    Example:
        >>> odd_and_even = AlternatingObjectives([Objective(abs, "backbone"), Objective(abs, "final")])
        >>> [odd_and_even.turn(epoch, iteration) for epoch, iteration in ((0, 0), (0, 1), (1, 2), (2, 4))]
        [0, 0, 1, 0]
    """

    def __init__(self, objectives: Sequence[Objective], interleave: str = "epoch") -> None:
        names = [each.name for each in objectives]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"objectives must be one or more with names of their own, got {names}")
        self.objectives = tuple(objectives)
        self.by_epoch = choice("interleave", interleave, {"epoch": True, "step": False})

    def turn(self, epoch: int, iteration: int) -> int:
        """Which objective it is the turn of, 0-based.

        Args:
            epoch: 0-based.
            iteration: 0-based, counted over the whole training.
        """
        return (epoch if self.by_epoch else iteration) % len(self.objectives)

    def check_epochs(self, epochs: int) -> None:
        """Refuse a number of epochs after which not every objective has had as many turns as the others.

        Raises:
            UserError: `BAD_VALUE`.
        """
        n = len(self.objectives)
        if self.by_epoch and epochs % n:
            raise UsageError(
                "BAD_VALUE",
                f"--epochs {epochs}",
                f"an end in a turn of {self.objectives[(epochs - 1) % n].name}",
                f"a multiple of {n}: the last epoch is that of {self.objectives[-1].name}",
                f"--epochs {epochs + n - epochs % n}, or --interleave step",
            )
