"""Region of interest: which windows of the usual grid need computing for a part of a volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices

SCALE = 2
"""How many times coarser, along each axis, the volume is for the pass that finds the region."""

SEEN = 0.1
"""Probability of any foreground from which on a voxel of that pass belongs to the region."""

_SURE = 30.0  # a logit whose probability is 1 in float32


def foreground_box(logits: torch.Tensor) -> list[tuple[int, int]] | None:
    """First voxel, and the one after the last, along each axis of what may be foreground; None where nothing may.

    Args:
        logits: (B, C, *spatial); one channel is the foreground's, of several the first is the background's.

    Example:
        >>> logits = torch.full((1, 1, 8, 6), -9.0)
        >>> logits[..., 2:4, 5] = 0
        >>> foreground_box(logits)
        [(2, 4), (5, 6)]
    """
    foreground = logits.sigmoid()[:, 0] if logits.shape[1] == 1 else 1 - logits.softmax(1)[:, 0]
    seen = (foreground >= SEEN).any(0)
    if not seen.any():
        return None
    return [(int(along.min()), int(along.max()) + 1) for along in seen.nonzero().unbind(1)]


def windows_over(
    part: tuple[int, int], size: int, window: int, overlap: float, mode: str = "gaussian", tau: float = 0.0
) -> slice:
    """From the first to the last of the windows along one axis that a part of it needs.

    Needed is a window whose blending weight exceeds `tau` somewhere in the part; and, whatever its weight, the one that
    weighs most at either end, so that every voxel of the part is in some window.

    Args:
        part: its first voxel, and the one after its last.
        size: voxels along the axis, at least those of a window.
        window: voxels of a window.
        overlap: share of the window that neighbours have in common, 0 to 1.
        mode: of blending, `gaussian` or `constant`.
        tau: share of the greatest blending weight, 0 to 1.

    Example:
        Windows begin at 0, 8, 16 and 24.

        >>> windows_over((14, 20), size=40, window=16, overlap=0.5, mode="constant")
        slice(0, 32, None)
        >>> windows_over((14, 20), size=40, window=16, overlap=0.5, tau=0.2)
        slice(8, 24, None)
    """
    interval = window if window == size else max(int(window * (1 - overlap)), 1)
    starts = [int(along.start) for (along,) in dense_patch_slices((size,), (window,), (interval,))]
    weights = compute_importance_map((window,), mode=mode)

    def weight(start: int, low: int, high: int) -> float:
        met = weights[max(low - start, 0) : max(high - start, 0)]
        return float(met.max()) if len(met) else 0.0

    low, high = part
    ends = {max(starts, key=lambda start: weight(start, voxel, voxel + 1)) for voxel in (low, high - 1)}
    needed = [start for start in starts if start in ends or weight(start, low, high) > tau]
    return slice(needed[0], needed[-1] + window)


def with_background(logits: torch.Tensor, box: Sequence[slice], shape: Sequence[int]) -> torch.Tensor:
    """Logits (B, C, *shape) that are the given ones within the box and those of background elsewhere.

    Args:
        logits: (B, C, *spatial), of the box.
        box: where they are, along each axis.
        shape: spatial.
    """
    whole = logits.new_full((*logits.shape[:2], *shape), -_SURE)
    if logits.shape[1] > 1:
        whole[:, 0] = _SURE
    whole[(slice(None), slice(None), *box)] = logits
    return whole
