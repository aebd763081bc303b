"""The part of a report that depends on the bundle: the papers' tables next to the run's scores, network sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase

from medseg3d.errors import UserError
from medseg3d.evaluation.records import Score
from medseg3d.evaluation.wording import OVER
from medseg3d.reports.curves import save_figure
from medseg3d.reports.document import Block, Bullets, Cell, Picture, Table, Text
from medseg3d.reports.paper_table import Column, PaperTable, as_block
from medseg3d.reports.papers import PAPERS, TABLES
from medseg3d.reports.parameter_figure import Point, draw_parameters, panels_of, run_points
from medseg3d.reports.parameters import COLUMNS, ParameterRow, paper_report, papers_of_bundle, recorded_row
from medseg3d.reports.runs import EvaluatedRun
from medseg3d.reports.tables import common_parts
from medseg3d.reports.wording import SENTENCES, interval, number


def paper_blocks(runs: Sequence[EvaluatedRun]) -> list[Block]:
    """The tables of the papers that the runs' bundles rebuild, with the runs' scores below, each by its convention.

    Scores on phantoms are never set next to published ones, and those on the training set only where a paper has its
    own.
    """
    blocks: list[Block] = []
    placed: set[str] = set()
    for table in TABLES.values():
        of_paper = [run for run in runs if run.bundle and table.paper in papers_of_bundle(run.bundle)]
        if of_paper:
            own = [run for run in of_paper if not run.is_phantom and table.is_of(*run.data_sets)]
            placed |= {run.name for run in own}
            own = [run for run in own if "Train" in table.row_names or not _is_training_part(run)]
            blocks += [_paper_table(table, own), Bullets(table.notes)]
    phantoms = [run.name for run in runs if run.is_phantom]
    if blocks and phantoms:
        blocks.append(Text(f"Scores on phantoms are not compared with these: {', '.join(phantoms)}."))
    elsewhere = [run.name for run in runs if papers_of_bundle(run.bundle) and run.name not in {*placed, *phantoms}]
    if blocks and elsewhere:
        blocks.append(Text(f"Trained on data without a table here: {', '.join(elsewhere)}."))
    training = [run.name for run in runs if run.name in placed and _is_training_part(run)]
    if training:
        blocks.append(Text(f"Scores on the training set are not compared with test scores: {', '.join(training)}."))
    unknown = [run.name for run in runs if not run.bundle]
    if unknown:
        blocks.append(
            Text(f"No bundle is recorded for {', '.join(unknown)}: so the paper to compare with is unknown (--bundle).")
        )
    return blocks


def _is_training_part(run: EvaluatedRun) -> bool:
    return run.summary.context.get("part") == "train"


def _paper_table(table: PaperTable, runs: Sequence[EvaluatedRun]) -> Table:
    block, rows = as_block(table), []
    conventions: dict[str, None] = {}
    for run in runs:
        overs = {over for column in table.columns for over in column.over}
        for over, how in ((over, how) for over, how in OVER.items() if over in overs):
            own = [
                run.score(run.region, column.score, over)
                if over in column.over and column.backbone in ("", run.recorded("backbone"))
                else None
                for column in table.columns[1:]
            ]
            known = [score for score in own if score is not None and score.value is not None]
            if known:
                row = table.levels.get(str(run.recorded(table.factor)), "")
                cells = [_own_cell(column, score) for column, score in zip(table.columns[1:], own, strict=True)]
                rows.append([Cell(f"ours: {run.name}, {row + ', ' if row else ''}{how}", own=True), *cells])
                # what a score leaves out differs from score to score and stands with the scores
                shared, _ = common_parts([run.taken(score) for score in known])
                conventions[f"{how}: {shared.removeprefix(f'{how}; ')}"] = None
    paper = PAPERS[table.paper]
    return replace(
        block,
        rows=[*block.rows, *rows],
        note=f"Ours. {'. '.join(word[:1].upper() + word[1:] for word in conventions)}."
        if conventions
        else "None of our scores use these conventions.",
        lead=f"{paper[:1].upper()}{paper[1:]}. {table.name}.",
    )


def _own_cell(column: Column, score: Score | None) -> Cell:
    """Our score for a column, if there is one, in the column's unit with its interval."""
    if score is None or score.value is None:
        return Cell("", own=True)
    decimals = 2 if column.scale == 100 else 3
    bounds = [column.scale * bound for bound in score.interval or ()]
    return Cell(number(column.scale * score.value, decimals), small=interval(bounds or None, decimals), own=True)


def parameter_blocks(runs: Sequence[EvaluatedRun], figures: Path) -> list[Block]:
    """Parameters, work and memory of the runs' networks and those of their papers, in a table and a figure (PNG)."""
    own: list[ParameterRow] = []
    scored: list[Point] = []
    missing = []
    for run in runs:
        try:
            file = run.folder / "summary.json"
            own.append(recorded_row(run.summary.context, file, f"{run.name}: {run.bundle}", f"bundle {run.bundle}"))
            scored += [] if run.is_phantom else run_points(run, own[-1].costs.parameters)
        except UserError as error:
            missing.append(f"{run.name}: its network could not be counted: {error}")
    papers = list(dict.fromkeys(paper for run in runs if run.bundle for paper in papers_of_bundle(run.bundle)))
    of_papers = paper_report(papers) if papers else []
    rows = own + of_papers
    blocks: list[Block] = []
    panels = panels_of(of_papers, scored)
    if sum(map(len, panels.values())) > 1:
        words = "Parameters of each network over its Dice; each point states the convention of its Dice."
        png = save_figure(draw_parameters(panels), figures / "parameters.png")
        blocks.append(Picture(png, alt=words, caption=words, wide=True))
    if rows:
        notes = dict.fromkeys(row.note for row in rows if row.note)
        marks = dict(zip(notes, ascii_lowercase, strict=False))
        cells: list[list[Cell | str]] = [
            [Cell(row.network, mark=marks.get(row.note, "")), *(cell(row) for _, cell in COLUMNS)] for row in rows
        ]
        blocks += [
            Table(
                "Networks of these runs and of the papers, each for one input of the size in the last column.",
                ["network", *(name for name, _ in COLUMNS)],
                cells,
                marks={mark: note for note, mark in marks.items()},
            ),
            Bullets(SENTENCES["counted"]),
        ]
    return [*blocks, *(Text(sentence) for sentence in missing)]
