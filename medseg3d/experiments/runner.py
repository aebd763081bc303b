"""The one runner: each run of an experiment tuned, trained, given a threshold and scored; resumable and shareable."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medseg3d.child import run_workers
from medseg3d.data.picture_folders import data_sets
from medseg3d.data.splits import PARTS, read_split, split_record
from medseg3d.errors import UsageError, UserError
from medseg3d.evaluation.experiment_files import FAILURE, ROW, read_experiment, write_experiment
from medseg3d.evaluation.files import THRESHOLDS_CSV, read_summary
from medseg3d.evaluation.records import Summary
from medseg3d.evaluation.thresholds import choose_threshold, write_threshold
from medseg3d.experiments.configs import (
    build,
    refuse_unused,
    run_bundle,
    training_config,
    used_knobs,
)
from medseg3d.experiments.definition import Experiment, Run, plain
from medseg3d.files.atomic import claimed, make_folder
from medseg3d.files.plain import read_json, write_json
from medseg3d.phantoms.polyps import is_phantom_data
from medseg3d.training.checkpoints import find_checkpoints

_CLAIM = ".claim"

_CONDITIONS = (
    *("epochs", "iterations_per_epoch", "batch_size", "crops_per_case", "roi_size", "spacing", "picture_size"),
    *("init_filters", "learning_rate", "crf_learning_rate", "weight_decay", "warmup_epochs", "refinement_init"),
    *("interleave", "val_interval", "checkpoint_selection", "patience", "flip_prob", "affine_prob", "intensity_prob"),
    *("noise_prob", "split_seed", "group_pattern", "chosen_precision"),
)
"""Knobs worth printing next to the results, where a bundle uses them."""

Command = Callable[..., float]
"""Trains, evaluates or infers, as `run_bundle`."""

Tune = Callable[["Plan", Run], dict[str, Any]]
"""Chooses knobs: `values`, `best_score`, how many `trials` ended how, the `seconds`."""


@dataclass(frozen=True)
class Condition:
    """What the config of some runs that differ in the seed alone comes to.

    Attributes:
        parameters: of the network.
        learning_rate: where nothing else is tuned.
        split_hash: of the split, as an evaluation has it.
        data: folder of each data set -> `split_file`, `split_hash`, `cases` by part, `phantom`.
        used: knob -> value, of those worth printing.
    """

    parameters: int
    learning_rate: float
    split_hash: str
    data: Mapping[str, Mapping[str, Any]]
    used: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """An experiment in its folder.

    Attributes:
        experiment: its definition.
        folder: absolute.
        conditions: of each condition.
        storage: URL of the trials' database; None for a file in each folder.
        show: whether the progress bars of the trainings go to the terminal.
    """

    experiment: Experiment
    folder: Path
    conditions: Mapping[str, Condition]
    storage: str | None
    show: bool


def tune_run(plan: Plan, run: Run) -> dict[str, Any]:
    """The values with the best validation score, by `medseg3d.experiments.tune`.

    Raises:
        UserError: as `medseg3d.experiments.tune.tune`.
    """
    from medseg3d.experiments.tune import tune

    settings = dict(plan.experiment.tune or {})
    tuned = tune(
        run.bundle,
        plan.folder / str(run) / "tuning",
        settings.pop("search"),
        n_trials=settings.pop("trials"),
        overlays=run.overlays,
        knobs={**run.knobs, **settings.pop("knobs")},
        storage=plan.storage,
        study=f"{plan.folder.name}_{run}",
        seed=run.seed,
        say=lambda text: print(f"{run}: {text}", flush=True),
        **settings,
    )
    states = [record.state for record in tuned.records]
    return {
        "values": tuned.values,
        "best_score": tuned.score,
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "seconds": sum(record.seconds or 0.0 for record in tuned.records),
    }


def run_experiment(
    experiment: Experiment,
    output_dir: str | Path,
    *,
    jobs: int = 1,
    dry_run: bool = False,
    storage: str | None = None,
    show: bool = False,
    say: Callable[[str], None] = print,
    command: Command = run_bundle,
    tune: Tune = tune_run,
) -> dict[str, Any]:
    """Tune, train and score every run of an experiment, as far as its definition asks for it.

    Nothing but its levels, its seed and what is tuned differs between the runs. A seed fixes the initial weights, the
    order of the cases and the augmentation; the split has its own. Validation picks the weights and what is tuned; the
    part that is scored is looked at last.

    Interrupted, it continues with the same call. A run that has failed is recorded with its reason, the others
    continue, and the next call tries it again. Each is claimed by the process that works on it: the same call in
    another process on the same machine takes others. Checkpoints are removed once a run is finished.

    Args:
        experiment: as `parse_experiment` gives it.
        output_dir: gets a folder for each run, with `run.log` and `row.json`, and NAME.json after every run.
        jobs: processes that work on the runs; they share the CPU's threads evenly.
        dry_run: check everything and say what would be run; nothing but a split that is not there yet is written.
        storage: URL of a database for the trials; None for a file in each folder.
        show: whether the progress bars of the trainings go to the terminal; one job then.
        say: where messages for the user go; the processes of several jobs print.
        command: what trains and evaluates.
        tune: what chooses knobs.

    Returns:
        The record: what NAME.json holds; `failures` is run -> reason.

    Raises:
        UserError: before anything runs `BAD_VALUE`, `UNKNOWN_KNOB`, `MISSING_OVERLAY`, those of the networks, the
            losses, the data and its splits; `NOT_WRITABLE`, `NO_SPACE`; `OTHER_EXPERIMENT` if `output_dir` holds one
            that has begun with other settings or another split.
    """
    if jobs < 1:
        raise UsageError("BAD_VALUE", "--jobs", str(jobs), "1 or more", "correct it")
    runs = experiment.runs
    conditions: dict[str, Condition] = {}
    for run in runs:
        if run.condition not in conditions:
            conditions[run.condition] = _check(experiment, run)
    plan = Plan(experiment, Path(output_dir).absolute(), conditions, storage, show)
    data = _data(conditions)
    done = sum((plan.folder / str(run) / ROW).is_file() for run in runs)
    say(f"{len(runs)} run{'s' * (len(runs) != 1)}, {done} finished; in {plan.folder}")
    if dry_run:
        for run in runs:
            say(f"  {run}: {conditions[run.condition].parameters:,} parameters")
        return {"failures": {}}
    _begin(plan, runs, data, jobs)
    if jobs == 1:
        elsewhere = _work(plan, runs, say, command, tune)
        if elsewhere:
            say(f"other processes are working on {elsewhere} runs")
    else:
        threads = max(1, torch.get_num_threads() // jobs)
        codes = run_workers(_worker, plan, runs, threads, command, tune, number=jobs)
        broken = [code for code in codes if code]
        if broken:
            raise UserError(
                "RUN_FAILED",
                plan.folder,
                f"a worker process that ended with exit code {broken[0]}",
                "0",
                "read its error message above",
            )
    write_experiment(plan.folder, experiment.name)  # the last of some processes may have looked too early
    return read_json(plan.folder / f"{experiment.name}.json")


def _check(experiment: Experiment, run: Run) -> Condition:
    """Build what can be wrong, the network, the loss and the lists of cases; what its config comes to."""
    tuned = experiment.tune
    if tuned is not None:
        from medseg3d.experiments.tune import check_search

        check_search(run.bundle, run.overlays, tuned["search"], {**run.knobs, **tuned["knobs"]})
    with training_config(run.bundle, run.overlays, run.knobs) as parser:
        for knob in sorted(experiment.factors.keys() & run.knobs.keys()):
            refuse_unused(parser, knob, f"factor {knob}")
        network, loss = (build(parser, part, str(run.condition)) for part in ("network_def", "loss"))
        epochs = int(parser.get_parsed_content("epochs"))
        if hasattr(loss, "check_epochs"):
            for length in (epochs, int((tuned or {}).get("knobs", {}).get("epochs", epochs))):
                loss.check_epochs(length)
        for part in ("train", "validate"):
            build(parser, f"{part}::dataset::data", "the data set")
        folders, files = parser.get_parsed_content("dataset_dir"), parser.get_parsed_content("split_file")
        sets = {str(Path(folder).absolute()): Path(file).absolute() for folder, file in data_sets(folders, files)}
        return Condition(
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            learning_rate=float(parser.get_parsed_content("learning_rate")),
            split_hash=split_record(files)["split_hash"],
            data={folder: _data_set(folder, file) for folder, file in sets.items()},
            used=used_knobs(parser, _CONDITIONS),
        )


def _data_set(folder: str, split_file: Path) -> dict[str, Any]:
    split = read_split(split_file)
    cases = {part: len(getattr(split, part)) for part in PARTS}
    return {
        **{"split_file": str(split_file), "split_hash": split.hash, "cases": cases},
        "phantom": is_phantom_data(folder),
    }


def _data(conditions: Mapping[str, Condition]) -> dict[str, Mapping[str, Any]]:
    """Folder of each data set -> what there is of it.

    Raises:
        UserError: `BAD_VALUE` if two conditions split it differently.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name, condition in conditions.items():
        for folder, data in condition.data.items():
            other = found.setdefault(folder, data)
            if other["split_hash"] != data["split_hash"]:
                wanted = f"that of the others, {other['split_file']}: runs on different splits cannot be compared"
                found_there = f"the split {data['split_file']} of {folder}"
                raise UsageError(
                    "BAD_VALUE", f"split_file of {name}", found_there, wanted, "use one split file for all"
                )
    return found


def _begin(plan: Plan, runs: Sequence[Run], data: Mapping[str, Any], jobs: int) -> None:
    """Refuse a folder with another experiment, and record what this one is."""
    make_folder(plan.folder)
    experiment = plan.experiment
    record = plan.folder / f"{experiment.name}.json"
    begun = [path for name in (ROW, "checkpoints", "tuning") for path in plan.folder.glob(f"*/{name}")]
    before = read_experiment(plan.folder, experiment.name) if record.is_file() and begun else {}
    factors = plain(experiment.factors)
    if before:
        now = {**experiment.settings, "factors": sorted(factors)}
        _refuse_other(plan.folder, {**before, "factors": sorted(before["factors"])}, now)
        for known, found in ((before["factors"][name], factors[name]) for name in factors):
            _refuse_other(plan.folder, known, {level: found[level] for level in found.keys() & known.keys()})
            found |= {level: settings for level, settings in known.items() if level not in found}
        for folder in before["data"].keys() & data.keys():
            _refuse_other(plan.folder, before["data"][folder], data[folder])
    asked = before.get("asked", [])
    known = {run["run_dir"] for run in asked}
    asked += [{**run.levels, "seed": run.seed, "run_dir": str(run)} for run in runs if str(run) not in known]
    used = [condition.used for condition in plan.conditions.values()]
    same = {name: value for name, value in used[0].items() if all(each.get(name, value) == value for each in used)}
    same = {name: value for name, value in same.items() if value != ""}
    write_experiment(
        plan.folder,
        experiment.name,
        {
            **{"name": experiment.name, **experiment.settings, "factors": factors},
            **{"reference": experiment.reference, "score": experiment.score},
            **{"title": experiment.title, "notes": experiment.notes},
            **{"data": {**before.get("data", {}), **data}, "conditions": same, "asked": asked},
            **{"command": sys.argv, "jobs": jobs, "machine": _machine()},
        },
    )


def _refuse_other(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse settings that are not those that runs in a folder have begun with."""
    differ = [name for name, value in now.items() if before.get(name) != value]
    if differ:
        found, wanted = ("; ".join(f"{name} {each.get(name)}" for name in differ) for each in (before, now))
        remedy = "-o for another folder: runs with different settings cannot be compared"
        raise UsageError("OTHER_EXPERIMENT", folder, found, wanted, remedy)


def _machine() -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.platform()}, {os.cpu_count()} CPUs, {gpu}"


def _worker(plan: Plan, runs: Sequence[Run], threads: int, command: Command, tune: Tune) -> None:
    """One of several processes: what it starts uses so many threads."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        _work(plan, runs, lambda text: print(text, flush=True), command, tune)
    except KeyboardInterrupt:
        sys.exit(130)


def _work(plan: Plan, runs: Sequence[Run], say: Callable[[str], None], command: Command, tune: Tune) -> int:
    """Work on what nobody else works on; the number of runs that others had claimed."""
    elsewhere = 0
    for number, run in enumerate(runs, start=1):
        folder = plan.folder / str(run)
        folder.mkdir(exist_ok=True)
        with claimed(folder / _CLAIM) as mine:
            if not mine:
                elsewhere += 1
                continue
            if (folder / ROW).is_file():
                continue
            (folder / FAILURE).unlink(missing_ok=True)
            try:
                row = _run(plan, run, command, tune)
            except UserError as error:
                write_json(folder / FAILURE, {"reason": str(error)})
                say(f"[{number}/{len(runs)}] {run} failed: {error}")
            else:
                write_json(folder / ROW, row)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # nothing is left to be resumed
                say(f"[{number}/{len(runs)}] {run}: {_line(row, folder / ROW)}")
            write_experiment(plan.folder, plan.experiment.name)
    return elsewhere


def _run(plan: Plan, run: Run, command: Command, tune: Tune) -> dict[str, Any]:
    experiment, condition, folder = plan.experiment, plan.conditions[run.condition], plan.folder / str(run)
    knobs = {**run.knobs, "seed": run.seed}
    tuned = tune(plan, run) if experiment.tune else None
    if tuned is not None:
        knobs |= tuned["values"]
    seconds: dict[str, float] = {}

    def call(run_id: str, **extra: Any) -> None:
        name = f"{run_id}_{extra['part']}" if "part" in extra else run_id
        seconds[name] = round(command(run_id, run.bundle, run.overlays, {**knobs, **extra}, folder, plan.show), 1)

    resumed = (folder / "checkpoints").is_dir()
    call("training", resume=True)
    checkpoints = find_checkpoints(folder / "checkpoints")
    scored: dict[str, Any] = {"part": experiment.part}
    choice = None
    if experiment.threshold is not None:
        part = experiment.threshold["part"]
        call("evaluating", part=part)
        choice = choose_threshold(folder / f"evaluation_{part}", experiment.threshold["score"])
        scored["threshold_file"] = str(folder / "threshold.json")
        write_threshold(scored["threshold_file"], choice)
    call("evaluating", **scored)
    if experiment.infer:
        call("inferring", **{name: value for name, value in scored.items() if name != "part"})
    evaluation = folder / f"evaluation_{experiment.part}"
    summary = read_summary(evaluation / "summary.json")
    if summary.context["split_hash"] != condition.split_hash:
        found, wanted = f"split {summary.context['split_hash']}", f"{condition.split_hash}, which it began with"
        raise UserError("SPLIT_CHANGED", folder, found, wanted, "name another folder, or restore the split file")
    row = {
        **{**run.levels, "seed": run.seed, "bundle": run.bundle.name, "run_dir": folder.name},
        "evaluation": summary.whole.as_json(),
        **{"tuning": tuned, "learning_rate": knobs.get("learning_rate", condition.learning_rate)},
        "epochs": int(checkpoints[0].stem.removeprefix("epoch_")) if checkpoints else None,
        **{"parameters": condition.parameters, "seconds": seconds, "resumed": resumed},
        **{"split_hash": condition.split_hash, "versions": summary.context.get("versions", {})},
    }
    if choice is not None:
        half = next(each for each in THRESHOLDS_CSV.read(evaluation / "thresholds.csv") if each["threshold"] == 0.5)
        row["threshold"] = choice.threshold
        row["scores_at_half"] = {key: half[key] for key in ("dice_mean", "dice_pooled")}
    return row


def _line(row: Mapping[str, Any], file: Path) -> str:
    summary = Summary.from_json(row["evaluation"], file)
    name = summary.classes[0]
    score = summary.find(name, "dice")
    dice = "no Dice" if score is None or score.value is None else f"dice_mean {score.value:.4f}"
    return f"{name} {dice}, trained in {row['seconds']['training']:.0f} s"
