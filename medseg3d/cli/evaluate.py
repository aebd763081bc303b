"""`medseg3d evaluate`: any folder of predictions against its ground truth, under every convention."""

from __future__ import annotations

import argparse

from medseg3d.cli.progress import progress_bar
from medseg3d.cli.size_limits import add_limits

HELP = "score a folder of predictions (NIfTI or 2-D images, masks or probability maps) against the ground truth"
RENAMED = {"--labels": "--class-names", "--group": "--group-pattern", "--tolerance": "--surface-tolerance-mm"}
EPILOG = """\
Files are paired by name. Volumes also get surface distances in mm, 2-D images the scores of PraNet's evaluation.
OUT then holds scores.csv, summary.json, summary.md, files.json and, where they apply, slices.csv,
groups.csv, pr.npz and thresholds.csv.
  medseg3d evaluate --pred masks/ --truth labelsTs/ -o scores/ --class-names pancreas tumour --slices
  medseg3d evaluate --pred maps/ --truth TestDataset/Kvasir/masks/ -o scores/ --pranet-minmax
exit codes: 0 done, 1 a file is at fault, 2 the call is at fault; nothing is written unless all cases were scored
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two folders, an output, and what else shall be scored."""
    parser.add_argument("--pred", required=True, metavar="FOLDER", help="predictions: masks or probability maps")
    parser.add_argument("--truth", required=True, metavar="FOLDER", help="ground truth, on the predictions' grids")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the files; made if needed")
    parser.add_argument("--images", metavar="FOLDER", help="images, to draw cases in a report")
    parser.add_argument(
        "--class-names", nargs="+", default=[], metavar="NAME", help="of the label values 1, 2, ... (default: 1 only)"
    )
    parser.add_argument(
        "--pred-kind",
        choices=("auto", "mask", "probability"),
        default="auto",
        help="what the predictions are (default: detected from all files together)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="foreground from this probability on (default: %(default)s)",
    )
    parser.add_argument(
        "--missing",
        choices=("error", "empty", "leave-out"),
        default="error",
        help="ground truth without a prediction is an error, an empty mask, or skipped (default: %(default)s)",
    )
    parser.add_argument(
        "--group-pattern", metavar="REGEX", help="finds the patient or sequence in a case's name, for example '^(.+)-'"
    )
    parser.add_argument("--slices", action="store_true", help="volumes: score each axial slice as well")
    parser.add_argument(
        "--surface-tolerance-mm",
        type=float,
        default=2.0,
        metavar="MM",
        help="volumes: tolerance of the surface Dice (default: %(default)s)",
    )
    parser.add_argument(
        "--grid-tolerance",
        type=float,
        default=0.25,
        metavar="VOXELS",
        help="volumes: how far a corner of a prediction may be from that of the ground truth (default: %(default)s)",
    )
    parser.add_argument(
        "--pranet-minmax", action="store_true", help="2-D images: min-max normalize each map, as PraNet does"
    )
    parser.add_argument(
        "--edges",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="limits between small, medium and large, in ml (2-D images: %%; default: tertiles)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed for the bootstrap confidence intervals (default: %(default)s)"
    )
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Score, write, and print the table."""
    import sys

    from medseg3d.evaluation.page import as_text
    from medseg3d.workflows import evaluate

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
        print(f"{len(warnings)} warning{plural}, all in summary.json; the first: {warnings[0]}", file=sys.stderr)
    print(as_text(summary))
    print(f"conventions, spread, strata and cases in {args.output}. Research only, not for clinical use.")
    return 0
