"""SegResNet with non-local blocks at its bottleneck: the network of the pancreas paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.segresnet import SegResNet
from monai.utils import UpsampleMode
from torch import nn

from medseg3d.networks.input_size import check_size
from medseg3d.networks.nonlocal_block import NonLocalBlock

ATTENTIONS: dict[str, dict[str, Any]] = {
    "scaled": {},
    "cosine": {"qk_norm": True},
    "literal": {"norm": None, "act": None, "scale": 1.0},
}
"""What `nonlocal_attention` may be, as arguments of `NonLocalBlock`."""


class SegResNetNL(SegResNet):
    """Logits at the size of the input: MONAI's SegResNet with `nonlocal_blocks` blocks between encoder and decoder.

    The defaults are the paper's network in 3-D: 16 filters, two cascaded blocks at the bottleneck (128 channels, 1/8 of
    the input's resolution), 4,767,090 parameters. The 6.30 M of the paper's Table 3 is its 2-D setting without the
    blocks: `SegResNetNL(2, 32, 3, 2, nonlocal_blocks=0)` has 6,299,106, with two blocks 6,562,530. The paper does not
    state the blocks' inner width; here it is half of the bottleneck's, as in Wang et al.

    A new network equals a SegResNet with the same weights bit for bit, because every block starts as the identity. A
    SegResNet's state dict can be loaded: strictly with `nonlocal_blocks=0`, otherwise only the keys of the blocks are
    missing.

    Args:
        spatial_dims: 2 for 2-D images, 3 for volumes.
        init_filters: channels of the first convolution; each further encoder stage doubles them.
        in_channels: channels of the input.
        out_channels: classes, background included.
        blocks_down: residual blocks of each encoder stage.
        blocks_up: residual blocks of each decoder stage, one stage fewer than in the encoder.
        nonlocal_blocks: number of cascaded non-local blocks, 0 for the plain SegResNet.
        nonlocal_attention: what a block compares. `scaled`: features after a parameter-free norm and a ReLU, times
            `1 / sqrt(d)`; `cosine`: cosine similarities of the same features, times 10, which are bounded;
            `literal`: the raw features with a factor of 1, as the paper writes it, which collapses during training
            (see `NonLocalBlock`) and is kept to demonstrate this.
        dropout_prob: probability of an element to be zeroed after the first convolution.
        act: activation, as MONAI writes it.
        norm: feature normalization, as MONAI writes it.
        use_conv_final: whether the convolution to `out_channels` is applied.
        upsample_mode: `nontrainable` (the paper: 1×1 convolution, then linear interpolation), `deconv` or
            `pixelshuffle`.

    Shape:
        input `(B, in_channels, *spatial)`, each spatial size a multiple of `2 ** (len(blocks_down) - 1)`, by default 8;
        output `(B, out_channels, *spatial)`.

    Raises:
        ValueError: a bad constructor argument, or an input with a different number of dimensions or of a size that the
            decoder could not restore.

    References:
        Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization, https://arxiv.org/abs/1810.11654

    Example:
        >>> network = SegResNetNL()
        >>> sum(parameter.numel() for parameter in network.parameters())
        4767090
        >>> network(torch.rand(1, 1, 16, 24, 8)).shape
        torch.Size([1, 2, 16, 24, 8])
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        init_filters: int = 16,
        in_channels: int = 1,
        out_channels: int = 2,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        nonlocal_blocks: int = 2,
        nonlocal_attention: str = "scaled",
        dropout_prob: float | None = None,
        act: tuple | str = ("RELU", {"inplace": True}),
        norm: tuple | str = ("GROUP", {"num_groups": 8}),
        use_conv_final: bool = True,
        upsample_mode: UpsampleMode | str = UpsampleMode.NONTRAINABLE,
    ) -> None:
        if nonlocal_blocks < 0:
            raise ValueError(f"nonlocal_blocks must be 0 or more, got {nonlocal_blocks}")
        if nonlocal_attention not in ATTENTIONS:
            raise ValueError(f"nonlocal_attention must be one of {list(ATTENTIONS)}, got {nonlocal_attention!r}")
        if len(blocks_up) != len(blocks_down) - 1:
            raise ValueError(
                f"blocks_up must have one stage fewer than blocks_down, got {list(blocks_up)} and {list(blocks_down)}"
            )
        super().__init__(
            spatial_dims=spatial_dims,
            init_filters=init_filters,
            in_channels=in_channels,
            out_channels=out_channels,
            dropout_prob=dropout_prob,
            act=act,
            norm=norm,
            use_conv_final=use_conv_final,
            blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
            upsample_mode=upsample_mode,
        )
        self.size_divisor = 2 ** (len(blocks_down) - 1)
        channels = init_filters * self.size_divisor
        # after SegResNet's own layers, so that one seed gives both networks the same weights
        self.nonlocal_blocks = nn.Sequential(
            *(NonLocalBlock(spatial_dims, channels, **ATTENTIONS[nonlocal_attention]) for _ in range(nonlocal_blocks))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(B, out_channels, *spatial)` of the input `(B, in_channels, *spatial)`."""
        check_size(x, self.size_divisor, self.spatial_dims)
        # `forward` and not `encode` is overridden: TorchScript cannot compile super().encode()
        features, skips = self.encode(x)
        skips.reverse()  # `decode` reads the skips from the second on, never the bottleneck itself
        return self.decode(self.nonlocal_blocks(features), skips)
