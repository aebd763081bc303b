"""A segmentation network and a small one behind it that refines its probability map: CRIS."""

from __future__ import annotations

from typing import Tuple, Union  # noqa: UP035 -- TorchScript reads no other spelling

import torch
from torch import nn


class Refinement(nn.Module):
    """Logits of a probability map made better: convolutions of 1×1, 7×7, 5×5 and 3×3 that see nothing but the map.

    ReLU and dropout between them, 76,193 parameters at 32 channels, a receptive field of 13×13 pixels. The paper
    states the 1×1 convolution, kernels that decrease, and the dropout of 0.01 between trainable layers; sizes and
    channels are ours, and the same for every backbone.

    Args:
        channels: channels between the convolutions.
        dropout: probability of an element to be zeroed after each but the last.

    Shape:
        input `(B, 1, H, W)` in [0, 1] of any size, output the same.

    Example:
        >>> sum(parameter.numel() for parameter in Refinement().parameters())
        76193
    """

    def __init__(self, channels: int = 32, dropout: float = 0.01) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, kernel_size in ((1, 1), (channels, 7), (channels, 5)):
            conv = nn.Conv2d(before, channels, kernel_size, padding=kernel_size // 2)
            layers += [conv, nn.ReLU(inplace=True), nn.Dropout(float(dropout))]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, prob: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, H, W) of probabilities (B, 1, H, W)."""
        return self.layers(prob)


class RefinedSegmenter(nn.Module):
    """Logits of a backbone whose probability map a `Refinement` has made better.

    Gradients of the final output run through the map into the backbone.

    Args:
        backbone: any network whose output is logits (B, 1, H, W), or a list with them at its end, as MONAI's
            BasicUNetPlusPlus gives.
        channels: channels of the refinement.
        dropout: of the refinement.

    Shape:
        input `(B, C, H, W)` as the backbone takes it; output `(B, 1, H, W)`, while training a pair of such: the final
        logits and the backbone's.

    References:
        "Conditional refinement" of polyp segmentations, https://arxiv.org/abs/2405.19672

    Example:
        >>> network = RefinedSegmenter(nn.Conv2d(3, 1, kernel_size=1))
        >>> final, of_backbone = network(torch.zeros(1, 3, 16, 16))
        >>> network.eval()(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(self, backbone: nn.Module, channels: int = 32, dropout: float = 0.01) -> None:
        super().__init__()
        self.backbone = backbone
        self.refinement = Refinement(channels, dropout)

    def forward(self, x: torch.Tensor, refine: bool = True) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor]]:  # noqa: UP006, UP007
        """Logits (B, 1, H, W) of a picture (B, C, H, W).

        Args:
            x: the picture.
            refine: False for the backbone's logits alone: the refinement is not run, draws no dropout and gets no
                gradients, so that no optimizer moves it, not even by its momentum.

        Returns:
            While training, with `refine`, a pair: the final logits and the backbone's.
        """
        output = self.backbone(x)
        logits = output if isinstance(output, torch.Tensor) else output[-1]
        if not refine:
            return logits
        final = self.refinement(torch.sigmoid(logits))
        if self.training:
            return final, logits
        return final
