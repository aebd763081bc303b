"""Networks as points of a figure: parameters and Dice of the papers' networks and of runs, by the data they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg3d.errors import UsageError, UserError
from medseg3d.reports.paper_networks import PAPER_NETWORKS, data_of
from medseg3d.reports.paper_table import PaperTable
from medseg3d.reports.papers import PAPERS, TABLES
from medseg3d.reports.parameters import ParameterRow, papers_of_bundle, recorded_row
from medseg3d.reports.runs import EvaluatedRun, read_runs


@dataclass(frozen=True)
class Point:
    """What is drawn of one network.

    Attributes:
        data: what its Dice is of, as `paper_networks.data_of` names it.
        name: its label.
        group: key of its paper, or "" for a run of ours.
        parameters: in millions, as counted.
        dice: 0 to 1; of a run the mean over cases, of all classes together or the only one.
        convention: how the Dice was taken.
        printed: both as the paper prints them, where that is something else.
    """

    data: str
    name: str
    group: str
    parameters: float
    dice: float
    convention: str
    printed: tuple[float, float] | None = None


def panels_of(rows: Sequence[ParameterRow], runs: Sequence[Point] = ()) -> dict[str, list[Point]]:
    """The points of each kind of data: the papers' networks that are in the rows and have a Dice, then our runs."""
    points = []
    counted = {(row.source, row.network): row for row in rows}
    for each in PAPER_NETWORKS:
        row = counted.get((PAPERS[each.paper], each.name))
        for data, (table_name, table_row, column) in each.dice.items() if row is not None else ():
            table = TABLES[table_name]
            dice, printed = (_fraction(table, table_row, key) for key in (column, each.printed_dice or column))
            if row is None or dice is None or printed is None:
                continue
            millions = row.costs.parameters / 1e6
            as_printed = (each.paper_millions or millions, printed)
            differs = abs(as_printed[0] - millions) > 0.01 * millions or printed != dice
            how = (table.convention, as_printed if differs else None)
            points.append(Point(data, each.name, each.paper, millions, dice, *how))
    panels: dict[str, list[Point]] = {}
    for point in (*points, *runs):
        panels.setdefault(point.data, []).append(point)
    return panels


def _fraction(table: PaperTable, row: str, key: str) -> float | None:
    value = table.value(row, key)
    return None if value is None else value / next(column.scale for column in table.columns if column.key == key)


def scored_runs(folders: Sequence[str | Path]) -> list[Point]:
    """The runs of some evaluation folders, each with the parameters of its network as the evaluation has recorded them.

    Args:
        folders: of evaluations, or of runs that were evaluated.

    Raises:
        UserError: as `medseg3d.reports.runs.read_runs`; `SCORE_FILE` without a mean Dice or a record of the network,
            `BAD_VALUE` for a run of no paper's bundle.
    """
    found = []
    for run in read_runs(folders):
        file = run.folder / "summary.json"
        if not papers_of_bundle(run.bundle):
            wanted = "a run of one of the papers' bundles"
            raise UsageError("BAD_VALUE", run.folder / "config.json", "no paper in the name of its bundle_root", wanted)
        parameters = recorded_row(run.summary.context, file, run.name, f"run {run.name}").costs.parameters
        points = run_points(run, parameters)
        if not points:
            raise UserError(
                "SCORE_FILE", file, "no mean Dice with a value", "the scores of cases with foreground", "evaluate some"
            )
        found += points[:1]
    return found


def run_points(run: EvaluatedRun, parameters: int) -> list[Point]:
    """A run with so many parameters, for each paper that its bundle rebuilds; nothing without a Dice."""
    mean = run.score(run.region)
    if mean is None or mean.value is None:
        return []
    return [
        Point(data_of(paper, *run.data_sets), run.name, "", parameters / 1e6, mean.value, run.taken(mean))
        for paper in papers_of_bundle(run.bundle)
    ]
