"""Evaluated runs with the size of their networks, for the figure beside the papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg3d.evaluation import Score, Summary
from medseg3d.evaluation.files import read_summary
from medseg3d.evaluation.wording import convention
from medseg3d.faults import Fault, UsageFault
from medseg3d.reports.paper_networks import data_of
from medseg3d.reports.parameters import papers_of_bundle, recorded_row
from medseg3d.reports.runs import data_sets_of, read_json


@dataclass(frozen=True)
class ScoredRun:
    """An evaluated run as the figure shows it.

    Attributes:
        name: the folders that tell it from the others.
        paper: key of the paper whose bundle it is a run of.
        parameters: number of parameters of its network.
        dice: mean over cases of its first class that has one, 0 to 1.
        convention: how that mean is taken, as the summary states it.
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
        folders: with the `summary.json` and the `config.json` of an evaluation.

    Raises:
        Fault: `SCORE_FILE` without a summary, a mean Dice or a record of the network, `BAD_VALUE` for a run of no
            paper's bundle.
    """
    paths = [Path(folder).resolve() for folder in folders]
    return [_scored_run(path, name) for path, name in zip(paths, _short_names(paths), strict=True)]


def _scored_run(folder: Path, name: str) -> ScoredRun:
    summary = read_summary(folder / "summary.json")
    mean = _mean_dice(folder / "summary.json", summary)
    config = read_json(folder / "config.json")
    papers = papers_of_bundle(str(config.get("bundle_root", "")))
    if not papers:
        wanted = "a run of one of the papers' bundles"
        raise UsageFault("BAD_VALUE", folder / "config.json", "no paper in the name of its bundle_root", wanted)
    network = recorded_row(summary.context, folder / "summary.json", name, f"run {name}")
    return ScoredRun(
        name,
        papers[0],
        network.parameters,
        mean.value or 0.0,
        convention(mean, summary.settings),
        data_of(papers[0], *data_sets_of(summary.context.get("dataset_dir") or config.get("dataset_dir"))),
    )


def _mean_dice(file: Path, summary: Summary) -> Score:
    for score in summary.pick(score="dice", over="cases", size="", data_set=""):
        if score.value is not None:
            return score
    raise Fault("SCORE_FILE", file, "no mean Dice with a value", "the scores of an evaluation", "evaluate again")


def _short_names(paths: Sequence[Path]) -> list[str]:
    """As many of the last folders of each path as tell all apart, and no folder `evaluation_test`."""
    parts = [path.parts[:-1] if path.name == "evaluation_test" else path.parts for path in paths]
    for depth in range(1, max((len(each) for each in parts), default=0)):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
