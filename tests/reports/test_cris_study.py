from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg3d.data.atomic import claimed
from medseg3d.data.polyp_phantoms import write_polyp_phantoms
from medseg3d.data.score_files import read_summary
from medseg3d.data.splits import read_split
from medseg3d.data.tensors import read_tensors
from medseg3d.data.thresholds import read_threshold
from medseg3d.evaluation import Evaluation
from medseg3d.faults import Fault
from medseg3d.reports.cris_study import rows, run_cris_study

BUNDLE = Path(__file__).parent.parent.parent / "bundles" / "polyp_cris"

SMALL = {
    **{"unet_features": [2] * 6, "unet_plus_plus_features": [2] * 6, "segnet_features": [2] * 5},
    **{"refinement_channels": 2, "epochs": 4},
}


def picture(n_truth, n_found, found, elsewhere):
    """Truth and probability of 100 pixels: so much on so many pixels of the truth, so much on all others."""
    truth, prob = np.zeros(100, np.uint8), np.full(100, elsewhere, np.float32)
    truth[:n_truth] = 1
    prob[:n_found] = found
    return truth.reshape(10, 10), prob.reshape(10, 10)


PICTURES = {
    "train": [picture(20, 20, 0.355, 0.05)],  # Dice 1 from 0.06 to 0.35, of which the last is nearest to 0.5
    "val": [picture(20, 20, 0.215, 0.05)],
    "test": [picture(20, 10, 0.4, 0.1), picture(10, 10, 0.4, 0.1)],
}


class Commands:
    """Stands in for MONAI's command: a training leaves a checkpoint, an evaluation the files of those pictures."""

    def __init__(self, wrong: dict[str, BaseException] | None = None) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.wrong = wrong or {}

    def __call__(self, run_id, bundle, overlays, knobs, run):
        self.calls.append((run_id, dict(knobs)))
        if run_id == "training":
            (run / "checkpoints").mkdir(parents=True, exist_ok=True)
            if knobs["strategy"] in self.wrong:
                raise self.wrong[knobs["strategy"]]
            (run / "checkpoints" / "epoch_00004.pt").touch()
            return 5.0
        evaluation = Evaluation(["polyp"], saliency=True)
        threshold = read_threshold(knobs.get("threshold_file"))
        for number, (truth, prob) in enumerate(PICTURES[knobs["part"]]):
            evaluation.add(str(number), prob >= threshold, truth, prob=prob)
        split = read_split(knobs["split_file"]).hash
        evaluation.write(run / f"evaluation_{knobs['part']}", {"part": knobs["part"], "split_hash": split})
        return 1.0

    @property
    def trained(self):
        return [knobs for run_id, knobs in self.calls if run_id == "training"]


@pytest.fixture
def data(tmp_path):
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(20):
            (tmp_path / "data" / folder / f"{number}.{suffix}").touch()
    return tmp_path / "data"


@pytest.fixture
def study(data, tmp_path):
    def study(command, **settings):
        settings = {
            **{"backbones": ["unet"], "strategies": ["backbone", "cris"], "trials": 0, "knobs": SMALL},
            **{"bundle": BUNDLE, "say": lambda text: None, **settings},
        }
        return run_cris_study(tmp_path / "out", {"own": data}, command=command, **settings).parent

    return study


def test_the_threshold_is_chosen_on_the_training_part_and_the_test_part_scored_with_it(study):
    (row,) = rows(study(Commands(), strategies=["cris"]))
    assert row["threshold"] == 0.35
    # picture 1: 10 of 20 found, Dice 20/30; picture 2: all of 10; together 40/50; nothing reaches 0.5
    assert row["scores"]["dice_mean"] == pytest.approx((2 / 3 + 1) / 2)
    assert row["scores"]["dice_pooled"] == pytest.approx(0.8)
    assert row["scores_at_half"] == {"dice_mean": 0.0, "dice_pooled": 0.0}
    # (10 x 0.6^2 + 10 x 0.9^2 + 80 x 0.1^2) / 100 and (10 x 0.6^2 + 90 x 0.1^2) / 100
    assert row["scores"]["mse_mean"] == pytest.approx((0.125 + 0.045) / 2)
    assert (row["epochs"], row["learning_rate"], row["seconds"]["training"]) == (4, 0.001, 5.0)


def test_the_threshold_may_be_chosen_on_the_validation_part(study):
    (row,) = rows(study(Commands(), strategies=["cris"], threshold_part="val"))
    assert row["threshold"] == 0.21


def test_only_backbone_strategy_and_seed_differ_between_the_runs(study):
    commands = Commands()
    study(commands, backbones=["unet", "segnet"], strategies=["fcn", "cris"], seeds=[3])
    varied = [(knobs.pop("backbone"), knobs.pop("strategy"), knobs.pop("seed")) for knobs in commands.trained]
    grid = [("unet", "fcn"), ("unet", "cris"), ("segnet", "fcn"), ("segnet", "cris")]
    assert varied == [(*cell, 3) for cell in grid]
    assert all(knobs == commands.trained[0] for knobs in commands.trained)
    assert commands.trained[0].items() >= SMALL.items()


def test_the_tuned_rate_is_trained_with(study):
    commands = Commands()
    tuned = {"learning_rate": 0.0003, "best_score": 0.7, "trials": {"complete": 2}, "seconds": 9.0}
    folder = study(commands, strategies=["fcn"], trials=2, tune=lambda plan, combination: tuned)
    assert [knobs["learning_rate"] for knobs in commands.trained] == [0.0003]
    assert rows(folder)[0]["tuning"] == tuned


def test_what_is_finished_is_not_run_again(study):
    commands = Commands()
    study(commands, strategies=["backbone"])
    folder = study(commands, strategies=["backbone", "cris"])
    assert [knobs["strategy"] for knobs in commands.trained] == ["backbone", "cris"]
    record = read_summary(folder / "study.json")
    assert (len(record["asked"]), len(record["rows"]), record["jobs"], "CPUs" in record["machine"]) == (2, 2, 1, True)


def test_a_failure_is_recorded_the_others_go_on_and_the_next_call_tries_again(study):
    folder = study(Commands({"backbone": Fault("LOSS_NOT_FINITE", "epoch 1", "nan")}))
    assert [row["strategy"] for row in rows(folder)] == ["cris"]
    reasons = {"own_unet_backbone_seed_0": "LOSS_NOT_FINITE epoch 1: nan"}
    assert read_summary(folder / "study.json")["failures"] == reasons
    study(Commands())
    assert read_summary(folder / "study.json")["failures"] == {}
    assert len(rows(folder)) == 2


def test_an_interrupted_training_goes_on(study):
    with pytest.raises(KeyboardInterrupt):
        study(Commands({"cris": KeyboardInterrupt()}))
    commands = Commands()
    folder = study(commands)
    assert [(knobs["strategy"], knobs["resume"]) for knobs in commands.trained] == [("cris", True)]
    assert {row["strategy"]: row["resumed"] for row in rows(folder)} == {"backbone": False, "cris": True}
    assert not list(folder.glob("*/checkpoints"))


def test_what_another_process_works_on_is_left_to_it(study):
    folder = study(Commands(), strategies=["backbone"])
    (folder / "own_unet_cris_seed_0").mkdir()
    commands, said = Commands(), []
    with claimed(folder / "own_unet_cris_seed_0" / ".claim"):
        study(commands, strategies=["backbone", "fcn", "cris"], say=said.append)
    assert [knobs["strategy"] for knobs in commands.trained] == ["fcn"]
    assert said[-1] == "1 combinations are worked on by other processes"


def test_other_settings_are_refused_into_the_same_folder(study):
    study(Commands(), strategies=["backbone"])
    with pytest.raises(Fault, match=r"OTHER_STUDY.*threshold_part train, expected threshold_part val"):
        study(Commands(), threshold_part="val")


def test_another_split_is_refused_into_the_same_folder(study, data):
    folder = study(Commands(), strategies=["backbone"])
    (folder / "split_own.json").unlink()
    for name in ("images/21.jpg", "masks/21.png"):
        (data / name).touch()
    with pytest.raises(Fault, match=r"OTHER_STUDY.*split_hash"):
        study(Commands())


def test_a_manifest_of_other_pictures_is_refused_with_how_to_name_another(study, data):
    with pytest.raises(Fault, match=r"SPLIT_MISMATCH.*--split own=FILE"):
        study(Commands(), splits={"own": BUNDLE.parent.parent / "data" / "splits" / "Kvasir-SEG_70-15-15.json"})


def test_a_run_on_another_split_is_no_row(study):
    commands = Commands()

    def on_another_split(run_id, bundle, overlays, knobs, run):
        seconds = commands(run_id, bundle, overlays, knobs, run)
        summary = run / "evaluation_test" / "summary.json"
        if summary.exists():
            summary.write_text(json.dumps({**json.loads(summary.read_text()), "split_hash": "other"}))
        return seconds

    folder = study(on_another_split, strategies=["cris"])
    assert rows(folder) == []
    assert "SPLIT_CHANGED" in read_summary(folder / "study.json")["failures"]["own_unet_cris_seed_0"]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"backbones": ["resnet"]}, "BAD_VALUE"),
        ({"strategies": ["cris", "cris"]}, "BAD_VALUE"),
        ({"seeds": []}, "BAD_VALUE"),
        ({"jobs": 0}, "BAD_VALUE"),
        ({"trials": -1}, "BAD_VALUE"),
        ({"tune_epochs": 4}, "BAD_VALUE"),
        ({"trials": 3, "knobs": {"learning_rate": 0.1}}, "BAD_VALUE"),
        ({"threshold_part": "test"}, "TEST_PART"),
        ({"part": "all"}, "BAD_VALUE"),
        ({"splits": {"other": "a.json"}}, "BAD_VALUE"),
        ({"knobs": {"strategy": "crf"}}, "BAD_VALUE"),
        ({"knobs": {"epochz": 3}}, "UNKNOWN_KNOB"),
        ({"knobs": {"epochs": 3}}, "BAD_VALUE"),  # CRIS would end in the backbone's turn
        ({"trials": 2, "tune_epochs": 3}, "BAD_VALUE"),
        ({"knobs": {"dataset_dir": "elsewhere"}}, "BAD_VALUE"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_runs(study, tmp_path, wrong, code):
    commands = Commands()
    with pytest.raises(Fault) as caught:
        study(commands, **wrong)
    assert caught.value.code == code
    assert commands.calls == []
    assert not (tmp_path / "out" / "study.json").exists()


def test_a_folder_that_cannot_be_made_is_refused(study, tmp_path):
    (tmp_path / "out").write_text("a file of somebody's")
    with pytest.raises(Fault, match="NOT_WRITABLE"):
        study(Commands(), splits={"own": tmp_path / "elsewhere.json"})
    assert (tmp_path / "out").read_text() == "a file of somebody's"


@pytest.mark.slow
def test_two_combinations_are_tuned_trained_and_scored_on_phantoms(tmp_path):
    write_polyp_phantoms(tmp_path / "data", cases=12, seed=0)
    small = {**SMALL, "picture_size": [32, 32], "epochs": 2, "iterations_per_epoch": 2, "num_workers": 0}
    settings = {"backbones": ["segnet"], "strategies": ["fcn", "cris"], "knobs": small, "jobs": 2, "trials": 1}
    folder = run_cris_study(tmp_path / "out", {"own": tmp_path / "data"}, bundle=BUNDLE, **settings).parent
    found = rows(folder)
    assert read_summary(folder / "study.json")["failures"] == {}
    assert [row["strategy"] for row in found] == ["cris", "fcn"]
    for row in found:
        assert 1e-6 <= row["learning_rate"] <= 1e-2
        assert row["epochs"] == 2
        config = json.loads((folder / row["run_dir"] / "config.json").read_text())
        assert (config["strategy"], config["learning_rate"]) == (row["strategy"], row["learning_rate"])
        weights = read_tensors(folder / row["run_dir"] / "model.pt")
        counted = sum(value.numel() for name, value in weights.items() if name.endswith(("weight", "bias")))
        assert counted == row["parameters"]
    assert len({row["split_hash"] for row in found}) == 1
