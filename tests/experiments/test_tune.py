from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, monai_bundle, wait_until
from ignite.engine import Engine, Events
from picture_runs import polyp_folder

from medseg3d.cli import main
from medseg3d.errors import UserError
from medseg3d.experiments import tune as tuning
from medseg3d.experiments.trial_process import report_scores
from medseg3d.experiments.tune import tune
from medseg3d.files.tensors import read_tensors

BUNDLE = ROOT / "bundles" / "polyp_resunetpp"
LOG = {"learning_rate": "log:1e-6:1e-2"}


class Recorder:
    """Stands in for the process of a trial: remembers the calls, and scores the learning rate."""

    def __init__(self, interrupt_at: int = -1) -> None:
        self.calls: list[dict] = []
        self.interrupt_at = interrupt_at

    def __call__(self, metric, names, knobs, root, trial, report):
        self.calls.append({**knobs, "metric": metric, "names": list(names), "root": root})
        trial.mkdir(parents=True, exist_ok=True)
        (trial / "run.log").touch()
        report(1, 1 - knobs["learning_rate"])
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    return replace_trainings(monkeypatch, Recorder())


def replace_trainings(monkeypatch, training):
    """Trainings that need no data."""
    monkeypatch.setattr(tuning, "_train", training)
    monkeypatch.setattr(tuning, "build", lambda *call: None)
    return training


def settings(**others):
    return {"n_trials": 3, "say": lambda text: None, **others}


def test_only_what_is_searched_and_the_folder_differ_between_the_trials(recorder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tune(BUNDLE, "tuned", LOG, **settings(knobs={"epochs": 3, "dataset_dir": "data"}, overlays=["unet"], seed=2))
    assert len({call.pop("learning_rate") for call in recorder.calls}) == 3
    assert [call.pop("output_dir") for call in recorder.calls] == [tmp_path / f"tuned/trial_000{n}" for n in range(3)]
    assert recorder.calls == 3 * [
        {
            **{"epochs": 3, "dataset_dir": str(tmp_path / "data"), "seed": 2, "resume": False, "root": ROOT},
            **{
                "metric": "val_dice_mean",
                "names": [f"bundles/polyp_resunetpp/{name}.json" for name in ("train", "unet")],
            },
        }
    ]


def test_the_best_values_are_written_with_the_command_that_trains_with_them(recorder, tmp_path):
    tuned = tune(BUNDLE, tmp_path / "tuned", {**LOG, "batch_size": "choice:4,8"}, **settings(knobs={"epochs": 3}))
    best = min(recorder.calls, key=lambda call: call["learning_rate"])
    assert tuned.values == {"learning_rate": best["learning_rate"], "batch_size": best["batch_size"]}
    assert tuned.score == 1 - best["learning_rate"]
    assert tuned.train_command == [
        *("python", "-m", "monai.bundle", "run", "training"),
        *("--config_file", "['bundles/polyp_resunetpp/train.json']", "--epochs", "3"),
        *("--learning_rate", str(best["learning_rate"]), "--batch_size", str(best["batch_size"])),
        *("--seed", "0", "--output_dir", str(tmp_path / "tuned" / "best")),
    ]
    written = json.loads((tmp_path / "tuned" / "best.json").read_text())
    assert (written["values"], written["score"], written["chosen_on"]) == (tuned.values, tuned.score, "val")
    assert written["train_command"] == tuned.train_command
    assert written["trials"] == {"complete": 3}
    assert len((tmp_path / "tuned" / "trials.csv").read_text().splitlines()) == 4


def test_an_interrupted_trial_resumes_its_run_with_or_without_a_checkpoint(tmp_path, monkeypatch):
    recorder = replace_trainings(monkeypatch, Recorder(interrupt_at=2))
    with pytest.raises(KeyboardInterrupt):
        tune(BUNDLE, tmp_path, LOG, **settings())
    tune(BUNDLE, tmp_path, LOG, **settings())
    assert [(call["output_dir"].name, call["resume"]) for call in recorder.calls] == [
        *(("trial_0000", False), ("trial_0001", False), ("trial_0001", True), ("trial_0003", False)),
    ]
    assert recorder.calls[1]["learning_rate"] == recorder.calls[2]["learning_rate"]


def test_volumes_are_tuned_as_pictures_are(recorder, tmp_path):
    tuned = tune(ROOT / "bundles" / "pancreas_nl", tmp_path, LOG, **settings(n_trials=1))
    assert tuned.metric == "val_dice_mean"
    assert tuned.train_command[6] == "['bundles/pancreas_nl/train.json']"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"search": {"learning_rat": "log:1e-6:1e-2"}}, "UNKNOWN_KNOB"),
        ({"knobs": {"epochz": 3}}, "UNKNOWN_KNOB"),
        ({"search": {"learning_rate": "log:0:1"}}, "BAD_VALUE"),
        ({"search": {"seed": "int:0:9"}}, "BAD_VALUE"),
        ({"search": {"split_seed": "int:0:9"}}, "BAD_VALUE"),
        ({"search": {"bundle_root": "choice:a,b"}}, "BAD_VALUE"),  # nothing uses it
        ({"knobs": {"output_dir": "runs/x"}}, "BAD_VALUE"),
        ({"knobs": {"learning_rate": 0.1}}, "BAD_VALUE"),
        ({"knobs": {"val_part": "test"}}, "TEST_PART"),
        ({"overlays": ["nosuch"]}, "MISSING_OVERLAY"),
        ({"bundle": "nosuch"}, "MISSING_BUNDLE"),
    ],
)
def test_a_wrong_call_is_refused_before_any_trial(recorder, tmp_path, wrong, code):
    call = {"bundle": BUNDLE, "output_dir": tmp_path / "new", "search": LOG, **wrong}
    with pytest.raises(UserError) as caught:
        tune(**call, **settings())
    assert caught.value.code == code
    assert recorder.calls == []
    assert not (tmp_path / "new").exists()


def test_other_knobs_are_another_study(recorder, tmp_path):
    tune(BUNDLE, tmp_path, LOG, **settings(knobs={"epochs": 3, "amp": False}))
    with pytest.raises(UserError, match=r"knobs epochs 3; knobs overlap not given, expected knobs epochs 4; knobs ov"):
        tune(BUNDLE, tmp_path, LOG, **settings(knobs={"epochs": 4, "overlap": 0.25, "amp": False}))
    with pytest.raises(UserError, match=r"OTHER_STUDY .*: knobs epochs 3, expected knobs epochs not given. Hint"):
        tune(BUNDLE, tmp_path, LOG, **settings(knobs={"amp": False}))
    with pytest.raises(UserError, match=r"search learning_rate log:1e-06:0.01, expected search learning_rate uni"):
        tune(BUNDLE, tmp_path, {"learning_rate": "uniform:0:1"}, **settings(knobs={"epochs": 3, "amp": False}))


def test_a_study_in_which_nothing_came_to_its_end_has_no_best(tmp_path, monkeypatch):
    def diverge(*args):
        raise UserError("LOSS_NOT_FINITE", "iteration 1", "a loss of nan")

    replace_trainings(monkeypatch, diverge)
    with pytest.raises(UserError, match=r"NO_TRIAL .*: 3 trials, all diverged, .*raise --trials"):
        tune(BUNDLE, tmp_path, LOG, **settings())
    assert (tmp_path / "trials.csv").exists()


def test_the_verb_prints_the_trials_the_best_and_its_command(recorder, tmp_path, capsys):
    words = ["tune", str(BUNDLE), "-o", str(tmp_path), "--search", "learning_rate=log:1e-6:1e-2", "--trials", "2"]
    assert main([*words, "--epochs", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"trial 0 starts in {tmp_path / 'trial_0000'}: learning_rate ")
    assert "\n[1/2] trial 0: learning_rate " in out
    assert "best so far" in out
    assert "| trial | learning_rate | val_dice_mean | epoch | state | s |" in out
    assert "chosen on the validation set; the test set was not used" in out
    assert """--config_file "['bundles/polyp_resunetpp/train.json']" --epochs 3 --learning_rate """ in out
    assert main([*words, "--search", "learning_rate=log:1e-6:1e-2"]) == 2
    assert main(["tune", str(BUNDLE), "-o", str(tmp_path), "--search", "epochz=int:1:2"]) == 2


def test_choices_that_cannot_be_built_and_data_that_is_missing_are_found_before_any_trial(tmp_path, monkeypatch, small):
    monkeypatch.setattr(tuning, "_train", None)
    cris, missing = ROOT / "bundles" / "polyp_cris", {"dataset_dir": str(tmp_path / "nosuch")}
    for bundle, search, knobs, message in (
        (cris, {"strategy": "choice:fcn,nosuch"}, small_cris(small), r"BAD_VALUE --strategy: 'nosuch', expected"),
        (
            cris,
            {"refinement_channels": "choice:4,x"},
            small_cris(small),
            r"BAD_VALUE --refinement_channels: 'x'",
        ),
        (BUNDLE, LOG, {**small, **missing}, r"MISSING_DATA .*nosuch: no such folder"),
        (ROOT / "bundles" / "pancreas_nl", LOG, missing, r"DATA.*nosuch"),
    ):
        with pytest.raises(UserError, match=message):
            tune(bundle, tmp_path / "new", search, **settings(knobs=knobs))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_the_verb_stops_for_a_batch_system_and_a_lost_terminal_as_for_ctrl_c(monkeypatch, tmp_path, capsys, name):
    def stopped(*args):
        signal.raise_signal(getattr(signal, name))
        time.sleep(60)

    before = signal.signal(getattr(signal, name), signal.SIG_DFL)
    replace_trainings(monkeypatch, stopped)
    words = ["tune", str(BUNDLE), "-o", str(tmp_path), "--search", "learning_rate=log:1e-6:1e-2", "--trials", "1"]
    try:
        assert main(words) == 130
        assert signal.getsignal(getattr(signal, name)) is signal.SIG_DFL
    finally:
        signal.signal(getattr(signal, name), before)
    assert capsys.readouterr().err.endswith("interrupted\n")
    recorder = replace_trainings(monkeypatch, Recorder())
    assert main(words) == 0  # at once: what was stopped waits, nothing is running
    assert [call["output_dir"].name for call in recorder.calls] == ["trial_0000"]
    assert "trial 0 resumes in" in capsys.readouterr().out


def test_a_hang_up_that_is_ignored_stays_ignored(recorder, monkeypatch, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(tuning, "_train", lambda *args: (signal.raise_signal(signal.SIGHUP), recorder(*args)))
    words = ["tune", str(BUNDLE), "-o", str(tmp_path), "--search", "learning_rate=log:1e-6:1e-2", "--trials", "1"]
    try:
        assert main(words) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_without_optuna_the_verb_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in [name for name in sys.modules if name.startswith(("medseg3d.experiments", "medseg3d.cli.tune"))]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["tune", str(BUNDLE), "-o", str(tmp_path), "--search", "epochs=int:1:2"]) == 1
    assert "Hint: pip install 'medseg3d[tune]'" in capsys.readouterr().err


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """Trains by a script (scripted_trial.py), with these answers to its scores."""
    monkeypatch.setattr(tuning, "_PROCESS", "scripted_trial")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    told: list[tuple[int, float]] = []

    def train(script: str, *answers: bool) -> list[tuple[int, float]]:
        left = list(answers)

        def report(epoch: int, score: float) -> bool:
            told.append((epoch, score))
            return left.pop(0)

        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        tuning._train("val_dice_mean", ["train.json"], {"script": script}, tmp_path, tmp_path, report)
        return told

    return train


def test_scores_of_the_training_are_reported_until_the_answer_is_no(scripted, tmp_path):
    assert scripted("0.5,0.25,0.75", True, False) == [(1, 0.5), (2, 0.25)]
    assert (tmp_path / "run.log").read_text().splitlines() == [
        *("$ python -m monai.bundle run training --config_file '['\"'\"'train.json'\"'\"']' --script 0.5,0.25,0.75",),
        *("epoch 1 answer true", "epoch 2 answer false"),
    ]
    assert not (tmp_path / "checkpoints").exists()


def test_an_error_of_the_training_is_raised_as_it_was(scripted, tmp_path):
    with pytest.raises(UserError) as caught:
        scripted("0.5,error", True)
    assert str(caught.value) == "LOSS_NOT_FINITE iteration 7: a loss of nan"


def test_a_training_that_dies_is_an_error_with_its_exit_code_and_log(scripted, tmp_path):
    with pytest.raises(UserError, match=r"RUN_FAILED training: exit code 3, .* which ends: epoch 1 answer true"):
        scripted("0.5,die", True)
    assert (tmp_path / "checkpoints").exists()


def test_an_interruption_ends_the_training(monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "_PROCESS", "scripted_trial")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    started = []
    popen = subprocess.Popen

    def remember(*args, **keywords):
        started.append(popen(*args, **keywords))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", remember)

    def interrupted(epoch, score):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuning._train("val_dice_mean", ["train.json"], {"script": "0.5,0.5"}, tmp_path, tmp_path, interrupted)
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize(("go_on", "epochs"), [(True, 3), (False, 1)])
def test_a_training_tells_each_score_and_ends_when_told_to(go_on, epochs):
    messages = []

    def ask(message):
        messages.append(message)
        return go_on

    trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    report_scores(evaluator, trainer, "val_dice_mean", ask)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        evaluator.state.metrics["val_dice_mean"] = 0.25 * engine.state.epoch
        evaluator.state.epoch = engine.state.epoch - 1
        evaluator.state.max_epochs = engine.state.epoch
        evaluator.run([0])

    trainer.run([0], max_epochs=3)
    assert [message["score"] for message in messages] == [0.25, 0.5, 0.75][:epochs]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Knobs of a training of seconds on six images; its masks mean nothing."""
    data = polyp_folder(tmp_path_factory.mktemp("pictures") / "data")
    return {
        **{"dataset_dir": str(data), "split_file": str(data / "split.json"), "test_cases": 1, "val_cases": 1},
        **{"picture_size": [32, 32], "features": [8, 8, 8, 8, 8], "batch_size": 2, "epochs": 3, "num_workers": 0},
    }


def small_cris(small: dict) -> dict:
    return {**{name: small[name] for name in small if name != "features"}, "unet_features": [4, 8, 8, 8, 8, 4]}


def weights(folder: Path) -> dict[str, list]:
    return {name: value.tolist() for name, value in read_tensors(folder / "model.pt").items()}


@pytest.mark.slow
def test_the_command_of_the_best_trains_the_same_network_and_a_diverged_trial_is_none(tmp_path, small, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the command below has it: sums depend on the number of threads
    search = {"learning_rate": "choice:0.001,1e30"}
    tuned = tune(BUNDLE, tmp_path, search, **settings(knobs=small, n_trials=4))
    states = {record.values["learning_rate"]: record.state for record in tuned.records}
    assert states == {0.001: "complete", 1e30: "diverged"}
    assert "LOSS_NOT_FINITE" in next(record.reason for record in tuned.records if record.state == "diverged")
    done = monai_bundle(*tuned.train_command[4:])
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "best") == weights(Path(tuned.best.folder))
    assert (tmp_path / "best" / "config.json").exists()


@pytest.mark.slow
def test_a_pruned_training_ends_with_its_epoch(tmp_path, small):
    told = []

    def report(epoch, score):
        told.append(epoch)
        return epoch < 2

    knobs = {**small, "seed": 0, "output_dir": tmp_path}
    tuning._train("val_dice_mean", ["bundles/polyp_resunetpp/train.json"], knobs, ROOT, tmp_path, report)
    assert told == [1, 2]
    assert "pruned after epoch 2" in (tmp_path / "run.log").read_text()


def begin(folder: Path, knobs: dict, until_epoch: int) -> subprocess.Popen:
    """The verb, once its first training has a checkpoint of that epoch."""
    words = [word for name, value in knobs.items() for word in (f"--{name}", str(value))]
    verb = "import sys; from medseg3d.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", verb, "tune", str(BUNDLE), "-o", str(folder), "--trials", "1"]
    process = subprocess.Popen(
        [*command, "--search", "learning_rate=log:1e-4:1e-2", *words], stderr=subprocess.PIPE, text=True
    )
    wait_until((folder / "trial_0000" / "checkpoints" / f"epoch_{until_epoch:05d}.pt").exists, process)
    return process


@pytest.mark.slow
def test_an_interrupted_study_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, small):
    search, knobs = {"learning_rate": "log:1e-4:1e-2"}, {**small, "epochs": 12}
    whole = tune(BUNDLE, tmp_path / "whole", search, **settings(knobs=knobs, n_trials=1))
    stopped = begin(tmp_path / "stopped", knobs, until_epoch=2)
    stopped.send_signal(signal.SIGINT)
    assert (stopped.communicate(timeout=60)[1], stopped.returncode) == ("interrupted\n", 130)
    resumed = tune(BUNDLE, tmp_path / "stopped", search, **settings(knobs=knobs, n_trials=1))
    assert "resuming after epoch" in (tmp_path / "stopped" / "trial_0000" / "run.log").read_text()
    assert (resumed.values, resumed.score, resumed.best.last_epoch) == (whole.values, whole.score, 12)
    assert weights(Path(resumed.best.folder)) == weights(Path(whole.best.folder))


@pytest.mark.slow
def test_no_training_outlives_its_study(tmp_path, small):
    study = begin(tmp_path, {**small, "epochs": 500}, until_epoch=1)
    study.kill()
    study.communicate(timeout=60)
    log = tmp_path / "trial_0000" / "run.log"
    for _ in range(200):
        if "is gone: stopping" in log.read_text():
            break
        time.sleep(0.05)
    else:
        pytest.fail(log.read_text())
