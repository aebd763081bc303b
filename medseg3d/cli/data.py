"""`medseg3d data`: fetch, verify and split a data set, and count its levels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medseg3d.cli.progress import progress_bar
from medseg3d.cli.size_limits import add_limits
from medseg3d.errors import UsageError, UserError

if TYPE_CHECKING:
    from medseg3d.data.splits import Split

HELP = "download a dataset, verify it, split it into train, val and test, or compute its channel statistics"
RENAMED = {"--cases": "--expect-cases", "--split_file": "--output"}

_LAYOUTS = "dataset folder: MSD layout, or 2-D images as images/ + masks/, Original/ + 'Ground Truth'/, or PraNet's"
_GROUPS = "2-D images: regular expression that finds the patient or sequence in a file name, or clinicdb-sequence"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand each."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    fetch = actions.add_parser("fetch", help="download a dataset and check it, or say how to get it")
    fetch.add_argument(
        "name",
        choices=["pancreas", "kvasir-seg", "cvc-clinicdb"],
        help="MSD Task07_Pancreas (11.4 GB, CC BY-SA 4.0), Kvasir-SEG (46 MB), or CVC-ClinicDB (no open link)",
    )
    fetch.add_argument("--root", default="data", help="folder to put it in (default: %(default)s)")
    fetch.add_argument("--keep-archive", action="store_true", help="keep the archive after unpacking")

    verify = actions.add_parser("verify", help="read every file of a dataset and list everything that is wrong")
    verify.add_argument("dataset_dir", help=_LAYOUTS)
    verify.add_argument(
        "--expect-cases",
        type=int,
        metavar="N",
        help="number of labelled cases that must be there (Task07_Pancreas: 281, Kvasir-SEG: 1000, CVC-ClinicDB: 612)",
    )
    verify.add_argument("--workers", type=int, default=1, help="number of threads (default: %(default)s)")
    verify.add_argument("--split-file", help="2-D images: split file to check for train/val/test leakage")
    verify.add_argument("--group-pattern", help=_GROUPS)
    verify.add_argument(
        "--grid-tolerance",
        type=float,
        metavar="VOXELS",
        help="volumes: how far a corner of a label may be from that of its image, in voxels (default: 0.25)",
    )
    add_limits(verify)

    split = actions.add_parser("split", help="write a split file, or show the one that exists")
    split.add_argument("dataset_dir", help=_LAYOUTS)
    for part, default in (("test", "24 volumes"), ("val", "26 volumes")):
        split.add_argument(
            f"--{part}-cases",
            type=_number,
            metavar="N",
            help=f"number of cases, or a fraction such as 0.1 (default: {default}, 0.1 of 2-D images)",
        )
    split.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    split.add_argument("--group-pattern", help=_GROUPS)
    split.add_argument(
        "--train-list",
        help="2-D images: text file of the cases to train and validate with, or a wildcard ('TrainDataset/*'); all "
        "others are the test split",
    )
    split.add_argument(
        "--from",
        dest="lists",
        nargs="+",
        metavar="FILE",
        help="your own split: JSON with lists train, val and test, nnU-Net's splits_final.json, a MONAI datalist, or "
        "text files with the training, validation and test cases",
    )
    split.add_argument("--fold", type=int, help="of such a file with several folds the one that validates, from 0")
    split.add_argument("--output", help="split file (default: data/splits/<folder>_seed<seed>.json)")

    statistics = actions.add_parser(
        "statistics", help="2-D images: mean and standard deviation of each channel, as options to paste"
    )
    statistics.add_argument("dataset_dir", help="folder of pictures")
    statistics.add_argument("--split-file", help="split file whose training set is used (default: every image)")
    add_limits(statistics, volumes=False)


def run(args: argparse.Namespace) -> int:
    """Exit code 0, or 1 if `verify` found anything wrong."""
    return {"fetch": _fetch, "verify": _verify, "split": _split, "statistics": _statistics}[args.action](args)


def _fetch(args: argparse.Namespace) -> int:
    from medseg3d.data.fetch import fetch_kvasir_seg, fetch_pancreas, find_clinicdb

    if args.name == "cvc-clinicdb":
        find_clinicdb(args.root)
    else:
        fetch = fetch_pancreas if args.name == "pancreas" else fetch_kvasir_seg
        fetch(args.root, keep_archive=args.keep_archive)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from medseg3d.data.verify import verify_msd, verify_pictures
    from medseg3d.volumes.grids import GRID_TOLERANCE

    tolerance = GRID_TOLERANCE if args.grid_tolerance is None else args.grid_tolerance
    with progress_bar("case") as progress:
        if _holds_pictures(args):
            report = verify_pictures(
                args.dataset_dir, args.split_file, args.group_pattern, args.expect_cases, args.workers, progress
            )
        else:
            report = verify_msd(args.dataset_dir, args.expect_cases, args.workers, progress, tolerance)
    for path, warning in report.warnings:
        print(f"warning: {path}: {warning}")
    for error in report.errors:
        print(f"error: {error}")
    values = ", ".join(f"{value} in {count}" for value, count in sorted(report.label_values.items())) or "none"
    print(
        f"{report.folder}: {report.n_cases} labelled and {report.n_test} unlabelled cases, label values {values}, "
        f"{len(report.errors)} errors, {len(report.warnings)} warnings"
    )
    return 1 if report.errors else 0


def _split(args: argparse.Namespace) -> int:
    from medseg3d.data.msd import read_msd
    from medseg3d.data.picture_folders import split_of_pictures
    from medseg3d.data.splits import PARTS
    from medseg3d.data.volume_splits import default_split_file, split_of_volumes

    path = args.output or default_split_file(args.dataset_dir, args.seed)
    test, val = args.test_cases, args.val_cases
    of_pictures = _holds_pictures(args)
    if args.lists is not None:
        split = _listed_split(args, path, of_pictures)
    elif of_pictures:
        test, val = 0.1 if test is None else test, 0.1 if val is None else val
        _, split = split_of_pictures(args.dataset_dir, path, test, val, args.seed, args.group_pattern, args.train_list)
    else:
        test, val = 24 if test is None else test, 26 if val is None else val
        split = split_of_volumes(read_msd(args.dataset_dir), path, test, val, args.seed)
    sizes = ", ".join(f"{len(getattr(split, part))} {part}" for part in PARTS)
    print(f"{path}: {sizes}, hash {split.hash[:12]}")
    print(f"any bundle uses it with --split_file {path}")
    return 0


def _listed_split(args: argparse.Namespace, path: str | Path, of_pictures: bool) -> Split:
    """The split that the user's lists say, written unless it is there already."""
    from medseg3d.data.listed_splits import listed_split
    from medseg3d.data.msd import read_msd
    from medseg3d.data.picture_folders import data_set_name, read_picture_folder
    from medseg3d.data.splits import read_split, write_split

    drawn = [name for name in ("test_cases", "val_cases", "train_list") if getattr(args, name) is not None]
    if drawn:
        found = "it together with --from, which lists every part"
        raise UsageError("BAD_VALUE", "--" + drawn[0].replace("_", "-"), found, "one of the two", "leave it out")
    if of_pictures:
        cases, name = read_picture_folder(args.dataset_dir, args.group_pattern), data_set_name(args.dataset_dir)
    else:
        dataset = read_msd(args.dataset_dir)
        cases, name = dataset.cases, dataset.name
    groups = {case["case"]: case["group"] for case in cases if "group" in case}
    split = listed_split(args.lists, cases, args.fold, groups)
    if Path(path).exists():
        if (there := read_split(path)).hash != split.hash:
            found, wanted = f"another split ({there.hash[:12]})", f"the split of the lists ({split.hash[:12]})"
            raise UserError(
                "SPLIT_MISMATCH", path, found, wanted, "name another file with --output, or delete this one"
            )
    else:
        write_split(path, split, name)
    return split


def _statistics(args: argparse.Namespace) -> int:
    from medseg3d.data.channel_statistics import training_statistics

    found = training_statistics(args.dataset_dir, args.split_file)
    part = f"the training set of {args.split_file}" if args.split_file else "all pictures; --split_file for a part"
    print(f"{found.pictures} pictures, {found.pixels:,} pixels in [0, 1] ({part})")
    print(
        " ".join(
            f'--channel_{name} "{[round(value, 6) for value in getattr(found, name)]}"' for name in ("mean", "std")
        )
    )
    return 0


def _holds_pictures(args: argparse.Namespace) -> bool:
    """Whether the data set is of pictures; options that only pictures have are not passed over."""
    from medseg3d.data.picture_folders import holds_pictures

    if holds_pictures(args.dataset_dir):
        return True
    given = [name for name in ("split_file", "group_pattern", "train_list") if getattr(args, name, None) is not None]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise UsageError(
            "BAD_VALUE", option, "a dataset of volumes", "2-D images, to which alone it applies", "leave it out"
        )
    return False


def _number(text: str) -> int | float:
    value = int(text) if text.lstrip("-").isdigit() else float(text)
    if value < 0 or (isinstance(value, float) and not value < 1):
        raise argparse.ArgumentTypeError(f"must be >= 0, or a share below 1.0, got {value}")
    return value
