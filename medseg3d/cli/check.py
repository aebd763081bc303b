"""`medseg3d check`: finds every problem of a bundle that can be found without training."""

from __future__ import annotations

import argparse
import sys

from medseg3d.checks import check_bundle


def run(args: argparse.Namespace) -> int:
    """Print what is right and what is wrong; 0 if nothing is wrong, 2 if only options are, else 1."""
    report = check_bundle(args.bundle, args.config_overlay, args.knobs, args.allow)
    for sentence in report.passed:
        print(f"ok     {sentence}")
    if args.expressions:
        for expression in report.expressions:
            print(f"runs   {expression}")
    else:
        print(f"note   the bundle runs {len(report.expressions)} Python expressions; list them with --expressions")
    for error in report.problems:
        print(f"error  {error}", file=sys.stderr)
    if not report.problems:
        print("no problems found")
        return 0
    return min(error.exit_code for error in report.problems)
