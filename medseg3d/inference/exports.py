"""Trained networks in the forms that other engines read: for this program in the user's cache folder, or in a file."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg3d import __version__
from medseg3d.files.atomic import check_folder
from medseg3d.machine import cache_folder

FORMS = {"torchscript": ".ts", "onnx": ".onnx", "torch.export": ".pt2"}
"""Forms that other programs read, and what their files are called."""

_AXES = {2: ("height", "width"), 3: ("x", "y", "z")}

_EXPORTERS = {"openvino": ("openvino",), "onnxruntime": ("onnx", "onnxscript", "onnxruntime")}
"""Engine -> packages that decide what its file is, besides torch."""


def exported(network: nn.Module, windows: torch.Tensor, engine: str) -> Path:
    """The folder with the file of a network that an engine reads, for windows of one shape; made where there is none.

    Args:
        network: on the CPU and in inference mode; what its modules say of themselves, its weights, the windows' shape
            and the versions of the packages are what the folder is found by again.
        windows: (B, channels, *spatial) float32.
        engine: `openvino` (model.xml, model.bin) or `onnxruntime` (model.onnx); float32 in each.

    Raises:
        UserError: NO_SPACE or NOT_WRITABLE, for the cache folder.
        Exception: whatever an exporter raises for a network that it cannot export.
    """
    folder = export_folder(network, windows, engine)
    if not folder.is_dir():
        check_folder(folder.parent)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            with _plain_tensors(windows) as example, _quiet():
                if engine == "openvino":
                    import openvino

                    model = openvino.convert_model(network, example_input=example, input=list(example.shape))
                    openvino.save_model(model, made / "model.xml", compress_to_fp16=False)
                else:
                    _save_onnx(network, (example,), made / "model.onnx")
            (made / "facts.json").write_text(
                json.dumps(_facts(network, windows, engine), indent=2) + "\n", encoding="utf-8"
            )
            with contextlib.suppress(OSError):
                made.rename(folder)  # another process may have been faster
    return folder


def export_folder(network: nn.Module, windows: torch.Tensor, engine: str) -> Path:
    """Where `exported` puts its file, made or not."""
    return cache_folder() / "engines" / engine / digest_of(_facts(network, windows, engine))


def network_sha256(network: nn.Module) -> str:
    """A sum of what a network computes: its modules, as they print themselves, and every tensor of its state."""
    digest = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def digest_of(facts: Mapping[str, Any]) -> str:
    """A name for a set of facts, 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def versions_of(*packages: str) -> dict[str, str]:
    """This package's version and those of others; without those that are not installed."""
    versions = {"medseg3d": __version__}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def export_network(network: nn.Module, windows: torch.Tensor, form: str, path: Path) -> list[str | int]:
    """Write a network in one of `FORMS`; the shape of its input comes back, with a name for each axis that is free.

    The network is on the CPU, in inference mode; of the windows (B, channels, *spatial) float32, B is above 1, because
    a batch of 1 is taken for no batch.

    Raises:
        Exception: whatever torch raises for a network that it cannot export.
    """
    names = ["batch", "channels", *_AXES[windows.ndim - 2]]
    with _plain_tensors(windows) as example, _quiet():
        if form == "torchscript":
            torch.jit.script(network).save(str(path))
            return [windows.shape[1] if name == "channels" else name for name in names]
        dynamic = {axis: torch.export.Dim.AUTO for axis in range(windows.ndim) if axis != 1}
        program = torch.export.export(network, (example,), dynamic_shapes=(dynamic,))
        if form == "torch.export":
            torch.export.save(program, path)
        else:
            _save_onnx(program, (), path, input_names=["image"], output_names=["pred"])
    inputs = [
        node for node in program.graph.find_nodes(op="placeholder") if node.name in program.graph_signature.user_inputs
    ]
    shape = inputs[0].meta["val"].shape
    return [size if isinstance(size, int) else name for name, size in zip(names, shape, strict=True)]


def _facts(network: nn.Module, windows: torch.Tensor, engine: str) -> dict[str, Any]:
    return {
        "network": network_sha256(network),
        "windows": list(windows.shape),
        "versions": versions_of("torch", *_EXPORTERS[engine]),
    }


def _save_onnx(network: Any, inputs: tuple[torch.Tensor, ...], path: Path, **names: Any) -> None:
    program = torch.onnx.export(network, inputs, dynamo=True, verbose=False, **names)
    assert program is not None  # as it is with dynamo
    program.save(path)


@contextlib.contextmanager
def _plain_tensors(windows: torch.Tensor) -> Iterator[torch.Tensor]:
    """A copy of some windows that can be traced: tensors made in inference mode cannot."""
    with torch.inference_mode(False), torch.no_grad():
        yield windows.detach().clone(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context in which the exporters keep to themselves what they fold, trace and would know too."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
