"""The non-local block: attention between all positions, without storing the N×N attention map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_act_layer, get_norm_layer
from torch import nn

from medseg3d.networks.input_size import check_dimensions


class PositionAttention(nn.Module):
    """At every position the mean of all positions' values, weighted by softmax(scale * query^T key).

    Args:
        scale: factor of the attention logits.
        qk_norm: whether queries and keys are normalised to unit vectors, so that no logit exceeds `scale`.
    """

    def __init__(self, scale: float, qk_norm: bool = False) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale = float(scale)
        self.qk_norm = qk_norm

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """`(B, D, *spatial)` of three such maps."""
        mean = F.scaled_dot_product_attention(
            self._vectors(query), self._vectors(key), _positions_first(value), scale=self.scale
        )  # (B, 1, N, D)
        mean = mean.squeeze(1).transpose(1, 2)  # (B, D, N)
        return mean.reshape(mean.shape[:2] + value.shape[2:])

    @torch.jit.unused
    @torch.no_grad()
    def attention_logits(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, queries: int = 64
    ) -> torch.Tensor:
        """What the softmax gets, for looking at: (B, queries, N) float32 of positions spread evenly over all N.

        Arguments are those of `forward`, of which the values are not used, and the number of queries, at most all.
        """
        return logits_of_some(self._vectors(query)[:, 0], self._vectors(key)[:, 0], self.scale, queries)

    def _vectors(self, projected: torch.Tensor) -> torch.Tensor:
        """`(B, 1, N, D)` of `(B, D, *spatial)`, of length 1 with `qk_norm`."""
        vectors = _positions_first(projected)
        if self.qk_norm:  # in float32: in float16 the least length would be rounded to 0
            vectors = F.normalize(vectors.float(), dim=-1).to(vectors.dtype)
        return vectors


class NonLocalBlock(nn.Module):
    r"""The input plus, at every position, a similarity-weighted mean over all positions.

    The embedded-Gaussian form, `y_i = x_i + W_z sum_j softmax_j(scale * theta(u_i)^T phi(u_j)) g(u_j)` with
    `u = act(norm(x))`. `theta`, `phi`, `g` and `W_z` (`out`) are convolutions of size 1 with bias. `out` is
    initialised to zero, so a new block is the identity and can be inserted into a trained network.

    `norm`, `act` and `scale` keep the attention from collapsing. The residual stream of a pre-activation network such
    as SegResNet has never been normalised, and grows during training; used as it is, with `scale=1.0`, the logits grow
    with its square until the softmax is an argmax and its gradient vanishes (docs/results/pancreas_nl_2d_ablation.md
    shows this). That is what `norm=None, act=None, scale=1.0` do, the paper's formula to the letter; Wang et al. put
    their block after a norm and a ReLU, and mmcv's scales by default. `qk_norm` bounds the logits by construction:
    they are `scale` times cosine similarities.

    Where we differ from Wang et al.: no batch norm after `W_z` (zero weights replace its zero gamma) and no
    subsampling of `phi` and `g`. The result is the same as with a stored map, up to rounding; the N×N attention
    map (729 MB for 24×24×24 positions) never exists, forward or backward, because
    `torch.nn.functional.scaled_dot_product_attention` processes it in tiles.

    Args:
        spatial_dims: 2 for 2-D images, 3 for volumes.
        in_channels: channels C of the input, and of the output.
        inner_channels: channels of `theta`, `phi` and `g`; by default half of `in_channels`.
        norm: feature normalization before the projections, as MONAI writes it; None for none. The default has no
            parameters.
        act: activation after it, as MONAI writes it; None for none.
        qk_norm: whether the vectors of `theta` and `phi` are normalised to unit vectors.
        scale: factor of the logits; by default `1 / sqrt(inner_channels)`, or 10 with `qk_norm`.

    Shape:
        input `(B, C, *spatial)` of any spatial size, output the same.

    Raises:
        ValueError: a bad constructor argument, or an input without `spatial_dims` spatial dimensions.

    References:
        Wang et al., Non-local Neural Networks, CVPR 2018, https://arxiv.org/abs/1711.07971; `qk_norm`: Liu et al., Swin
        Transformer V2, CVPR 2022, https://arxiv.org/abs/2111.09883 (there the scale is learnt, 10 at first)

    Example:
        >>> block = NonLocalBlock(spatial_dims=3, in_channels=128)
        >>> sum(parameter.numel() for parameter in block.parameters())
        33088
        >>> x = torch.rand(1, 128, 3, 4, 5)
        >>> torch.equal(block(x), x)  # new, hence the identity
        True
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        inner_channels: int | None = None,
        norm: tuple | str | None = ("GROUP", {"num_groups": 8, "affine": False}),
        act: tuple | str | None = "RELU",
        qk_norm: bool = False,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        if inner_channels is None:
            inner_channels = max(in_channels // 2, 1)
        if inner_channels < 1:
            raise ValueError(f"inner_channels must be at least 1, got {inner_channels}")
        if scale is None:
            scale = 10.0 if qk_norm else inner_channels**-0.5
        self.spatial_dims = spatial_dims
        self.norm = nn.Identity() if norm is None else get_norm_layer(norm, spatial_dims, in_channels)
        self.act = nn.Identity() if act is None else get_act_layer(act)
        conv = Conv[Conv.CONV, spatial_dims]
        self.theta = conv(in_channels, inner_channels, kernel_size=1)
        self.phi = conv(in_channels, inner_channels, kernel_size=1)
        self.g = conv(in_channels, inner_channels, kernel_size=1)
        self.attention = PositionAttention(scale, qk_norm)
        self.out = conv(inner_channels, in_channels, kernel_size=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input `(B, C, *spatial)` plus its non-local mean, same shape."""
        check_dimensions(x, self.spatial_dims)
        return x + self.out(self._mean_of_all_positions(x))

    def _mean_of_all_positions(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, inner, *spatial)`; a method of its own, so that its tensors are freed before `out` makes larger ones."""
        features = self.act(self.norm(x))
        return self.attention(self.theta(features), self.phi(features), self.g(features))


def logits_of_some(query: torch.Tensor, key: torch.Tensor, scale: float, queries: int) -> torch.Tensor:
    """`scale` times the products of some queries with all keys, (B, queries, S) in float32 also under autocast.

    The queries are spread evenly over those of (B, N, D), all of them at most; keys are (B, S, D).
    """
    chosen = torch.linspace(0, query.shape[1] - 1, min(queries, query.shape[1]), device=query.device).long()
    with torch.autocast(query.device.type, enabled=False):
        return scale * (query[:, chosen].float() @ key.float().transpose(1, 2))


def _positions_first(features: torch.Tensor) -> torch.Tensor:
    """`(B, D, *spatial)` as one head of N tokens, `(B, 1, N, D)`.

    Contiguous, because only then does torch on CPU take the kernel that walks the map in tiles: with the strides of a
    mere transpose it ran 4 times slower.
    """
    return features.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)
