from __future__ import annotations

import csv
import json
import re

import pytest
from commands import ROOT
from experiment_runs import PICTURES, Commands, definition, empty_pictures, picture

from medseg3d.cli import experiment as verb
from medseg3d.cli import main
from medseg3d.errors import UserError
from medseg3d.experiments.definition import parse_experiment
from medseg3d.experiments.runner import run_experiment
from medseg3d.reports.comparison_blocks import write_comparison

pytestmark = pytest.mark.usefixtures("undrawn")

# Dice 2/3 and 1 with half of the first polyp found, 1 and 1 with all of it
BETTER = {**PICTURES, "test": [picture(20, 20, 0.4, 0.1), picture(10, 10, 0.4, 0.1)]}
CHANGES = {"seeds": [0, 1], "reference": {"strategy": "backbone"}}


def run(folder, commands, **changes):
    content = definition(folder, **changes)
    run_experiment(parse_experiment(content), folder / "out", command=commands, say=lambda text: None)
    return folder / "out"


def test_each_condition_has_mean_spread_and_its_difference_to_the_reference(tmp_path):
    folder = run(tmp_path, Commands(pictures={"cris": BETTER}), **CHANGES)
    text = write_comparison(folder, "experiment")
    backbone, cris = json.loads((folder / "table.json").read_text())["conditions"]
    assert (backbone["levels"], backbone["mean"], backbone["sd"]) == ({"strategy": "backbone"}, pytest.approx(5 / 6), 0)
    assert (backbone["reference"], backbone["difference"]) == (None, None)
    assert (cris["mean"], cris["difference"], *cris["by_seed"]) == pytest.approx((1.0, 1 / 6, 1 / 6, 1 / 6))
    assert (cris["reference"], cris["cases"], cris["seeds"]) == ("backbone", 2, 2)
    # of two cases, one equal and one a third higher, a bootstrap draws one of them alone a quarter of the time each
    assert (cris["low"], cris["high"]) == pytest.approx((0, 1 / 3))
    seeds = "+16.67 ± 0.00 | +20.00 ± 0.00"
    assert f"| cris − backbone | +16.67 | +0.00 to +33.33 | 1 / 0 | {seeds} |" in text
    with open(folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["strategy"], row["reference"], float(row["mean"])) for row in rows] == [
        ("backbone", "", pytest.approx(5 / 6)),
        ("cris", "backbone", 1.0),
    ]


def test_a_reference_is_of_the_same_other_levels(tmp_path):
    empty_pictures(tmp_path / "data")
    factors = {"backbone": ["unet", "segnet"], "strategy": ["backbone", "cris"]}
    folder = run(tmp_path, Commands(pictures={"cris": BETTER}), factors=factors, reference={"strategy": "backbone"})
    write_comparison(folder, "experiment")
    lines = json.loads((folder / "table.json").read_text())["conditions"]
    assert [(*line["levels"].values(), line["reference"]) for line in lines] == [
        *(("unet", "backbone", None), ("unet", "cris", "unet backbone")),
        *(("segnet", "backbone", None), ("segnet", "cris", "segnet backbone")),
    ]


def test_what_failed_and_what_is_missing_is_named(tmp_path):
    error = UserError("LOSS_NOT_FINITE", "epoch 1", "nan")
    folder = run(tmp_path, Commands({"cris": error}), **CHANGES)
    record = json.loads((folder / "experiment.json").read_text())
    record["asked"].append({"strategy": "fcn", "seed": 0, "run_dir": "fcn_seed_0"})
    (folder / "experiment.json").write_text(json.dumps(record))
    text = write_comparison(folder, "experiment")
    assert "2 of 5 runs are finished" in text
    assert "- cris_seed_0 failed: LOSS_NOT_FINITE epoch 1: nan\n" in text
    assert "- Not finished: fcn_seed_0\n" in text


def test_the_verb_runs_a_file_prints_the_table_and_ends_with_3_after_a_failure(tmp_path, capsys, monkeypatch):
    real = verb.run_experiment
    commands = Commands({"cris": UserError("LOSS_NOT_FINITE", "epoch 1", "nan")})
    monkeypatch.setattr(verb, "run_experiment", lambda *args, **how: real(*args, **{**how, "command": commands}))
    (tmp_path / "own.json").write_text(json.dumps(definition(tmp_path, **CHANGES)))
    words = ["experiment", str(tmp_path / "own.json"), "-o", str(tmp_path / "out"), "--batch_size", "2"]
    assert main([*words, "--dry-run"]) == 0
    assert (len(capsys.readouterr().out.splitlines()), commands.calls) == (5, [])
    assert main(words) == 3
    assert (tmp_path / "out" / "table.md").read_text() in capsys.readouterr().out
    assert {knobs["batch_size"] for knobs in commands.trained} == {2}
    assert main([*words, "--table"]) == 3
    commands.wrong = {}
    assert main(words) == 0


def test_the_example_of_the_documentation_is_one(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "experiments.md").read_text(), re.DOTALL)
    (tmp_path / "networks.json").write_text(example)
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    for folder in re.findall(r'"dataset_dir": "(.*?)"', example):
        empty_pictures(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", "networks.json", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("30 runs, 0 finished; in ")


def test_a_definition_with_a_name_has_its_report_under_it(tmp_path, capsys, monkeypatch):
    real, commands = verb.run_experiment, Commands()
    monkeypatch.setattr(verb, "run_experiment", lambda *args, **how: real(*args, **{**how, "command": commands}))
    (tmp_path / "own.json").write_text(json.dumps(definition(tmp_path, name="mine", title="Two strategies")))
    assert main(["experiment", str(tmp_path / "own.json"), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "mine.md").read_text()
    assert text.startswith("# Two strategies\n")
    assert text in capsys.readouterr().out
