"""`medseg3d threshold`: from which probability a voxel shall count as foreground."""

from __future__ import annotations

import argparse

HELP = "choose the probability threshold for foreground, on the evaluation of any split but the test split"
EPILOG = """\
Evaluate the validation split first: python -m monai.bundle run evaluating ... --part val
(--part train where a protocol chooses on the training split, as that of bundles/polyp_cris.)
Then pass the file to evaluation, inference and predict: --threshold_file runs/pancreas_nl/evaluation_val/threshold.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The evaluation, the score, the file."""
    parser.add_argument("evaluation", metavar="EVALUATION_DIR", help="folder of an evaluation with pr.npz")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: threshold.json in that folder")
    parser.add_argument(
        "--score",
        choices=("dice_pooled", "dice_mean"),
        default="dice_pooled",
        help="what to maximize: the Dice of all voxels pooled, over all thresholds, or the mean over cases, over 0.01 "
        "to 0.99 (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-test",
        action="store_true",
        help="choose on the test split: its scores can then no longer be reported as test results",
    )


def run(args: argparse.Namespace) -> int:
    """Choose, write and say so."""
    from pathlib import Path

    from medseg3d.evaluation.thresholds import choose_threshold, write_threshold

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
