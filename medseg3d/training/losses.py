"""What a training minimises: losses that MONAI lacks, and one of them all along or several in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from medseg3d.errors import UsageError
from medseg3d.knobs import choice
from medseg3d.networks.refinement import foreground_logit

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""From what the network returns and the labels to a scalar."""


class PixelCrossEntropy(nn.Module):
    """Cross entropy of the classes, the mean over all pixels but those of one label.

    Where it differs from mmsegmentation's default: that one divides by the number of all pixels.

    Args:
        ignore_index: the label of pixels that do not count, such as padding.

    Shape:
        logits (B, C, *spatial), labels (B, 1, *spatial) of any integer type.

    Example:
        >>> logits = torch.zeros(1, 2, 1, 2)
        >>> PixelCrossEntropy()(logits, torch.tensor([[[[1, 255]]]])).item()  # log 2
        0.6931471824645996
    """

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar."""
        return F.cross_entropy(logits, labels[:, 0].long(), ignore_index=self.ignore_index)


class BinaryCrossEntropy(nn.Module):
    """Cross entropy of foreground against background, the mean over all pixels.

    Where it differs from `torch.nn.BCEWithLogitsLoss`: labels may be integers, and logits two.

    Shape:
        logits (B, 1, *spatial), or (B, 2, *spatial) for background and foreground; labels (B, 1, *spatial) of 0 and 1,
        of any type.

    Raises:
        ValueError: from a call, other shapes.

    Example:
        >>> BinaryCrossEntropy()(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.uint8)).item()  # log 2
        0.6931471824645996
    """

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar."""
        return F.binary_cross_entropy_with_logits(*_foreground(logits, labels))


class ProbabilityError(nn.Module):
    """Mean squared error of the foreground's probability, the mean over all pixels.

    Shape:
        as `BinaryCrossEntropy` has it.

    Raises:
        ValueError: from a call, other shapes.

    Example:
        >>> ProbabilityError()(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.uint8)).item()
        0.25
    """

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar."""
        logit, truth = _foreground(logits, labels)
        return F.mse_loss(torch.sigmoid(logit), truth)


class FinalLoss(nn.Module):
    """A loss of a network's final logits alone, whatever it returns next to them while training."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar, of the logits or of a tuple with the final ones first."""
        return self.loss(logits if isinstance(logits, torch.Tensor) else logits[0], labels)


class AuxiliaryLoss(nn.Module):
    """The loss of a network's logits plus, weighted, that of each of its auxiliary heads.

    Args:
        loss: from logits and labels to a scalar.
        weight: of each auxiliary head; PSPNet and mmsegmentation have 0.4.

    References:
        Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, https://arxiv.org/abs/1612.01105
    """

    def __init__(self, loss: Loss, weight: float = 0.4) -> None:
        super().__init__()
        self.loss = loss
        self.weight = weight

    def forward(self, logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar, of the logits or of a tuple of them, the main ones first."""
        if isinstance(logits, torch.Tensor):
            return self.loss(logits, labels)
        main, *auxiliary = logits
        total = self.loss(main, labels)
        for head in auxiliary:
            total = total + self.weight * self.loss(head, labels)
        return total


@dataclass(frozen=True)
class Objective:
    """A loss, and how the network is called for it.

    Attributes:
        loss: from what the network returns, in float32, and the labels to a scalar.
        name: what TensorBoard calls it.
        network_arguments: handed to the network's `forward` with the images.
    """

    loss: Loss
    name: str = ""
    network_arguments: Mapping[str, Any] = field(default_factory=dict)


class AlternatingObjectives:
    """Objectives that take turns, one per epoch or one per step, the first one first.

    Whose turn it is follows from the epoch or the iteration alone, so that a resumed training continues in turn. A
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
        """Which objective has its turn, 0-based, by the epoch or the iteration of the whole training, both 0-based."""
        return (epoch if self.by_epoch else iteration) % len(self.objectives)

    def check_epochs(self, epochs: int) -> None:
        """Refuse a number of epochs after which not every objective has had as many turns as the others.

        Raises:
            UserError: `BAD_VALUE`.
        """
        n = len(self.objectives)
        if self.by_epoch and epochs % n:
            found = f"a training that ends with an epoch of {self.objectives[(epochs - 1) % n].name}"
            wanted = f"a multiple of {n}, so that the last epoch trains {self.objectives[-1].name}"
            remedy = f"--epochs {epochs + n - epochs % n}, or --interleave step"
            raise UsageError("BAD_VALUE", f"--epochs {epochs}", found, wanted, remedy)


def _foreground(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One logit and the ground truth for every pixel: of shapes that differ torch's losses may broadcast one."""
    logit = foreground_logit(logits)
    if logit.shape != labels.shape:
        raise ValueError(f"labels must be (B, 1, *spatial) for logits {list(logits.shape)}, got {list(labels.shape)}")
    return logit, labels.to(logit.dtype)
