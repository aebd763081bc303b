"""Which engine is the fastest on this machine: measured once, and kept."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from medseg3d.errors import UserError
from medseg3d.files.atomic import atomic_write
from medseg3d.inference.backends import ENGINES, Forward, make_engine
from medseg3d.inference.exports import digest_of, network_sha256, versions_of
from medseg3d.machine import cache_folder, processor
from medseg3d.precision import Precision

logger = logging.getLogger("medseg3d")

_Key = TypeVar("_Key")
_CANDIDATES = ("torch", "openvino", "onnxruntime")
"""Not torch.compile, which compiles for longer than most scans take."""
_ROUNDS = 3


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
        logger.info("engine torch: no other has been tried on %s", windows.device.type)
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
