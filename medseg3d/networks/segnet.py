"""SegNet: an encoder that remembers where each maximum stood, and a decoder that puts values back there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from medseg3d.networks.input_size import check_size


def max_unpool(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Undo 2×2 max pooling: every value where the maximum stood, zero elsewhere.

    A scatter in which no two values have one place, so that forward and backward are deterministic on GPUs too, where
    `torch.nn.MaxUnpool2d` refuses to run in torch's deterministic mode.

    Args:
        x: (B, C, H, W).
        indices: (B, C, H, W) int64, from `max_pool2d(..., 2, return_indices=True)`: place within a plane of
            2 H × 2 W.

    Returns:
        (B, C, 2 H, 2 W).

    Example:
        >>> pooled, indices = F.max_pool2d(torch.tensor([[[[1.0, 5.0], [2.0, 3.0]]]]), 2, return_indices=True)
        >>> max_unpool(pooled, indices).tolist()
        [[[[0.0, 5.0], [0.0, 0.0]]]]
    """
    batch, channels, height, width = x.shape
    plane = x.new_zeros(batch, channels, 4 * height * width)
    return plane.scatter(2, indices.flatten(2), x.flatten(2)).reshape(batch, channels, 2 * height, 2 * width)


class SegNet(nn.Module):
    """Logits at the size of the image: VGG-16's convolutions with BatchNorm, pooled five times and unpooled again.

    29,443,585 parameters for one class, 14,723,136 of them the encoder's. The decoder mirrors the encoder; its last
    convolution gives the logits and has neither BatchNorm nor ReLU.

    Args:
        in_channels: channels of the image.
        out_channels: channels of logits, 1 for foreground against background.
        features: filters of the convolutions of each stage.
        convolutions: how many each stage has.

    Shape:
        input `(B, in_channels, H, W)`, H and W multiples of 32 (of `2 ** len(features)`); output
        `(B, out_channels, H, W)`.

    Raises:
        ValueError: not as many `convolutions` as `features`, or an input of another size.

    References:
        Badrinarayanan et al., SegNet, IEEE TPAMI 2017, https://arxiv.org/abs/1511.00561

    Example:
        >>> network = SegNet().eval()
        >>> sum(parameter.numel() for parameter in network.parameters())
        29443585
        >>> network(torch.zeros(1, 3, 32, 64)).shape
        torch.Size([1, 1, 32, 64])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        features: Sequence[int] = (64, 128, 256, 512, 512),
        convolutions: Sequence[int] = (2, 2, 3, 3, 3),
    ) -> None:
        super().__init__()
        if len(features) != len(convolutions):
            raise ValueError(
                f"convolutions must have a number for each of features, got {list(convolutions)} and {list(features)}"
            )
        self.size_divisor = 2 ** len(features)
        stages = list(zip([in_channels, *features[:-1]], features, convolutions, strict=True))
        self.encoder = nn.ModuleList(_stage([before, *[after] * count]) for before, after, count in stages)
        # a stage of the decoder keeps its channels until its last convolution, which narrows to the stage above
        self.decoder = nn.ModuleList(
            _stage([*[after] * count, before]) for before, after, count in reversed(stages[1:])
        )
        first, count = features[0], convolutions[0]
        self.decoder.append(nn.Sequential(*_stage([first] * count), nn.Conv2d(first, out_channels, 3, padding=1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, out_channels, H, W) of an image (B, in_channels, H, W)."""
        check_size(x, self.size_divisor)
        places: list[torch.Tensor] = []
        for stage in self.encoder:
            x, indices = F.max_pool2d(stage(x), 2, return_indices=True)
            places.append(indices)
        for level, stage in enumerate(self.decoder):
            x = stage(max_unpool(x, places[-1 - level]))
        return x


def _stage(channels: Sequence[int]) -> nn.Sequential:
    """3×3 convolution, BatchNorm and ReLU from each number of channels to the next."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
