"""Losses that MONAI lacks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from medseg3d.networks.refinement import foreground_logit


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
    """The loss of a network's final logits alone, whatever it returns beside them while training.

    Args:
        loss: from logits and labels to a scalar.
    """

    def __init__(self, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
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

    def __init__(self, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], weight: float = 0.4) -> None:
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


def _foreground(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One logit and the ground truth for every pixel: of shapes that differ torch's losses may broadcast one."""
    logit = foreground_logit(logits)
    if logit.shape != labels.shape:
        raise ValueError(f"labels must be (B, 1, *spatial) for logits {list(logits.shape)}, got {list(labels.shape)}")
    return logit, labels.to(logit.dtype)
