"""Knobs of a bundle chosen by training it: each trial is MONAI's own training command, watched as it validates."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.bundle import absolute_paths, log_end, monai_words
from medseg3d.bundle_folders import bundle_folder, bundle_root, config_files, names_from_root
from medseg3d.errors import UsageError, UserError
from medseg3d.experiments.configs import build, refuse_unused, training_config
from medseg3d.experiments.search import parse_search
from medseg3d.experiments.trials import TrialRecord, best_record, write_trials
from medseg3d.files.atomic import make_folder
from medseg3d.files.plain import write_json

try:
    from medseg3d.experiments.study import Progress, Report, run_study
except ModuleNotFoundError as error:
    raise UserError(
        "MISSING_PACKAGE", "tuning", f"no package {error.name}", "it", "pip install 'medseg3d[tune]'"
    ) from error

_OWN = {"seed", "output_dir", "model_file", "resume", "overwrite"}
"""Knobs that a study sets itself, for each trial."""

_PROCESS = "medseg3d.experiments.trial_process"

_LOG = "run.log"

_JUDGE = {"val_part", "split_seed", "split_file", "dataset_dir", "test_cases", "val_cases"}
"""Knobs that change which cases a trial is judged by: fixed for a study, never searched."""


@dataclass(frozen=True)
class Tuned:
    """What a study came to.

    Attributes:
        values: knob -> best value.
        score: its best validation score.
        metric: what that is.
        part: the part of the split that it is of.
        best: the trial.
        records: all trials.
        train_command: the words of the command that trains with these values as the trial did, in `output_dir/best`.
        root: the directory it is run from.
    """

    values: dict[str, Any]
    score: float
    metric: str
    part: str
    best: TrialRecord
    records: list[TrialRecord]
    train_command: list[str]
    root: Path


def tune(
    bundle: str | Path,
    output_dir: str | Path,
    search: Mapping[str, str],
    *,
    n_trials: int = 20,
    overlays: Sequence[str] = (),
    knobs: Mapping[str, Any] | None = None,
    storage: str | None = None,
    study: str | None = None,
    seed: int = 0,
    pruner: str = "median",
    startup_trials: int = 5,
    say: Callable[[str], None] = print,
    progress: Progress = lambda ended, running: None,
) -> Tuned:
    """Choose knobs of a bundle by their validation scores, over many trainings.

    A trial is a training with drawn values. It reports the key metric of its validations and ends early when it is
    pruned; its value is the best of them. Nothing but the validation set of the split is looked at.

    Stopped at any moment, it continues with the same call. The same call in several processes at once makes them share
    the trials.

    Args:
        bundle: its folder.
        output_dir: gets a run folder `trial_NNNN` for each trial, without checkpoints once it has ended; trials.csv and
            best.json after every trial; the storage.
        search: knob -> `log:LOW:HIGH`, `uniform:LOW:HIGH`, `int:LOW:HIGH` or `choice:A,B,C`.
        n_trials: trials of all workers together; may be raised later.
        overlays: overlays next to train.json, without `.json`.
        knobs: further knobs, the same for all trials.
        storage: URL of a database; `study.db` in `output_dir` if None.
        study: its name in the storage; that of the folder if None.
        seed: of what is drawn, and of every training.
        pruner: "median" or "none".
        startup_trials: complete trials before the first is pruned.
        say: where messages for the user go.
        progress: as in `run_study`.

    Raises:
        UserError: before any trial `UNKNOWN_KNOB`, `BAD_VALUE`, `TEST_PART`, `MISSING_BUNDLE`, `MISSING_OVERLAY`, those
            of a network or a loss that cannot be built with a choice, those of a data set that is missing or does not
            fit its split; those of `run_study`; `NO_TRIAL` if none came to its end.
    """
    dimensions = parse_search(search)
    folder = bundle_folder(bundle)
    fixed = absolute_paths(knobs or {})
    files = config_files(folder, "train.json", overlays)
    metric, part = check_search(folder, overlays, search, fixed)
    root = bundle_root(folder)
    names = names_from_root(files)
    output = Path(output_dir).absolute()
    settings = {
        **{"bundle": folder.name, "overlays": list(overlays), "metric": metric, "seed": seed, "knobs": fixed},
        **{"search": {knob: str(dimension) for knob, dimension in dimensions.items()}},
        **{"pruner": pruner, "startup_trials": startup_trials},
    }
    settings = json.loads(json.dumps(settings, default=str))

    def train(values: dict[str, Any], trial: Path, report: Report) -> None:
        # with or without a checkpoint: there may be weights of a first epoch alone
        begun = (trial / _LOG).is_file()
        words = {**fixed, **values, "seed": seed, "output_dir": trial, "resume": begun}
        _train(metric, names, words, root, trial, report)

    def train_command(best: TrialRecord) -> list[str]:
        words = {**fixed, **best.values, "seed": seed, "output_dir": output / "best"}
        return ["python", *monai_words("training", names, words)]

    def write(records: Sequence[TrialRecord]) -> None:
        write_trials(output / "trials.csv", records, metric, list(dimensions))
        best = best_record(records)
        if best is None:
            return
        states = [record.state for record in records]
        write_json(
            output / "best.json",
            {
                **{"values": best.values, "score": best.score, "trial": best.number, "epoch": best.best_epoch},
                **{"chosen_on": part, "folder": best.folder},
                **{"trials": {state: states.count(state) for state in sorted(set(states))}, **settings},
                **{"train_command": train_command(best), "run_from": root},
            },
        )

    records = run_study(
        train,
        dimensions,
        output,
        n_trials=n_trials,
        storage=storage,
        name=study,
        settings=settings,
        metric=metric,
        seed=seed,
        pruner=pruner,
        startup_trials=startup_trials,
        say=say,
        progress=progress,
        after_trial=write,
    )
    write(records)
    best = best_record(records)
    if best is None or best.score is None:
        states = ", ".join(sorted({record.state for record in records}))
        raise UserError(
            "NO_TRIAL",
            output,
            f"{len(records)} trials, all {states}",
            "at least one completed trial",
            "fix what trials.csv gives as reasons and raise --trials, or begin anew with -o for another folder",
        )
    return Tuned(dict(best.values), best.score, metric, part, best, records, train_command(best), root)


def check_search(
    bundle: str | Path, overlays: Sequence[str], search: Mapping[str, str], knobs: Mapping[str, Any]
) -> tuple[str, str]:
    """The key metric of the validations and the part of the split that they are on, once a search can begin.

    The arguments are those of `tune`, the paths among the knobs absolute.

    Raises:
        UserError: as `tune` before any trial.
    """
    folder, dimensions = bundle_folder(bundle), parse_search(search)
    for names, taken, why in (
        (dimensions, _OWN, "an option that the tuning sets itself"),
        (knobs, _OWN, "an option that the tuning sets itself"),
        (dimensions, _JUDGE, "an option that changes which cases the trials are judged on"),
        (dimensions, set(knobs), "an option that is searched and also has a fixed value"),
    ):
        for name in sorted(taken & set(names)):
            raise UsageError(
                "BAD_VALUE", f"--{name}", why, "another", "leave it out; --seed sets the seed of the tuning"
            )
    example = {**knobs, **{knob: each.value(each.ends[0]) for knob, each in dimensions.items()}}
    with training_config(folder, overlays, example) as parser:
        for knob in dimensions:
            refuse_unused(parser, knob, f"--search {knob}")
        metric, part = next(iter(parser["validate::key_metric"])), str(parser["val_part"])
        if part == "test":
            wanted = "the validation set, because options chosen on the test cases are fitted to them"
            raise UsageError("TEST_PART", "--val_part", "the test set", wanted, "leave it out")
        for name in ("train::dataset::data", "validate::dataset::data"):
            build(parser, name, "the data set")
    for knob, choice in ((knob, each) for knob, each in dimensions.items() if each.kind == "choice"):
        for text in choice.ends:
            with training_config(folder, overlays, {**example, knob: choice.value(text)}) as parser:
                for name in ("network_def", "loss"):
                    build(parser, name, f"--search {knob}={text}")
    return metric, part


def _train(
    metric: str, names: Sequence[str], knobs: Mapping[str, Any], root: Path, trial: Path, report: Report
) -> None:
    """Train in a process of its own, hand its scores to `report`, and end it when that says no.

    The process has a session of its own: Ctrl-C is for the study, which ends the training.
    """
    make_folder(trial)
    log_file = trial / _LOG
    words = monai_words("training", names, knobs)
    error = None
    with open(log_file, "a", encoding="utf-8") as log:
        log.write(f"$ python {shlex.join(words)}\n")
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", _PROCESS, metric, *words],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            start_new_session=True,
        )
        with process:
            try:
                assert process.stdout is not None
                assert process.stdin is not None
                for line in process.stdout:
                    message = json.loads(line)
                    if "error" in message:
                        error = UserError(*message["error"])
                        continue
                    go_on = report(message["epoch"], message["score"])
                    with contextlib.suppress(BrokenPipeError):  # it has died: its exit code says so
                        process.stdin.write(f"{json.dumps(go_on)}\n".encode())
                process.wait()
            except BaseException:
                process.kill()
                raise
    if error is not None:
        raise error
    if process.returncode:
        raise UserError("RUN_FAILED", "training", f"exit code {process.returncode}", "0", f"read {log_end(log_file)}")
    shutil.rmtree(trial / "checkpoints", ignore_errors=True)  # nothing is left to be resumed
