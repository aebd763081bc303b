from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medseg3d.data.phantoms import write_phantom_dataset
from medseg3d.data.score_files import read_summary
from medseg3d.data.tensors import read_tensors
from medseg3d.faults import Fault
from medseg3d.reports import study_runs
from medseg3d.reports.ablation import run_ablation

BUNDLE = Path(__file__).parent.parent.parent / "bundles" / "pancreas_nl"


class Recorder:
    """Stands in for MONAI's command: remembers the calls, and an evaluation leaves a summary."""

    def __init__(self, fail_at: int = -1, splits: tuple[str, ...] = ("one",)) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.fail_at = fail_at
        self.splits = splits

    def __call__(self, run_id, files, knobs, *, root, log_file, threads):
        self.calls.append((run_id, dict(knobs)))
        if len(self.calls) == self.fail_at:
            raise Fault("RUN_FAILED", run_id, "exit code 1")
        if run_id == "evaluating":
            folder = Path(knobs["output_dir"]) / f"evaluation_{knobs['part']}"
            folder.mkdir(parents=True)
            entry = {"value": 0.5 + 0.01 * knobs["nonlocal_blocks"] + 0.1 * knobs["seed"], "n": 3, "convention": "mean"}
            scores = {"pancreas": {"dice_mean": entry, "n_cases": 3}, "average_precision": entry}
            split = self.splits[(len(self.calls) // 2 - 1) % len(self.splits)]
            (folder / "summary.json").write_text(json.dumps({"scores": scores, "split_hash": split}))
        return 2.0


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(study_runs, "run_monai", recorder)
    return recorder


def test_only_blocks_seed_and_folder_differ_between_the_runs(recorder, tmp_path):
    run_ablation(BUNDLE, tmp_path, blocks=[0, 2], seeds=[0, 1], knobs={"epochs": 3}, say=lambda text: None)
    trainings = [knobs for run_id, knobs in recorder.calls if run_id == "training"]
    assert [(knobs.pop("nonlocal_blocks"), knobs.pop("seed")) for knobs in trainings] == [
        (0, 0),
        (2, 0),
        (0, 1),
        (2, 1),
    ]
    assert len({str(knobs.pop("output_dir")) for knobs in trainings}) == 4
    assert trainings == [{"epochs": 3, "resume": True}] * 4


def test_the_record_states_scores_parameters_budget_and_split(recorder, tmp_path):
    run_ablation(BUNDLE, tmp_path, blocks=[0, 2], seeds=[1], knobs={"epochs": 3}, say=lambda text: None)
    record = read_summary(tmp_path / "ablation.json")
    assert record["parameters"] == {"0": 4_700_914, "2": 4_767_090}
    assert record["budget"]["epochs"] == 3
    assert [(row["nonlocal_blocks"], row["seed"], row["split_hash"]) for row in record["rows"]] == [
        (0, 1, "one"),
        (2, 1, "one"),
    ]
    assert record["rows"][1]["scores"] == {"pancreas": {"dice_mean": pytest.approx(0.62)}}


def test_the_record_leaves_out_knobs_that_an_overlay_makes_useless(recorder, tmp_path):
    bundle = BUNDLE.with_name("pancreas_nl_2d")
    settings = {"blocks": [0], "seeds": [0], "say": lambda text: None}
    volumes = read_summary(run_ablation(bundle, tmp_path / "volumes", **settings))["budget"]
    pictures = read_summary(run_ablation(bundle, tmp_path / "pictures", overlays=["pictures"], **settings))["budget"]
    assert "spacing" in volumes
    assert "spacing" not in pictures
    assert pictures["picture_size"] == 192


def test_finished_runs_are_not_run_again(recorder, tmp_path):
    run_ablation(BUNDLE, tmp_path, blocks=[0, 1], seeds=[0], say=lambda text: None)
    said: list[str] = []
    run_ablation(BUNDLE, tmp_path, blocks=[0, 1, 2], seeds=[0], say=said.append)
    assert [knobs["nonlocal_blocks"] for run_id, knobs in recorder.calls if run_id == "training"] == [0, 1, 2]
    assert said[0].startswith("3 runs, 2 of them done")
    assert len(read_summary(tmp_path / "ablation.json")["rows"]) == 3


def test_what_was_finished_before_a_failure_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(study_runs, "run_monai", Recorder(fail_at=3))
    with pytest.raises(Fault, match="RUN_FAILED"):
        run_ablation(BUNDLE, tmp_path, blocks=[0, 1], seeds=[0], say=lambda text: None)
    assert [row["nonlocal_blocks"] for row in read_summary(tmp_path / "ablation.json")["rows"]] == [0]


def test_runs_with_other_knobs_are_refused_into_the_same_folder(recorder, tmp_path):
    run_ablation(BUNDLE, tmp_path, blocks=[0], seeds=[0], knobs={"epochs": 3}, say=lambda text: None)
    with pytest.raises(Fault, match=r"OTHER_ABLATION.*knobs {'epochs': 3}, expected knobs {'epochs': 4}"):
        run_ablation(BUNDLE, tmp_path, blocks=[1], seeds=[0], knobs={"epochs": 4}, say=lambda text: None)


def test_a_folder_that_cannot_be_made_is_refused(recorder, tmp_path):
    (tmp_path / "out").write_text("a file of somebody's")
    with pytest.raises(Fault, match="NOT_WRITABLE"):
        run_ablation(BUNDLE, tmp_path / "out", blocks=[0], seeds=[0], say=lambda text: None)
    assert (tmp_path / "out").read_text() == "a file of somebody's"


def test_settings_may_be_corrected_before_any_run_has_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(study_runs, "run_monai", Recorder(fail_at=1))
    with pytest.raises(Fault, match="RUN_FAILED"):
        run_ablation(BUNDLE, tmp_path, blocks=[0], seeds=[0], say=lambda text: None)
    monkeypatch.setattr(study_runs, "run_monai", Recorder())
    knobs = {"init_filters": 8}
    run_ablation(BUNDLE, tmp_path, blocks=[2], seeds=[0], knobs=knobs, say=lambda text: None)
    record = read_summary(tmp_path / "ablation.json")
    assert (record["knobs"], list(record["parameters"]), len(record["rows"])) == (knobs, ["2"], 1)


def test_a_training_that_has_begun_keeps_other_settings_out(tmp_path, monkeypatch):
    monkeypatch.setattr(study_runs, "run_monai", Recorder(fail_at=1))
    with pytest.raises(Fault, match="RUN_FAILED"):
        run_ablation(BUNDLE, tmp_path, blocks=[0], seeds=[0], say=lambda text: None)
    (tmp_path / "blocks_0_seed_0" / "checkpoints").mkdir()
    with pytest.raises(Fault, match="OTHER_ABLATION"):
        run_ablation(BUNDLE, tmp_path, blocks=[0], seeds=[0], knobs={"epochs": 4}, say=lambda text: None)


def test_runs_on_different_splits_are_never_put_in_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr(study_runs, "run_monai", Recorder(splits=("one", "other")))
    with pytest.raises(Fault, match="SPLIT_CHANGED"):
        run_ablation(BUNDLE, tmp_path, blocks=[0, 1], seeds=[0], say=lambda text: None)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"blocks": []}, "BAD_VALUE"),
        ({"blocks": [1, 1]}, "BAD_VALUE"),
        ({"seeds": [-1]}, "BAD_VALUE"),
        ({"jobs": 0}, "BAD_VALUE"),
        ({"knobs": {"seed": 3}}, "BAD_VALUE"),
        ({"knobs": {"epochz": 3}}, "UNKNOWN_KNOB"),
        ({"overlays": ["nosuch"]}, "MISSING_OVERLAY"),
        ({"overlays": ["unetr"]}, "BAD_VALUE"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_runs(recorder, tmp_path, wrong, code):
    with pytest.raises(Fault) as caught:
        run_ablation(BUNDLE, tmp_path / "new", say=lambda text: None, **wrong)
    assert caught.value.code == code
    assert recorder.calls == []
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_scores(tmp_path):
    data = tmp_path / "phantoms"
    write_phantom_dataset(data, cases=4, seed=0)
    small = {
        **{"dataset_dir": str(data), "split_file": str(data / "split.json"), "spacing": [8, 8, 8]},
        **{"roi_size": [16, 16, 16], "init_filters": 8, "epochs": 2, "iterations_per_epoch": 2, "val_interval": 1},
        **{"num_workers": 0, "test_cases": 1, "val_cases": 1},
    }
    settings = {"blocks": [0, 2], "seeds": [0], "knobs": small, "jobs": 2, "say": lambda text: None}
    whole = read_summary(run_ablation(BUNDLE, tmp_path / "whole", **settings))
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", stopped)
    record = read_summary(stopped / "ablation.json")
    (stopped / "ablation.json").write_text(json.dumps({**record, "rows": record["rows"][:1]}))
    shutil.rmtree(stopped / "blocks_2_seed_0" / "evaluation_test")
    for path in (stopped / "blocks_2_seed_0" / "checkpoints").glob("epoch_00002.pt*"):
        path.unlink()
    resumed = read_summary(run_ablation(BUNDLE, stopped, **settings))
    assert [row["resumed"] for row in resumed["rows"]] == [False, True]
    assert [row["scores"] for row in resumed["rows"]] == [row["scores"] for row in whole["rows"]]
    weights = read_tensors(stopped / "blocks_2_seed_0" / "model.pt")
    assert sum(name.startswith("nonlocal_blocks.1") for name in weights) == 8
