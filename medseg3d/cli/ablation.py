"""`medseg3d ablation`: 0 to 4 non-local blocks under equal conditions."""

from __future__ import annotations

import argparse

HELP = "train and score 0 to 4 non-local blocks with the same seeds, data and budget, and print the paper's Table 2"
TAKES_KNOBS = True
EPILOG = """\
Stopped at any moment, it goes on with the same command: finished runs stay, the others resume.
Further --key value pairs are knobs of the bundle, the same for all runs: --dataset_dir D --epochs 50 --init_filters 16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A bundle, what is varied, what is scored."""
    parser.add_argument("bundle", nargs="?", default="bundles/pancreas_nl_2d", help="default: %(default)s")
    parser.add_argument("-o", "--output", required=True, help="folder for the runs, ablation.json, .md and .png")
    parser.add_argument("--blocks", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N", help="default: 0 to 4")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument(
        "--part", default="test", choices=("train", "val", "test"), help="what is scored (default: test)"
    )
    parser.add_argument("--overlay", nargs="+", default=[], metavar="NAME", help="overlays, for instance pictures")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time (default: 1)")
    parser.add_argument("--table", action="store_true", help="train nothing; table and figure of what is there")


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print the table and write it beside the runs with the figure."""
    from pathlib import Path

    from medseg3d.data.atomic import atomic_write, check_folder
    from medseg3d.reports.ablation import run_ablation
    from medseg3d.reports.ablation_table import ablation_markdown, draw_ablation, read_ablation
    from medseg3d.reports.curves import save_figure

    def say(text: str) -> None:
        print(text, flush=True)

    check_folder(args.output)
    if not args.table:
        run_ablation(
            args.bundle,
            args.output,
            blocks=args.blocks,
            seeds=args.seeds,
            part=args.part,
            overlays=args.overlay,
            knobs=args.knobs,
            jobs=args.jobs,
            say=say,
        )
    folder = Path(args.output)
    ablation = read_ablation(folder)
    text = ablation_markdown(ablation)
    with atomic_write(folder / "ablation.md", "w") as file:
        file.write(text + "\n")
    save_figure(draw_ablation(ablation), folder / "ablation.png")
    print(f"\n{text}\n\ntable and figure in {folder}")
    return 0
