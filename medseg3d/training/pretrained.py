"""A network that begins with weights from elsewhere: an encoder's, or all."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg3d.bundle_folders import bundle_folder, bundle_names, shipped_weights, source_folder
from medseg3d.errors import UsageError, UserError
from medseg3d.files.atomic import atomic_write
from medseg3d.files.folders import first_of
from medseg3d.files.tensors import read_tensors, read_tensors_and_sum, state_of_network
from medseg3d.inference.weights import Fit, fit_of
from medseg3d.networks.pretrained import load_pretrained
from medseg3d.ranks import rank
from medseg3d.training.parameter_groups import freeze_parameters

logger = logging.getLogger("medseg3d")

SUFFIXES = (".pth", ".pt", ".safetensors")
"""Of the files that are taken for weights."""

INITIAL_WEIGHTS = "initial_weights.json"
"""In a run's folder: the file that its network began with, its SHA-256, and what of it was loaded."""

LEAST_LOADED = 0.1
"""Share of a network's kernels and matrices that a file to begin with has to fill; an encoder alone is more."""


def with_pretrained_encoder(
    network: nn.Module, weights: str | Path | None = None, init_from: str | Path | None = None
) -> nn.Module:
    """The network itself, its `backbone` filled with the weights in a file, which the log gives account of.

    Args:
        network: a network whose encoder is its attribute `backbone`.
        weights: ImageNet weights as `medseg3d.networks.pretrained.load_pretrained` takes them: a file, or a name as
            `find_weights` takes it. None leaves the encoder as it was made.
        init_from: weights that the whole network begins with after this (`with_initial_weights`); with neither, the log
            warns.

    Raises:
        UserError: PRETRAINED, or as `find_weights` and `medseg3d.files.tensors.read_tensors`.
    """
    if weights is None:
        if init_from is None:
            logger.warning("no --pretrained: the encoder is randomly initialised (the paper uses ImageNet weights)")
        return network
    path = find_weights(weights)
    report = load_pretrained(network.get_submodule("backbone"), read_tensors(path), str(path))
    logger.info(
        "%s: %d tensors of the encoder filled, %d missing%s, %d unexpected%s (%s)",
        path,
        report.matched,
        len(report.missing),
        _first(report.missing),
        len(report.unexpected),
        _first(report.unexpected),
        report.layout,
    )
    return network


def with_initial_weights(
    network: nn.Module,
    init_from: str | Path | None = None,
    freeze: str | Sequence[str] = (),
    device: str | torch.device = "cpu",
) -> nn.Module:
    """The network itself on `device`, with all the weights of a file that fit it, to begin a training with.

    A tensor of another shape stays as the network was made, at random, as with MONAI's `copy_model_state`: the last
    layer of other classes, the first convolution of other channels (they are neither averaged nor repeated), position
    embeddings of another size (not interpolated). The log counts what was loaded and names what was not; the whole
    account is in the network's attribute `initial_weights`, which `write_initial_weights` writes.

    Args:
        network: the network.
        init_from: as `find_initial_weights` takes it; None leaves the network as it was made.
        freeze: patterns of the names of parameters that do not learn, as `freeze_parameters` takes them.
        device: where the network goes.

    Raises:
        UserError: as `find_initial_weights`, `medseg3d.files.tensors.read_tensors` and `freeze_parameters`; CHECKPOINT
            if less than 10 % of the network's kernels and matrices are in the file: it is another network's.
    """
    if init_from is not None:
        path = find_initial_weights(init_from)
        content, sha256 = read_tensors_and_sum(path)
        state = state_of_network(content, network.state_dict())
        fit = fit_of(network, state)
        _check_share(network, fit, path)
        network.load_state_dict({name: state[name] for name in fit.fitting}, strict=False)
        network.initial_weights = {"file": str(path.absolute()), "sha256": sha256, **fit._asdict()}  # type: ignore[assignment]
        _log_account(len(network.state_dict()), fit, path)
    frozen = freeze_parameters(network, freeze)
    if frozen:
        logger.info("%d parameter tensors are frozen%s", len(frozen), _first(tuple(frozen)))
    return network.to(device)


def find_initial_weights(init_from: str | Path) -> Path:
    """The file of weights that a path or a bundle's name stands for: the bundle's shipped ones.

    Raises:
        UserError: MISSING_WEIGHTS: neither a file nor a bundle with weights.
    """
    path = Path(init_from).expanduser()
    if path.is_file():
        return path
    try:
        shipped = shipped_weights(bundle_folder(path))
    except UsageError:
        shipped = None
    if shipped is not None:
        return shipped.file
    ships = ", ".join(name for name in bundle_names() if shipped_weights(source_folder(name)))
    wanted = f"a run's model.pt, another file of weights, or one of {ships}"
    remedy = "correct --init_from, or leave it out to train from random weights"
    raise UserError("MISSING_WEIGHTS", init_from, "neither a file nor a bundle with weights", wanted, remedy)


def write_initial_weights(network: nn.Module, output_dir: str | Path) -> None:
    """Write what a network begins with to `initial_weights.json` in a run's folder; of several processes, the first.

    Where the weights are random no such file is left there.
    """
    account = getattr(network, "initial_weights", None)
    path = Path(output_dir) / INITIAL_WEIGHTS
    if rank() > 0:
        return
    if account is None:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path, "w") as file:
        json.dump(account, file, indent=2)


def initial_weights_record(output_dir: str | Path) -> dict[str, Any]:
    """What a summary says of the file that a run in a folder began with: its path, its SHA-256, tensors of each kind.

    Example:
        >>> initial_weights_record("runs/at_random")
        {}
    """
    path = Path(output_dir) / INITIAL_WEIGHTS
    if not path.is_file():
        return {}
    account = json.loads(path.read_text(encoding="utf-8"))
    counted = {name: len(value) if isinstance(value, list) else value for name, value in account.items()}
    return {"initial_weights": counted}


def _check_share(network: nn.Module, fit: Fit, path: Path) -> None:
    """Refuse a file of another network. Vectors do not count: norms of two networks are often of the same lengths."""
    kernels = [name for name, value in network.state_dict().items() if value.ndim > 1]
    filled = len(set(kernels) & set(fit.fitting))
    if filled < LEAST_LOADED * len(kernels):
        found = f"{filled} of the {len(kernels)} kernels and matrices of this {type(network).__name__} in it; {fit}"
        remedy = "check that it is a network of this bundle and overlay, with the same widths and dimensions"
        raise UserError("CHECKPOINT", path, found, f"at least {LEAST_LOADED:.0%} of them", remedy)


def _log_account(tensors: int, fit: Fit, path: Path) -> None:
    kept = {
        "not in the file": fit.missing,
        "of another shape in the file": fit.of_another_shape,
        "of another kind in the file": fit.of_another_kind,
    }
    logger.info(
        "training starts from %s: %d of %d tensors loaded%s%s",
        path,
        len(fit.fitting),
        tensors,
        "".join(f"; {len(names)} left random, {why}{_first(names)}" for why, names in kept.items() if names),
        f"; {len(fit.unexpected)} in the file unused{_first(fit.unexpected)}" if fit.unexpected else "",
    )


def find_weights(weights: str | Path) -> Path:
    """The file of weights that a path names or, where there is none, a bare name in torch's own folder of weights.

    That folder is `hub/checkpoints` in TORCH_HOME (by default ~/.cache/torch), where torchvision, timm and others leave
    what they download. A name is a file's (`resnet50-11ad3fa6.pth`), or what stands before its suffix, with or without
    the hash that torchvision appends (`resnet50-11ad3fa6`, `resnet50`). Nothing is downloaded.

    Args:
        weights: a path, or a name without a folder.

    Raises:
        UserError: MISSING_WEIGHTS: no such file, and in that folder none of the name or several.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    remedy = "name a file of ImageNet weights with --pretrained, or leave it out to train from scratch"
    if path.name != str(weights):
        raise UserError("MISSING_WEIGHTS", path.absolute(), "no such file", "ImageNet weights", remedy)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    there = sorted(file for file in folder.glob("*") if file.suffix in SUFFIXES)
    exact = [file for file in there if path.name in (file.name, file.stem)]
    found = exact or [file for file in there if file.stem.rpartition("-")[0] == path.name]
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found or there) or "no weights"
    said = f"no such file here, and {len(found)} of that name among those in {folder}: {names}"
    raise UserError("MISSING_WEIGHTS", path, said, "a file, or a name that is unique there", remedy)


def _first(names: tuple[str, ...]) -> str:
    return f" ({first_of(names, 3)})" if names else ""
