"""Engines: a network's windows computed by torch or by another of `ENGINES`, whichever a knob names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medseg3d.errors import UsageError
from medseg3d.inference.backends import ENGINES, Forward, make_engine
from medseg3d.inference.fastest import fastest_engine
from medseg3d.precision import Precision

logger = logging.getLogger("medseg3d")

AUTO = "auto"
_ONE_AT_A_TIME = threading.Lock()  # a measurement or an export would disturb another


class EngineOf:
    """Computes windows with the engine that a knob names, made for each network and shape of windows that comes by.

    A batch has always the size of the largest so far: what is missing is filled up and cut off again. Threads that
    compute at the same time have an engine each, with their share of the cores.

    Before an engine computes anything, its logits of the first window are compared with torch's in float32.

    Args:
        name: one of `ENGINES`, or `auto`: the fastest of them, as `fastest_engine` finds it.

    Attributes:
        used: the name of the engine that computed the last windows, or would compute the first ones; with `auto` and no
            windows yet that is `auto`.

    Raises:
        UserError: BAD_VALUE for another name, MISSING_PACKAGE.

    Example:
        >>> network = nn.Conv2d(1, 2, 1).eval()
        >>> engine = EngineOf("torch")
        >>> engine(network, torch.rand(3, 1, 8, 8), Precision("float32")).shape, engine.used
        (torch.Size([3, 2, 8, 8]), 'torch')
    """

    def __init__(self, name: str) -> None:
        if name not in (AUTO, *ENGINES):
            raise UsageError("BAD_VALUE", "--engine", repr(name), f"one of {', '.join([AUTO, *ENGINES])}")
        if name != AUTO:
            ENGINES[name].check_installed()
        self.used = name
        self._name = name
        self._idle: dict[tuple, list[_Made]] = {}

    def __call__(self, network: Callable[..., Any], windows: torch.Tensor, precision: Precision) -> torch.Tensor:
        """Logits (B, C, *spatial) float32 of windows (B, channels, *spatial).

        Raises:
            UserError: BAD_VALUE for what the engine cannot do and for what is no module, ENGINE where it cannot compute
                this network.
        """
        if not isinstance(network, nn.Module):
            given = getattr(network, "__name__", type(network).__name__)
            raise UsageError("BAD_VALUE", f"--engine {self._name}", given, "a torch.nn.Module", "--engine torch")
        idle = self._idle.setdefault((network, windows.shape[1:], precision.name, torch.get_num_threads()), [])
        try:
            made: _Made | None = idle.pop()
        except IndexError:
            made = None
        if made is None or made.batch < len(windows) or made.version != _version(network):
            with _ONE_AT_A_TIME:
                made = self._make(network, windows, precision)
        logits = made(windows)
        self.used = made.engine
        idle.append(made)
        return logits

    def _make(self, network: nn.Module, windows: torch.Tensor, precision: Precision) -> _Made:
        name = self._name
        if name == AUTO:
            name = fastest_engine(network, windows, precision)
        start = time.perf_counter()
        forward = make_engine(name, network, windows, precision)
        took = time.perf_counter() - start
        logger.info("engine %s for windows %s in %s, made in %.1f s", name, tuple(windows.shape), precision, took)
        return _Made(name, forward, len(windows), _version(network))


@dataclass(frozen=True)
class _Made:
    engine: str
    forward: Forward
    batch: int
    version: int

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        number = len(windows)
        if number < self.batch:
            windows = torch.cat([windows, windows.new_zeros(self.batch - number, *windows.shape[1:])])
        return self.forward(windows)[:number]


def _version(network: nn.Module) -> int:
    """A number that grows with every change of a weight: training and loading write in place."""
    tensors = (*network.parameters(), *network.buffers())
    return sum(tensor._version for tensor in tensors if not tensor.is_inference())
