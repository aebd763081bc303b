"""`medseg3d experiment`: somebody's own comparison, from a JSON file."""

from __future__ import annotations

import argparse

HELP = "tune, train and score a grid of runs that a JSON file defines, and print mean, spread and paired differences"
TAKES_KNOBS = True
EPILOG = """\
  medseg3d experiment networks.json -o runs/networks --jobs 2
docs/experiments.md says what the file holds. Further --key value pairs are knobs for all runs: --epochs 40
Interrupted? Rerun the same command to resume: what is finished stays, what was begun resumes, what failed is tried
again. The same command in another terminal takes other runs.
Exit code 3: some runs failed; they are named at the end.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The definition, where to, how many at a time."""
    parser.add_argument("file", metavar="FILE", help="the definition: bundle, knobs, factors, seeds, ...")
    parser.add_argument(
        "-o", "--output-dir", "--output", metavar="DIR", help="folder for the runs and table.* (default: runs/FILE)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="check everything and list the runs; train nothing")
    parser.add_argument("--table", action="store_true", help="train nothing; the table of what is there")


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print the table and write it beside the runs."""
    from pathlib import Path

    from medseg3d.evaluation.experiment_files import read_experiment
    from medseg3d.experiments.definition import parse_experiment, read_definition
    from medseg3d.experiments.runner import run_experiment
    from medseg3d.files.atomic import check_folder
    from medseg3d.reports.experiment_table import write_experiment_table

    def say(text: str) -> None:
        print(text, flush=True)

    folder = Path(args.output_dir or Path("runs") / Path(args.file).stem)
    content = read_definition(args.file)
    check_folder(folder)
    if not args.table:
        experiment = parse_experiment({**content, "knobs": {**content.get("knobs", {}), **args.knobs}})
        run_experiment(experiment, folder, jobs=args.jobs, dry_run=args.dry_run, say=say)
    if args.dry_run:
        return 0
    print(f"\n{write_experiment_table(folder)}\ntable.md, table.csv and table.json in {folder}")
    return 3 if read_experiment(folder, "experiment", "experiment FILE")["failures"] else 0
