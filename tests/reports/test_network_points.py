from __future__ import annotations

import json
from dataclasses import replace

import pytest

from medseg3d.errors import UserError
from medseg3d.evaluation import Score, Summary
from medseg3d.evaluation.files import SCORES_CSV, score_row
from medseg3d.evaluation.wording import convention
from medseg3d.metrics import ConfusionCounts
from medseg3d.reports.papers import CLINIC
from medseg3d.reports.parameter_figure import scored_runs

CONFIG = {"bundle_root": "bundles/pancreas_nl"}
DICE = Score("pancreas", "dice", "cases", 0.75, 3)
NETWORK = {
    **{"class": "monai.networks.nets.segresnet.SegResNet", "input_shape": [1, 16, 16, 16]},
    **{"parameters": 300, "trainable": 200, "checkpoint_bytes": 1200, "macs": 5000},
    **{"activation_bytes": 64, "backward_bytes": 128},
}
SUMMARY = Summary([DICE], context={"network": NETWORK})


def with_network(record):
    return replace(SUMMARY, context={"network": record})


def evaluation(folder, config=CONFIG, summary=SUMMARY):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps(summary.as_json()))
    SCORES_CSV.write(folder / "scores.csv", [score_row("a", "pancreas", ConfusionCounts(tp=3, fp=1, fn=1))])
    return folder


def test_a_run_has_the_parameters_that_its_evaluation_recorded(tmp_path):
    (run,) = scored_runs([evaluation(tmp_path / "runs" / "a" / "evaluation_test")])
    assert (run.name, run.group, run.dice) == ("a (test)", "", 0.75)
    assert run.convention == convention(DICE, SUMMARY.settings)
    assert run.parameters == 300e-6


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    folders = [evaluation(tmp_path / seed / "net" / "evaluation_test") for seed in ("seed_0", "seed_1")]
    assert [run.name for run in scored_runs(folders)] == ["seed_0/net (test)", "seed_1/net (test)"]


@pytest.mark.parametrize("where", ["summary", "config"])
def test_a_run_is_of_the_data_that_it_was_scored_on(tmp_path, where):
    recorded = {"summary": {}, "config": {}, where: {"dataset_dir": "data/CVC-ClinicDB"}}
    config = {**CONFIG, "bundle_root": "bundles/polyp_cris", **recorded["config"]}
    (run,) = scored_runs(
        [evaluation(tmp_path / "a", config, replace(SUMMARY, context={**SUMMARY.context, **recorded["summary"]}))]
    )
    assert run.data == CLINIC


@pytest.mark.parametrize(
    ("config", "summary", "message"),
    [
        (CONFIG, replace(SUMMARY, scores=[]), "SCORE_FILE .*no mean Dice with a value"),
        (CONFIG, Summary([DICE]), "SCORE_FILE .*no record of the network"),
        (CONFIG, with_network({**NETWORK, "macs": "$1 + 1"}), r"SCORE_FILE .*network#macs: '\$1 \+ 1'"),
        (CONFIG, with_network({**NETWORK, "macs": -1}), "SCORE_FILE .*network#macs: -1"),
        (CONFIG, with_network({**NETWORK, "input_shape": "$1"}), "SCORE_FILE .*network#input_shape"),
        ({**CONFIG, "bundle_root": "bundles/mine"}, SUMMARY, "BAD_VALUE .*no paper in the name of its bundle_root"),
    ],
)
def test_a_run_that_cannot_be_placed_is_refused(tmp_path, config, summary, message):
    with pytest.raises(UserError, match=message):
        scored_runs([evaluation(tmp_path / "a", config, summary)])


def test_a_folder_without_scores_is_refused(tmp_path):
    with pytest.raises(UserError, match="NO_EVALUATION"):
        scored_runs([tmp_path])
