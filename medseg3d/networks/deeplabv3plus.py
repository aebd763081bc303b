"""DeepLabv3+: atrous spatial pyramid at stride 16, refined with the maps of stride 4.

Chen et al., *Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation*, ECCV 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from medseg3d.networks.asymmetric_nonlocal import conv_bn_relu
from medseg3d.networks.backbones import DilatedResNet50, DilatedSEResNeXt50

BACKBONES: dict[str, type[DilatedResNet50] | type[DilatedSEResNeXt50]] = {
    "resnet50": DilatedResNet50,
    "seresnext50": DilatedSEResNeXt50,
}


class AtrousPyramid(nn.Module):
    """Five views of a map side by side: 1x1, three dilated 3x3, and the mean over the image; projected to one.

    The 3x3 convolutions may be depthwise-separable. `dropout` is the chance that an element of the result is dropped.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        dilations: Sequence[int] = (6, 12, 18),
        separable: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        conv = separable_conv if separable else conv_bn_relu
        self.views = nn.ModuleList(
            [conv_bn_relu(in_channels, out_channels, 1), *(conv(in_channels, out_channels, 3, d) for d in dilations)]
        )
        self.picture = conv_bn_relu(in_channels, out_channels, 1)
        self.project = conv_bn_relu((len(dilations) + 2) * out_channels, out_channels, 1)
        self.dropout = nn.Dropout(float(dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, out_channels, H, W) from (B, in_channels, H, W)."""
        views = [view(x) for view in self.views]
        views.append(self.picture(x.mean((2, 3), keepdim=True)).expand_as(views[0]))
        return self.dropout(self.project(torch.cat(views, 1)))


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+ as the polyp paper names it: ResNet-50 at output stride 16, dilations 6, 12 and 18, 256 filters.

    26,691,250 parameters with separable convolutions (the default, as the paper's text has it), 40,347,298 with plain
    ones. The decoder has two 3x3 convolutions, as in the original; the low-level maps are those of stride 4 in
    48 channels.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        backbone: `resnet50` or `seresnext50`.
        separable: whether the 3x3 convolutions of pyramid and decoder are depthwise-separable.
        output_stride: 16 or 8.
        dilations: of the pyramid's 3x3 convolutions.
        dropout: chance that an element of the pyramid's result is dropped.

    Raises:
        ValueError: an unknown backbone.

    Example:
        >>> network = DeepLabV3Plus().eval()
        >>> sum(parameter.numel() for parameter in network.parameters())
        26691250
        >>> network(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 2, 64, 96])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        backbone: str = "resnet50",
        separable: bool = True,
        output_stride: int = 16,
        dilations: Sequence[int] = (6, 12, 18),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, found {backbone!r}")
        self.backbone = BACKBONES[backbone](in_channels, output_stride=output_stride)
        conv = separable_conv if separable else conv_bn_relu
        self.pyramid = AtrousPyramid(self.backbone.channels[4], 256, dilations, separable, dropout)
        self.low_level = conv_bn_relu(self.backbone.channels[1], 48, 1)
        self.decoder = nn.Sequential(conv(256 + 48, 256, 3, 1), conv(256, 256, 3, 1))
        self.classifier = nn.Conv2d(256, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, out_channels, H, W) of an image (B, in_channels, H, W)."""
        maps = self.backbone(x)
        low = self.low_level(maps[1])
        high = F.interpolate(self.pyramid(maps[4]), size=low.shape[2:], mode="bilinear", align_corners=False)
        logits = self.classifier(self.decoder(torch.cat([high, low], 1)))
        return F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)


def separable_conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """One filter per channel, then a 1x1 convolution; BatchNorm and ReLU after either, as in the original."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(
            in_channels, in_channels, kernel_size, padding=padding, dilation=dilation, groups=in_channels, bias=False
        ),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        *conv_bn_relu(in_channels, out_channels, 1),
    )
