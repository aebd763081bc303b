"""Asymmetric non-local network: attention of every pixel to 110 pooled tokens instead of to every pixel.

Zhu et al., *Asymmetric Non-local Neural Networks for Semantic Segmentation*, ICCV 2019, in the configuration of
mmsegmentation's `ann_r50-d8`, which matches the polyp paper's tables and settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Tuple, Union  # noqa: UP035 -- TorchScript reads no other spelling

import torch
import torch.nn.functional as F
from torch import nn

from medseg3d.networks.backbones import DilatedResNet50
from medseg3d.networks.nonlocal_block import logits_of_some


class PyramidPool(nn.Module):
    """Averages over grids of 1x1, 3x3, 6x6 and 8x8 cells, as tokens: (B, C, H, W) to (B, C, 110).

    The cells are those of `adaptive_avg_pool2d`, even if the sizes do not divide evenly. Implemented as products with
    small matrices, because torch's pooling has no deterministic backward on CUDA and no ONNX export for such sizes. The
    columns of all grids come first, channels last, so that a channels-last map needs no copy.

    Example:
        >>> x = torch.rand(1, 2, 13, 10)
        >>> torch.allclose(PyramidPool((3,))(x), F.adaptive_avg_pool2d(x, 3).flatten(2), atol=1e-6)
        True
    """

    def __init__(self, sizes: Sequence[int] = (1, 3, 6, 8)) -> None:
        super().__init__()
        self.sizes = tuple(sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, C, sum of the squared sizes) of (B, C, H, W)."""
        columns = []
        for size in self.sizes:
            columns.append(averaging_matrix(x.shape[3], size, x))
        narrow = torch.cat(columns) @ x.permute(0, 2, 3, 1)  # (B, H, sum of the sizes, C)
        tokens = []
        start = 0
        for size in self.sizes:
            of_grid = narrow[:, :, start : start + size].flatten(2)
            cells = averaging_matrix(x.shape[2], size, x) @ of_grid  # (B, size, size * C)
            tokens.append(cells.reshape(x.shape[0], size * size, x.shape[1]))
            start += size
        return torch.cat(tokens, 1).transpose(1, 2)


def averaging_matrix(length: int, cells: int, like: torch.Tensor) -> torch.Tensor:
    """(cells, length): row i averages the elements that adaptive average pooling puts into cell i.

    Example:
        >>> averaging_matrix(3, 2, torch.zeros(1)).tolist()
        [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    """
    place = torch.arange(length, device=like.device)
    cell = torch.arange(cells, device=like.device)[:, None]
    inside = (place >= cell * length // cells) & (place < ((cell + 1) * length + cells - 1) // cells)
    weights = inside.to(like.dtype)
    return weights / weights.sum(1, keepdim=True)


class TokenAttention(nn.Module):
    """At every pixel the mean of S values, weighted by softmax(Q^T K / sqrt(C)).

    Stores the H W x S weights. With as few tokens as the pyramid has, torch's
    `scaled_dot_product_attention` is no faster and saves hardly any memory: benchmarks/asymmetric_nonlocal.py.

    Example:
        >>> query, key = torch.zeros(1, 2, 1, 2), torch.rand(1, 2, 4)
        >>> TokenAttention()(query, key, torch.tensor([[[1.0, 2, 3, 6]]])).tolist()
        [[[[3.0, 3.0]]]]
    """

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """(B, D, H, W) of queries (B, C, H, W), keys (B, C, S) and values (B, D, S)."""
        scaled = key * key.shape[1] ** -0.5  # rather than the weights, which are many more, and in half precision large
        weights = torch.softmax(query.flatten(2).transpose(1, 2) @ scaled, -1)
        attended = weights @ value.transpose(1, 2)  # (B, H W, D)
        return attended.transpose(1, 2).reshape(query.shape[0], value.shape[1], query.shape[2], query.shape[3])

    @torch.jit.unused
    @torch.no_grad()
    def attention_logits(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, queries: int = 64
    ) -> torch.Tensor:
        """The input of the softmax, for monitoring: (B, queries, S) float32 for pixels spread evenly over all H W.

        Arguments are those of `forward`, of which the values are not used, and the number of queries, at most all.
        """
        return logits_of_some(query.flatten(2).transpose(1, 2), key.transpose(1, 2), key.shape[1] ** -0.5, queries)


class AsymmetricNonLocal(nn.Module):
    """Attention of a query map to pooled tokens of a key map, concatenated with the query map and projected.

    With Q and K (1x1 convolution, BatchNorm, ReLU), V and the output (1x1 convolutions with bias),
    `context = W_out softmax(Q^T pool(K) / sqrt(C)) pool(V)` and `y = BN(W [context; query map])`. W_out is
    initialised to zero: a new block returns `BN(W [0; query map])`.

    Two products are rearranged without changing the function: V is projected after pooling, because both are linear
    (110 columns instead of H W), and the part of W for the context is multiplied with W_out first, so that it processes
    256 instead of 2048 channels at every pixel.

    Args:
        query_channels: channels of the query map and of the result.
        key_channels: channels of the key map.
        inner_channels: channels of queries, keys and values.
        shared: whether queries and keys share one projection (APNB), which requires equal channels.
        relu: whether the block ends with a ReLU.

    Raises:
        ValueError: `shared` with different channels.
    """

    def __init__(
        self,
        query_channels: int,
        key_channels: int,
        inner_channels: int = 256,
        shared: bool = False,
        relu: bool = False,
    ) -> None:
        super().__init__()
        if shared and query_channels != key_channels:
            raise ValueError(f"a shared projection needs equal channels, found {query_channels} and {key_channels}")
        self.query = conv_bn_relu(query_channels, inner_channels, 1)
        self.key = self.query if shared else conv_bn_relu(key_channels, inner_channels, 1)
        self.value = nn.Conv2d(key_channels, inner_channels, 1)
        self.out = nn.Conv2d(inner_channels, query_channels, 1)
        self.fuse = nn.Conv2d(2 * query_channels, query_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(query_channels)
        self.act = nn.ReLU(inplace=True) if relu else nn.Identity()
        self.pool = PyramidPool()
        self.attention = TokenAttention()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(torch.as_tensor(self.out.bias))

    def forward(self, query_map: torch.Tensor, key_map: torch.Tensor) -> torch.Tensor:
        """(B, query_channels, H, W) from maps of one spatial size."""
        attended = self.attend(query_map, key_map)
        channels = query_map.shape[1]
        of_context, of_map = self.fuse.weight[:, :channels, 0, 0], self.fuse.weight[:, channels:]
        weight = of_context @ self.out.weight[:, :, 0, 0]
        bias = self.out.bias
        assert bias is not None
        fused = F.conv2d(attended, weight[:, :, None, None], of_context @ bias) + F.conv2d(query_map, of_map)
        return self.act(self.norm(fused))

    def attend(self, query_map: torch.Tensor, key_map: torch.Tensor) -> torch.Tensor:
        """The attention output at each pixel of the query map, before W_out: (B, inner_channels, H, W)."""
        query = self.query(query_map)
        key = self.pool(self.key(key_map))
        value = self.value(self.pool(key_map)[:, :, :, None])[:, :, :, 0]
        return self.attention(query, key, value)


class AsymmetricNonLocalNet(nn.Module):
    """The paper's network for polyps: dilated ResNet-50, AFNB, APNB, and an auxiliary head in training.

    AFNB fuses stage 5 (queries) with stage 4 (keys), a 3x3 convolution reduces to 512 channels, APNB attends to the
    whole image once more, a 1x1 convolution classifies. Logits at 1/8 are upsampled bilinearly. 46,196,292
    parameters, 43,835,970 without the auxiliary head, which inference does not need.

    The paper states neither widths nor pool sizes nor dropout; those of mmsegmentation are used. The stem is
    torchvision's 7x7, not mmsegmentation's three 3x3 (46.22 M), so that ImageNet weights of torchvision and timm fit.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        auxiliary_head: whether to have one.
        dropout: probability that a channel is dropped before each classifier.

    Example:
        >>> network = AsymmetricNonLocalNet().eval()
        >>> sum(parameter.numel() for parameter in network.parameters())
        46196292
        >>> network(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 2, 64, 96])
    """

    def __init__(
        self, in_channels: int = 3, out_channels: int = 2, auxiliary_head: bool = True, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.backbone = DilatedResNet50(in_channels, output_stride=8)
        low, high = self.backbone.channels[3:]
        self.afnb = AsymmetricNonLocal(high, low)
        self.bottleneck = conv_bn_relu(high, 512, 3)
        self.apnb = AsymmetricNonLocal(512, 512, shared=True, relu=True)
        self.dropout = nn.Dropout2d(float(dropout))
        self.classifier = _classifier(512, out_channels)
        self.auxiliary = (
            nn.Sequential(conv_bn_relu(low, 256, 3), nn.Dropout2d(float(dropout)), _classifier(256, out_channels))
            if auxiliary_head
            else None
        )

    def forward(self, x: torch.Tensor) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor]]:  # noqa: UP006, UP007
        """Logits (B, out_channels, H, W) of an image (B, in_channels, H, W).

        Returns:
            In training with an auxiliary head, a pair: the logits and those of the auxiliary head.
        """
        maps = self.backbone(x)
        low, high = maps[3], maps[4]
        fused = self.bottleneck(self.afnb(high, low))
        logits = self._at_size_of(self.classifier(self.dropout(self.apnb(fused, fused))), x)
        if self.auxiliary is not None and self.training:
            return logits, self._at_size_of(self.auxiliary(low), x)
        return logits

    def _at_size_of(self, logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, without bias, then BatchNorm and ReLU."""
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _classifier(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(torch.as_tensor(conv.bias))
    return conv
