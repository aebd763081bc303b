"""`medseg3d experiment`: a comparison of your own, defined in a JSON file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg3d.evaluation.experiment_files import read_experiment
from medseg3d.experiments.definition import parse_experiment, read_definition
from medseg3d.experiments.runner import run_experiment
from medseg3d.files.atomic import check_folder
from medseg3d.reports.comparison_blocks import write_comparison


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print the table and write it next to the runs."""
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
    """Run what is missing of an experiment, then print its report and write it next to the runs; 3 if some have failed.

    Without a definition nothing is run, and with `dry_run` nothing reported.
    """
    check_folder(folder)
    if definition is not None:
        experiment = parse_experiment(definition)
        run_experiment(
            experiment, folder, jobs=jobs, dry_run=dry_run, storage=storage, say=lambda text: print(text, flush=True)
        )
    if dry_run:
        return 0
    print(f"\n{write_comparison(folder, name)}\ntables and figures are in {folder}")
    return 3 if read_experiment(folder, name)["failures"] else 0
