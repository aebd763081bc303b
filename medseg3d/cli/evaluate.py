"""`medseg3d evaluate`: any folder of predictions against its ground truth, under every convention."""

from __future__ import annotations

import argparse
import sys

from medseg3d.cli.progress import progress_bar
from medseg3d.evaluation.page import as_text
from medseg3d.workflows import evaluate


def run(args: argparse.Namespace) -> int:
    """Score, write, and print the table."""
    with progress_bar("case") as progress:
        summary = evaluate(
            args.pred,
            args.truth,
            args.output,
            image_dir=args.images,
            class_names=args.class_names,
            pred_kind=args.pred_kind,
            threshold=args.threshold,
            missing=args.missing,
            group=args.group_pattern,
            slices=args.slices,
            tolerance_mm=args.surface_tolerance_mm,
            grid_tolerance=args.grid_tolerance,
            pranet_min_max=args.pranet_minmax,
            edges=args.edges,
            seed=args.seed,
            progress=progress,
        )
    warnings = summary.warnings
    if warnings:
        plural = "s" * (len(warnings) != 1)
        print(f"{len(warnings)} warning{plural} (see summary.json), first: {warnings[0]}", file=sys.stderr)
    print(as_text(summary))
    print(
        f"conventions, spread, size strata and per-case scores in {args.output}. Research only, not for clinical use."
    )
    return 0
