"""`medseg3d data`: fetch, verify and split a data set, and count its levels."""

from __future__ import annotations

import argparse
from pathlib import Path

from medseg3d.cli.progress import progress_bar
from medseg3d.data.channel_statistics import training_statistics
from medseg3d.data.fetch import fetch_kvasir_seg, fetch_pancreas, find_clinicdb
from medseg3d.data.listed_splits import listed_split
from medseg3d.data.msd import read_msd
from medseg3d.data.picture_folders import data_set_name, holds_pictures, read_picture_folder, split_of_pictures
from medseg3d.data.splits import PARTS, Split, read_split, write_split
from medseg3d.data.verify import verify_msd, verify_pictures
from medseg3d.data.volume_splits import default_split_file, split_of_volumes
from medseg3d.errors import UsageError, UserError
from medseg3d.volumes.geometry import GRID_TOLERANCE


def run(args: argparse.Namespace) -> int:
    """Exit code 0, or 1 if `verify` found anything wrong."""
    return {"fetch": _fetch, "verify": _verify, "split": _split, "statistics": _statistics}[args.action](args)


def _fetch(args: argparse.Namespace) -> int:
    if args.name == "cvc-clinicdb":
        find_clinicdb(args.root)
    else:
        fetch = fetch_pancreas if args.name == "pancreas" else fetch_kvasir_seg
        fetch(args.root, keep_archive=args.keep_archive)
    return 0


def _verify(args: argparse.Namespace) -> int:
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
    print(f"to use it with any bundle: --split_file {path}")
    return 0


def _listed_split(args: argparse.Namespace, path: str | Path, of_pictures: bool) -> Split:
    """The split that the user's lists say, written unless it is there already."""
    drawn = [name for name in ("test_cases", "val_cases", "train_list") if getattr(args, name) is not None]
    if drawn:
        found = "given with --from, which already lists every case"
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
            found, wanted = f"a different split ({there.hash[:12]})", f"the split in the lists ({split.hash[:12]})"
            raise UserError(
                "SPLIT_MISMATCH", path, found, wanted, "name another file with --output, or delete this one"
            )
    else:
        write_split(path, split, name)
    return split


def _statistics(args: argparse.Namespace) -> int:
    found = training_statistics(args.dataset_dir, args.split_file)
    part = (
        f"the training set of {args.split_file}" if args.split_file else "all images; --split-file for a training set"
    )
    print(f"{found.pictures} images, {found.pixels:,} pixels in [0, 1] ({part})")
    print(
        " ".join(
            f'--channel_{name} "{[round(value, 6) for value in getattr(found, name)]}"' for name in ("mean", "std")
        )
    )
    return 0


def _holds_pictures(args: argparse.Namespace) -> bool:
    """Whether the data set is of images; options that only images have are not ignored."""
    if holds_pictures(args.dataset_dir):
        return True
    given = [name for name in ("split_file", "group_pattern", "train_list") if getattr(args, name, None) is not None]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise UsageError(
            "BAD_VALUE", option, "a dataset of volumes", "2-D images, the only data it applies to", "leave it out"
        )
    return False
