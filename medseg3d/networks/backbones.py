"""MONAI's 2-D encoders with dilation in place of the last strides, for segmentation heads that need finer maps."""

from __future__ import annotations

import torch
from monai.networks.nets.resnet import ResNetFeatures
from monai.networks.nets.senet import SEResNext50
from torch import nn

_DILATIONS = {32: {}, 16: {"layer4": (1, 2)}, 8: {"layer3": (1, 2), "layer4": (2, 4)}}
"""Output stride -> stage -> dilation of its first block and of the others."""


class DilatedResNet50(ResNetFeatures):
    """ResNet-50 whose deepest maps are 1/8 or 1/16 of the image; its weights have torchvision's names and shapes.

    A stage whose stride is taken away works at the dilation of the stage before it in its first block and at twice
    that in the others, as torchvision's `replace_stride_with_dilation` and mmsegmentation's `contract_dilation` do.

    Args:
        in_channels: channels of the image.
        output_stride: 8, 16 or 32: the image's size over that of the deepest maps.

    Raises:
        ValueError: another output stride.

    Example:
        >>> maps = DilatedResNet50(output_stride=8)(torch.zeros(2, 3, 64, 96))
        >>> [tuple(each.shape[1:]) for each in maps]
        [(64, 32, 48), (256, 16, 24), (512, 8, 12), (1024, 8, 12), (2048, 8, 12)]
    """

    channels = (64, 256, 512, 1024, 2048)

    def __init__(self, in_channels: int = 3, output_stride: int = 8) -> None:
        super().__init__("resnet50", pretrained=False, spatial_dims=2, in_channels=in_channels)
        _dilate(self, output_stride)


class DilatedSEResNeXt50(SEResNext50):
    """SE-ResNeXt-50 (32x4d) with dilation, without its classifier; MONAI's names for Cadene's weights.

    Arguments and errors are those of `DilatedResNet50`.

    Example:
        >>> maps = DilatedSEResNeXt50(output_stride=16)(torch.zeros(2, 3, 64, 96))
        >>> [tuple(each.shape[1:]) for each in maps]
        [(64, 32, 48), (256, 16, 24), (512, 8, 12), (1024, 4, 6), (2048, 4, 6)]
    """

    channels = (64, 256, 512, 1024, 2048)

    def __init__(self, in_channels: int = 3, output_stride: int = 16) -> None:
        super().__init__(spatial_dims=2, in_channels=in_channels)
        del self.last_linear
        _dilate(self, output_stride)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps of the stem and of the four stages, from (B, in_channels, H, W)."""
        maps = [self.layer0[:-1](x)]
        x = self.layer0[-1](maps[0])
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


def _dilate(encoder: nn.Module, output_stride: int) -> None:
    if output_stride not in _DILATIONS:
        raise ValueError(f"output_stride must be 8, 16 or 32, found {output_stride}")
    for name, (first, others) in _DILATIONS[output_stride].items():
        for place, block in enumerate(encoder.get_submodule(name).children()):
            dilation = others if place else first
            for conv in block.modules():
                if isinstance(conv, nn.Conv2d):
                    conv.stride = (1, 1)
                    if conv.kernel_size == (3, 3):
                        conv.dilation = conv.padding = (dilation, dilation)
