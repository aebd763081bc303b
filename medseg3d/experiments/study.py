"""A study: trials of an expensive function, drawn, pruned and shared between workers by Optuna.

Any number of workers (processes, machines) work on one study through a storage: SQLite for a few on one machine, any
other database that SQLAlchemy knows for more. What Optuna 5.0.0 leaves open is settled here:

- `n_trials` is the study's, not a worker's. A number is given to each trial by the storage; one that would be too many,
  as two workers asked at once, ends before it has begun.
- A trial whose worker was interrupted or died is begun again with the same values, in the same folder, and counts once.
- What a trial draws depends on the seed, on how many were drawn before and on what came of them, and on nothing else:
  a study that was interrupted goes on as the uninterrupted one would have.
- SQLite hands the same waiting trial to two workers now and then, and two workers that make the tables at once hinder
  each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from medseg3d.data.atomic import make_folder
from medseg3d.experiments.search import Dimension
from medseg3d.experiments.storage import DATABASE_ERRORS, begin_again, open_storage, quiet_optuna, storage_fault
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
from medseg3d.faults import Fault, UsageFault

Report = Callable[[int, float], bool]
"""Takes epoch, from 1, and validation score; whether the training shall go on."""

Train = Callable[[dict[str, Any], Path, Report], None]
"""Trains with the values of a trial in a folder, resuming what is there; a `Fault` ends the trial."""

Progress = Callable[[int, str], None]
"""Takes how many trials have ended, and what the one that runs has come to."""

PRUNERS = ("median", "none")

HEARTBEAT_S = 20
"""Seconds between the signs of life of a trial."""

GRACE_HEARTBEATS = 3
"""A trial whose last sign of life is longer ago than so many is begun again."""

MOST_FAILURES = 3
"""So many failed trials in a row end a worker: what makes them fail is none of the values."""

_DIVERGED = {"LOSS_NOT_FINITE"}
"""Faults of a training that its values are to blame for: the trial ranks below those that were pruned as late."""


class _NotNeededError(Exception):
    """Enough trials were begun before this one."""


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
    """Work on a study until it has `n_trials` trials, then wait for those of other workers.

    Values are drawn by Optuna's tree-structured Parzen estimator (Watanabe, arXiv 2304.11127) with its defaults, the
    first ten at random. A trial is pruned when its best score so far is below the median of what the complete trials
    had at the same epoch. Its value is its best score.

    A `Fault` of a training fails its trial, and the study goes on; one that its values are to blame for, a loss that is
    not finite, leaves the trial as pruned, which Optuna ranks below all that went further.

    Args:
        train: called as `train(values, folder, report)`; after `report` has said no it shall return soon.
        search: knob -> what its values are drawn from.
        output_dir: gets a folder `trial_NNNN` for each trial.
        n_trials: how many trials the study shall have, of all workers together.
        storage: URL of a database; `study.db` in `output_dir` if None.
        name: the study's name in it; that of `output_dir` if None.
        settings: what has to be the same in every call for the study; JSON.
        metric: what the score is called in messages.
        seed: of what is drawn.
        pruner: "median" or "none".
        startup_trials: complete trials before the first is pruned.
        heartbeat_s: seconds between signs of life; a trial without one for three times as long is begun again.
        say: where messages for the user go: a line when a trial begins and one when it has ended.
        progress: called when a trial begins, after each of its validations and when it has ended.
        after_trial: called with all records whenever a trial of this worker has ended.

    Returns:
        A record of each trial.

    Raises:
        Fault: `BAD_VALUE`; `STORAGE` where the database cannot be used; `OTHER_STUDY` if the study has begun with other
            settings; `NOT_EMPTY` if the folder has trials that the study does not know; `NOT_WRITABLE`; `TRIALS_FAILED`
            after three failures in a row.
        KeyboardInterrupt: the trial that was running waits to be begun again.
    """
    if pruner not in PRUNERS:
        raise UsageFault("BAD_VALUE", "--pruner", pruner, f"one of {', '.join(PRUNERS)}")
    numbers = {"--trials": (n_trials, 1), "--startup-trials": (startup_trials, 0), "--seed": (seed, 0)}
    for option, (value, least) in numbers.items():
        if value < least:
            raise UsageFault("BAD_VALUE", option, str(value), f"{least} or more", "correct it")
    folder = Path(output_dir).absolute()
    make_folder(folder)
    url = storage or f"sqlite:///{folder / 'study.db'}"
    pruners = optuna.pruners
    with quiet_optuna():
        database = open_storage(url, heartbeat_s, GRACE_HEARTBEATS * heartbeat_s)
        try:
            study = optuna.create_study(
                study_name=name or folder.name,
                storage=database,
                direction="maximize",
                load_if_exists=True,
                sampler=_SeededByDraw(seed),
                pruner=pruners.MedianPruner(startup_trials) if pruner == "median" else pruners.NopPruner(),
            )
            _refuse_another_study(study, folder, dict(settings or {}))
            worker = _Worker(study, database, train, search, folder, n_trials, metric, say, progress, after_trial)
            worker.work(GRACE_HEARTBEATS * heartbeat_s)
            return study_records(study, search)
        except DATABASE_ERRORS as error:
            raise storage_fault(url, error.__cause__ or error) from error


def study_records(study: optuna.Study, search: Mapping[str, Dimension]) -> list[TrialRecord]:
    """A record of each trial that counts, in the order of their numbers."""
    trials = study.get_trials(deepcopy=False)
    again = _begun_again(trials)
    records = [_record(trial, _draw(trial, trials), search) for trial in trials if _counts(trial, again)]
    return sorted(records, key=lambda record: record.number)


@dataclass
class _Worker:
    """Runs trials of a study one after the other."""

    study: optuna.Study
    database: RDBStorage
    train: Train
    search: Mapping[str, Dimension]
    folder: Path
    n_trials: int
    metric: str
    say: Callable[[str], None]
    progress: Progress
    after_trial: Callable[[Sequence[TrialRecord]], None]
    number: int = -1  # Optuna's, of the trial that runs

    def work(self, patience_s: float) -> None:
        """Run trials while some are to be begun, then wait for those of others."""
        failures = 0
        known = study_records(self.study, self.search)
        if known:
            self.say(f"going on with {self.study.study_name}: {_ended(known)} of {self.n_trials} trials have ended")
        while True:
            trials = self.study.get_trials(deepcopy=False)
            again = _begun_again(trials)
            counting = [trial for trial in trials if _counts(trial, again)]
            if len(counting) < self.n_trials or any(trial.state == TrialState.WAITING for trial in counting):
                record = self._run_one()
                failures = failures + 1 if record and record.state == FAILED else 0
                if record and failures == MOST_FAILURES:
                    raise Fault(
                        "TRIALS_FAILED",
                        self.folder,
                        f"{failures} failed trials in a row",
                        "trials that end",
                        "mend what made them fail and give the same command again, with more --trials in their place, "
                        f"as failed ones count; the last with {record.reason}",
                    )
            elif any(trial.state == TrialState.RUNNING for trial in counting):
                self._wait([trial for trial in counting if trial.state == TrialState.RUNNING], patience_s)
            else:
                return

    def _run_one(self) -> TrialRecord | None:
        """The record of the trial that was run; None if it was not needed or became another worker's."""
        self.number = -1
        try:
            self.study.optimize(self._objective, n_trials=1, catch=(_NotNeededError, _TrialFailedError))
        except KeyboardInterrupt:
            self._put_back()
            raise
        except ValueError:
            # Optuna's answer to the outcome of a trial that was given up in the meantime
            if self.number < 0 or not self._frozen().state.is_finished():
                raise
            self.say("a trial gave no sign of life for too long and was given to another worker")
            return None
        records = study_records(self.study, self.search)
        draw = _draw(self._frozen(), self.study.get_trials(deepcopy=False))
        record = next((record for record in records if record.number == draw), None)
        if record is None:
            return None
        best = best_record(records)
        so_far = f"; best so far {best.score:.4f}, trial {best.number}" if best else ""
        self.say(f"[{_ended(records)}/{self.n_trials}] {record.sentence(self.metric)}{so_far}")
        self.progress(_ended(records), f"trial {record.number} {record.state}")
        self.after_trial(records)
        return record

    def _objective(self, trial: Trial) -> float:
        self.number = trial.number
        # before all else: Optuna never gives up a trial that has had no sign of life at all
        self.database.record_heartbeat(trial._trial_id)
        trial.set_user_attr("begun", trial.number)
        trials = self.study.get_trials(deepcopy=False)
        again = _begun_again(trials)
        if sum(_counts(other, again) for other in trials if other.number < trial.number) >= self.n_trials:
            raise _NotNeededError
        frozen = trials[trial.number]
        draw = _draw(frozen, trials)
        folder = self.folder / f"trial_{draw:04d}"
        trial.set_user_attr("folder", str(folder))
        values = {knob: dimension.draw(trial, knob) for knob, dimension in self.search.items()}
        self.say(f"trial {draw} {'goes on' if _history(frozen) else 'begins'} in {folder}: {values_sentence(values)}")
        ended = _ended(study_records(self.study, self.search))
        self.progress(ended, f"trial {draw}")
        scores = dict(frozen.intermediate_values)
        pruned = False

        def report(epoch: int, score: float) -> bool:
            nonlocal pruned
            if not math.isnan(score) and epoch not in scores:  # a training that goes on may repeat an epoch
                scores[epoch] = score
                trial.report(score, epoch)
                pruned = trial.should_prune()
            self.progress(ended, f"trial {draw}, epoch {epoch}, {self.metric} {score:.4f}")
            return not pruned

        try:
            self.train(values, folder, report)
        except Fault as fault:
            trial.set_user_attr("reason", str(fault))
            if fault.code in _DIVERGED:
                raise optuna.TrialPruned from fault
            raise _TrialFailedError from fault
        if pruned:
            raise optuna.TrialPruned
        if not scores:
            trial.set_user_attr("reason", f"no validation gave a {self.metric}")
            raise _TrialFailedError
        return max(scores.values())

    def _frozen(self) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[self.number]

    def _put_back(self) -> None:
        """Let the trial that was interrupted wait to be begun again."""
        if self.number < 0:
            return
        trial = self.study.tell(self.number, state=TrialState.FAIL, skip_if_finished=True)
        if trial.state == TrialState.FAIL and "reason" not in trial.user_attrs:
            begin_again(self.study, trial)

    def _wait(self, running: Sequence[FrozenTrial], patience_s: float) -> None:
        """Wait until a running trial has ended or is given up."""
        self.say(f"no trial left to begin; waiting for {len(running)} of other workers")
        numbers = {trial.number for trial in running}
        begun = time.monotonic()
        while True:
            optuna.storages.fail_stale_trials(self.study)
            trials = self.study.get_trials(deepcopy=False)
            still = {trial.number for trial in trials if trial.state == TrialState.RUNNING} & numbers
            if still != numbers:
                return
            if time.monotonic() - begun > patience_s:
                for trial in trials:
                    # killed before its first sign of life, which Optuna does not look for
                    if trial.number in still and trial.user_attrs.get("begun") != trial.number:
                        self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            time.sleep(min(2.0, patience_s / 4))


class _SeededByDraw(optuna.samplers.BaseSampler):
    """Optuna's TPE sampler, its generator seeded anew for each trial by the study's seed and the number of the draw.

    With one generator for all, a study that goes on in a new process draws the first trial's values again.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.sampler = optuna.samplers.TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        draw = _draw(trial, study.get_trials(deepcopy=False))
        seed = np.random.SeedSequence([self.seed, draw]).generate_state(1)[0]
        self.sampler = optuna.samplers.TPESampler(seed=int(seed))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)


def _record(trial: FrozenTrial, number: int, search: Mapping[str, Dimension]) -> TrialRecord:
    reason = trial.user_attrs.get("reason", "")
    states = {
        TrialState.COMPLETE: COMPLETE,
        TrialState.PRUNED: DIVERGED if reason else PRUNED,
        TrialState.FAIL: FAILED,
    }
    state = states.get(trial.state, RUNNING)
    scores = trial.intermediate_values
    best = max(scores, key=lambda epoch: (scores[epoch], -epoch), default=0)
    return TrialRecord(
        number=number,
        state=state,
        score=scores[best] if best else None,
        best_epoch=best,
        last_epoch=max(scores, default=0),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        values={
            knob: dimension.value(trial.params[knob]) for knob, dimension in search.items() if knob in trial.params
        },
        folder=trial.user_attrs.get("folder", ""),
        reason=reason if state in (DIVERGED, FAILED) else "",
    )


def _counts(trial: FrozenTrial, again: set[int]) -> bool:
    """Whether it is one of the trials that the study shall have.

    One that failed without a reason was interrupted, lost its worker or was one too many.
    """
    return trial.state != TrialState.FAIL or ("reason" in trial.user_attrs and trial.number not in again)


def _begun_again(trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of the trials that were begun again, under other numbers."""
    return {number for trial in trials for number in _history(trial)}


def _draw(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """How many values were drawn before those of a trial; one that is begun again keeps its own.

    All numbers below that of a trial are taken when it has it, so that no two trials are the same draw.
    """
    first = next(iter(_history(trial)), trial.number)
    return sum(not _history(other) for other in trials if other.number < first)


def _history(trial: FrozenTrial) -> list[int]:
    return RetryHeartbeatStaleTrialCallback.retry_history(trial)


def _ended(records: Sequence[TrialRecord]) -> int:
    return sum(record.state != RUNNING for record in records)


def _refuse_another_study(study: optuna.Study, folder: Path, settings: dict[str, Any]) -> None:
    folders = {path.name for path in folder.glob("trial_[0-9]*")}  # first: a worker makes the trial before its folder
    trials = study.get_trials(deepcopy=False)
    if trials:
        before = _flat(study.user_attrs.get("settings", {}))
        now = _flat(settings)
        differ = [name for name in {**now, **before} if before.get(name) != now.get(name)]
        if differ:
            raise UsageFault(
                "OTHER_STUDY",
                study.study_name,
                "; ".join(f"{name} {before.get(name, 'not given')}" for name in differ),
                "; ".join(f"{name} {now.get(name, 'not given')}" for name in differ),
                "-o for another folder, and --study for another name where --storage is the same",
            )
    strange = sorted(folders - {Path(trial.user_attrs.get("folder", "")).name for trial in trials})
    if strange:
        raise UsageFault(
            "NOT_EMPTY",
            folder,
            f"{strange[0]} of another study",
            f"only trials of the study {study.study_name}",
            "-o for another folder",
        )
    if not trials:
        study.set_user_attr("settings", settings)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the words that they are told with: `knobs epochs` for that of `knobs`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name} {key}": value[key] for key in value} if isinstance(value, Mapping) else {name: value}
    return flat
