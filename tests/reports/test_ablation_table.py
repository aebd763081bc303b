from __future__ import annotations

import json

import pytest

from medseg3d.cli import main
from medseg3d.evaluation import Score, Summary
from medseg3d.evaluation.records import VERSION
from medseg3d.faults import Fault
from medseg3d.reports.ablation_table import ablation_markdown, ablation_tables, conclusion, draw_ablation, read_ablation

DICE = {0: (0.50, 0.60, 0.70), 1: (0.51, 0.59, 0.72), 2: (0.54, 0.64, 0.75)}
"""Dice by blocks and seed: one block is up and down, two are 4, 4 and 5 points up."""


def scores(over, value):
    return [Score("pancreas", name, over, value, 9, grid="slices") for name in ("dice", "recall", "specificity")]


@pytest.fixture
def folder(tmp_path):
    rows = [
        {
            "nonlocal_blocks": blocks,
            "seed": seed,
            "evaluation": Summary(scores("cases", value)).as_json(),
            "parameters": 10 + blocks,
        }
        for blocks, values in DICE.items()
        for seed, value in enumerate(values)
    ]
    record = {
        **{"bundle": "pancreas_nl_2d", "overlays": ["pictures"], "part": "test", "knobs": {}, "failures": {}},
        **{"version": VERSION, "asked": [], "factors": {}},
        **{"conditions": {"epochs": 3}, "rows": rows},
    }
    (tmp_path / "ablation.json").write_text(json.dumps(record))
    return tmp_path


def test_the_table_has_the_papers_table_2_beside_mean_and_spread_of_ours(folder):
    ((caption, heads, rows),) = ablation_tables(read_ablation(folder))
    assert caption.endswith("is left out; on the slices; n=9")
    assert heads[2:5] == ["paper: Dice %", "paper: Recall %", "paper: Specificity %"]
    assert [row[2:5] for row in rows] == [
        ["87.83", "88.84", "99.98"],
        ["89.20", "89.81", "99.98"],
        ["91.51", "91.97", "99.98"],
    ]
    assert [row[5] for row in rows] == ["60.00 ± 10.00", "60.67 ± 10.60", "64.33 ± 10.50"]


def test_gains_are_paired_by_seed(folder):
    ((_, _, rows),) = ablation_tables(read_ablation(folder))
    # 1, -1, 2 and 4, 4, 5: means 0.67 and 4.33, far below the 10 points that seeds differ by
    assert [row[8] for row in rows] == ["", "+0.67 ± 1.53 (2 of 3 higher)", "+4.33 ± 0.58 (3 of 3 higher)"]


def test_the_conclusion_names_only_what_every_seed_agrees_on(folder):
    said = conclusion(read_ablation(folder))
    assert (
        said == "Mean over cases: against 0 blocks, Dice points beyond the spread of the 3 seeds: +4.33 with 2 blocks."
    )


def test_every_aggregation_has_a_conclusion_of_its_own(folder):
    record = json.loads((folder / "ablation.json").read_text())
    for row in record["rows"]:
        blocks = row["nonlocal_blocks"]
        row["evaluation"]["scores"] += Summary(scores("pooled", 0.5 - 0.01 * blocks)).as_json()["scores"]
    (folder / "ablation.json").write_text(json.dumps(record))
    said = conclusion(read_ablation(folder))
    assert "+4.33 with 2 blocks. All voxels as one case: against 0 blocks" in said
    assert said.endswith("-1.00 with 1, -2.00 with 2 blocks.")


def test_without_a_clear_difference_the_conclusion_says_so(folder):
    record = json.loads((folder / "ablation.json").read_text())
    record["rows"] = [row for row in record["rows"] if row["nonlocal_blocks"] < 2]
    (folder / "ablation.json").write_text(json.dumps(record))
    assert "no number of blocks differs from 0 blocks by more than the 3 seeds" in conclusion(read_ablation(folder))


def test_one_seed_allows_no_conclusion(folder):
    record = json.loads((folder / "ablation.json").read_text())
    record["rows"] = [row for row in record["rows"] if row["seed"] == 0]
    (folder / "ablation.json").write_text(json.dumps(record))
    assert "nothing can be said" in conclusion(read_ablation(folder))


def test_a_score_without_a_value_is_left_out_of_mean_and_pairs(folder):
    record = json.loads((folder / "ablation.json").read_text())
    record["rows"][0]["evaluation"]["scores"][0]["value"] = None  # Dice, 0 blocks, seed 0
    (folder / "ablation.json").write_text(json.dumps(record))
    ((_, _, rows),) = ablation_tables(read_ablation(folder))
    assert rows[0][5] == "65.00 ± 7.07"
    assert rows[2][8] == "+4.50 ± 0.71 (2 of 2 higher)"
    assert [row[9] for row in rows] == ["2", "3", "3"]


def test_the_figure_has_a_point_for_every_run(folder):
    figure = draw_ablation(read_ablation(folder))
    lines = figure.axes[0].get_lines()
    assert [line.get_ydata().tolist() for line in lines[:3]] == [
        pytest.approx([100 * values[seed] for values in DICE.values()]) for seed in range(3)
    ]


def test_a_folder_without_an_ablation_is_a_fault_that_says_what_to_run(tmp_path):
    with pytest.raises(Fault, match=r"no ablation\.json, expected .*. Hint: run medseg3d ablation first"):
        read_ablation(tmp_path)


def test_an_ablation_of_an_earlier_version_is_a_fault(folder):
    (folder / "ablation.json").write_text('{"bundle": "pancreas_nl_2d", "budget": {}, "rows": [{}]}')
    with pytest.raises(Fault, match=r"ablation\.json: scores in form 1 or older, expected form 2"):
        read_ablation(folder)


def test_an_ablation_without_a_finished_run_is_a_fault(folder):
    (folder / "ablation.json").write_text(json.dumps({"version": VERSION, "rows": [], "asked": [], "factors": {}}))
    with pytest.raises(Fault, match="no finished run"):
        read_ablation(folder)


def test_the_verb_tables_what_is_there_without_training(folder, capsys):
    assert main(["ablation", "bundles/pancreas_nl_2d", "--table", "-o", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert ablation_markdown(read_ablation(folder)) in printed
    assert (folder / "ablation.md").read_text().strip() in printed
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")
