"""What networks refuse before it would fail deep inside as a mismatch of two feature maps."""

from __future__ import annotations

import torch


def check_dimensions(x: torch.Tensor, spatial_dims: int) -> None:
    """Raise a ValueError for an input that is not (B, C, *spatial) of so many spatial dimensions."""
    if x.dim() != spatial_dims + 2:
        raise ValueError(
            f"input must be (batch, channel) and {spatial_dims} spatial dimensions, got shape {list(x.shape)}"
        )


def check_size(x: torch.Tensor, divisor: int, spatial_dims: int = 2) -> None:
    """The same, and for one whose spatial sizes are not all multiples of `divisor`."""
    check_dimensions(x, spatial_dims)
    for size in x.shape[2:]:
        if size % divisor != 0:
            raise ValueError(
                f"input size {list(x.shape[2:])} must be divisible by {divisor} in every dimension; "
                f"pad with DivisiblePadd(k={divisor}) or choose a size that is"
            )
