"""The non-local block: every position sees every other one, and the N×N map between them is never stored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import nn


class NonLocalBlock(nn.Module):
    r"""The input plus, at every position, a mean of all positions weighted by their likeness to it.

    The embedded-Gaussian form, `y_i = x_i + W_z sum_j softmax_j(theta(x_i)^T phi(x_j)) g(x_j)`, with no
    `1 / sqrt(d)` in the exponent. `theta`, `phi`, `g` and `W_z` (`out`) are convolutions of size 1 with bias. `out`
    starts at zero, so a fresh block is the identity and can be put into a trained network.

    Where we differ from Wang et al.: no batch norm after `W_z` (zero weights do what its zero gamma did) and no
    subsampling of `phi` and `g`. The result is the same as with a stored map, up to rounding; the map of N×N
    likenesses (729 MB for 24×24×24 positions) never exists, forward or backward, because
    `torch.nn.functional.scaled_dot_product_attention` walks it in tiles.

    Args:
        spatial_dims: 2 for pictures, 3 for volumes.
        in_channels: channels C of the input, and of the output.
        inner_channels: channels of `theta`, `phi` and `g`; by default half of `in_channels`.

    Shape:
        input `(B, C, *spatial)` of any spatial size, output the same.

    Raises:
        ValueError: a bad constructor argument, or an input that has not `spatial_dims` spatial dimensions.

    References:
        Wang et al., Non-local Neural Networks, CVPR 2018, https://arxiv.org/abs/1711.07971

    Example:
        >>> block = NonLocalBlock(spatial_dims=3, in_channels=128)
        >>> sum(parameter.numel() for parameter in block.parameters())
        33088
        >>> x = torch.rand(1, 128, 3, 4, 5)
        >>> torch.equal(block(x), x)  # fresh, hence the identity
        True
    """

    def __init__(self, spatial_dims: int, in_channels: int, inner_channels: int | None = None) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        if inner_channels is None:
            inner_channels = max(in_channels // 2, 1)
        if inner_channels < 1:
            raise ValueError(f"inner_channels must be at least 1, got {inner_channels}")
        self.spatial_dims = spatial_dims
        conv = Conv[Conv.CONV, spatial_dims]
        self.theta = conv(in_channels, inner_channels, kernel_size=1)
        self.phi = conv(in_channels, inner_channels, kernel_size=1)
        self.g = conv(in_channels, inner_channels, kernel_size=1)
        self.out = conv(inner_channels, in_channels, kernel_size=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input `(B, C, *spatial)` plus its non-local mean, same shape."""
        if x.dim() != self.spatial_dims + 2:
            raise ValueError(
                f"input must be (batch, channel) and {self.spatial_dims} spatial dimensions, got shape {list(x.shape)}"
            )
        return x + self.out(self._mean_of_all_positions(x))

    def _mean_of_all_positions(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, inner, *spatial)`; a method of its own, so that its tensors are freed before `out` makes larger ones."""
        query = _positions_first(self.theta(x))
        key = _positions_first(self.phi(x))
        value = _positions_first(self.g(x))
        mean = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (B, 1, N, inner)
        mean = mean.squeeze(1).transpose(1, 2)  # (B, inner, N)
        return mean.reshape(mean.shape[:2] + x.shape[2:])


def _positions_first(features: torch.Tensor) -> torch.Tensor:
    """`(B, D, *spatial)` as one head of N tokens, `(B, 1, N, D)`.

    Contiguous, because only then does torch on CPU take the kernel that walks the map in tiles: with the strides of a
    mere transpose it ran 4 times slower.
    """
    return features.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)
