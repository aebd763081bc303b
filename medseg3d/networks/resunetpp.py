"""ResUNet++ and ResUNet, on which it is based: U-shaped networks of residual units for 2-D images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from medseg3d.networks.input_size import check_size


class SqueezeExcitation(nn.Module):
    """Scales every channel by a factor in (0, 1) that depends on the means of all channels.

    Two linear layers without bias, the first to `channels // reduction` with ReLU, the second back with a sigmoid.

    Raises:
        ValueError: the hidden layer would be empty.

    References:
        Hu et al., Squeeze-and-Excitation Networks, CVPR 2018, https://arxiv.org/abs/1709.01507
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        if channels < reduction:
            raise ValueError(f"channels must be at least reduction, got {channels} and {reduction}")
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W), scaled."""
        means = x.mean((2, 3))
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(means))))[:, :, None, None]


class ResidualUnit(nn.Module):
    """Twice BatchNorm, ReLU and 3×3 convolution, plus a 1×1 convolution of the input with BatchNorm.

    The first convolution and the shortcut have the stride. The first unit of a network is without the first norm
    (`norm_first`): its first convolution sees the image itself.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, norm_first: bool = True) -> None:
        super().__init__()
        self.norm_first = norm_act(in_channels) if norm_first else nn.Identity()
        self.first = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        self.second = norm_act_conv(out_channels, out_channels)
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, out_channels, H / stride, W / stride)."""
        return self.second(self.first(self.norm_first(x))) + self.shortcut(x)


class SummedASPP(nn.Module):
    """The sum of 3×3 convolutions of several dilations, each with BatchNorm, through a 1×1 convolution.

    Differs from DeepLab's: summed instead of concatenated, no ReLU, no image pooling.
    """

    def __init__(self, in_channels: int, out_channels: int, dilations: Sequence[int] = (1, 6, 12, 18)) -> None:
        super().__init__()
        first, *others = (
            nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation),
                nn.BatchNorm2d(out_channels),
            )
            for dilation in dilations
        )
        self.first = first
        self.others = nn.ModuleList(others)
        self.project = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, out_channels, H, W)."""
        total = self.first(x)
        for branch in self.others:
            total = total + branch(x)
        return self.project(total)


class SkipAttention(nn.Module):
    """Decoder features multiplied by a map computed from them and from the skip, which is twice their size.

    No sigmoid: the map is a convolution's output and may be negative.
    """

    def __init__(self, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.of_skip = norm_act_conv(skip_channels, channels)
        self.of_features = norm_act_conv(channels, channels)
        self.of_both = norm_act_conv(channels, channels)

    def forward(self, skip: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) of a skip (B, skip_channels, 2 H, 2 W) and features (B, channels, H, W)."""
        # ceil_mode changes nothing for even sizes, and gives torch.export the same formula as a strided convolution's
        both = F.max_pool2d(self.of_skip(skip), 2, ceil_mode=True) + self.of_features(features)
        return self.of_both(both) * features


class AttentiveUp(nn.Module):
    """One decoder stage of ResUNet++: attention, nearest upsampling by 2, skip, residual unit, squeeze-excitation."""

    def __init__(self, skip_channels: int, in_channels: int, out_channels: int, reduction: int) -> None:
        super().__init__()
        self.attention = SkipAttention(skip_channels, in_channels)
        self.unit = ResidualUnit(in_channels + skip_channels, out_channels)
        self.excitation = SqueezeExcitation(out_channels, reduction)

    def forward(self, skip: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(B, out_channels, 2 H, 2 W) of a skip (B, skip_channels, 2 H, 2 W) and features (B, in_channels, H, W)."""
        features = upsample(self.attention(skip, features))
        return self.excitation(self.unit(torch.cat([features, skip], 1)))


class ResUNetPlusPlus(nn.Module):
    """Logits at the size of the image: ResUNet with squeeze-excitation, ASPP and attention.

    The defaults are the network of the published code: 16 to 256 filters, 4,062,993 parameters. A stem at full
    resolution, three encoder stages that each halve it, ASPP as the bridge, three decoder stages with attention, ASPP
    again, and a 1×1 convolution. Squeeze-excitation comes after a unit's addition. The paper rebuilt here calls its
    network "modified" but states no modification.

    Where we differ from the Keras original: logits instead of probabilities, torch's BatchNorm (eps 1e-5, momentum 0.1
    instead of 1e-3 and 0.01), strided convolutions padded on all sides instead of only at bottom and right.

    Args:
        in_channels: channels of the image.
        out_channels: channels of logits, 1 for foreground against background.
        features: filters of the stem, the encoder stages, and the bridge.
        reduction: reduction factor of the squeeze-excitations.
        dilations: of the branches of both ASPPs.

    Shape:
        input `(B, in_channels, H, W)`, H and W multiples of 8 (of `2 ** (len(features) - 2)`); output
        `(B, out_channels, H, W)`.

    Raises:
        ValueError: fewer than three features, a feature smaller than `reduction`, or an input of another size.

    References:
        Jha et al., ResUNet++: An Advanced Architecture for Medical Image Segmentation, ISM 2019,
        https://arxiv.org/abs/1911.07067

    Example:
        >>> network = ResUNetPlusPlus().eval()
        >>> sum(parameter.numel() for parameter in network.parameters())
        4062993
        >>> network(torch.zeros(1, 3, 32, 24)).shape
        torch.Size([1, 1, 32, 24])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        features: Sequence[int] = (16, 32, 64, 128, 256),
        reduction: int = 8,
        dilations: Sequence[int] = (1, 6, 12, 18),
    ) -> None:
        super().__init__()
        if len(features) < 3:
            raise ValueError(f"features must be three or more: stem, encoder stages, bridge; got {list(features)}")
        *encoder, bridge = features
        self.size_divisor = 2 ** (len(encoder) - 1)
        self.stem = nn.Sequential(
            ResidualUnit(in_channels, encoder[0], norm_first=False), SqueezeExcitation(encoder[0], reduction)
        )
        self.encoder = nn.ModuleList(
            nn.Sequential(ResidualUnit(before, after, stride=2), SqueezeExcitation(after, reduction))
            for before, after in itertools.pairwise(encoder)
        )
        self.bridge = SummedASPP(encoder[-1], bridge, dilations)
        # each stage gives as many channels as the encoder stage one level below its skip
        below = [bridge, *encoder[:0:-1]]
        self.decoder = nn.ModuleList(
            AttentiveUp(skip, before, after, reduction)
            for skip, before, after in zip(encoder[-2::-1], below[:-1], below[1:], strict=True)
        )
        self.aspp = SummedASPP(below[-1], encoder[0], dilations)
        self.head = nn.Conv2d(encoder[0], out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, out_channels, H, W) of an image (B, in_channels, H, W)."""
        check_size(x, self.size_divisor)
        x = self.stem(x)
        skips = [x]
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = self.bridge(x)
        for level, stage in enumerate(self.decoder):
            x = stage(skips[-2 - level], x)
        return self.head(self.aspp(x))


class ResUNet(nn.Module):
    """Logits at the size of the image: a U-Net of residual units, with what ResUNet++ has added taken away.

    A unit at full resolution, further ones that halve it, then nearest upsampling, the skip and a unit for each level,
    and a 1×1 convolution. Where we differ from Zhang et al.: the shortcut is a 1×1 convolution with BatchNorm also
    where channels and size stay, as in the code of ResUNet++, whose baseline this is.

    Args:
        in_channels: channels of the image.
        out_channels: channels of logits, 1 for foreground against background.
        features: filters of each level from the finest to the coarsest.

    Shape:
        input `(B, in_channels, H, W)`, H and W multiples of 8 (of `2 ** (len(features) - 1)`); output
        `(B, out_channels, H, W)`.

    Raises:
        ValueError: fewer than two features, or an input of another size.

    References:
        Zhang et al., Road Extraction by Deep Residual U-Net, IEEE GRSL 2018, https://arxiv.org/abs/1711.10684

    Example:
        >>> network = ResUNet().eval()
        >>> network(torch.zeros(1, 3, 32, 24)).shape
        torch.Size([1, 1, 32, 24])
    """

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, features: Sequence[int] = (64, 128, 256, 512)
    ) -> None:
        super().__init__()
        if len(features) < 2:
            raise ValueError(f"features must be two or more, got {list(features)}")
        self.size_divisor = 2 ** (len(features) - 1)
        self.stem = ResidualUnit(in_channels, features[0], norm_first=False)
        self.encoder = nn.ModuleList(
            ResidualUnit(before, after, stride=2) for before, after in itertools.pairwise(features)
        )
        upwards = list(features)[::-1]
        self.decoder = nn.ModuleList(
            ResidualUnit(before + after, after) for before, after in itertools.pairwise(upwards)
        )
        self.head = nn.Conv2d(features[0], out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, out_channels, H, W) of an image (B, in_channels, H, W)."""
        check_size(x, self.size_divisor)
        x = self.stem(x)
        skips = [x]
        for unit in self.encoder:
            x = unit(x)
            skips.append(x)
        for level, unit in enumerate(self.decoder):
            x = unit(torch.cat([upsample(x), skips[-2 - level]], 1))
        return self.head(x)


def norm_act(channels: int) -> nn.Sequential:
    """BatchNorm, then ReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def norm_act_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """BatchNorm, ReLU, then a 3×3 convolution that keeps the size."""
    return nn.Sequential(*norm_act(in_channels), nn.Conv2d(in_channels, out_channels, 3, padding=1))


def upsample(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) with every value four times, (B, C, 2 H, 2 W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
