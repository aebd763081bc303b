"""torch.compile, looked at: what it makes of a network is compared with the network itself before it is believed."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import nn

from medseg3d.faults import Fault

COMPILE_OPTIONS = {"cpp.simdlen": 256, "fallback_random": True}
"""Of `torch.compile`. With vectors of 512 bits the code that torch 2.13 makes is wrong where several bfloat16 maps are
transposed in one kernel, as queries, keys and values are: neither an error nor always a NaN. And dropout draws the
numbers that it draws uncompiled, so that both can be compared."""
_OUTPUTS = {False: 0.01, True: 0.1}
"""By whether autocast is on: how far outputs may lie from those of the network itself, as a share of their norm."""
_GRADIENTS = {False: 0.05, True: 0.5}
"""The same of all gradients; wrong code is off by their norm and more, or not finite."""


def compile_network(network: nn.Module) -> None:
    """Put a network through `torch.compile`, in place: the object and the names of its weights stay what they are.

    At the first call with an input of another shape, in training and in evaluation, its outputs, and in training the
    gradients of a loss of them, are compared with those of the network itself. Compiled code that is wrong is refused
    and not trained with.

    Args:
        network: tensors, or a tuple of them, from a batch.

    Raises:
        Fault: `ENGINE`, when the network is called.
    """
    network.compile(dynamic=False, options=COMPILE_OPTIONS)
    compiled = network._compiled_call_impl
    seen: set[Hashable] = set()

    def call(*inputs: Any, **arguments: Any) -> Any:
        shapes = tuple(each.shape for each in inputs if isinstance(each, torch.Tensor))
        key = (shapes, repr(arguments), network.training, torch.is_grad_enabled())
        if key not in seen:
            _compare(network, compiled, inputs, arguments)
            seen.add(key)
        return compiled(*inputs, **arguments)

    network._compiled_call_impl = call


def _compare(network: nn.Module, compiled: Any, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> None:
    """Raise a `Fault` where outputs or gradients differ; weights, buffers and random numbers stay as they are."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    found = []
    with torch.random.fork_rng():
        for call in (network._call_impl, compiled):
            torch.manual_seed(0)
            found.append(_outputs_and_gradients(network, call, inputs, arguments))
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
    reduced = torch.is_autocast_enabled(inputs[0].device.type)
    for what, tolerances, wanted, other in zip(("outputs", "gradients"), (_OUTPUTS, _GRADIENTS), *found, strict=True):
        norm = wanted.norm()
        error = float((other - wanted).norm() / norm) if norm > 0 else 0.0
        if bool(wanted.isfinite().all()) and not error <= tolerances[reduced]:
            raise Fault(
                "ENGINE",
                "--compile",
                f"{type(network).__name__}: {what} that differ from its own by {error:.2g} of their norm",
                "those of the network",
                "--compile false",
            )


def _outputs_and_gradients(
    network: nn.Module, call: Any, inputs: tuple[Any, ...], arguments: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """All outputs in one vector, and all gradients, none where none are taken."""
    outputs = call(*inputs, **arguments)
    outputs = torch.cat(
        [each.float().flatten() for each in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs)]
    )
    parameters = [each for each in network.parameters() if each.requires_grad]
    if not outputs.requires_grad:
        return outputs, outputs.new_zeros(0)
    weights = torch.linspace(-1, 1, outputs.numel(), device=outputs.device)
    gradients = torch.autograd.grad((weights * outputs).mean(), parameters, allow_unused=True)
    return outputs.detach(), torch.cat([each.float().flatten() for each in gradients if each is not None])
