"""A study: trials of an expensive function, drawn, pruned and shared between workers by Optuna.

Any number of workers (processes, machines) work on one study through a storage: SQLite for a few on one machine, any
other database that SQLAlchemy knows for more. All of it is Optuna's own: a trial whose worker died is begun again by
the heartbeat of its RDBStorage, with the same values, in the same folder; MaxTrialsCallback counts the trials.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from medseg3d.errors import UsageError, UserError
from medseg3d.experiments.search import Dimension
from medseg3d.experiments.trials import (
    COMPLETE,
    DIVERGED,
    FAILED,
    PRUNED,
    RUNNING,
    TrialRecord,
    best_record,
    values_sentence,
)
from medseg3d.files.atomic import make_folder

Report = Callable[[int, float], bool]
"""Takes epoch, from 1, and validation score; whether the training should continue."""

Train = Callable[[dict[str, Any], Path, Report], None]
"""Trains with the values of a trial in a folder, resuming what is there; a `UserError` ends the trial."""

Progress = Callable[[int, str], None]
"""Takes how many trials have ended, and what the one that runs has come to."""

PRUNERS = ("median", "none")

HEARTBEAT_S = 20
"""Seconds between the heartbeats of a trial; after three without one it is begun again."""

MOST_FAILURES = 3
"""So many failed trials in a row end a worker: what makes them fail is none of the values."""

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states that count; a trial that has failed is replaced by another."""

_DIVERGED = {"LOSS_NOT_FINITE"}
"""Errors of a training that its values are to blame for: the trial ranks below those that were pruned as late."""


class _TrialFailedError(Exception):
    """The training has failed; the trial says why."""


def run_study(
    train: Train,
    search: Mapping[str, Dimension],
    output_dir: str | Path,
    *,
    n_trials: int = 20,
    storage: str | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    metric: str = "score",
    seed: int = 0,
    pruner: str = "median",
    startup_trials: int = 5,
    heartbeat_s: int = HEARTBEAT_S,
    say: Callable[[str], None] = print,
    progress: Progress = lambda ended, running: None,
    after_trial: Callable[[Sequence[TrialRecord]], None] = lambda records: None,
) -> list[TrialRecord]:
    """Work on a study until it has `n_trials` trials that were completed or pruned, those of other workers included.

    Values are drawn by Optuna's tree-structured Parzen estimator (Watanabe, arXiv 2304.11127) with its defaults, the
    first ten at random. A trial is pruned when its best score so far is below the median of what the complete trials
    had at the same epoch. Its value is its best score.

    A `UserError` of a training fails its trial, and another one takes its place; one that its values are to blame for,
    a loss that is not finite, leaves the trial as pruned, which Optuna ranks below all that went further.

    Args:
        train: called as `train(values, folder, report)`; after `report` has said no it shall return soon.
        search: knob -> what its values are drawn from.
        output_dir: gets a folder `trial_NNNN` for each trial.
        n_trials: how many trials the study shall have; of several workers each may add one.
        storage: URL of a database; `study.db` in `output_dir` if None.
        name: the study's name in it; that of `output_dir` if None.
        settings: what has to be the same in every call for the study; JSON.
        metric: what the score is called in messages.
        seed: of what is drawn.
        pruner: "median" or "none".
        startup_trials: complete trials before the first is pruned.
        heartbeat_s: seconds between heartbeats; a trial without one for three times as long is begun again.
        say: where messages for the user go: a line when a trial begins and one when it has ended.
        progress: called when a trial begins, after each of its validations and when it has ended.
        after_trial: called with all records whenever a trial of this worker has ended.

    Returns:
        A record of each trial.

    Raises:
        UserError: `BAD_VALUE`; `STORAGE` where the database cannot be used; `OTHER_STUDY` if the study has begun with
            other settings; `NOT_EMPTY` if the folder has trials and the study none; `NOT_WRITABLE`; `TRIALS_FAILED`
            after three failures in a row.
        KeyboardInterrupt: the trial that was running waits to be begun again.
    """
    if pruner not in PRUNERS:
        raise UsageError("BAD_VALUE", "--pruner", pruner, f"one of {', '.join(PRUNERS)}", "correct it")
    numbers = {"--trials": (n_trials, 1), "--startup-trials": (startup_trials, 0), "--seed": (seed, 0)}
    for option, (value, least) in numbers.items():
        if value < least:
            raise UsageError("BAD_VALUE", option, str(value), f"{least} or more", "correct it")
    folder = Path(output_dir).absolute()
    make_folder(folder)
    median = optuna.pruners.MedianPruner(startup_trials)
    with _quiet(), _database(storage or f"sqlite:///{folder / 'study.db'}", heartbeat_s) as database:
        study = optuna.create_study(
            study_name=name or folder.name,
            storage=database,
            direction="maximize",
            load_if_exists=True,
            sampler=_SeededByNumber(seed),
            pruner=median if pruner == "median" else optuna.pruners.NopPruner(),
        )
        _refuse_another_study(study, folder, dict(settings or {}))
        _Worker(train, search, folder, n_trials, metric, say, progress, after_trial).work(study, heartbeat_s)
        return study_records(study, search)


def study_records(study: optuna.Study, search: Mapping[str, Dimension]) -> list[TrialRecord]:
    """A record of each trial, in the order of their numbers; what was interrupted is one with what went on with it."""
    trials = study.get_trials(deepcopy=False)
    kept = [trial for trial in trials if trial.state != TrialState.FAIL or "reason" in trial.user_attrs]
    return sorted((_record(trial, search) for trial in kept), key=lambda record: record.number)


@dataclass
class _Worker:
    """Runs trials of a study one after the other."""

    train: Train
    search: Mapping[str, Dimension]
    folder: Path
    n_trials: int
    metric: str
    say: Callable[[str], None]
    progress: Progress
    after_trial: Callable[[Sequence[TrialRecord]], None]
    failures: int = 0

    def work(self, study: optuna.Study, heartbeat_s: int) -> None:
        """Run trials while some are to be begun, then wait for those of others."""
        known = study_records(study, self.search)
        if known:
            self.say(f"resuming {study.study_name}: {_ended(known)} of {self.n_trials} trials have ended")
        enough = MaxTrialsCallback(self.n_trials, states=(*_ENDED, TrialState.RUNNING))
        waits = False
        while True:
            optuna.storages.fail_stale_trials(study)
            states = [trial.state for trial in study.get_trials(deepcopy=False)]
            if sum(state in _ENDED for state in states) >= self.n_trials:
                return
            if sum(state in (*_ENDED, TrialState.RUNNING) for state in states) < self.n_trials:
                study.optimize(self._objective, catch=(_TrialFailedError,), callbacks=[self._after, enough])
            else:
                if not waits:
                    self.say("no trials left to start; waiting for those of other workers")
                waits = True
                time.sleep(heartbeat_s / 4)

    def _after(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Say what came of a trial; end the worker after too many failures."""
        records = study_records(study, self.search)
        record = _record(trial, self.search)
        best = best_record(records)
        so_far = f"; best so far {best.score:.4f}, trial {best.number}" if best else ""
        self.say(f"[{_ended(records)}/{self.n_trials}] {record.sentence(self.metric)}{so_far}")
        self.progress(_ended(records), f"trial {record.number} {record.state}")
        self.after_trial(records)
        self.failures = self.failures + 1 if record.state == FAILED else 0
        if self.failures == MOST_FAILURES:
            raise UserError(
                "TRIALS_FAILED",
                self.folder,
                f"{self.failures} failed trials in a row",
                "trials that finish",
                f"fix what made them fail and rerun the same command; the last error: {record.reason}",
            )

    def _objective(self, trial: Trial) -> float:
        frozen = trial.study.get_trials(deepcopy=False)[trial.number]
        number = _number(frozen)
        folder = self.folder / f"trial_{number:04d}"
        trial.set_user_attr("folder", str(folder))
        values = {knob: dimension.draw(trial, knob) for knob, dimension in self.search.items()}
        goes_on = "resumes" if number != trial.number else "starts"
        self.say(f"trial {number} {goes_on} in {folder}: {values_sentence(values)}")
        ended = _ended(study_records(trial.study, self.search))
        self.progress(ended, f"trial {number}")
        scores = dict(frozen.intermediate_values)
        pruned = False

        def report(epoch: int, score: float) -> bool:
            nonlocal pruned
            if not math.isnan(score) and epoch not in scores:  # a training that continues may repeat an epoch
                scores[epoch] = score
                trial.report(score, epoch)
                pruned = trial.should_prune()
            self.progress(ended, f"trial {number}, epoch {epoch}, {self.metric} {score:.4f}")
            return not pruned

        try:
            self.train(values, folder, report)
        except KeyboardInterrupt:
            _begin_again(trial.study, trial.study.get_trials(deepcopy=False)[trial.number])
            raise
        except UserError as error:
            trial.set_user_attr("reason", str(error))
            if error.code in _DIVERGED:
                raise optuna.TrialPruned from error
            raise _TrialFailedError from error
        if pruned:
            raise optuna.TrialPruned
        if not scores:
            trial.set_user_attr("reason", f"no validation gave a {self.metric}")
            raise _TrialFailedError
        return max(scores.values())


class _SeededByNumber(optuna.samplers.TPESampler):
    """Optuna's TPE sampler, seeded separately for each trial by the study's seed and the number of the trial.

    With one generator for all, every worker, and a study that continues, draws the first trial's values again.
    """

    def __init__(self, seed: int, number: int = 0) -> None:
        super().__init__(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        self.seed = seed

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        study.sampler = _SeededByNumber(self.seed, trial.number)


def _begin_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Let a trial wait to be begun again, with its values, attributes and scores so far."""
    RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def _number(trial: FrozenTrial) -> int:
    """The number of a trial; that of the first for one that was begun again."""
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if first is None else first


def _record(trial: FrozenTrial, search: Mapping[str, Dimension]) -> TrialRecord:
    reason = trial.user_attrs.get("reason", "")
    states = {
        TrialState.COMPLETE: COMPLETE,
        TrialState.PRUNED: DIVERGED if reason else PRUNED,
        TrialState.FAIL: FAILED,
    }
    scores = trial.intermediate_values
    best = max(scores, key=lambda epoch: (scores[epoch], -epoch), default=0)
    return TrialRecord(
        number=_number(trial),
        state=states.get(trial.state, RUNNING),
        score=scores[best] if best else None,
        best_epoch=best,
        last_epoch=max(scores, default=0),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        values={
            knob: dimension.value(trial.params[knob]) for knob, dimension in search.items() if knob in trial.params
        },
        folder=trial.user_attrs.get("folder", ""),
        reason=reason,
    )


def _ended(records: Sequence[TrialRecord]) -> int:
    return sum(record.state not in (RUNNING, FAILED) for record in records)


def _refuse_another_study(study: optuna.Study, folder: Path, settings: dict[str, Any]) -> None:
    if study.get_trials(deepcopy=False):
        before, now = _flat(study.user_attrs.get("settings", {})), _flat(settings)
        differ = [name for name in {**now, **before} if before.get(name) != now.get(name)]
        if differ:
            found, wanted = (
                "; ".join(f"{name} {each.get(name, 'not given')}" for name in differ) for each in (before, now)
            )
            remedy = "choose another folder with -o, and another --study name if you use the same --storage"
            raise UsageError("OTHER_STUDY", study.study_name, found, wanted, remedy)
        return
    strange = next(iter(sorted(folder.glob("trial_[0-9]*"))), None)
    if strange is not None:
        wanted = f"only trials of the study {study.study_name}"
        raise UsageError(
            "NOT_EMPTY", folder, f"{strange.name} of another study", wanted, "choose another folder with -o"
        )
    study.set_user_attr("settings", settings)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the words that they are told with: `knobs epochs` for that of `knobs`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name} {key}": value[key] for key in value} if isinstance(value, Mapping) else {name: value}
    return flat


@contextlib.contextmanager
def _database(url: str, heartbeat_s: int) -> Iterator[RDBStorage]:
    """Optuna's storage in a database; what goes wrong with it is an error that does not show the password.

    Raises:
        UserError: `BAD_VALUE` for no URL, `MISSING_PACKAGE` for a driver that is not installed, `STORAGE`.
    """
    shown = "--storage"
    try:
        parsed = sqlalchemy.engine.make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        sqlite = parsed.get_backend_name() == "sqlite"
        yield RDBStorage(
            url,
            engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True},
            heartbeat_interval=heartbeat_s,
            grace_period=3 * heartbeat_s,
            heartbeat_stale_trial_callback=_begin_again,
        )
    except ArgumentError as error:
        wanted = "for instance sqlite:////data/study.db or postgresql+psycopg://user:password@host/database"
        # without the text: there may be a password in it
        raise UsageError(
            "BAD_VALUE", "--storage", "not a database URL that SQLAlchemy understands", wanted, "correct it"
        ) from error
    except ImportError as error:
        driver = " ".join(str(error.__cause__ or error).split())
        remedy = "pip install 'psycopg[binary]' for postgresql+psycopg://"
        raise UserError("MISSING_PACKAGE", shown, driver, "the driver of that database", remedy) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        said = " ".join(str(getattr(cause, "orig", None) or cause).split())[:300]
        wanted, remedy = "a writable database", "fix that and rerun the same command to resume"
        raise UserError("STORAGE", shown, said, wanted, remedy) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context without Optuna's log, as a line is said of every trial, and its warnings of what is experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)
