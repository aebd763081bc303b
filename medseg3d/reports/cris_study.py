"""The grid of the CRIS paper: data sets, backbones and strategies, each tuned, trained and scored alike, resumable."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from medseg3d.bundle import absolute_paths, bundle_folder, bundle_root
from medseg3d.child import run_workers
from medseg3d.data.atomic import claimed, make_folder
from medseg3d.data.picture_folders import split_of_pictures
from medseg3d.data.polyp_phantoms import is_phantom_data
from medseg3d.data.score_files import read_summary, read_thresholds, write_summary
from medseg3d.data.splits import PARTS
from medseg3d.data.thresholds import choose_threshold, write_threshold
from medseg3d.faults import Fault, UsageFault
from medseg3d.reports.study_runs import (
    class_scores,
    conventions,
    count_parameters,
    plain,
    refuse_knobs,
    refuse_other_settings,
    refuse_repeated,
    run_bundle,
    training_config,
    used_knobs,
)
from medseg3d.training.checkpoints import find_checkpoints

RECORD = "study.json"
BACKBONES = ("unet", "unet_plus_plus", "segnet")
STRATEGIES = ("backbone", "fcn", "crf", "cris")
LEARNING_RATES = "log:1e-6:1e-2"
"""The paper's range; that its logarithm is drawn evenly is ours."""

_ROW, _FAILURE, _CLAIM = "row.json", "failure.json", ".claim"

_SPLITS = {"kvasir-seg": "Kvasir-SEG_70-15-15.json", "clinicdb": "CVC-ClinicDB_70-15-15.json"}
"""Data set -> its manifest in data/splits."""

_OWN = {
    *("backbone", "strategy", "seed", "dataset_dir", "split_file", "output_dir", "model_file", "resume", "overwrite"),
    *("part", "evaluation_dir", "threshold_file"),
}
"""Knobs that the study sets itself."""

_CONDITIONS = (
    *("picture_size", "epochs", "iterations_per_epoch", "batch_size", "learning_rate", "crf_learning_rate"),
    "refinement_init",
    *("interleave", "val_interval", "selection", "patience", "flip_prob", "affine_prob", "intensity_prob"),
    *("noise_prob", "split_seed", "patient_pattern", "chosen_precision"),
)
"""Knobs worth printing beside the results."""


class Combination(NamedTuple):
    """One cell of the grid.

    Attributes:
        data: name of the data set.
        backbone: knob of the bundle.
        strategy: knob of the bundle.
        seed: of the training.
    """

    data: str
    backbone: str
    strategy: str
    seed: int

    def __str__(self) -> str:
        return f"{self.data}_{self.backbone}_{self.strategy}_seed_{self.seed}"


Command = Callable[[str, Path, Sequence[str], Mapping[str, Any], Path], float]
"""Trains or evaluates, as `run_bundle`."""

Tune = Callable[["StudyPlan", Combination], dict[str, Any]]
"""Chooses a learning rate: its value, the best score, how many trials ended how, the seconds."""


@dataclass(frozen=True)
class StudyPlan:
    """What the combinations of a study have in common.

    Attributes:
        folder: of the study, absolute.
        bundle: folder of the bundle, absolute.
        knobs: further knobs, the same for all, paths absolute.
        data: name -> `dataset_dir`, `split_file`, `split_hash`, `cases` by part, `phantom`.
        trials: trials of the tuning; 0 for none.
        tune_epochs: epochs of a trial; None for those of the training.
        storage: URL of the trials' database; None for a file in each folder.
        threshold_part: the part of the split that the threshold is chosen on.
        part: the part that is scored.
    """

    folder: Path
    bundle: Path
    knobs: Mapping[str, Any]
    data: Mapping[str, Mapping[str, Any]]
    trials: int
    tune_epochs: int | None
    storage: str | None
    threshold_part: str
    part: str

    @property
    def settings(self) -> dict[str, Any]:
        """What has to be the same for all runs of a study."""
        return {
            **{"bundle": self.bundle.name, "knobs": dict(self.knobs), "trials": self.trials},
            **{"tune_epochs": self.tune_epochs, "threshold_part": self.threshold_part, "part": self.part},
        }

    def run_dir(self, combination: Combination) -> Path:
        """The folder of a combination."""
        return self.folder / str(combination)

    def run_knobs(self, combination: Combination) -> dict[str, Any]:
        """The knobs of a combination, without seed."""
        data = self.data[combination.data]
        return {
            **self.knobs,
            **{"backbone": combination.backbone, "strategy": combination.strategy},
            **{"dataset_dir": data["dataset_dir"], "split_file": data["split_file"]},
        }


def tune_learning_rate(plan: StudyPlan, combination: Combination) -> dict[str, Any]:
    """The learning rate with the best validation score, by `medseg3d.experiments`.

    Raises:
        Fault: as `medseg3d.experiments.tune.tune`; `MISSING_PACKAGE` without Optuna.
    """
    from medseg3d.experiments.tune import tune

    knobs = plan.run_knobs(combination)
    tuned = tune(
        plan.bundle,
        plan.run_dir(combination) / "tuning",
        {"learning_rate": LEARNING_RATES},
        n_trials=plan.trials,
        knobs=knobs if plan.tune_epochs is None else {**knobs, "epochs": plan.tune_epochs},
        storage=plan.storage,
        study=f"{plan.folder.name}_{combination}",
        seed=combination.seed,
        say=lambda text: print(f"{combination}: {text}", flush=True),
    )
    states = [record.state for record in tuned.records]
    return {
        "learning_rate": tuned.values["learning_rate"],
        "best_score": tuned.score,
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "seconds": sum(record.seconds or 0.0 for record in tuned.records),
    }


def run_cris_study(
    output_dir: str | Path,
    data: Mapping[str, str | Path],
    *,
    bundle: str | Path = "bundles/polyp_cris",
    backbones: Sequence[str] = BACKBONES,
    strategies: Sequence[str] = STRATEGIES,
    seeds: Sequence[int] = (0,),
    splits: Mapping[str, str | Path] | None = None,
    trials: int = 20,
    tune_epochs: int | None = None,
    storage: str | None = None,
    threshold_part: str = "train",
    part: str = "test",
    knobs: Mapping[str, Any] | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = print,
    command: Command = run_bundle,
    tune: Tune = tune_learning_rate,
) -> Path:
    """Tune, train and score every combination of data set, backbone and strategy once for every seed.

    For each: the learning rate is chosen on the validation part; the network is trained at full length with it; the
    threshold with the highest mean Dice per picture is chosen on `threshold_part`; `part` is scored with it. Nothing
    but data, backbone, strategy, seed and learning rate differs between the runs.

    Stopped, it goes on with the same call. A combination that has failed is recorded with its reason, the others go on,
    and the next call tries it again. Each is claimed by the process that works on it: the same call in another process
    on the same machine takes others. Checkpoints are removed once a combination is finished.

    Args:
        output_dir: gets `<data>_<backbone>_<strategy>_seed_<s>/` with run, `run.log` and `row.json` each, and
            `study.json` after every run.
        data: name -> folder of pictures; `kvasir-seg` and `clinicdb` are what the paper's tables are of.
        bundle: folder of polyp_cris.
        backbones: among `BACKBONES`.
        strategies: among `STRATEGIES`.
        seeds: seeds of the trainings; the split has its own.
        splits: name -> manifest, made on first use; those of data/splits for the names of the paper, else
            `split_<name>.json` in `output_dir`.
        trials: trials of each tuning; 0 trains with the knob `learning_rate`.
        tune_epochs: epochs of a trial; None for those of the training.
        storage: URL of a database for the trials; None for a file in each folder.
        threshold_part: `train`, as in the paper, or `val`.
        part: the part that is scored.
        knobs: further knobs, the same for all.
        jobs: processes that work on the grid; they share the CPU's threads evenly.
        say: where messages for the user go; the processes of several jobs print.
        command: what trains and evaluates.
        tune: what chooses a learning rate.

    Returns:
        The path of study.json.

    Raises:
        Fault: before anything runs `BAD_VALUE`, `TEST_PART`, `UNKNOWN_KNOB`, `MISSING_BUNDLE`, those of the data and
            its split; `NOT_WRITABLE`, `NO_SPACE`; `OTHER_STUDY` if `output_dir` holds one that has begun with other
            settings or another split.
    """
    plan = _plan(output_dir, data, bundle, splits or {}, trials, tune_epochs, storage, threshold_part, part, knobs)
    for option, values, known in (("--backbones", backbones, BACKBONES), ("--strategies", strategies, STRATEGIES)):
        if not values or len(set(values)) != len(values) or not set(values) <= set(known):
            raise UsageFault("BAD_VALUE", option, " ".join(values), f"some of {', '.join(known)}, each once")
    refuse_repeated("--seeds", seeds)
    if jobs < 1:
        raise UsageFault("BAD_VALUE", "--jobs", str(jobs), "1 or more", "correct it")
    _check_configs(plan, backbones, strategies)
    grid = [Combination(d, b, s, seed) for seed in seeds for d in data for b in backbones for s in strategies]
    _begin(plan, grid, jobs)
    done = sum((plan.run_dir(each) / _ROW).is_file() for each in grid)
    say(f"{len(grid)} combinations, {done} of them finished; in {plan.folder}")
    if jobs == 1:
        elsewhere = _work(plan, grid, say, command, tune)
        if elsewhere:
            say(f"{elsewhere} combinations are worked on by other processes")
    else:
        threads = max(1, torch.get_num_threads() // jobs)
        codes = run_workers(_worker, plan, grid, threads, command, tune, number=jobs)
        broken = [code for code in codes if code]
        if broken:
            raise Fault(
                "RUN_FAILED", plan.folder, f"a worker with exit code {broken[0]}", "0", "read its message above"
            )
        _write(plan.folder)  # the last of the workers may have looked before the others had ended
    return plan.folder / RECORD


def rows(folder: str | Path) -> list[dict[str, Any]]:
    """What came of each finished combination."""
    return [read_summary(path) for path in sorted(Path(folder).glob(f"*/{_ROW}"))]


def failures(folder: str | Path) -> dict[str, str]:
    """Folder of each combination that has failed -> why."""
    found = sorted(Path(folder).glob(f"*/{_FAILURE}"))
    return {path.parent.name: read_summary(path)["reason"] for path in found}


def _plan(
    output_dir: str | Path,
    data: Mapping[str, str | Path],
    bundle: str | Path,
    splits: Mapping[str, str | Path],
    trials: int,
    tune_epochs: int | None,
    storage: str | None,
    threshold_part: str,
    part: str,
    knobs: Mapping[str, Any] | None,
) -> StudyPlan:
    knobs = absolute_paths(knobs or {})
    refuse_knobs(knobs, _OWN, "study")
    if not data:
        raise UsageFault("BAD_VALUE", "--data", "no data set", "kvasir-seg=FOLDER, clinicdb=FOLDER or both", "name one")
    for name in splits:
        if name not in data:
            raise UsageFault("BAD_VALUE", f"--split {name}", "no data set of that name", f"one of {', '.join(data)}")
    if trials < 0 or (tune_epochs is not None and (tune_epochs < 1 or not trials)):
        found = f"{trials} trials" + (f" of {tune_epochs} epochs" if tune_epochs is not None else "")
        raise UsageFault("BAD_VALUE", "--trials", found, "0 for none, or trials of at least one epoch", "correct it")
    if trials and "learning_rate" in knobs:
        raise UsageFault("BAD_VALUE", "--learning_rate", "a value for what is tuned", "--trials 0 with it, or no value")
    if threshold_part == "test":
        wanted = "train or val: a threshold chosen on the test cases is fitted to them"
        raise UsageFault("TEST_PART", "--threshold-part", "the test part", wanted, "leave it out")
    for option, value in (("--threshold-part", threshold_part), ("--part", part)):
        if value not in PARTS:
            raise UsageFault("BAD_VALUE", option, value, f"one of {', '.join(PARTS)}")
    folder, bundle = Path(output_dir).absolute(), bundle_folder(bundle)
    plan = StudyPlan(folder, bundle, plain(knobs), {}, trials, tune_epochs, storage, threshold_part, part)
    files = {name: _split_file(plan, name, splits.get(name)) for name in data}
    sets = {name: _data_set(plan, name, Path(data[name]).absolute(), files[name]) for name in data}
    return StudyPlan(folder, bundle, plan.knobs, sets, trials, tune_epochs, storage, threshold_part, part)


def _split_file(plan: StudyPlan, name: str, given: str | Path | None) -> Path:
    if given is not None:
        return Path(given).absolute()
    if name in _SPLITS:
        return bundle_root(plan.bundle) / "data" / "splits" / _SPLITS[name]
    return plan.folder / f"split_{name}.json"


def _data_set(plan: StudyPlan, name: str, folder: Path, split_file: Path) -> dict[str, Any]:
    """What there is of a data set; its split is made where there is none."""
    if not name or "/" in name or "=" in name:
        raise UsageFault("BAD_VALUE", f"--data {name}", "no name for a folder", "a name such as kvasir-seg")
    with training_config(plan.bundle, (), {**plan.knobs, "dataset_dir": str(folder)}) as parser:
        rule = [
            parser.get_parsed_content(knob) for knob in ("test_cases", "val_cases", "split_seed", "patient_pattern")
        ]
    try:
        _, split = split_of_pictures(folder, split_file, *rule)
    except Fault as fault:
        if fault.code != "SPLIT_MISMATCH":
            raise
        remedy = f"--split {name}=FILE for another manifest, which is made where there is none"
        raise Fault(fault.code, fault.subject, fault.found, fault.wanted, remedy) from fault
    return {
        **{"dataset_dir": str(folder), "split_file": str(split_file), "split_hash": split.hash},
        **{"cases": {part: len(getattr(split, part)) for part in PARTS}, "phantom": is_phantom_data(folder)},
    }


def _check_configs(plan: StudyPlan, backbones: Sequence[str], strategies: Sequence[str]) -> None:
    """Build the loss of every strategy and the network of every backbone: what is wrong with a knob, shows here."""
    for strategy in strategies:
        with training_config(plan.bundle, (), {**plan.knobs, "strategy": strategy}) as parser:
            loss, epochs = parser.get_parsed_content("loss"), int(parser.get_parsed_content("epochs"))
        if hasattr(loss, "check_epochs"):
            for length in (epochs, plan.tune_epochs or epochs):
                loss.check_epochs(length)
    for backbone in backbones:
        with training_config(plan.bundle, (), {**plan.knobs, "backbone": backbone}) as parser:
            parser.get_parsed_content("network_def")


def _begin(plan: StudyPlan, grid: Sequence[Combination], jobs: int) -> None:
    """Refuse a folder with another study, and record what this one is."""
    make_folder(plan.folder)
    record = plan.folder / RECORD
    before: dict[str, Any] = read_summary(record) if record.is_file() else {}
    begun = any(plan.folder.glob(f"*/{_ROW}")) or any(plan.folder.glob("*/checkpoints"))
    begun = begun or any(plan.folder.glob("*/tuning"))
    if before and begun:
        remedy = "-o for another folder: runs that differ in more than the grid cannot be compared"
        refuse_other_settings("OTHER_STUDY", plan.folder, before["settings"], plan.settings, remedy)
        for name in set(before["data"]) & set(plan.data):
            refuse_other_settings("OTHER_STUDY", plan.folder, before["data"][name], plan.data[name], remedy)
    else:
        before = {}
    asked = [list(each) for each in grid]
    asked += [each for each in before.get("asked", []) if each not in asked]
    with training_config(plan.bundle, (), plan.knobs) as parser:
        used = used_knobs(parser, _CONDITIONS)
    content: dict[str, Any] = {
        **{"study": "cris", "settings": plan.settings, "data": before.get("data", {}) | dict(plan.data)},
        **{"conditions": used, "asked": asked, "command": sys.argv, "jobs": jobs, "machine": _machine()},
    }
    _write(plan.folder, content)


def _machine() -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.platform()}, {os.cpu_count()} CPUs, {gpu}"


def _write(folder: Path, content: Mapping[str, Any] | None = None) -> None:
    """Write study.json: what is known, or what it says already, with the rows and failures that there are now."""
    known = read_summary(folder / RECORD) if content is None else content
    write_summary(folder / RECORD, {**known, "rows": rows(folder), "failures": failures(folder)})


def _worker(plan: StudyPlan, grid: Sequence[Combination], threads: int, command: Command, tune: Tune) -> None:
    """One of several processes: what it starts uses so many threads."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        _work(plan, grid, lambda text: print(text, flush=True), command, tune)
    except KeyboardInterrupt:
        sys.exit(130)


def _work(
    plan: StudyPlan, grid: Sequence[Combination], say: Callable[[str], None], command: Command, tune: Tune
) -> int:
    """Work on what nobody else works on; the number of combinations that others had claimed."""
    elsewhere = 0
    for number, combination in enumerate(grid, start=1):
        run = plan.run_dir(combination)
        run.mkdir(exist_ok=True)
        with claimed(run / _CLAIM) as mine:
            if not mine:
                elsewhere += 1
                continue
            if (run / _ROW).is_file():
                continue
            (run / _FAILURE).unlink(missing_ok=True)
            try:
                row = _run(plan, combination, command, tune)
            except Fault as fault:
                write_summary(run / _FAILURE, {"reason": str(fault)})
                say(f"[{number}/{len(grid)}] {combination} failed: {fault}")
            else:
                write_summary(run / _ROW, row)
                shutil.rmtree(run / "checkpoints", ignore_errors=True)  # nothing is left to be resumed
                say(f"[{number}/{len(grid)}] {_line(row)}")
            _write(plan.folder)
    return elsewhere


def _run(plan: StudyPlan, combination: Combination, command: Command, tune: Tune) -> dict[str, Any]:
    run = plan.run_dir(combination)
    knobs = {**plan.run_knobs(combination), "seed": combination.seed}
    tuned = tune(plan, combination) if plan.trials else None
    if tuned is not None:
        knobs["learning_rate"] = tuned["learning_rate"]
    resumed = (run / "checkpoints").is_dir()
    seconds = {"training": command("training", plan.bundle, (), {**knobs, "resume": True}, run)}
    checkpoints = find_checkpoints(run / "checkpoints")
    threshold_file = run / "threshold.json"
    chosen_on = {**knobs, "part": plan.threshold_part}
    seconds[f"evaluating_{plan.threshold_part}"] = command("evaluating", plan.bundle, (), chosen_on, run)
    choice = choose_threshold(run / f"evaluation_{plan.threshold_part}", "dice_mean")
    write_threshold(threshold_file, choice)
    scored = {**knobs, "part": plan.part, "threshold_file": str(threshold_file)}
    seconds[f"evaluating_{plan.part}"] = command("evaluating", plan.bundle, (), scored, run)
    evaluation = run / f"evaluation_{plan.part}"
    summary = read_summary(evaluation / "summary.json")
    wanted = plan.data[combination.data]["split_hash"]
    if summary["split_hash"] != wanted:
        raise Fault("SPLIT_CHANGED", run, f"split {summary['split_hash']}", f"{wanted}, as in the other runs")
    half = next(row for row in read_thresholds(evaluation / "thresholds.csv") if row["threshold"] == 0.5)
    with training_config(plan.bundle, (), knobs) as parser:
        rate, parameters = float(parser.get_parsed_content("learning_rate")), count_parameters(parser)
    scores = next(iter(class_scores(summary).values()))
    return {
        **combination._asdict(),
        "scores": {**scores, "average_precision": summary["scores"]["average_precision"]["value"]},
        "scores_at_half": {key: half[key] for key in ("dice_mean", "dice_pooled")},
        "conventions": conventions(summary),
        "threshold": choice.threshold,
        "threshold_chosen": f"{choice.score} {choice.value:.4f} on {choice.part}, {choice.n_cases} pictures",
        "learning_rate": rate,
        "tuning": tuned,
        "epochs": int(checkpoints[0].stem.removeprefix("epoch_")) if checkpoints else None,
        "parameters": parameters,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "resumed": resumed,
        "split_hash": wanted,
        "versions": summary.get("versions", {}),
        "run_dir": run.name,
    }


def _line(row: Mapping[str, Any]) -> str:
    scores, seconds = row["scores"], row["seconds"]["training"]
    dice = "no Dice" if scores["dice_mean"] is None else f"dice_mean {scores['dice_mean']:.4f}"
    return f"{row['run_dir']}: {dice}, mse_mean {scores['mse_mean']:.4f}, trained in {seconds:.0f} s"
