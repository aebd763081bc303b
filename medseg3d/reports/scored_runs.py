"""Evaluated runs with the size of their networks, for the figure beside the papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg3d.faults import Fault, UsageFault
from medseg3d.reports.paper_networks import data_of
from medseg3d.reports.parameters import papers_of_bundle, recorded_row
from medseg3d.reports.runs import EvaluatedRun, read_runs


@dataclass(frozen=True)
class ScoredRun:
    """An evaluated run as the figure shows it.

    Attributes:
        name: what tells it from the others.
        paper: key of the paper whose bundle it is a run of.
        parameters: number of parameters of its network.
        dice: mean over cases, of all classes together or the only one, 0 to 1.
        convention: how that mean is taken.
        data: what it is of, as `paper_networks.data_of` names it.
    """

    name: str
    paper: str
    parameters: int
    dice: float
    convention: str
    data: str


def scored_runs(folders: Sequence[str | Path]) -> list[ScoredRun]:
    """The runs of some evaluation folders, each with the parameters of its network as the evaluation has recorded them.

    Args:
        folders: of evaluations, or of runs that were evaluated.

    Raises:
        Fault: as `medseg3d.reports.runs.read_runs`; `SCORE_FILE` without a mean Dice or a record of the network,
            `BAD_VALUE` for a run of no paper's bundle.
    """
    found = []
    for run in read_runs(folders):
        file = run.folder / "summary.json"
        if not papers_of_bundle(run.bundle):
            wanted = "a run of one of the papers' bundles"
            raise UsageFault("BAD_VALUE", run.folder / "config.json", "no paper in the name of its bundle_root", wanted)
        parameters = recorded_row(run.summary.context, file, run.name, f"run {run.name}").costs.parameters
        scored = scored_run(run, parameters)
        if not scored:
            raise Fault(
                "SCORE_FILE", file, "no mean Dice with a value", "the scores of cases with foreground", "evaluate some"
            )
        found += scored[:1]
    return found


def scored_run(run: EvaluatedRun, parameters: int) -> list[ScoredRun]:
    """The run as the figure shows it, for each paper that its bundle rebuilds; nothing without a Dice."""
    mean = run.score(run.region)
    if mean is None or mean.value is None:
        return []
    return [
        ScoredRun(run.name, paper, parameters, mean.value, run.taken(mean), data_of(paper, *run.data_sets))
        for paper in papers_of_bundle(run.bundle)
    ]
