"""`medseg3d experiment`: somebody's own comparison, from a JSON file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    from medseg3d.experiments.definition import read_definition

    content = read_definition(args.file)
    content["knobs"] = {**content.get("knobs", {}), **args.knobs}
    folder, name = args.output_dir or Path("runs") / Path(args.file).stem, content.get("name", "experiment")
    return compare(None if args.table else content, folder, name, jobs=args.jobs, dry_run=args.dry_run)


def compare(
    definition: Mapping[str, Any] | None,
    folder: str | Path,
    name: str,
    *,
    jobs: int,
    dry_run: bool = False,
    storage: str | None = None,
) -> int:
    """Run what is missing of an experiment, then print its report and write it beside the runs; 3 if some have failed.

    Args:
        definition: as `parse_experiment` takes it; None to run nothing.
        folder: for the runs.
        name: of its record.
        jobs: as in `run_experiment`.
        dry_run: as in `run_experiment`; no report then.
        storage: as in `run_experiment`.
    """
    from medseg3d.evaluation.experiment_files import read_experiment
    from medseg3d.experiments.definition import parse_experiment
    from medseg3d.experiments.runner import run_experiment
    from medseg3d.files.atomic import check_folder
    from medseg3d.reports.comparison_blocks import write_comparison

    check_folder(folder)
    if definition is not None:
        experiment = parse_experiment(definition)
        run_experiment(
            experiment, folder, jobs=jobs, dry_run=dry_run, storage=storage, say=lambda text: print(text, flush=True)
        )
    if dry_run:
        return 0
    print(f"\n{write_comparison(folder, name)}\ntables and figures in {folder}")
    return 3 if read_experiment(folder, name)["failures"] else 0
