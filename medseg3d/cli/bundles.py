"""`medseg3d bundles`: what comes with medseg3d, and copies of it to edit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HELP = "list the bundles that come with medseg3d, copy one to edit it, or print the options or the path of one"
EPILOG = """\
Every verb that takes a bundle takes the name of one of these too, in any folder.
  medseg3d bundles copy pancreas_nl .
  python -m monai.bundle run training --config_file pancreas_nl/train.json --epochs 100
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing, or one of three actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    copy = actions.add_parser("copy", help="copy a bundle, whole and by itself, to edit it")
    copy.add_argument("name", help="name, or folder, of the bundle")
    copy.add_argument("folder", nargs="?", default=".", metavar="DIR", help="where to, as DIR/NAME (default: here)")
    options = actions.add_parser("options", help="print every option of a bundle's training with its default")
    options.add_argument("name", help="name, or folder, of the bundle")
    path = actions.add_parser("path", help="print the folder of a bundle, for MONAI's own commands")
    path.add_argument("name", help="name of the bundle")


def run(args: argparse.Namespace) -> int:
    """List, copy or print."""
    from medseg3d.bundle_folders import bundle_folder, bundle_names, copy_bundle, source_folder

    if args.action == "path":
        print(bundle_folder(args.name))
        return 0
    if args.action == "options":
        print("\n".join(f"{name:24} {json.dumps(value)}" for name, value in _options(bundle_folder(args.name)).items()))
        return 0
    if args.action == "copy":
        copied = copy_bundle(args.name, args.folder)
        print(f"{copied}, which runs from any folder:")
        print(f"python -m monai.bundle run training --config_file {(copied / 'train.json').as_posix()}")
        return 0
    print("\n\n".join(_described(source_folder(name)) for name in bundle_names()))
    return 0


def _options(folder: Path) -> dict[str, Any]:
    from medseg3d.bundle_folders import completed, read_json

    steps = {"_desc_", "imports", "bundle_root", "initialize", "begin", "training", "run"}
    config = completed(read_json(folder / "train.json"), folder)
    return {name: value for name, value in config.items() if not isinstance(value, dict) and name not in steps}


def _described(folder: Path) -> str:
    """A few lines about a bundle: task, data, weights, what they reach, size."""
    from medseg3d.bundle_folders import read_json, shipped_weights

    about, weights = read_json(folder / "metadata.json"), shipped_weights(folder)
    lines = {"task": about["task"], "data": about["data_source"], "weights": "none; train it, or bring your own"}
    if weights is not None:
        lines["weights"] = f"{weights.overlay}, {weights.file.stat().st_size / 2**20:.1f} MB"
        lines |= {"scores": "; ".join(f"{value} {what}" for what, value in about["eval_metrics"].items())}
    return "\n".join([folder.name, *(f"    {name:8} {text}" for name, text in lines.items())])
