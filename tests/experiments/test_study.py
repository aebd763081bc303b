from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
import study_worker
from commands import wait_until
from study_worker import EPOCHS, SEARCH, score

from medseg3d.errors import UserError
from medseg3d.experiments import study as studies
from medseg3d.experiments.study import run_study

SILENT = {"say": lambda text: None, "heartbeat_s": 1}


def load(url: str, name: str) -> optuna.Study:
    """A study as Optuna itself sees it."""
    with studies._quiet():
        return optuna.load_study(study_name=name, storage=url)


class Training:
    """Trains as study_worker does, in no time; `events` of a (trial, epoch) are exceptions that are raised there."""

    def __init__(self, events=None):
        self.events = events or {}
        self.epochs: list[tuple[str, int]] = []
        self.values: dict[str, float] = {}

    def __call__(self, values, folder, report):
        self.values[folder.name] = values["learning_rate"]
        for epoch in range(1, EPOCHS + 1):
            if (folder.name, epoch) in self.events:
                raise self.events.pop((folder.name, epoch))
            self.epochs.append((folder.name, epoch))
            if not report(epoch, score(values["learning_rate"], epoch)):
                return


def study(folder, training=None, **settings):
    return run_study(training or Training(), SEARCH, folder, **{"n_trials": 4, "pruner": "none", **SILENT, **settings})


def test_a_trial_is_worth_its_best_score_and_tells_its_folder(tmp_path):
    def train(values, folder, report):
        scores = ((2, 0.25), (4, 0.75), (6, 0.5), (8, float("nan")))
        assert [report(*each) for each in scores] == [True] * 4

    (record,) = study(tmp_path, train, n_trials=1)
    assert (record.state, record.score, record.best_epoch, record.last_epoch) == ("complete", 0.75, 4, 6)
    assert record.folder == str(tmp_path / "trial_0000")
    assert load(f"sqlite:///{tmp_path / 'study.db'}", tmp_path.name).best_value == 0.75
    assert 1e-6 <= record.values["learning_rate"] <= 1e-2


def test_a_trial_below_the_median_ends_at_that_epoch(tmp_path):
    trained = []

    def falling(values, folder, report):
        for epoch in (1, 2, 3):
            trained.append((folder.name, epoch))
            if not report(epoch, {"trial_0002": 0.1 * epoch}.get(folder.name, 0.25 * epoch)):
                break

    records = study(tmp_path, falling, n_trials=3, pruner="median", startup_trials=2)
    assert [(record.state, record.score, record.last_epoch) for record in records[1:]] == [
        ("complete", 0.75, 3),
        ("pruned", 0.1, 1),
    ]
    assert trained[-1] == ("trial_0002", 1)
    trained.clear()
    study(tmp_path / "never", falling, n_trials=3, pruner="median", startup_trials=3)
    assert trained[-1] == ("trial_0002", 3)


def test_a_study_that_goes_on_draws_what_an_uninterrupted_one_would(tmp_path):
    whole = Training()
    study(tmp_path / "whole", whole, n_trials=12)  # from the 11th on, draws depend on the scores before
    parts = Training()
    for n_trials in (3, 12):
        study(tmp_path / "parts", parts, n_trials=n_trials)
    assert parts.values == whole.values
    assert len(set(whole.values.values())) == 12
    other = Training()
    study(tmp_path / "other", other, n_trials=1, seed=1)
    assert other.values["trial_0000"] != whole.values["trial_0000"]


def test_an_interrupted_trial_is_begun_again_with_its_values_in_its_folder(tmp_path):
    training = Training({("trial_0001", 3): KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, training)
    drawn = training.values["trial_0001"]
    records = study(tmp_path, training)
    assert training.values["trial_0001"] == drawn
    assert Counter(training.epochs)["trial_0001", 1] == 2  # as this training does not resume
    # Optuna counts what goes on as a trial of its own: its number is missing
    assert [(record.number, record.state) for record in records] == [(n, "complete") for n in (0, 1, 3, 4)]
    assert len(set(training.values.values())) == 4


def test_scores_from_before_an_interruption_count(tmp_path):
    def interrupted(values, folder, report):
        report(1, 0.75)
        raise KeyboardInterrupt

    def resumed(values, folder, report):
        report(2, 0.5)

    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, interrupted, n_trials=1)
    (record,) = study(tmp_path, resumed, n_trials=1)
    assert (record.score, record.best_epoch, record.last_epoch) == (0.75, 1, 2)


def test_a_loss_that_is_not_finite_ranks_last_and_an_error_is_kept_with_its_reason(tmp_path):
    training = Training(
        {
            ("trial_0000", 1): UserError("LOSS_NOT_FINITE", "iteration 1", "a loss of nan"),
            ("trial_0001", 2): UserError("RUN_FAILED", "training", "exit code 1"),
        }
    )
    said: list[str] = []
    records = study(tmp_path, training, n_trials=3, say=said.append)
    assert [(record.state, record.reason) for record in records] == [
        ("diverged", "LOSS_NOT_FINITE iteration 1: a loss of nan"),
        ("failed", "RUN_FAILED training: exit code 1"),
        ("complete", ""),
        ("complete", ""),
    ]
    ends = [text for text in said if text.startswith("[")]
    assert "diverged" in ends[0]
    assert ends[1].startswith("[1/3] trial 1: learning_rate")  # another one takes its place
    assert ends[3].startswith("[3/3] trial 3: learning_rate")
    assert study(tmp_path, Training({}), n_trials=3) == records


def test_three_failures_in_a_row_end_the_worker_and_one_success_starts_the_count_anew(tmp_path):
    failure = UserError("MISSING_FILE", "data", "nothing")
    training = Training({(f"trial_{n:04d}", 1): failure for n in (0, 1, 3, 4, 5, 6)})
    with pytest.raises(UserError, match=r"TRIALS_FAILED.*rerun the same command.*MISSING_FILE data: nothing"):
        study(tmp_path, training, n_trials=10)
    assert list(training.events) == [("trial_0006", 1)]


def test_a_training_that_never_validates_fails(tmp_path):
    with pytest.raises(UserError, match=r"TRIALS_FAILED.*no validation gave a score"):
        study(tmp_path, lambda values, folder, report: None, n_trials=1)
    (first, *_) = study(tmp_path, n_trials=1)
    assert (first.state, first.reason) == ("failed", "no validation gave a score")


def test_a_bug_ends_the_study_and_does_not_count(tmp_path):
    with pytest.raises(ZeroDivisionError):
        study(tmp_path, Training({("trial_0000", 1): ZeroDivisionError()}), n_trials=1)
    (record,) = study(tmp_path, n_trials=1)
    assert record.state == "complete"


def test_a_study_keeps_its_settings_once_it_has_a_trial(tmp_path):
    study(tmp_path, Training(), n_trials=1, settings={"epochs": 3})
    with pytest.raises(UserError, match=r"OTHER_STUDY .*: epochs 3, expected epochs 4"):
        study(tmp_path, settings={"epochs": 4})
    assert len(study(tmp_path, n_trials=2, settings={"epochs": 3})) == 2
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "new", Training({("trial_0000", 1): KeyboardInterrupt()}), settings={"epochs": 3})


def test_two_studies_share_a_storage_under_their_names(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    assert [name for name in ("a", "b") if len(study(tmp_path / name, n_trials=2, storage=url)) != 2] == []
    assert len(study(tmp_path / "elsewhere", n_trials=2, storage=url, name="a")) == 2
    assert not (tmp_path / "elsewhere" / "trial_0000").exists()


def test_trials_of_another_study_are_not_written_over(tmp_path):
    for name in ("trial_notes", "trial_0000"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"NOT_EMPTY .*: trial_0000 of another study"):
        study(tmp_path)
    (tmp_path / "trial_0000").rmdir()
    assert len(study(tmp_path, n_trials=1)) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("file", "file/within"):
        with pytest.raises(UserError, match=rf"NOT_WRITABLE {tmp_path / folder}: "):
            study(tmp_path / folder)


def test_it_tells_of_what_has_begun_and_of_every_validation(tmp_path):
    training = Training({("trial_0001", 2): KeyboardInterrupt()})
    said: list[str] = []
    moments: list[tuple[int, str]] = []
    told = {"say": said.append, "progress": lambda *moment: moments.append(moment), "metric": "dice", "n_trials": 2}
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, training, **told)
    assert [text.partition(": learning_rate")[0] for text in said] == [
        f"trial 0 starts in {tmp_path / 'trial_0000'}",
        "[1/2] trial 0",
        f"trial 1 starts in {tmp_path / 'trial_0001'}",
    ]
    first = score(training.values["trial_0001"], 1)
    assert moments[-2:] == [(1, "trial 1"), (1, f"trial 1, epoch 1, dice {first:.4f}")]
    study(tmp_path, training, **told)
    assert said[3] == f"resuming {tmp_path.name}: 1 of 2 trials have ended"
    assert said[4].startswith(f"trial 1 resumes in {tmp_path / 'trial_0001'}: learning_rate ")
    assert len(moments) == (1 + EPOCHS + 1) + (1 + 1) + (1 + EPOCHS + 1)
    assert moments[EPOCHS + 1] == (1, "trial 0 complete")


@pytest.mark.parametrize("wrong", [{"n_trials": 0}, {"startup_trials": -1}, {"seed": -1}, {"pruner": "mean"}])
def test_a_wrong_call_is_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="BAD_VALUE"):
        study(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("no url", "BAD_VALUE"),
        ("nosuchdatabase://user:secret@host/db", "BAD_VALUE"),
        ("oracle+oracledb://user:secret@host/db", "MISSING_PACKAGE"),
        ("sqlite:////nosuchfolder/study.db", "STORAGE"),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/db", "STORAGE"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named_without_its_password(tmp_path, url, code):
    with pytest.raises(UserError) as caught:
        study(tmp_path, storage=url)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


def worker(url: str, folder: Path, n_trials: int, epoch_s: float) -> subprocess.Popen:
    words = [sys.executable, study_worker.__file__, url, str(folder), str(n_trials), str(epoch_s)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended_well(*workers: subprocess.Popen) -> None:
    for process in workers:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out


def trained(folder: Path) -> list[list[str]]:
    path = folder / "trained.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def share_a_study(url: str, folder: Path) -> None:
    """Two workers train five trials in all, each of them may add one, and none twice."""
    folder.mkdir()
    first = worker(url, folder, 5, 0.3)
    wait_until(lambda: trained(folder), first)  # Optuna makes the tables of a database for one at a time
    ended_well(first, worker(url, folder, 5, 0.3))
    lines = trained(folder)
    epochs = Counter((name, epoch) for name, epoch, _ in lines)
    assert max(epochs.values()) == 1
    records = study_records(url, folder)
    assert len(records) == len({record.folder for record in records})
    assert 5 <= len(records) <= 6
    assert {record.state for record in records} <= {"complete", "pruned"}
    assert len({record.values["learning_rate"] for record in records}) == len(records)
    assert {name for name, _ in epochs} == {Path(record.folder).name for record in records}


def survive_a_kill(url: str, folder: Path) -> None:
    """A worker is killed in its trial; another one trains that again, and none is missing at the end."""
    folder.mkdir()
    first = worker(url, folder, 2, 0.5)
    wait_until(lambda: len(trained(folder)) >= 2, first)
    killed = trained(folder)[-1][0]
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    ended_well(worker(url, folder, 2, 0.0))
    records = study_records(url, folder)
    assert len(records) == 2
    again = next(record for record in records if Path(record.folder).name == killed)
    assert (again.state, again.number, again.last_epoch) == ("complete", int(killed[-4:]), EPOCHS)
    assert len({process for name, _, process in trained(folder) if name == killed}) == 2


def study_records(url: str, folder: Path):
    with studies._quiet():
        return studies.study_records(load(url, folder.name), SEARCH)


@pytest.mark.slow
def test_two_workers_share_a_study_on_sqlite(tmp_path):
    share_a_study(f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "study")


@pytest.mark.slow
def test_a_killed_workers_trial_is_trained_by_another_on_sqlite(tmp_path):
    survive_a_kill(f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "study")
