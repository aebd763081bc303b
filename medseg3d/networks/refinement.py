"""A segmentation network and a small one behind it that refines its probability map: CRIS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import List, Tuple, Union  # noqa: UP035 -- TorchScript reads no other spelling

import torch
from torch import nn

_CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


class Refinement(nn.Module):
    """Logits of a probability map made better: convolutions of 1×1, 7×7, 5×5 and 3×3 that see nothing but the map.

    ReLU and dropout between them, 76,193 parameters at 32 channels, a receptive field of 13×13 pixels. The paper
    states the 1×1 convolution, kernels that decrease, and the dropout of 0.01 between trainable layers; sizes and
    channels are ours, and the same for every backbone. The paper's map is one of images.

    The paper does not state the initialisation, and it decides how CRIS begins. Ours passes the map on, see `pass_on`.
    With torch's default a gap of 0.70 in probability between polyp and background is one of 0.002 to 0.07 in the
    logits (20 seeds), in 13 of 20 of the wrong sign.

    Args:
        channels: channels between the convolutions.
        dropout: probability of an element to be zeroed after each but the last.
        maps: maps, one for every class where there are more than foreground and background.
        spatial_dims: 2 for 2-D images, 3 for volumes, with cubes for kernels.
        init: `identity` for `pass_on`, `default` for torch's own initialisation, to compare it with.

    Shape:
        input `(B, maps, *spatial)` in [0, 1] of any size, output the same.

    Raises:
        ValueError: another `spatial_dims` or `init`; fewer channels than maps.

    Example:
        >>> sum(parameter.numel() for parameter in Refinement().parameters())
        76193
    """

    def __init__(
        self,
        channels: int = 32,
        dropout: float = 0.01,
        maps: int = 1,
        spatial_dims: int = 2,
        init: str = "identity",
    ) -> None:
        super().__init__()
        if spatial_dims not in _CONVOLUTIONS:
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        if init not in ("identity", "default"):
            raise ValueError(f"init must be identity or default, got {init}")
        if channels < maps:
            raise ValueError(f"channels must be at least the {maps} maps, got {channels}")
        convolution = _CONVOLUTIONS[spatial_dims]
        layers: list[nn.Module] = []
        for before, kernel_size in ((maps, 1), (channels, 7), (channels, 5)):
            conv = convolution(before, channels, kernel_size, padding=kernel_size // 2)
            layers += [conv, nn.ReLU(inplace=True), nn.Dropout(float(dropout))]
        self.layers = nn.Sequential(*layers, convolution(channels, maps, 3, padding=1))
        if init == "identity":
            pass_on([layer for layer in self.layers if isinstance(layer, nn.Conv2d | nn.Conv3d)])

    def forward(self, prob: torch.Tensor) -> torch.Tensor:
        """Logits (B, maps, *spatial) of probabilities (B, maps, *spatial)."""
        return self.layers(prob)


@torch.no_grad()
def pass_on(convolutions: Sequence[nn.Conv2d | nn.Conv3d]) -> None:
    """Initialise the four convolutions of a `Refinement` so that its map begins as the one that it gets.

    The logits are `5 (p - 1/2)` for one map p: their sigmoid is on the same side of 1/2 and within 0.032 of p between
    0.08 and 0.92, within 0.076 at the ends. For m maps they are `5/4 m (p - 1/m)`: their softmax has the classes in
    the same order.

    The first convolution makes a rising or falling line of a map in every channel, positive for every probability; the
    next have Dirac kernels; the last sums the lines up. So every ReLU is open at the start. Slopes and heights are
    drawn at random, so that no two channels learn the same, and every weight has a gradient, the zeros too.

    Adam moves every weight by the learning rate, and so what a convolution gives by a share that grows with its number
    of weights and falls with its gain. The gains are such that it is the same share for all but the last, 4 % at a rate
    of 0.0003 and 32 channels, and multiply to 1. With Dirac kernels of gain 1 the first steps at that rate moved the
    logits by 3 down and 4 up, and a third of the channels behind those two kernels died.
    """
    first, *middle, last = convolutions
    channels, maps = first.out_channels, first.in_channels
    inputs = [conv.weight[0].numel() + 1 for conv in (first, *middle)]
    share = math.prod(inputs) ** (1 / len(inputs))
    slope, height = 0.5 + torch.rand(channels), 0.1 + 0.5 * torch.rand(channels)
    channel = torch.arange(channels)
    falls = channel // maps % 2 == 1
    line = torch.where(falls, -slope, slope)
    level = torch.where(falls, height + slope, height)
    member = (torch.arange(maps)[:, None] == channel % maps).float()  # (maps, channels)

    first.weight.flatten(1).copy_(member.T * line[:, None] * inputs[0] / share)
    torch.as_tensor(first.bias).copy_(level * inputs[0] / share)
    for conv, number in zip(middle, inputs[1:], strict=True):
        nn.init.dirac_(conv.weight)
        conv.weight.mul_(number / share)
        nn.init.zeros_(torch.as_tensor(conv.bias))
    # the gains so far multiply to 1: a channel of the last one's input is level + line * p
    gain = 5.0 if maps == 1 else 1.25 * maps
    parts = member * gain / (member.sum(1, keepdim=True) * line)
    nn.init.zeros_(last.weight)
    last.weight.flatten(2)[..., last.weight[0, 0].numel() // 2].copy_(parts)
    torch.as_tensor(last.bias).copy_(-parts @ level - gain / max(maps, 2))


class RefinedSegmenter(nn.Module):
    """Logits of a backbone whose probability map is refined by a `Refinement`.

    Gradients of the final output flow through the map into the backbone. Its map is the sigmoid of one logit, as in the
    paper, or the softmax of several.

    Args:
        backbone: any network with one output, logits of `out_channels`. If that is 1, it may also return two, for
            background and foreground: their difference is the logit of the same probability. A backbone with auxiliary
            heads has to be built without them, see `only_output`.
        channels: channels of the refinement.
        dropout: of the refinement.
        out_channels: channels of the logits, 1 for foreground against background.
        spatial_dims: 2 for 2-D images, 3 for volumes.
        init: initialisation of the refinement: with `identity` the final map is initially the backbone's; `default` is
            torch's own.

    Shape:
        input `(B, C, *spatial)` as the backbone takes it; output `(B, out_channels, *spatial)`, in training a pair of
        them: the final logits and the backbone's.

    Raises:
        ValueError: when called, for a backbone with other channels or several outputs.

    References:
        Arudkar and Evans, *CRIS: Collaborative Refinement Integrated with Segmentation for Polyp Segmentation*,
        https://arxiv.org/abs/2405.19672

    Example:
        >>> network = RefinedSegmenter(nn.Conv2d(3, 1, kernel_size=1))
        >>> final, of_backbone = network(torch.zeros(1, 3, 16, 16))
        >>> network.eval()(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int = 32,
        dropout: float = 0.01,
        out_channels: int = 1,
        spatial_dims: int = 2,
        init: str = "identity",
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.backbone = backbone
        self.refinement = Refinement(channels, dropout, out_channels, spatial_dims, init)

    def forward(self, x: torch.Tensor, refine: bool = True) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor]]:  # noqa: UP006, UP007
        """Logits (B, out_channels, *spatial) of an image (B, C, *spatial).

        Args:
            x: the image.
            refine: False for only the backbone's logits: the refinement is not run, draws no dropout and gets no
                gradients, so that no optimizer changes it, not even through momentum. (`DistributedDataParallel` then
                needs `find_unused_parameters`.)

        Returns:
            In training, with `refine`, a pair: the final logits and the backbone's.
        """
        output = self.backbone(x)
        logits = output if isinstance(output, torch.Tensor) else only_output(output)
        if self.out_channels == 1:
            logits = foreground_logit(logits)
        if logits.shape[1] != self.out_channels:
            raise ValueError(
                f"the backbone gives {logits.shape[1]} channels of logits, out_channels is {self.out_channels}"
            )
        if not refine:
            return logits
        final = self.refinement(torch.sigmoid(logits) if self.out_channels == 1 else torch.softmax(logits, 1))
        if self.training:
            return final, logits
        return final


def foreground_logit(logits: torch.Tensor) -> torch.Tensor:
    """For two logits, of background and foreground, their difference, the logit of the same probability; others as is.

    Args:
        logits: (B, 1 or 2, *spatial).

    Example:
        >>> foreground_logit(torch.tensor([[[1.0], [4.0]]])).item()  # sigmoid(3) = softmax(1, 4)[1]
        3.0
    """
    return logits[:, 1:] - logits[:, :1] if logits.shape[1] == 2 else logits


def only_output(outputs: List[torch.Tensor]) -> torch.Tensor:  # noqa: UP006
    """The only element of the list that a network returned instead of a tensor, as MONAI's BasicUNetPlusPlus does.

    Networks with several outputs are rejected: which of them are the logits (the first or the last) differs between
    networks, and a head whose output is dropped gets no gradients, which breaks distributed training.

    Raises:
        ValueError: there is not one.
    """
    if len(outputs) != 1:
        raise ValueError(
            f"the backbone gives {len(outputs)} outputs, one is wanted: make it without auxiliary heads or deep "
            "supervision, as in AsymmetricNonLocalNet(auxiliary_head=False)"
        )
    return outputs[0]
