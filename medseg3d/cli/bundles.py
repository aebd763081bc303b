"""`medseg3d bundles`: what comes with medseg3d, and copies of it to edit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from medseg3d.bundle_folders import (
    bundle_folder,
    bundle_names,
    config_files,
    copy_bundle,
    read_json,
    shipped_weights,
    source_folder,
)


def run(args: argparse.Namespace) -> int:
    """List, copy or print."""
    if args.action == "path":
        print(bundle_folder(args.name))
        return 0
    if args.action == "options":
        print("\n".join(f"{name:24} {json.dumps(value)}" for name, value in _options(bundle_folder(args.name)).items()))
        return 0
    if args.action == "copy":
        copied = copy_bundle(args.name, args.folder)
        print(f"copied to {copied}; to train it, from any folder:")
        print(f"python -m monai.bundle run training --config_file {(copied / 'train.json').as_posix()}")
        return 0
    print("\n\n".join(_described(source_folder(name)) for name in bundle_names()))
    return 0


def _options(folder: Path) -> dict[str, Any]:
    from medseg3d.bundle import read_config  # with MONAI, which the list of bundles does without

    steps = {"_desc_", "_meta_", "imports", "bundle_root", "initialize", "begin", "training", "run"}
    config = read_config(config_files(folder, "train.json")).get()
    return {
        name: value
        for name, value in config.items()
        if (value == {} or not isinstance(value, dict)) and name not in steps
    }


def _described(folder: Path) -> str:
    """A few lines about a bundle: task, data, weights, what they reach, size."""
    about, weights = read_json(folder / "metadata.json"), shipped_weights(folder)
    lines = {"task": about["task"], "data": about["data_source"], "weights": "none; train it, or use your own"}
    if weights is not None:
        lines["weights"] = f"{weights.overlay}, {weights.file.stat().st_size / 2**20:.1f} MB"
        lines |= {"scores": "; ".join(f"{value} {what}" for what, value in about["eval_metrics"].items())}
    return "\n".join([folder.name, *(f"    {name:8} {text}" for name, text in lines.items())])
