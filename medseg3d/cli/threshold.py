"""`medseg3d threshold`: from which probability a voxel shall count as foreground."""

from __future__ import annotations

import argparse
from pathlib import Path

from medseg3d.data.splits import SET_NAMES
from medseg3d.evaluation.thresholds import choose_threshold, write_threshold


def run(args: argparse.Namespace) -> int:
    """Choose, write and say so."""
    choice = choose_threshold(args.evaluation, args.score, args.allow_test)
    path = args.output or Path(args.evaluation) / "threshold.json"
    write_threshold(path, choice)
    on = f"the {SET_NAMES[choice.part]}" if choice.part else "cases whose set the evaluation does not name"
    print(
        f"threshold {choice.threshold:.6g} (logit {choice.logit:.4g}): {choice.score} {choice.value:.4f} on {on}, "
        f"{choice.n_cases} cases; at 0.5 it is {choice.value_at_half:.4f}"
    )
    print(f"written to {path}; to use it: --threshold_file {path}")
    return 0
