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
    parser.add_argument("-o", "--output", required=True, help="folder for the runs, ablation.json, .md and .png")
    parser.add_argument("--blocks", nargs="+", type=int, metavar="N", help="default: 0 to 4")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: 0 1 2")
    parser.add_argument("--part", choices=("train", "val", "test"), help="what is scored (default: test)")
    parser.add_argument(
        "--config-overlay", nargs="+", default=[], metavar="NAME", help="overlays of the bundle, for example phantom"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time (default: 1)")
    parser.add_argument("--table", action="store_true", help="train nothing; table and figure of what is there")


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print the table and write it beside the runs with the figure."""
    from pathlib import Path

    from medseg3d.evaluation.experiment_files import read_experiment
    from medseg3d.experiments.definition import packaged, parse_experiment
    from medseg3d.experiments.runner import run_experiment
    from medseg3d.files.atomic import atomic_write, check_folder
    from medseg3d.reports.ablation_table import ablation_markdown, draw_ablation, read_ablation
    from medseg3d.reports.curves import save_figure

    def say(text: str) -> None:
        print(text, flush=True)

    folder = Path(args.output)
    check_folder(folder)
    if not args.table:
        own = {"bundle": args.bundle, "overlays": args.config_overlay, "knobs": args.knobs}
        factors = args.blocks and {"nonlocal_blocks": args.blocks}
        definition = packaged("ablation", **own, factors=factors, seeds=args.seeds, part=args.part)
        run_experiment(parse_experiment(definition), folder, jobs=args.jobs, say=say)
    ablation = read_ablation(folder)
    text = ablation_markdown(ablation)
    with atomic_write(folder / "ablation.md", "w") as file:
        file.write(text + "\n")
    save_figure(draw_ablation(ablation), folder / "ablation.png")
    print(f"\n{text}\n\ntable and figure in {folder}")
    return 3 if read_experiment(folder, "ablation", "ablation")["failures"] else 0
