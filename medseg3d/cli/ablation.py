"""`medseg3d ablation`: 0 to 4 non-local blocks under equal conditions."""

from __future__ import annotations

import argparse

from medseg3d.cli.experiment import compare
from medseg3d.experiments.definition import packaged


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print the report and write it next to the runs."""
    own = {"bundle": args.bundle, "overlays": args.config_overlay, "knobs": args.knobs}
    factors = {"nonlocal_blocks": args.blocks}
    definition = packaged("ablation", factors, **own, seeds=args.seeds, part=args.part)
    return compare(None if args.table else definition, args.output, "ablation", jobs=args.jobs)
