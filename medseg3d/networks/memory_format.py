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


def contiguous_group_norms(network: nn.Module) -> None:
    """Let every GroupNorm of a network on a CPU work in contiguous memory while gradients are taken.

    torch's backward of it (2.13) is several times slower in channels-last memory: in bfloat16 it was half of a training
    step of a 2-D SegResNet. The copies to contiguous memory and back cost less. Values, names and shapes stay; where no
    gradients are taken nothing is done.
    """
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(_contiguous_input)
            module.register_forward_hook(_channels_last_output)


def _contiguous_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
    if not torch.is_grad_enabled() or inputs[0].device.type != "cpu":
        return None
    return (inputs[0].contiguous(),)


def _channels_last_output(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
) -> torch.Tensor | None:
    return channels_last(output) if torch.is_grad_enabled() and output.device.type == "cpu" else None
