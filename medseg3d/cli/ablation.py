"""`medseg3d ablation`: 0 to 4 non-local blocks under equal conditions."""

from __future__ import annotations

import argparse

HELP = "train and score 0 to 4 non-local blocks with the same seeds, data and budget, and print the paper's Table 2"
TAKES_KNOBS = True
RENAMED = {"--overlay": "--config-overlay"}
EPILOG = """\
Interrupted? Rerun the same command to resume: finished runs stay, the others resume, failed ones are tried again.
Further --key value pairs are knobs of the bundle, the same for all runs: --dataset_dir D --epochs 50 --init_filters 16
Exit code 3: some runs failed; failure.json in their folders says why.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A bundle, what is varied, what is scored."""
    parser.add_argument("bundle", nargs="?", help="folder or name of the bundle (default: pancreas_nl_2d)")
    parser.add_argument("-o", "--output", required=True, help="folder for the runs, ablation.json, .md and figures")
    parser.add_argument("--blocks", nargs="+", type=int, metavar="N", help="default: 0 to 4")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: 0 1 2")
    parser.add_argument("--part", choices=("train", "val", "test"), help="what is scored (default: test)")
    parser.add_argument(
        "--config-overlay", nargs="+", default=[], metavar="NAME", help="overlays of the bundle, for example phantom"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time (default: 1)")
    parser.add_argument("--table", action="store_true", help="train nothing; table and figure of what is there")


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print the report and write it beside the runs."""
    from medseg3d.cli.experiment import compare
    from medseg3d.experiments.definition import packaged

    own = {"bundle": args.bundle, "overlays": args.config_overlay, "knobs": args.knobs}
    factors = {"nonlocal_blocks": args.blocks}
    definition = packaged("ablation", factors, **own, seeds=args.seeds, part=args.part)
    return compare(None if args.table else definition, args.output, "ablation", jobs=args.jobs)
