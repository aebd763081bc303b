"""U-Net and UNet++ at the widths of their papers, from MONAI."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet, BasicUNetPlusPlus
from monai.networks.nets.basic_unet import UpCat
from torch import nn


def unet(
    in_channels: int = 3,
    out_channels: int = 1,
    features: Sequence[int] = (64, 128, 256, 512, 1024, 64),
) -> BasicUNet:
    """MONAI's U-Net for images, with BatchNorm and ReLU: 31,113,217 parameters.

    The original has no normalization and 69,696 fewer parameters, because it halves the channels once more in the
    decoder.

    Args:
        in_channels: channels of the image.
        out_channels: channels of logits, 1 for foreground against background.
        features: filters of the five levels, and after the last upsampling.

    Returns:
        From (B, in_channels, H, W), H and W at least 16, to logits (B, out_channels, H, W).

    References:
        Ronneberger et al., U-Net, MICCAI 2015, https://arxiv.org/abs/1505.04597
    """
    network = BasicUNet(2, in_channels, out_channels, tuple(features), norm="batch", act="relu")
    _pad_only_odd_sizes(network)
    return network


def unet_plus_plus(
    in_channels: int = 3,
    out_channels: int = 1,
    features: Sequence[int] = (32, 64, 128, 256, 512, 32),
) -> nn.Module:
    """MONAI's UNet++ for images, with BatchNorm and ReLU, returning a single tensor: 9,119,233 parameters.

    The three heads of deep supervision, which MONAI's network creates even if they are not used, are left out: 99
    parameters without gradients, which distributed training does not accept. Arguments and shapes are those of `unet`.

    References:
        Zhou et al., UNet++, DLMIA 2018, https://arxiv.org/abs/1807.10165
    """
    network = BasicUNetPlusPlus(2, in_channels, out_channels, tuple(features), norm="batch", act="relu")
    for head in ("final_conv_0_1", "final_conv_0_2", "final_conv_0_3"):
        setattr(network, head, nn.Identity())
    _pad_only_odd_sizes(network)
    return _LastNode(network)


class _UpCat(UpCat):
    """MONAI's `UpCat` without a copy where there is nothing to pad.

    torch 2.13 gives the gradient of replicated padding another memory layout than it announces to its compiler, which
    then refuses to train the network.
    """

    def forward(self, x: torch.Tensor, x_e: torch.Tensor) -> torch.Tensor:
        upsampled = self.upsample(x)
        rows, columns = x_e.shape[2] - upsampled.shape[2], x_e.shape[3] - upsampled.shape[3]
        if rows != 0 or columns != 0:
            upsampled = F.pad(upsampled, (0, columns, 0, rows), "replicate")
        return self.convs(torch.cat([x_e, upsampled], dim=1))


def _pad_only_odd_sizes(network: nn.Module) -> None:
    for module in network.modules():
        if type(module) is UpCat:  # MONAI's networks take no other class for it
            module.__class__ = _UpCat


class _LastNode(nn.Module):
    """The tensor out of the list of one that a network gives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)[0]
