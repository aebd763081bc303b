"""torch.compile, looked at: what it makes of a network is compared with the network itself before it is believed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from medseg3d.errors import UserError

COMPILE_OPTIONS: dict[str, Any] = {"cpp.simdlen": 256, "fallback_random": True}
"""Of `torch.compile`. With vectors of 512 bits the code that torch 2.13 makes is wrong where several bfloat16 maps are
transposed in one kernel, as queries, keys and values are: neither an error nor always a NaN. And dropout draws the
numbers that it draws uncompiled, so that both can be compared."""
_MARGINS = {"outputs": 0.01, "gradients": 0.1}
"""How much farther than twice the network itself compiled code may be from it in float32, as a share of the norm. The
network itself is not off at all in float32; in bfloat16 the gradients of some are by more than their norm."""

_DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)


def compile_network(network: nn.Module) -> None:
    """Put a network through `torch.compile`, in place: the object and the names of its weights stay what they are.

    At the first call with an input of another shape, in training and in evaluation, its outputs, and in training the
    gradients of a loss of them, are compared with those of the network itself in float32: they may be off twice as far
    as those of the network itself in the precision of the autocast. If they are not, they are compared once more
    without dropout, which compiled code may draw in another order. Compiled code that is wrong is not trained with.

    Raises:
        UserError: `ENGINE`, when the network is called.
    """
    network.compile(dynamic=False, options=COMPILE_OPTIONS)
    compiled: Any = network._compiled_call_impl
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
    """Raise a `UserError` where outputs or gradients are wrong; weights, buffers and random state stay as they are."""
    error = _difference(network, compiled, inputs, arguments)
    if error and any(isinstance(each, _DROPOUTS) and each.training and each.p for each in network.modules()):
        # where compiled code lays a map out otherwise, dropout draws other numbers for it
        with _without_dropout(network):
            error = _difference(network, compiled, inputs, arguments)
    if error:
        raise error


@contextmanager
def _without_dropout(network: nn.Module) -> Iterator[None]:
    before = [(each, each.p) for each in network.modules() if isinstance(each, _DROPOUTS)]
    try:
        for each, _ in before:
            each.p = 0.0
        yield
    finally:
        for each, p in before:
            each.p = p


def _difference(
    network: nn.Module, compiled: Any, inputs: tuple[Any, ...], arguments: dict[str, Any]
) -> UserError | None:
    """What is wrong with outputs or gradients, if anything; an error of the compiler, or of its code, is raised."""
    device = inputs[0].device.type
    with torch.autocast(device, enabled=False):
        wanted = _outputs_and_gradients(network, network._call_impl, inputs, arguments)
    own = _outputs_and_gradients(network, network._call_impl, inputs, arguments)
    try:
        found = _outputs_and_gradients(network, compiled, inputs, arguments)
    except Exception as cause:  # of the compiler, or of its code: the network itself has just been called
        raise _refused(network, f"{type(cause).__name__}: {cause}".splitlines()[0][:200]) from cause
    for (what, margin), reference, *others in zip(_MARGINS.items(), wanted, own, found, strict=True):
        own_error, error = (float((each - reference).norm() / reference.norm().clamp_min(1e-12)) for each in others)
        if math.isfinite(own_error) and not error <= 2 * own_error + margin:
            most = f"{2 * own_error + margin:.2g} at most"
            return _refused(network, f"{what} that differ from its own by {error:.2g} of their norm", most)
    return None


def _refused(network: nn.Module, found: str, wanted: str = "its outputs and gradients") -> UserError:
    return UserError("ENGINE", "--compile", f"{type(network).__name__}: {found}", wanted, "--compile false")


def _outputs_and_gradients(
    network: nn.Module, call: Any, inputs: tuple[Any, ...], arguments: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """All outputs in one vector, and all gradients of a weighted mean of them, none where none are taken."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        result = call(*inputs, **arguments)
        heads = (result,) if isinstance(result, torch.Tensor) else result
        outputs = torch.cat([each.float().flatten() for each in heads])
        gradients: tuple[torch.Tensor | None, ...] = ()
        if outputs.requires_grad:
            weights = torch.linspace(0, 1, outputs.numel(), device=outputs.device)
            learnt = [each for each in network.parameters() if each.requires_grad]
            gradients = torch.autograd.grad((weights * outputs).mean(), learnt, allow_unused=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    flat = [each.float().flatten() for each in gradients if each is not None]
    return outputs.detach(), torch.cat(flat) if flat else outputs.new_zeros(0)
