from __future__ import annotations

import json

import pytest
from commands import ROOT
from experiment_runs import SMALL, Commands, definition
from picture_runs import polyp_folder

from medseg3d.errors import UserError
from medseg3d.evaluation import Summary
from medseg3d.experiments.definition import parse_experiment
from medseg3d.experiments.runner import run_experiment
from medseg3d.files.atomic import claimed
from medseg3d.files.plain import read_json
from medseg3d.files.tensors import read_tensors


@pytest.fixture
def run(tmp_path):
    """Runs an experiment with changes to its definition; the record comes back."""

    def run(command, *, knobs=None, **changes):
        how = {name: changes.pop(name) for name in ("jobs", "dry_run", "tune_with", "say") if name in changes}
        content = definition(tmp_path, **changes)
        content["knobs"] |= knobs or {}
        settings = {"say": lambda text: None, "command": command, **how}
        if "tune_with" in settings:
            settings["tune"] = settings.pop("tune_with")
        return run_experiment(parse_experiment(content), tmp_path / "out", **settings)

    return run


CRIS = {"strategy": ["cris"]}


def test_the_threshold_is_chosen_on_its_part_and_the_test_part_scored_with_it(run):
    (row,) = run(Commands(), factors=CRIS)["rows"]
    assert row["threshold"] == 0.35
    # image 1: 10 of 20 found, Dice 20/30; image 2: all of 10; together 40/50; nothing reaches 0.5
    summary = Summary.from_json(row["evaluation"], "row.json")
    ways = (("dice", "cases"), ("dice", "pooled"), ("mse", "cases"))
    dice, pooled, mse = (summary.find("polyp", *way).value for way in ways)
    assert (dice, pooled) == pytest.approx(((2 / 3 + 1) / 2, 0.8))
    assert row["scores_at_half"] == {"dice_mean": 0.0, "dice_pooled": 0.0}
    # (10 x 0.6^2 + 10 x 0.9^2 + 80 x 0.1^2) / 100 and (10 x 0.6^2 + 90 x 0.1^2) / 100
    assert mse == pytest.approx((0.125 + 0.045) / 2)
    assert (row["epochs"], row["learning_rate"], row["seconds"]["training"]) == (4, 0.001, 5.0)


def test_the_test_part_is_looked_at_once_and_last(run):
    commands = Commands()
    run(commands, factors=CRIS, infer=True)
    assert [(run_id, knobs.get("part")) for run_id, knobs in commands.calls] == [
        *(("training", None), ("evaluating", "train"), ("evaluating", "test"), ("inferring", None))
    ]
    assert commands.calls[3][1]["threshold_file"] == commands.calls[2][1]["threshold_file"]


def test_without_a_threshold_only_the_scored_part_is_evaluated(run):
    commands = Commands()
    (row,) = run(commands, factors=CRIS, threshold=None, part="val")["rows"]
    assert [knobs.get("part") for _, knobs in commands.calls] == [None, "val"]
    assert "threshold" not in row


def test_only_levels_and_seed_differ_between_the_runs_and_seeds_are_the_outer_loop(run):
    commands = Commands()
    factors = {"backbone": ["unet", "segnet"], "how": {"a": {"strategy": "fcn"}, "b": {"strategy": "cris"}}}
    record = run(commands, factors=factors, seeds=[3, 1])
    varied = [(knobs.pop("seed"), knobs.pop("backbone"), knobs.pop("strategy")) for knobs in commands.trained]
    assert varied == [(s, b, h) for s in (3, 1) for b in ("unet", "segnet") for h in ("fcn", "cris")]
    assert all(knobs == commands.trained[0] for knobs in commands.trained)
    assert commands.trained[0].items() >= SMALL.items()
    assert {row["run_dir"] for row in record["rows"]} >= {"unet_a_seed_3", "segnet_b_seed_1"}


def test_the_tuned_values_are_trained_with(run):
    commands = Commands()
    tuned = {"values": {"learning_rate": 0.0003}, "best_score": 0.7, "trials": {"complete": 2}, "seconds": 9.0}
    tune = {"search": {"learning_rate": "log:1e-6:1e-2"}, "trials": 2}
    record = run(commands, factors=CRIS, tune=tune, tune_with=lambda plan, run: tuned)
    assert [knobs["learning_rate"] for knobs in commands.trained] == [0.0003]
    assert (record["rows"][0]["tuning"], record["rows"][0]["learning_rate"]) == (tuned, 0.0003)


def test_what_is_finished_is_not_run_again_and_levels_and_seeds_may_be_added(run):
    commands = Commands()
    run(commands, factors={"strategy": ["backbone"]})
    record = run(commands, seeds=[0, 1])
    assert [(knobs["strategy"], knobs["seed"]) for knobs in commands.trained] == [
        *(("backbone", 0), ("cris", 0), ("backbone", 1), ("cris", 1))
    ]
    assert (len(record["asked"]), len(record["rows"]), record["jobs"], "CPUs" in record["machine"]) == (4, 4, 1, True)
    again = run(Commands(), factors=CRIS)
    assert (len(again["asked"]), sorted(again["factors"]["strategy"])) == (4, ["backbone", "cris"])


def test_the_record_states_parameters_conditions_and_data(run, tmp_path):
    record = run(Commands(), factors={"strategy": ["backbone", "fcn"]})
    backbone, fcn = record["rows"]
    assert 0 < backbone["parameters"] < fcn["parameters"]
    assert record["conditions"]["epochs"] == 4
    assert "spacing" not in record["conditions"]  # volumes' own
    data = record["data"][str(tmp_path / "data")]
    assert (data["cases"], data["phantom"]) == ({"train": 14, "val": 3, "test": 3}, False)


def test_a_failure_is_recorded_the_others_go_on_and_the_next_call_tries_again(run):
    record = run(Commands({"backbone": UserError("LOSS_NOT_FINITE", "epoch 1", "nan")}))
    assert [row["strategy"] for row in record["rows"]] == ["cris"]
    assert record["failures"] == {"backbone_seed_0": "LOSS_NOT_FINITE epoch 1: nan"}
    record = run(Commands())
    assert (record["failures"], len(record["rows"])) == ({}, 2)


def test_an_interrupted_training_goes_on(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Commands({"cris": KeyboardInterrupt()}))
    commands = Commands()
    record = run(commands)
    assert [(knobs["strategy"], knobs["resume"]) for knobs in commands.trained] == [("cris", True)]
    assert {row["strategy"]: row["resumed"] for row in record["rows"]} == {"backbone": False, "cris": True}
    assert not list((tmp_path / "out").glob("*/checkpoints"))


def test_what_another_process_works_on_is_left_to_it(run, tmp_path):
    run(Commands(), factors={"strategy": ["backbone"]})
    (tmp_path / "out" / "cris_seed_0").mkdir()
    commands, said = Commands(), []
    with claimed(tmp_path / "out" / "cris_seed_0" / ".claim"):
        run(commands, factors={"strategy": ["backbone", "fcn", "cris"]}, say=said.append)
    assert [knobs["strategy"] for knobs in commands.trained] == ["fcn"]
    assert said[-1] == "other processes are working on 1 runs"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": {"part": "val", "score": "dice_mean"}}, r"threshold .*'train'.*expected threshold .*'val'"),
        ({"knobs": {"epochs": 6}}, r"knobs .*'epochs': 4.*expected knobs .*'epochs': 6"),
        ({"factors": {"backbone": ["unet"]}}, r"factors \['strategy'\], expected factors \['backbone'\]"),
        ({"part": "val"}, r": part test, expected part val"),
    ],
)
def test_other_settings_are_refused_into_the_same_folder(run, changes, message):
    run(Commands(), factors={"strategy": ["backbone"]})
    with pytest.raises(UserError, match=f"OTHER_EXPERIMENT.*{message}"):
        run(Commands(), **{"factors": {"strategy": ["backbone"]}, **changes})


def test_another_meaning_of_a_level_is_refused_into_the_same_folder(run):
    run(Commands(), factors={"how": {"a": {"strategy": "fcn"}}})
    with pytest.raises(UserError, match=r"OTHER_EXPERIMENT.*a {'strategy': 'fcn'}, expected a {'strategy': 'cris'}"):
        run(Commands(), factors={"how": {"a": {"strategy": "cris"}}})


def test_settings_may_be_corrected_before_any_run_has_begun(run, tmp_path):
    run(Commands(), factors={"strategy": ["backbone"]})
    (tmp_path / "out" / "backbone_seed_0" / "row.json").unlink()
    record = run(Commands(), factors=CRIS, knobs={"epochs": 6})
    assert (record["knobs"]["epochs"], len(record["asked"]), len(record["rows"])) == (6, 1, 1)


def test_another_split_is_refused_into_the_same_folder(run, tmp_path):
    run(Commands(), factors={"strategy": ["backbone"]})
    (tmp_path / "split.json").unlink()
    for name in ("images/21.jpg", "masks/21.png"):
        (tmp_path / "data" / name).touch()
    with pytest.raises(UserError, match=r"OTHER_EXPERIMENT.*split_hash"):
        run(Commands())


def test_a_run_on_another_split_is_no_row(run):
    commands = Commands()

    def on_another_split(run_id, bundle, overlays, knobs, folder, show):
        seconds = commands(run_id, bundle, overlays, knobs, folder)
        summary = folder / "evaluation_test" / "summary.json"
        if summary.exists():
            summary.write_text(json.dumps({**json.loads(summary.read_text()), "split_hash": "other"}))
        return seconds

    record = run(on_another_split, factors=CRIS)
    assert record["rows"] == []
    assert "SPLIT_CHANGED" in record["failures"]["cris_seed_0"]


def test_one_data_set_is_split_in_one_way(run, tmp_path):
    splits = {
        name: {"split_file": str(tmp_path / f"{name}.json"), "split_seed": seed} for seed, name in enumerate("ab")
    }
    content = definition(tmp_path, factors={"split": splits})
    del content["knobs"]["split_file"]
    with pytest.raises(UserError, match=r"BAD_VALUE split_file of b: .*Hint: use one split file for all"):
        run_experiment(parse_experiment(content), tmp_path / "out", command=Commands(), say=lambda text: None)


def test_a_dry_run_lists_the_runs_and_begins_none(run, tmp_path):
    commands, said = Commands(), []
    run(commands, dry_run=True, say=said.append)
    assert said[0].startswith("2 runs, 0 finished")
    assert [line.strip().partition(":")[0] for line in said[1:]] == ["backbone_seed_0", "cris_seed_0"]
    assert commands.calls == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"jobs": 0}, "BAD_VALUE"),
        ({"factors": {"backbone": ["resnet"]}}, "BAD_VALUE"),
        ({"factors": {"backbonez": ["unet"]}}, "UNKNOWN_KNOB"),
        ({"factors": {"bundle_root": ["bundles/x"]}}, "BAD_VALUE"),  # nothing uses it
        ({"knobs": {"epochz": 3}}, "UNKNOWN_KNOB"),
        ({"knobs": {"epochs": 3}}, "BAD_VALUE"),  # CRIS would end in the backbone's turn
        ({"tune": {"search": {"learning_rate": "log:1e-6:1e-2"}, "knobs": {"epochs": 3}}}, "BAD_VALUE"),
        ({"tune": {"search": {"learning_rat": "log:1e-6:1e-2"}}}, "UNKNOWN_KNOB"),
        ({"overlays": ["nosuch"]}, "MISSING_OVERLAY"),
        ({"knobs": {"dataset_dir": "nosuch"}}, "MISSING_DATA"),
    ],
)
def test_a_wrong_experiment_is_refused_before_anything_runs(run, tmp_path, wrong, code):
    commands = Commands()
    with pytest.raises(UserError) as caught:
        run(commands, **wrong)
    assert caught.value.code == code
    assert commands.calls == []
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused(run, tmp_path):
    (tmp_path / "out").write_text("a file of somebody's")
    with pytest.raises(UserError, match="NOT_WRITABLE"):
        run(Commands())
    assert (tmp_path / "out").read_text() == "a file of somebody's"


@pytest.mark.slow
def test_runs_are_tuned_trained_and_scored_by_two_processes_on_pictures(tmp_path):
    data = polyp_folder(tmp_path / "data", cases=12)
    small = {**SMALL, "picture_size": [32, 32], "epochs": 2, "iterations_per_epoch": 2, "num_workers": 0}
    content = {
        "bundle": str(ROOT / "bundles" / "polyp_cris"),
        "knobs": {**small, "backbone": "segnet", "dataset_dir": str(data), "split_file": str(tmp_path / "split.json")},
        "factors": {"strategy": ["fcn", "cris"]},
        "tune": {"search": {"learning_rate": "log:1e-6:1e-2"}, "trials": 1},
        "threshold": {"part": "val", "score": "dice_mean"},
    }
    record = run_experiment(parse_experiment(content), tmp_path / "out", jobs=2)
    assert (record["failures"], [row["strategy"] for row in record["rows"]]) == ({}, ["cris", "fcn"])
    rates = [row["learning_rate"] for row in record["rows"]]
    assert 1e-6 <= min(rates) <= max(rates) <= 1e-2
    assert [row["epochs"] for row in record["rows"]] == [2, 2]
    folders = [tmp_path / "out" / row["run_dir"] for row in record["rows"]]
    configs = [read_json(folder / "config.json") for folder in folders]
    assert [(config["strategy"], config["learning_rate"]) for config in configs] == [
        *(("cris", rates[0]), ("fcn", rates[1]))
    ]
    weights = [read_tensors(folder / "model.pt").items() for folder in folders]
    counted = [sum(value.numel() for name, value in each if name.endswith(("weight", "bias"))) for each in weights]
    assert counted == [row["parameters"] for row in record["rows"]]


@pytest.mark.slow
def test_a_failed_training_is_named_with_the_end_of_its_log(tmp_path):
    data = polyp_folder(tmp_path / "data", cases=6)
    (data / "images" / "1.jpg").write_bytes(b"no image")
    content = definition(tmp_path, factors=CRIS)
    content["knobs"] |= {"test_cases": 1, "val_cases": 1, "picture_size": [32, 32], "num_workers": 0}
    record = run_experiment(parse_experiment(content), tmp_path / "out")
    assert "RUN_FAILED" in record["failures"]["cris_seed_0"]
    assert "1.jpg" in record["failures"]["cris_seed_0"]
