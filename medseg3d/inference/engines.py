"""Engines: a network's windows computed by torch or by another of `ENGINES`, whichever a knob names."""

from __future__ import annotations

import json
import logging
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from medseg3d.errors import UsageError, UserError
from medseg3d.files.atomic import atomic_write
from medseg3d.inference.backends import ENGINES, Forward, make_engine
from medseg3d.inference.exports import digest_of, network_sha256, versions_of
from medseg3d.machine import cache_folder, processor
from medseg3d.precision import Precision

logger = logging.getLogger("medseg3d")

AUTO = "auto"
_ONE_AT_A_TIME = threading.Lock()  # a measurement or an export would disturb another
_Key = TypeVar("_Key")
_CANDIDATES = ("torch", "openvino", "onnxruntime")
"""Not torch.compile, which compiles for longer than most scans take."""
_ROUNDS = 3


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
            raise UsageError(
                "BAD_VALUE", "--engine", repr(name), f"one of {', '.join([AUTO, *ENGINES])}", "correct the name"
            )
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


def fastest_engine(network: nn.Module, windows: torch.Tensor, precision: Precision) -> str:
    """The name of the engine that takes the least time for some windows; one log line says which and why.

    Each engine that is installed, can compute the network in this precision and gives torch's logits computes the same
    windows in turns, and the median of its times counts. The answer is kept in the user's cache folder, and is that of
    this network, shape, precision, number of threads, processor and versions. On other devices than CPUs it is `torch`,
    because nothing else has been tried there.

    Raises:
        UserError: NO_SPACE or NOT_WRITABLE, for the cache folder.
    """
    if windows.device.type != "cpu":
        logger.info("engine torch: no other engine was tried on %s", windows.device.type)
        return "torch"
    facts = {
        "network": network_sha256(network),
        "windows": list(windows.shape),
        "precision": precision.name,
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "instructions": sorted(name for name, there in torch.cpu.get_capabilities().items() if there is True),
        "versions": versions_of("torch", "openvino", "onnxruntime"),
    }
    file = cache_folder() / "engines" / "fastest" / f"{digest_of(facts)}.json"
    kept = _read(file)
    if kept is None:
        kept = {**facts, **measured(network, windows, precision)}
        with atomic_write(file, "w") as stream:
            json.dump(kept, stream, indent=2)
            stream.write("\n")
    seconds = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in kept["seconds"].items())
    logger.info("engine %s is the fastest here: %s for windows %s", kept["fastest"], seconds, facts["windows"])
    return kept["fastest"]


def measured(network: nn.Module, windows: torch.Tensor, precision: Precision) -> dict[str, Any]:
    """`fastest`, the median `seconds` of every engine for some windows, and of the others why they were `left_out`."""
    forwards: dict[str, Forward] = {}
    left_out: dict[str, str] = {}
    for name in _CANDIDATES:
        try:
            forwards[name] = make_engine(name, network, windows, precision)
        except UserError as error:
            if name == "torch":
                raise
            left_out[name] = str(error)
    times = in_turns(forwards, windows, _ROUNDS)
    seconds = {name: round(statistics.median(values), 6) for name, values in times.items()}
    return {"fastest": min(seconds, key=lambda name: seconds[name]), "seconds": seconds, "left_out": left_out}


def in_turns(forwards: Mapping[_Key, Forward], windows: torch.Tensor, rounds: int) -> dict[_Key, list[float]]:
    """Seconds that each of some engines takes for the same windows, one round after the other, all in each."""
    times: dict[_Key, list[float]] = {key: [] for key in forwards}
    for _ in range(rounds):
        for key, forward in forwards.items():
            start = time.perf_counter()
            forward(windows)
            times[key].append(time.perf_counter() - start)
    return times


def _read(file: Path) -> dict[str, Any] | None:
    """What was measured before; None where nothing was, or where it cannot be read or used."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return kept if kept["fastest"] in kept["seconds"] and kept["fastest"] in ENGINES else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
