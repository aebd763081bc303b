"""What can compute a trained network's windows: torch, torch.compile, OpenVINO, ONNX Runtime."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg3d.errors import UsageError, UserError
from medseg3d.inference.exports import export_folder, exported
from medseg3d.machine import cache_folder
from medseg3d.networks.compiling import COMPILE_OPTIONS
from medseg3d.networks.memory_format import channels_last
from medseg3d.precision import Precision

logger = logging.getLogger("medseg3d")

Forward = Callable[[torch.Tensor], torch.Tensor]
"""Logits of windows (B, channels, *spatial), of one shape."""

_TOLERANCE = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.05}
"""How far the logits of an engine may lie from torch's in float32, as a share of their norm: far more than rounding
does to the networks here (docs/performance.md), far less than another network's are off."""
_NOTHING = frozenset[str]()


@dataclass(frozen=True)
class Engine:
    """One of the things that can compute a network.

    Attributes:
        name: as `--engine` has it.
        make: the forward pass of a network for windows of one shape, in a precision. May take long.
        precisions: what it can compute in.
        devices: where.
        packages: what has to be installed, which the extra of its name does.
    """

    name: str
    make: Callable[[nn.Module, torch.Tensor, Precision], Forward]
    precisions: frozenset[str]
    devices: frozenset[str] = _NOTHING
    packages: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether its packages are there."""
        return all(importlib.util.find_spec(package) is not None for package in self.packages)

    def check_installed(self) -> None:
        """Refuse an engine that is not there.

        Raises:
            UserError: MISSING_PACKAGE.
        """
        if not self.installed:
            missing = next(name for name in self.packages if importlib.util.find_spec(name) is None)
            remedy = f"pip install 'medseg3d[{self.name}]', or --engine torch"
            raise UserError("MISSING_PACKAGE", f"--engine {self.name}", f"no package {missing}", "it", remedy)

    def check_able(self, precision: Precision, device: torch.device) -> None:
        """Refuse what it cannot do.

        Raises:
            UserError: BAD_VALUE for a precision or a device.
        """
        if self.devices and device.type not in self.devices:
            raise UsageError(
                "BAD_VALUE", f"--engine {self.name}", f"--device {device}", "a CPU", "--device cpu or --engine torch"
            )
        if precision.name not in self.precisions or (self.name == "openvino" and not _openvino_has(precision)):
            raise UsageError(
                "BAD_VALUE", f"--engine {self.name}", f"--precision {precision}", "float32 here", "--precision float32"
            )


def make_engine(name: str, network: nn.Module, windows: torch.Tensor, precision: Precision) -> Forward:
    """The forward pass of a network by an engine, for windows of one shape, compared with torch's.

    Args:
        name: one of `ENGINES`.
        network: on the device of the windows, in inference mode.
        windows: (B, channels, *spatial); the first is what is compared.
        precision: what it computes in.

    Raises:
        UserError: as `Engine`; ENGINE where the network cannot be computed by it, or comes out as another one.
    """
    engine = ENGINES[name]
    engine.check_installed()
    engine.check_able(precision, windows.device)
    try:
        forward = engine.make(network, windows, precision)
        if name == "torch":
            return forward
        error = difference(network, windows, forward)
    except UserError:
        raise
    except Exception as cause:
        raise _refused(name, network, f"{type(cause).__name__}: {cause}") from cause
    if not error <= _TOLERANCE[precision.name]:
        if engine.packages:  # an export of other code of the same version
            shutil.rmtree(export_folder(network, windows, name), ignore_errors=True)
        raise _refused(name, network, f"logits that differ from torch's by {error:.2g} of their norm")
    return forward


@torch.no_grad()
def difference(network: nn.Module, windows: torch.Tensor, forward: Forward) -> float:
    """Distance of an engine's logits of the first window from torch's in float32, as a share of the norm of these.

    Infinite where one is finite and the other is not; 0 where neither is, which the check of the logits will find.
    """
    found = forward(windows)[:1]
    with torch.autocast(windows.device.type, enabled=False):
        wanted = network(windows[:1])
    finite = bool(wanted.isfinite().all())
    if found.shape != wanted.shape or bool(found.isfinite().all()) != finite:
        return float("inf")
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12)) if finite else 0.0


def _refused(name: str, network: nn.Module, found: str) -> UserError:
    first = found.strip().splitlines()[0][:200]
    return UserError("ENGINE", f"--engine {name}", f"{type(network).__name__}: {first}", "its logits", "--engine torch")


def _torch(network: Callable[..., torch.Tensor], windows: torch.Tensor, precision: Precision) -> Forward:
    def forward(windows: torch.Tensor) -> torch.Tensor:
        with precision.autocast(windows.device.type):
            return network(channels_last(windows)).float()

    return forward


def _compile(network: nn.Module, windows: torch.Tensor, precision: Precision) -> Forward:
    # Inductor's own place is a folder in /tmp
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    return _torch(torch.compile(network, dynamic=False, options=COMPILE_OPTIONS), windows, precision)


@cache
def _openvino_core() -> Any:
    """The one Core of this process.

    The CPU plugin that a Core loads gives its thread another stack for signals, where the processor has AMX. Of two
    plugins that end in the order in which they began, the second leaves the thread the stack of the first, which is
    unmapped by then: the next signal, such as the end of a child process, kills the process (OpenVINO 2026.4.1).
    """
    import openvino

    return openvino.Core()


def _openvino(network: nn.Module, windows: torch.Tensor, precision: Precision) -> Forward:
    settings = {
        "INFERENCE_PRECISION_HINT": "f32" if precision.dtype is None else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # or the engines of several threads would share one core
    }

    def load(folder: Path) -> Any:
        return _openvino_core().compile_model(folder / "model.xml", "CPU", settings)

    request = _loaded(load, network, windows, "openvino").create_infer_request()
    return lambda windows: torch.from_numpy(request.infer([windows.contiguous().numpy()])[0])


def _onnxruntime(network: nn.Module, windows: torch.Tensor, precision: Precision) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()

    def load(folder: Path) -> Any:
        return onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    session = _loaded(load, network, windows, "onnxruntime")
    (name,) = (each.name for each in session.get_inputs())
    return lambda windows: torch.from_numpy(session.run(None, {name: windows.contiguous().numpy()})[0])


def _loaded(load: Callable[[Path], Any], network: nn.Module, windows: torch.Tensor, engine: str) -> Any:
    """What an engine makes of an exported network; of one that is damaged, of a new export."""
    folder = exported(network, windows, engine)
    try:
        return load(folder)
    except Exception as error:
        logger.warning("%s cannot be read and is written again: %s", folder, error)
        shutil.rmtree(folder)
        return load(exported(network, windows, engine))


def _openvino_has(precision: Precision) -> bool:
    if precision.dtype is None:
        return True
    return "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


_CPU = frozenset({"cpu"})
ENGINES: Mapping[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine("torch", _torch, frozenset({"float32", "bfloat16", "float16"})),
        Engine("compile", _compile, frozenset({"float32", "bfloat16", "float16"}), _CPU),
        Engine("openvino", _openvino, frozenset({"float32", "bfloat16"}), _CPU, ("openvino",)),
        Engine("onnxruntime", _onnxruntime, frozenset({"float32"}), _CPU, ("onnxruntime", "onnx", "onnxscript")),
    )
}
"""What `--engine` may name besides `auto`: torch as it is, torch.compile, and two that the network is exported for."""
