"""U-Mamba with Mamba layers in its encoder: a network that the pancreas paper compares with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm
from monai.utils import ensure_tuple_rep
from torch import nn

from medseg3d.networks.input_size import check_dimensions
from medseg3d.networks.mamba import Mamba

_FEATURES = {2: (64, 128, 256, 512, 1024), 3: (32, 64, 128, 256, 320)}


class UMambaEnc(nn.Module):
    """Logits at the size of the input: a residual U-Net whose encoder stages end in Mamba layers.

    Built like the "Enc" networks of U-Mamba's public code. A stem and the encoder's stages are residual blocks
    of 3×3(×3) convolutions, instance norm and leaky ReLU, two per stage in the upper half and one below. A Mamba layer
    then mixes the positions of the map in raster order, each a token of its channels; if a map has no more positions
    than channels, it mixes the channels instead, each a token of its positions. In 3-D every stage ends in one, in 2-D
    every second, counted from the deepest. The decoder upsamples by nearest neighbour and concatenates the skips, in
    2-D all but the one at full resolution.

    The defaults are the comparison of the paper's Table 3: 2-D, 3 channels, 2 classes, with 39,120,642 parameters for
    256×256 images. The number depends on the image size wherever channels are tokens: 39,375,730 for
    288×288. The paper prints 39.26 M and no size; of the sizes that five stages can halve, only 224×336 matches. In
    3-D the default for 96×96×96 windows (1 channel, 2 classes) has 22,808,642.

    Where we differ from the public code: no heads for deep supervision (1,798 parameters of the 2-D network),
    and the 1×1 convolution before the upsampling instead of after it, which gives the same values for a quarter or an
    eighth of the work. As there, a Mamba layer has no residual connection and always computes in float32.

    Args:
        spatial_dims: 2 for 2-D images, 3 for volumes.
        in_channels: channels of the input.
        out_channels: classes, background included.
        img_size: spatial size of the input, or of the sliding window; one number for all axes or one for each.
        features: channels of each stage, 64 to 1024 in 2-D and 32 to 320 in 3-D by default.
        strides: downsampling of each stage, one number for all axes or one for each; 1 for the first, by default 2 for
            the others.
        d_state: states of a channel in a Mamba layer.
        d_conv: kernel size of a Mamba layer's convolution, in tokens.
        expand: ratio of a Mamba layer's inner channels to its tokens' channels.

    Shape:
        input `(B, in_channels, *spatial)`, output `(B, out_channels, *spatial)`. `spatial` must be `img_size` where the
        channels of some stage are tokens (`channel_token`), else any multiple of the product of the strides.

    Raises:
        ValueError: a bad constructor argument, or an input of any other size.

    References:
        Ma, Li and Wang, U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation,
        https://arxiv.org/abs/2401.04722

    Example:
        >>> network = UMambaEnc(img_size=(32, 64), features=(8, 16, 32))
        >>> network(torch.rand(1, 3, 32, 64)).shape
        torch.Size([1, 2, 32, 64])
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        out_channels: int = 2,
        img_size: Sequence[int] | int = 256,
        features: Sequence[int] | None = None,
        strides: Sequence[Sequence[int] | int] | None = None,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        features = _FEATURES[spatial_dims] if features is None else tuple(features)
        strides = [1] + [2] * (len(features) - 1) if strides is None else strides
        if len(features) < 2 or len(strides) != len(features):
            raise ValueError(
                "features and strides must have one entry per stage, for two stages or more, "
                f"got {list(features)} and {list(strides)}"
            )
        self.spatial_dims = spatial_dims
        self.img_size = list(ensure_tuple_rep(img_size, spatial_dims))
        steps = [ensure_tuple_rep(stride, spatial_dims) for stride in strides]
        if max(steps[0]) > 1:
            raise ValueError(f"the first entry of strides must be 1, got {list(strides)}")
        self.size_divisor = [math.prod(step[axis] for step in steps) for axis in range(spatial_dims)]
        positions = self._positions_of_stages(steps)
        has_mamba = [spatial_dims == 3 or (len(features) - stage) % 2 == 1 for stage in range(len(features))]
        blocks = [2 if 2 * stage < len(features) else 1 for stage in range(len(features))]
        self.stem = _stage(spatial_dims, in_channels, features[0], 1, blocks[0])
        self.encoder = nn.ModuleList()
        for stage, channels in enumerate(features):
            layers = _stage(spatial_dims, features[max(stage - 1, 0)], channels, steps[stage], blocks[stage])
            if has_mamba[stage]:
                layers.append(MambaLayer(channels, positions[stage], d_state, d_conv, expand))
            self.encoder.append(layers)
        self.channel_token = any(isinstance(layer, MambaLayer) and layer.channel_token for layer in self.modules())
        """Whether some Mamba layer takes channels as tokens, which ties the network to `img_size`."""
        self.decoder = nn.ModuleList()
        for stage, number in zip(reversed(range(len(features) - 1)), blocks, strict=False):
            takes_skip = spatial_dims == 3 or stage > 0
            self.decoder.append(UpStage(spatial_dims, features[stage + 1], features[stage], number, takes_skip))
        self.head = Conv[Conv.CONV, spatial_dims](features[0], out_channels, kernel_size=1)
        self.apply(_init_convolution)

    def _positions_of_stages(self, steps: list[tuple[int, ...]]) -> list[int]:
        """Number of positions of each stage's map."""
        if any(size < 1 or size % divisor for size, divisor in zip(self.img_size, self.size_divisor, strict=True)):
            raise ValueError(
                f"img_size {self.img_size} must be divisible by {self.size_divisor}, the product of the strides"
            )
        sizes, positions = list(self.img_size), []
        for step in steps:
            sizes = [size // stride for size, stride in zip(sizes, step, strict=True)]
            positions.append(math.prod(sizes))
        if positions[-1] == 1:
            raise ValueError(
                f"img_size {self.img_size} leaves the deepest stage one position, which instance norm zeroes"
            )
        return positions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(B, out_channels, *spatial)` of the input `(B, in_channels, *spatial)`."""
        self._check_shape(x)
        x = self.stem(x)
        skips: list[torch.Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for up in self.decoder:
            x = up(x, skips.pop())
        return self.head(x)

    def _check_shape(self, x: torch.Tensor) -> None:
        check_dimensions(x, self.spatial_dims)
        for axis, size in enumerate(x.shape[2:]):
            if self.channel_token and size != self.img_size[axis]:
                raise ValueError(
                    f"input size {list(x.shape[2:])} must be img_size {self.img_size}, because a Mamba layer's tokens "
                    "are channels with one number per position; use it as the sliding window's roi_size, "
                    "or build and train the network with another img_size"
                )
            if size % self.size_divisor[axis] != 0:
                raise ValueError(
                    f"input size {list(x.shape[2:])} must be divisible by {self.size_divisor}; "
                    f"pad with DivisiblePadd(k={self.size_divisor}) or choose a roi_size that is"
                )


class MambaLayer(nn.Module):
    """Layer norm and Mamba over a feature map `(B, C, *spatial)`, same shape; without a residual connection.

    Tokens are positions in raster order, or channels where the map has no more positions than channels.

    Args:
        channels: C.
        positions: number of positions of the map; the map must have them only where channels are tokens.
        d_state: see `Mamba`.
        d_conv: see `Mamba`.
        expand: see `Mamba`.
    """

    def __init__(self, channels: int, positions: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.channel_token = positions <= channels
        width = positions if self.channel_token else channels
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width, d_state, d_conv, expand)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The mixed map `(B, C, *spatial)`."""
        if torch.jit.is_scripting():
            return self._mix(x)
        # not available on the meta device, where shapes are tried out
        if torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type):
            # as the public code does, whose authors met NaN in half precision
            with torch.autocast(x.device.type, enabled=False):
                return self._mix(x.float())
        return self._mix(x)

    def _mix(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2)
        if not self.channel_token:
            tokens = tokens.transpose(1, 2)
        tokens = self.mamba(self.norm(tokens))
        if not self.channel_token:
            tokens = tokens.transpose(1, 2)
        return tokens.reshape(x.shape)


class UpStage(nn.Module):
    """A stage of the decoder: the map below at the skip's size, joined with the skip where it is taken, then blocks."""

    def __init__(self, spatial_dims: int, below: int, channels: int, blocks: int, takes_skip: bool) -> None:
        super().__init__()
        self.takes_skip = takes_skip
        self.project = Conv[Conv.CONV, spatial_dims](below, channels, kernel_size=1)
        self.blocks = _stage(spatial_dims, channels * (2 if takes_skip else 1), channels, 1, blocks)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """The map `(B, channels, *spatial)` at the size of `skip`."""
        # a 1×1 convolution and a repetition of values commute
        x = F.interpolate(self.project(x), size=skip.shape[2:], mode="nearest")
        if self.takes_skip:
            x = torch.cat([x, skip], dim=1)
        return self.blocks(x)


class ResidualBlock(nn.Module):
    """Two convolutions with instance norm, added to the input, which a 1×1 convolution fits where `project` says so."""

    def __init__(
        self, spatial_dims: int, in_channels: int, channels: int, stride: Sequence[int] | int, project: bool
    ) -> None:
        super().__init__()
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.INSTANCE, spatial_dims]
        self.conv1 = conv(in_channels, channels, kernel_size=3, stride=stride, padding=1)
        self.norm1 = norm(channels, affine=True)
        self.conv2 = conv(channels, channels, kernel_size=3, padding=1)
        self.norm2 = norm(channels, affine=True)
        self.shortcut = conv(in_channels, channels, kernel_size=1, stride=stride) if project else nn.Identity()
        self.act = nn.LeakyReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The map `(B, channels, *spatial)`, smaller by the stride."""
        y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        return self.act(y + self.shortcut(x))


def _stage(
    spatial_dims: int, in_channels: int, channels: int, stride: Sequence[int] | int, blocks: int
) -> nn.Sequential:
    """Residual blocks, of which the first changes channels and size."""
    first = ResidualBlock(spatial_dims, in_channels, channels, stride, project=True)
    others = [ResidualBlock(spatial_dims, channels, channels, 1, project=False) for _ in range(blocks - 1)]
    return nn.Sequential(first, *others)


def _init_convolution(module: nn.Module) -> None:
    """He's initialisation for a leaky ReLU, as nnU-Net has it; Mamba's convolution keeps the one it has."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=1e-2)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
