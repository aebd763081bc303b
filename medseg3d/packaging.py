"""A bundle for other programs: as MONAI's model zoo publishes one, and its network alone in a form they read."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from medseg3d import __version__
from medseg3d.bundle import absolute_paths, read_config
from medseg3d.bundle_folders import (
    CONFIGS,
    RUNNING_ROOT,
    bundle_directory,
    bundle_folder,
    config_files,
    copy_bundle,
    read_json,
    shipped_weights,
    write_json,
)
from medseg3d.errors import UsageError, UserError
from medseg3d.files.atomic import check_folder, make_folder
from medseg3d.files.stream import file_sha256
from medseg3d.inference import load_weights
from medseg3d.inference.exports import FORMS, export_network

_MODEL = "$os.path.join(@bundle_root, 'models', 'model.pt')"
_RESULTS = "$os.path.join(@bundle_root, 'eval')"


def package_bundle(
    bundle: str | Path,
    output_dir: str | Path,
    *,
    weights: str | Path | None = None,
    weights_url: str | None = None,
    overlays: Sequence[str] = (),
    knobs: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write a bundle in the layout of MONAI's model zoo; the folder and its ZIP come back.

    `configs/` holds train.json, evaluate.json and inference.json, whole and with the overlays and knobs in them,
    metadata.json and logging.conf; `models/model.pt` the weights, in float32; `docs/` the bundle's pages. Its configs
    call medseg3d, which has to be installed where it runs; nothing else of this project has to be there.

    Args:
        bundle: folder or name.
        output_dir: gets `NAME` and `NAME_v<version>.zip`.
        weights: of the network that the overlays and knobs make; None for those that the bundle ships.
        weights_url: where the weights can be downloaded from: the ZIP then leaves them out and large_files.yml has it.
        overlays: overlays that the training had, without `.json`.
        knobs: knobs that it had.

    Raises:
        UserError: `MISSING_WEIGHTS` when none are named and none are shipped; `NOT_EMPTY` for a folder that is there;
            `NOT_WRITABLE`; as `read_config` and `load_weights`.
    """
    with tempfile.TemporaryDirectory() as work:
        source = copy_bundle(bundle, work)
        weights, overlays, shipped = _weights(source, weights, overlays, knobs or {})
        parsers = {name: _read(source, name, overlays, knobs or {}) for name in CONFIGS}
        network = load_weights(parsers["inference.json"].get_parsed_content("network_def"), weights)
        target, archive = _targets(Path(output_dir), source)
        metadata = _metadata(read_json(source / "metadata.json"), parsers["inference.json"])
        for name, content in {
            **{name: _config(name, parser) for name, parser in parsers.items()},
            "metadata.json": metadata,
        }.items():
            write_json(target / "configs" / name, content)
        shutil.copy(source / "logging.conf", target / "configs")
        shutil.copy(source / "LICENSE", target)
        shutil.copytree(source / "docs", target / "docs")
        about_weights = f"Its weights: `{Path(weights).name}`, SHA-256 `{network.weights_sha256}`."
        if shipped:
            shutil.copy(source / "models" / "README.md", target / "models")
            about_weights = "The model card of its weights is `models/README.md`."
        _write_page(target / "docs" / "README.md", metadata, about_weights, source.name)
    model = target / "models" / "model.pt"
    tensors = network.state_dict().items()
    torch.save({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors}, model)
    if weights_url is not None:
        _write_large_files(target, model, weights_url)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for path in sorted(target.rglob("*")):
            if path != model or weights_url is None:
                file.write(path, Path(target.name) / path.relative_to(target))
    return target, archive


def export_bundle(
    bundle: str | Path,
    form: str,
    output: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    overlays: Sequence[str] = (),
    knobs: Mapping[str, Any] | None = None,
) -> tuple[Path, list[str | int]]:
    """Write the network of a bundle with its weights in a form that other programs read.

    It takes what the bundle's transforms make of an image, and gives logits.

    Args:
        bundle: folder or name.
        form: a key of `medseg3d.inference.FORMS`.
        output: the file; None for the bundle's name, here.
        weights: as in `package_bundle`.
        overlays: as there.
        knobs: as there.

    Returns:
        The file, and the shape of its input, with a name for each axis that is free.

    Raises:
        UserError: `MISSING_WEIGHTS`; `NOT_WRITABLE`; as `read_config` and `load_weights`.
    """
    folder = bundle_folder(bundle)
    weights, overlays, _ = _weights(folder, weights, overlays, knobs or {})
    with bundle_directory(folder):
        parser = _read(folder, "inference.json", overlays, knobs or {})
        network = load_weights(parser.get_parsed_content("network_def"), weights).eval()
        shape = [2, parser.get_parsed_content("in_channels"), *parser.get_parsed_content("roi_size")]
    path = Path(output or f"{folder.name}{FORMS[form]}")
    check_folder(path.parent)
    return path, export_network(network, torch.zeros(shape), form, path)


def _weights(
    folder: Path, weights: str | Path | None, overlays: Sequence[str], knobs: Mapping[str, Any]
) -> tuple[Path, Sequence[str], bool]:
    """A file of weights, the overlays that it wants, and whether they are those that the bundle ships."""
    if weights is not None:
        return Path(weights).absolute(), overlays, False
    shipped = None if overlays or knobs else shipped_weights(folder)
    if shipped is None:
        found = "none for these overlays and knobs" if overlays or knobs else f"none: {folder.name} ships none"
        raise UserError("MISSING_WEIGHTS", "--weights", found, "a weights file", "--weights runs/X/model.pt")
    return shipped.file, [shipped.overlay], True


def _read(source: Path, name: str, overlays: Sequence[str], knobs: Mapping[str, Any]) -> ConfigParser:
    if "model_file" in knobs:
        raise UsageError(
            "BAD_VALUE", "--model_file", "given as an option of the bundle", "--weights FILE", "use --weights"
        )
    return read_config(config_files(source, name, overlays), absolute_paths(knobs))


def _targets(output: Path, source: Path) -> tuple[Path, Path]:
    """The folder and the ZIP, neither of which may be there."""
    version = read_json(source / "metadata.json")["version"]
    found = output / source.name, output / f"{source.name}_v{version}.zip"
    for path in found:
        if path.exists():
            raise UsageError("NOT_EMPTY", path, "existing files", "a new folder", "choose another folder with -o")
    for part in ("configs", "models"):
        make_folder(found[0] / part)
    return found


def _config(name: str, parser: ConfigParser) -> dict[str, Any]:
    """A config as its file has it.

    MONAI's `load` and other programs initialize a train.json only to get its network. So what begins a training, claims
    its folder and reads its data is the first part of running it here.
    """
    config = {key: value for key, value in parser.get().items() if key != "_meta_"}
    config["bundle_root"] = RUNNING_ROOT
    if name == "train.json":
        begin = config.pop("initialize")
        return {**config, "training": [*begin, *config["training"]], "run": [*begin, *config["run"]]}
    return {**config, "model_file": _MODEL, "output_dir": _RESULTS}


def _metadata(about: dict[str, Any], parser: ConfigParser) -> dict[str, Any]:
    """The bundle's metadata with what its knobs say of the network."""
    parser.parse()
    knobs = {key: parser.get_parsed_content(key) for key in ("in_channels", "num_classes", "class_names")}
    about = {key: value for key, value in deepcopy(about).items() if key != "shipped_weights"}
    image, pred = about["network_data_format"]["inputs"]["image"], about["network_data_format"]["outputs"]["pred"]
    classes = ["background", *knobs["class_names"]]
    if "out_channels" in parser and parser.get_parsed_content("out_channels") == 1:
        classes = classes[1:]
    pred |= {"num_channels": len(classes), "channel_def": {str(k): name for k, name in enumerate(classes)}}
    image["num_channels"] = knobs["in_channels"]
    if "neighbours" in parser:
        image["channel_def"] = {str(k): name for k, name in enumerate(_slices(parser, knobs["in_channels"]))}
    if "channel_mean" in parser:
        mean, std = (parser.get_parsed_content(key) for key in ("channel_mean", "channel_std"))
        black, white = ([(value - m) / s for m, s in zip(mean, std, strict=True)] for value in (0, 1))
        image["value_range"] = [math.floor(min(black) * 1000) / 1000, math.ceil(max(white) * 1000) / 1000]
    about["required_packages_version"]["medseg3d"] = __version__
    return about


def _slices(parser: ConfigParser, channels: int) -> list[str]:
    """The name of each channel: slices from below to above, all of them as often as they fit."""
    neighbours = parser.get_parsed_content("neighbours")
    names = [f"slice {offset:+d}" if offset else "slice" for offset in range(-neighbours, neighbours + 1)]
    return names * (channels // len(names))


_PAGE = """\
# {name}

{description} Research only: not a medical device, and not for clinical use.

The configs call medseg3d: `pip install medseg3d=={version}` where this runs, in addition to the packages
in `required_packages_version` of `configs/metadata.json`. Nothing else of that project is
needed. In this folder, or from any other folder by its path:

    python -m monai.bundle run inferring --config_file configs/inference.json --inputs "['image']"
    python -m monai.bundle run evaluating --config_file configs/evaluate.json --dataset_dir DATA
    python -m monai.bundle run training --config_file configs/train.json --dataset_dir DATA

Masks and scores go to `eval/` here, or to `--output_dir DIR`; a training goes to its own folder in `runs/`. {weights}

What follows is the page of the bundle in its repository, where its files are under `bundles/{folder}/`.

"""


def _write_page(path: Path, metadata: Mapping[str, Any], weights: str, bundle: str) -> None:
    """Put a page about the package before that of the bundle."""
    named = {"name": metadata["name"], "description": metadata["description"], "version": __version__}
    head = _PAGE.format(**named, weights=weights, folder=bundle)
    path.write_text(f"{head}#{path.read_text(encoding='utf-8')}", encoding="utf-8")


def _write_large_files(target: Path, model: Path, url: str) -> None:
    entry = {"path": "models/model.pt", "url": url, "hash_val": file_sha256(model), "hash_type": "sha256"}
    lines = [f"{'  - ' if key == 'path' else '    '}{key}: {json.dumps(value)}" for key, value in entry.items()]
    (target / "large_files.yml").write_text("\n".join(["large_files:", *lines]) + "\n", encoding="utf-8")
