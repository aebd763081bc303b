"""Channels-last memory, which convolutions on CPUs and on GPUs' tensor cores are faster in."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

_Layout = TypeVar("_Layout", torch.Tensor, nn.Module)

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(value: _Layout) -> _Layout:
    """A batch (B, C, *spatial) or a network, in channels-last memory; values, shapes and names stay as they are.

    A network is converted in place: its 4-D weights to `torch.channels_last`, its 5-D ones to `channels_last_3d`.

    Example:
        >>> channels_last(torch.rand(1, 2, 4, 4, 4)).stride()
        (128, 1, 32, 8, 2)
    """
    if isinstance(value, nn.Module):
        for parameter in value.parameters():
            parameter.data = channels_last(parameter.data)
        return value
    return value.contiguous(memory_format=_FORMATS[value.dim()]) if value.dim() in _FORMATS else value
