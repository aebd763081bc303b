"""Files of tensors: weights and checkpoints, written whole, read safely, and known by their SHA-256."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from medseg3d.errors import UserError
from medseg3d.files.atomic import atomic_write

_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "network_weights")
"""Under which keys trainers put the state dict: Lightning, torch's tutorials, MONAI and ignite, nnU-Net."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
"""What DistributedDataParallel, torch.compile and Lightning put before every name."""


def save_tensors(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write `state` to `path` with its SHA-256 in `path.sha256` (in the form of sha256sum), each whole or not at all.

    The bytes are read back before the file gets its name. While the file is being replaced it has no `.sha256`, so a
    process killed in between leaves no sum that contradicts the file.

    Args:
        path: the final name.
        state: tensors, numbers, strings and nested dictionaries and lists of them.

    Raises:
        UserError: `NO_SPACE` or `NOT_WRITABLE`; `path` then holds what it held before.
    """
    path = Path(path)
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    torch.load(io.BytesIO(content), weights_only=True)  # what cannot be loaded safely must not be saved
    checksum = path.with_name(path.name + ".sha256")
    with atomic_write(path) as file:
        file.write(content)
        checksum.unlink(missing_ok=True)
    with atomic_write(checksum, "w") as file:
        file.write(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")


def read_tensors_and_sum(path: str | Path) -> tuple[dict[str, Any], str]:
    """What `save_tensors` or `torch.save` wrote, read with `weights_only=True` and checked, and the file's SHA-256.

    A name that ends in `.safetensors` is read as such a file. The tensors are on the CPU.

    Args:
        path: the file; if `path.sha256` lies next to it, the content must have that sum.

    Raises:
        UserError: `MISSING_WEIGHTS`, `CHECKSUM` (the sum is another one), `CHECKPOINT` (not a file of tensors,
            truncated, or with more in it than tensors and numbers) or `NON_FINITE` (NaN or infinity in a tensor).
    """
    path = Path(path)
    if not path.is_file():
        remedy = "train first, or name the file with --model_file"
        raise UserError("MISSING_WEIGHTS", path.absolute(), "no such file", "weights", remedy)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    _check_sum(path, digest)
    state = (_from_safetensors if path.suffix == ".safetensors" else _from_torch)(path, content)
    if not isinstance(state, dict):
        raise UserError("CHECKPOINT", path, f"a {type(state).__name__}", "a state dict", "save network.state_dict()")
    for name, tensor in _tensors(state):
        if tensor.is_complex() or (tensor.is_floating_point() and tensor.itemsize == 1):
            raise UserError(
                "CHECKPOINT", path, f"{tensor.dtype} in {name}", "real numbers of 16 bits or more", "convert it"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(
                "NON_FINITE", path, f"NaN or infinity in {name}", "finite weights", "use an earlier checkpoint"
            )
    return state, digest


def read_tensors(path: str | Path) -> dict[str, Any]:
    """What is in a file of tensors, without its sum; arguments and errors as of `read_tensors_and_sum`."""
    return read_tensors_and_sum(path)[0]


def state_of_network(content: Mapping[str, Any], names: Iterable[str]) -> Mapping[str, Any]:
    """The state dict in a file's content: out of the dictionaries and from behind the prefixes of common trainers.

    A prefix goes only where that makes some of the `names` fit, those of the network's own state dict.

    Example:
        >>> state_of_network({"epoch": 3, "state_dict": {"model._orig_mod.conv.weight": 0}}, ["conv.weight"])
        {'conv.weight': 0}
    """
    state = content
    while inner := next((state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)), None):
        state = inner
    wanted, bare = set(names), state
    while not bare.keys() & wanted:
        prefix = next((each for each in _PREFIXES if bare and all(name.startswith(each) for name in bare)), None)
        if prefix is None:
            return state
        bare = {name.removeprefix(prefix): value for name, value in bare.items()}
    return bare


def _from_torch(path: Path, content: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        strange = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        if strange:
            found = f"{strange[1]} in it, which is executable code, not a tensor"
            remedy = "save it again where it was trained: torch.save(network.state_dict(), 'model.pt')"
            raise UserError("CHECKPOINT", path, found, "a file that contains only tensors", remedy) from error
        found = f"{len(content)} bytes that torch cannot load ({' '.join(str(error).split())[:120]})"
        wanted = "a file written by torch.save that contains only tensors"
        raise UserError("CHECKPOINT", path, found, wanted, "copy the file again, or train again") from error


def _from_safetensors(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        found = f"{len(content)} bytes that safetensors cannot load ({' '.join(str(error).split())[:120]})"
        wanted = "a complete .safetensors file"
        raise UserError("CHECKPOINT", path, found, wanted, "copy or download the file again") from error


def _check_sum(path: Path, found: str) -> None:
    checksum = path.with_name(path.name + ".sha256")
    if not checksum.is_file():
        return
    wanted = (checksum.read_text(encoding="utf-8").split() or [""])[0]
    if found != wanted:
        remedy = "copy the file again; delete the .sha256 only if you replaced the file yourself"
        raise UserError("CHECKSUM", path, f"sha256 {found[:12]}", f"{wanted[:12]}, as {checksum.name} says", remedy)


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _tensors(inner, f"{name}[{index}]")
