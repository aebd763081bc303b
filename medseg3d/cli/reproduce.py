"""`medseg3d reproduce`: a paper's whole grid of trainings under equal conditions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg3d.bundle_folders import bundle_folder, bundle_root
from medseg3d.cli.experiment import compare
from medseg3d.errors import UsageError
from medseg3d.experiments.definition import packaged


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print the report and write it next to the runs."""
    definition = None if args.table else _definition(args)
    return compare(definition, args.output, _record_name(args.output), jobs=args.jobs, storage=args.storage)


def _record_name(folder: str) -> str:
    return "study" if (Path(folder) / "study.json").is_file() else "cris"  # as an earlier version called it


def _definition(args: argparse.Namespace) -> dict[str, Any]:
    data, splits = _pairs("--data", args.data), _pairs("--split", args.split)
    for name in splits:
        if name not in data:
            found, wanted = "no data set of that name", f"one of {', '.join(data)}"
            raise UsageError("BAD_VALUE", f"--split {name}", found, wanted, "correct the name, or add it to --data")
    if args.tune_epochs is not None and not args.trials:
        raise UsageError("BAD_VALUE", "--tune-epochs", "given with --trials 0", "--trials above 0", "leave it out")
    known = packaged("cris")["factors"]["data"]
    root = bundle_root(bundle_folder(args.bundle))
    for name in data:
        file = root / known[name]["split_file"] if name in known else Path(args.output) / f"split_{name}.json"
        data[name] = {"dataset_dir": data[name], "split_file": splits.get(name, str(file))}
    factors = {"data": data, "backbone": args.backbones, "strategy": args.strategies}
    own = {
        "name": _record_name(args.output),
        "bundle": args.bundle,
        "seeds": args.seeds,
        "part": args.part,
        "knobs": args.knobs,
    }
    definition = packaged("cris", factors, **own)
    definition["tune"] |= {"trials": args.trials}
    definition["tune"] |= {} if args.tune_epochs is None else {"knobs": {"epochs": args.tune_epochs}}
    definition["threshold"] |= {"part": args.threshold_part}
    return definition


def _pairs(option: str, texts: Sequence[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in pairs:
            found = "a duplicate name" if name in pairs else "no NAME=PATH"
            raise UsageError("BAD_VALUE", f"{option} {text}", found, "NAME=PATH, each name once", "correct it")
        pairs[name] = value
    return pairs
