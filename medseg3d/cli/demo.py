"""`medseg3d demo`: the whole job on generated phantoms."""

from __future__ import annotations

import argparse

HELP = "train, evaluate and segment on generated phantoms, and write a report (under 10 minutes on two CPU cores)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, and how much."""
    parser.add_argument("-o", "--output", default="runs/demo", help="new folder for everything (default: %(default)s)")
    parser.add_argument("--cases", type=int, default=26, help="labelled phantoms (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="length of the training (default: the overlay's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo in that folder")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 1 if the pancreas was not found."""
    from medseg3d.reports.demo import DICE_TO_REACH, run_demo

    def say(text: str) -> None:
        print(text, flush=True)

    result = run_demo(
        args.output, cases=args.cases, seed=args.seed, epochs=args.epochs, overwrite=args.overwrite, say=say
    )
    minutes = sum(result.seconds.values()) / 60
    print(
        f"\ntest Dice, mean over cases on the original grids: {result.dice:.3f} (to reach: {DICE_TO_REACH}); "
        f"{minutes:.1f} min"
    )
    for what, path in (
        ("report", result.page),
        ("scores", result.folder / "run" / "evaluation_test" / "scores.csv"),
        ("test masks", result.folder / "run" / "evaluation_test" / "masks"),
        ("masks of new volumes", result.folder / "run" / "masks"),
        ("weights", result.folder / "run" / "model.pt"),
    ):
        print(f"  {what:21} {path}")
    if not result.reached:
        print("The pancreas was not found: that is a failure of this installation or of these settings.")
    return 0 if result.reached else 1
