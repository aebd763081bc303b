"""The one refusal that networks for pictures share."""

from __future__ import annotations

import torch


def check_size(x: torch.Tensor, divisor: int) -> None:
    """Refuse what would fail deep inside as a mismatch of two feature maps.

    Args:
        x: what the network was given.
        divisor: H and W must be multiples of it.

    Raises:
        ValueError: x is not (B, C, H, W), or H or W is no multiple of `divisor`.
    """
    if x.dim() != 4:
        raise ValueError(f"input must be (batch, channel, height, width), got shape {list(x.shape)}")
    for size in x.shape[2:]:
        if size % divisor != 0:
            raise ValueError(
                f"input size {list(x.shape[2:])} must be divisible by {divisor} in both dimensions; "
                f"pad with DivisiblePadd(k={divisor}) or choose a size that is"
            )
