"""`medseg3d reproduce`: a paper's whole grid of trainings under equal conditions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HELP = "rerun a paper's experiment (data sets x backbones x strategies) and print its tables next to ours"
TAKES_KNOBS = True
EPILOG = """\
  medseg3d reproduce cris -o runs/cris --data kvasir-seg=data/Kvasir-SEG clinicdb=data/CVC-ClinicDB
Other --key value pairs set options of polyp_cris for all runs: --picture_size [128,128] --epochs 40
Interrupted? Rerun the same command to resume: what is finished stays, what was begun resumes, what failed is tried
again. The same command in another terminal takes other combinations.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The paper, its data, what of the grid, how it is tuned and scored."""
    parser.add_argument("paper", choices=("cris",), help="the paper, by the name of its bundle polyp_cris")
    parser.add_argument("-o", "--output", required=True, help="folder for the runs, cris.json, cris.md and figures")
    parser.add_argument("--bundle", default="polyp_cris", help="folder or name (default: %(default)s)")
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="NAME=DIR",
        help="kvasir-seg and clinicdb are shown next to the paper's numbers; others have no published counterpart",
    )
    parser.add_argument(
        "--split",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="split file of a data set, made on first use (default: the paper's shares, in data/splits)",
    )
    parser.add_argument("--backbones", nargs="+", metavar="NAME", help="of unet, unet_plus_plus, segnet (default: all)")
    parser.add_argument("--strategies", nargs="+", metavar="NAME", help="of backbone, fcn, crf, cris (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="default: 0")
    parser.add_argument(
        "--trials",
        type=int,
        default=20,
        metavar="N",
        help="trials of the tuning of each learning rate; 0: none, --learning_rate for all (default: %(default)s)",
    )
    parser.add_argument("--tune-epochs", type=int, metavar="N", help="epochs of a trial (default: the training's)")
    parser.add_argument("--storage", metavar="URL", help="database of the trials (default: a file for each tuning)")
    parser.add_argument(
        "--threshold-part", default="train", metavar="PART", help="the threshold is chosen on: train or val"
    )
    parser.add_argument("--part", default="test", metavar="PART", help="what is scored (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="combinations at a time (default: 1)")
    parser.add_argument("--table", action="store_true", help="train nothing; tables and figures of what is there")


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print the report and write it beside the runs."""
    from medseg3d.cli.experiment import compare

    definition = None if args.table else _definition(args)
    return compare(definition, args.output, _record_name(args.output), jobs=args.jobs, storage=args.storage)


def _record_name(folder: str) -> str:
    return "study" if (Path(folder) / "study.json").is_file() else "cris"  # as an earlier version called it


def _definition(args: argparse.Namespace) -> dict[str, Any]:
    from medseg3d.bundle_folders import bundle_folder, bundle_root
    from medseg3d.errors import UsageError
    from medseg3d.experiments.definition import packaged

    data, splits = _pairs("--data", args.data), _pairs("--split", args.split)
    for name in splits:
        if name not in data:
            raise UsageError("BAD_VALUE", f"--split {name}", "no data set of that name", f"one of {', '.join(data)}")
    if args.tune_epochs is not None and not args.trials:
        raise UsageError("BAD_VALUE", "--tune-epochs", "no trials", "--trials above 0 with it", "leave it out")
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
    from medseg3d.errors import UsageError

    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in pairs:
            found = "a name without a path" if name not in pairs else "a name that comes twice"
            raise UsageError("BAD_VALUE", f"{option} {text}", found, "NAME=PATH, each name once", "correct it")
        pairs[name] = value
    return pairs
