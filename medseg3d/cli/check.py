"""`medseg3d check`: everything that can be found wrong without training."""

from __future__ import annotations

import argparse

from medseg3d.cli.size_limits import add_limits

HELP = "check a bundle's configs, data, split, network and weights without training"
TAKES_KNOBS = True
RENAMED = {"--overlay": "--config-overlay"}
EPILOG = "Further --key value pairs are knobs of the bundle, as in training: --dataset_dir /data/Task07_Pancreas"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A bundle and its overlays."""
    parser.add_argument("bundle", help="folder or name of the bundle, for instance pancreas_nl")
    parser.add_argument(
        "--config-overlay", nargs="+", default=[], metavar="NAME", help="overlays of the bundle, for example phantom"
    )
    parser.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="PACKAGE",
        help="your own packages that the bundle may call, besides medseg3d, MONAI, torch and ignite",
    )
    parser.add_argument("--expressions", action="store_true", help="list the Python ($) that using the bundle runs")
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Print what is right and what is wrong; 0 if nothing is wrong, 2 if only options are, else 1."""
    import sys

    from medseg3d.checks import check_bundle

    report = check_bundle(args.bundle, args.config_overlay, args.knobs, args.allow)
    for sentence in report.passed:
        print(f"ok     {sentence}")
    if args.expressions:
        for expression in report.expressions:
            print(f"runs   {expression}")
    else:
        print(f"note   using it runs {len(report.expressions)} Python expressions; see them with --expressions")
    for error in report.problems:
        print(f"error  {error}", file=sys.stderr)
    if not report.problems:
        print("nothing wrong was found")
        return 0
    return min(error.exit_code for error in report.problems)
