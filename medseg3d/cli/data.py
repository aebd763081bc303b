"""`medseg3d data`: fetch, verify and split a data set."""

from __future__ import annotations

import argparse

HELP = "fetch MSD Task07_Pancreas, verify a data set, or split it into train, val and test"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand each."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    fetch = actions.add_parser("fetch", help="download a data set and check it (pancreas: 11.4 GB, CC BY-SA 4.0)")
    fetch.add_argument("name", choices=["pancreas"], help="pancreas is MSD Task07_Pancreas")
    fetch.add_argument("--root", default="data", help="folder to put it in (default: %(default)s)")
    fetch.add_argument("--keep-archive", action="store_true", help="keep the .tar after unpacking")

    verify = actions.add_parser("verify", help="read every file of a data set and list all that is wrong")
    verify.add_argument("dataset_dir", help="folder in the MSD layout")
    verify.add_argument("--cases", type=int, help="labelled cases that must be there (Task07_Pancreas: 281)")
    verify.add_argument("--workers", type=int, default=1, help="cases read at a time (default: %(default)s)")

    split = actions.add_parser("split", help="write the manifest of a split, or show the one that is there")
    split.add_argument("dataset_dir", help="folder in the MSD layout")
    split.add_argument("--test-cases", "--test_cases", type=_count, default=24, help="default: %(default)s")
    split.add_argument("--val-cases", "--val_cases", type=_count, default=26, help="default: %(default)s")
    split.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    split.add_argument("--output", "--split_file", help="the manifest (default: data/splits/<folder>_seed<seed>.json)")


def run(args: argparse.Namespace) -> int:
    """Exit code 0, or 1 if `verify` found anything wrong."""
    return {"fetch": _fetch, "verify": _verify, "split": _split}[args.action](args)


def _fetch(args: argparse.Namespace) -> int:
    from medseg3d.data.fetch import fetch_pancreas

    fetch_pancreas(args.root, keep_archive=args.keep_archive)
    return 0


def _verify(args: argparse.Namespace) -> int:
    import sys

    from medseg3d.data.fetch import verify_msd

    def progress(done: int, total: int) -> None:
        sys.stderr.write(f"\r{done}/{total} cases" + ("\n" if done == total else ""))

    report = verify_msd(args.dataset_dir, args.cases, args.workers, progress if sys.stderr.isatty() else None)
    for path, warning in report.warnings:
        print(f"warning: {path}: {warning}")
    for fault in report.faults:
        print(f"error: {fault}")
    values = ", ".join(f"{value} in {count}" for value, count in sorted(report.label_values.items())) or "none"
    print(
        f"{report.folder}: {report.n_cases} labelled and {report.n_test} unlabelled cases, label values {values}, "
        f"{len(report.faults)} faults, {len(report.warnings)} warnings"
    )
    return 1 if report.faults else 0


def _split(args: argparse.Namespace) -> int:
    from medseg3d.data.msd import read_msd
    from medseg3d.data.splits import PARTS, default_split_file, load_or_make_split

    dataset = read_msd(args.dataset_dir)
    path = args.output or default_split_file(args.dataset_dir, args.seed)
    split = load_or_make_split(path, dataset.ids, args.test_cases, args.val_cases, args.seed, dataset.name)
    sizes = ", ".join(f"{len(getattr(split, part))} {part}" for part in PARTS)
    print(f"{path}: {sizes}, hash {split.hash[:12]}")
    print(f"any bundle uses it with --split_file {path}")
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {value}")
    return value
