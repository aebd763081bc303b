"""A segmentation network and a small one behind it that refines its probability map: CRIS."""

from __future__ import annotations

from typing import List, Tuple, Union  # noqa: UP035 -- TorchScript reads no other spelling

import torch
from torch import nn

_CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


class Refinement(nn.Module):
    """Logits of a probability map made better: convolutions of 1×1, 7×7, 5×5 and 3×3 that see nothing but the map.

    ReLU and dropout between them, 76,193 parameters at 32 channels, a receptive field of 13×13 pixels. The paper
    states the 1×1 convolution, kernels that decrease, and the dropout of 0.01 between trainable layers; sizes and
    channels are ours, and the same for every backbone. The paper's map is one of pictures.

    Args:
        channels: channels between the convolutions.
        dropout: probability of an element to be zeroed after each but the last.
        maps: maps, one for every class where there are more than foreground and background.
        spatial_dims: 2 for pictures, 3 for volumes, with cubes for kernels.

    Shape:
        input `(B, maps, *spatial)` in [0, 1] of any size, output the same.

    Raises:
        ValueError: another `spatial_dims`.

    Example:
        >>> sum(parameter.numel() for parameter in Refinement().parameters())
        76193
    """

    def __init__(self, channels: int = 32, dropout: float = 0.01, maps: int = 1, spatial_dims: int = 2) -> None:
        super().__init__()
        if spatial_dims not in _CONVOLUTIONS:
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        convolution = _CONVOLUTIONS[spatial_dims]
        layers: list[nn.Module] = []
        for before, kernel_size in ((maps, 1), (channels, 7), (channels, 5)):
            conv = convolution(before, channels, kernel_size, padding=kernel_size // 2)
            layers += [conv, nn.ReLU(inplace=True), nn.Dropout(float(dropout))]
        self.layers = nn.Sequential(*layers, convolution(channels, maps, 3, padding=1))

    def forward(self, prob: torch.Tensor) -> torch.Tensor:
        """Logits (B, maps, *spatial) of probabilities (B, maps, *spatial)."""
        return self.layers(prob)


class RefinedSegmenter(nn.Module):
    """Logits of a backbone whose probability map a `Refinement` has made better.

    Gradients of the final output run through the map into the backbone. Its map is the sigmoid of one logit, as in the
    paper, or the softmax of several.

    Args:
        backbone: any network with one output, logits of `out_channels`. Where that is 1, it may give two for background
            and foreground as well: their difference is the logit of the same probability. One with auxiliary heads has
            to be made without them, see `only_output`.
        channels: channels of the refinement.
        dropout: of the refinement.
        out_channels: channels of the logits, 1 for foreground against background.
        spatial_dims: 2 for pictures, 3 for volumes.

    Shape:
        input `(B, C, *spatial)` as the backbone takes it; output `(B, out_channels, *spatial)`, while training a pair
        of such: the final logits and the backbone's.

    Raises:
        ValueError: from a call, for a backbone of other channels or of several outputs.

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
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.backbone = backbone
        self.refinement = Refinement(channels, dropout, out_channels, spatial_dims)

    def forward(self, x: torch.Tensor, refine: bool = True) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor]]:  # noqa: UP006, UP007
        """Logits (B, out_channels, *spatial) of an image (B, C, *spatial).

        Args:
            x: the image.
            refine: False for the backbone's logits alone: the refinement is not run, draws no dropout and gets no
                gradients, so that no optimizer moves it, not even by its momentum. (`DistributedDataParallel` then
                needs `find_unused_parameters`.)

        Returns:
            While training, with `refine`, a pair: the final logits and the backbone's.
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
    """Of two logits, for background and foreground, the one of the same probability, their difference; others as is.

    Args:
        logits: (B, 1 or 2, *spatial).

    Example:
        >>> foreground_logit(torch.tensor([[[1.0], [4.0]]])).item()  # sigmoid(3) = softmax(1, 4)[1]
        3.0
    """
    return logits[:, 1:] - logits[:, :1] if logits.shape[1] == 2 else logits


def only_output(outputs: List[torch.Tensor]) -> torch.Tensor:  # noqa: UP006
    """The one element of what a network gave in place of a tensor, as MONAI's BasicUNetPlusPlus does.

    Networks of several outputs are refused: which of them are the logits differs from network to network (the first
    or the last), and a head whose output is dropped gets no gradients, which stops distributed training.

    Args:
        outputs: list or tuple of tensors.

    Raises:
        ValueError: there is not one.
    """
    if len(outputs) != 1:
        raise ValueError(
            f"the backbone gives {len(outputs)} outputs, one is wanted: make it without auxiliary heads or deep "
            "supervision, as in AsymmetricNonLocalNet(auxiliary_head=False)"
        )
    return outputs[0]
