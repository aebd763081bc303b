from __future__ import annotations

import json

import pytest

from medseg3d.faults import Fault
from medseg3d.reports.paper_networks import CLINIC
from medseg3d.reports.scored_runs import scored_runs

CONFIG = {"bundle_root": "bundles/pancreas_nl"}
DICE = {"dice_mean": {"value": 0.75, "n": 3, "convention": "mean over 3 cases"}}
NETWORK = {
    **{"class": "monai.networks.nets.segresnet.SegResNet", "input_shape": [1, 16, 16, 16]},
    **{"parameters": 300, "trainable": 200, "checkpoint_bytes": 1200, "macs": 5000},
    **{"activation_bytes": 64, "backward_bytes": 128},
}
SUMMARY = {"scores": {"pancreas": DICE}, "network": NETWORK}


def evaluation(folder, config=CONFIG, summary=SUMMARY):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_run_has_the_parameters_that_its_evaluation_recorded(tmp_path):
    (run,) = scored_runs([evaluation(tmp_path / "runs" / "a" / "evaluation_test")])
    assert (run.name, run.paper, run.dice, run.convention) == ("a", "pancreas", 0.75, "mean over 3 cases")
    assert run.parameters == 300


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    folders = [evaluation(tmp_path / seed / "net" / "evaluation_test") for seed in ("seed_0", "seed_1")]
    assert [run.name for run in scored_runs(folders)] == ["seed_0/net", "seed_1/net"]


def test_the_first_class_with_a_mean_counts(tmp_path):
    nothing = {"dice_mean": {"value": None, "n": 0, "convention": ""}}
    summary = {
        "scores": {
            "pancreas": nothing,
            "average_precision": {"value": 0.5},
            **{"tumour": DICE},
        },
        "network": NETWORK,
    }
    (run,) = scored_runs([evaluation(tmp_path / "a", summary=summary)])
    assert run.dice == 0.75


@pytest.mark.parametrize("where", ["summary", "config"])
def test_a_run_is_of_the_data_that_it_was_scored_on(tmp_path, where):
    recorded = {"summary": {}, "config": {}, where: {"dataset_dir": "data/CVC-ClinicDB"}}
    config = {**CONFIG, "bundle_root": "bundles/polyp_cris", **recorded["config"]}
    (run,) = scored_runs([evaluation(tmp_path / "a", config, {**SUMMARY, **recorded["summary"]})])
    assert run.data == CLINIC


@pytest.mark.parametrize(
    ("config", "summary", "message"),
    [
        (CONFIG, {"scores": {}}, "SCORE_FILE .*no dice_mean with a value"),
        (CONFIG, {"scores": {"pancreas": DICE}}, "SCORE_FILE .*no record of the network"),
        (CONFIG, {**SUMMARY, "network": {**NETWORK, "macs": "$1 + 1"}}, r"SCORE_FILE .*network#macs: '\$1 \+ 1'"),
        (CONFIG, {**SUMMARY, "network": {**NETWORK, "macs": -1}}, "SCORE_FILE .*network#macs: -1"),
        (CONFIG, {**SUMMARY, "network": {**NETWORK, "input_shape": "$1"}}, "SCORE_FILE .*network#input_shape"),
        ({**CONFIG, "bundle_root": "bundles/mine"}, SUMMARY, "BAD_VALUE .*no paper in the name of its bundle_root"),
    ],
)
def test_a_run_that_cannot_be_placed_is_refused(tmp_path, config, summary, message):
    with pytest.raises(Fault, match=message):
        scored_runs([evaluation(tmp_path / "a", config, summary)])


def test_a_folder_without_scores_is_refused(tmp_path):
    with pytest.raises(Fault, match="SCORE_FILE"):
        scored_runs([tmp_path])
