"""`medseg3d threshold`: from which probability a voxel shall count as foreground."""

from __future__ import annotations

import argparse
from pathlib import Path

from medseg3d.evaluation.thresholds import choose_threshold, write_threshold


def run(args: argparse.Namespace) -> int:
    """Choose, write and say so."""
    choice = choose_threshold(args.evaluation, args.score, args.allow_test)
    path = args.output or Path(args.evaluation) / "threshold.json"
    write_threshold(path, choice)
    part = f"part {choice.part}" if choice.part else "a part that the evaluation does not name"
    print(
        f"threshold {choice.threshold:.6g} (logit {choice.logit:.4g}): {choice.score} {choice.value:.4f} on {part}, "
        f"{choice.n_cases} cases; at 0.5 it is {choice.value_at_half:.4f}"
    )
    print(f"{path}: use it with --threshold_file {path}")
    return 0
