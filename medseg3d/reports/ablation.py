"""The ablation over non-local blocks: the same seeds, data and budget for every number of blocks, resumable."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from medseg3d.bundle import absolute_paths, bundle_folder
from medseg3d.data.atomic import make_folder
from medseg3d.data.score_files import read_summary, write_summary
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

RECORD = "ablation.json"
KNOB = "nonlocal_blocks"

_BUDGET = (
    *("epochs", "iterations_per_epoch", "batch_size", "crops_per_case", "roi_size", "spacing", "picture_size"),
    *("init_filters", "learning_rate", "weight_decay", "warmup_epochs", "patience", "chosen_precision", "split_seed"),
)
"""Knobs worth printing beside the result, where the bundle uses them."""


@dataclass
class _Plan:
    """What is to be run, as it stands in ablation.json."""

    bundle: Path
    overlays: list[str]
    knobs: dict[str, Any]
    part: str
    folder: Path
    budget: dict[str, Any]
    parameters: dict[str, int]
    rows: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be equal for two runs to be comparable."""
        return {"bundle": self.bundle.name, "overlays": self.overlays, "knobs": self.knobs, "part": self.part}

    def run_dir(self, blocks: int, seed: int) -> Path:
        """The folder of one training."""
        return self.folder / f"blocks_{blocks}_seed_{seed}"

    def write(self) -> None:
        """Write what is known by now."""
        rows = sorted(self.rows, key=lambda row: (row[KNOB], row["seed"]))
        content = {**self.identity, "budget": self.budget, "parameters": self.parameters, "rows": rows}
        write_summary(self.folder / RECORD, {**content, "command": sys.argv})


def run_ablation(
    bundle: str | Path,
    output_dir: str | Path,
    *,
    blocks: Sequence[int] = (0, 1, 2, 3, 4),
    seeds: Sequence[int] = (0, 1, 2),
    part: str = "test",
    overlays: Sequence[str] = (),
    knobs: Mapping[str, Any] | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = print,
) -> Path:
    """Train and evaluate a bundle once for every number of non-local blocks and every seed.

    Nothing but `nonlocal_blocks` and `seed` differs between the runs: same split, same knobs, same budget. A seed fixes
    the initial weights, the order of the cases and the augmentation; as the blocks begin as the identity, the networks
    of one seed begin as the same function. Seeds are the outer loop, so that what is there when it is stopped early
    can be compared.

    Stopped, it goes on with the same call: finished runs stay as they are, the others resume from their last
    checkpoint.

    Args:
        bundle: folder of a bundle with a knob `nonlocal_blocks`.
        output_dir: gets `blocks_<k>_seed_<s>/` with run and `run.log` each, and `ablation.json` after every run.
        blocks: numbers of blocks.
        seeds: seeds of the trainings; the split has its own.
        part: the part of the split that is scored. Of `test` nothing was chosen: validation picks the weights.
        overlays: overlays beside train.json and evaluate.json, without `.json`.
        knobs: further knobs, the same for all.
        jobs: trainings at a time; they share the CPU's threads evenly.
        say: where messages for the user go.

    Returns:
        The path of ablation.json.

    Raises:
        Fault: `OTHER_ABLATION` if `output_dir` holds one that has begun with other settings; `RUN_FAILED` with the log
            of a run that failed; `BAD_VALUE`; `MISSING_BUNDLE`, `MISSING_OVERLAY`, `UNKNOWN_KNOB`;
            `NOT_WRITABLE`, `NO_SPACE`.
    """
    plan = _plan(bundle, output_dir, overlays, knobs or {}, part, blocks, seeds, jobs)
    todo = [(k, seed) for seed in seeds for k in blocks]
    finished = {(row[KNOB], row["seed"]) for row in plan.rows}
    left = [run for run in todo if run not in finished]
    say(f"{len(todo)} runs, {len(todo) - len(left)} of them done; in {plan.folder}")
    threads = None if jobs == 1 else max(1, torch.get_num_threads() // jobs)
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(_run, plan, k, seed, threads) for k, seed in left]
        try:
            for number, future in enumerate(as_completed(futures), start=len(todo) - len(left) + 1):
                say(f"[{number}/{len(todo)}] {_line(future.result())}")
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure: what runs ends, what waits is not begun
    return plan.folder / RECORD


def _plan(
    bundle: str | Path,
    output_dir: str | Path,
    overlays: Sequence[str],
    knobs: Mapping[str, Any],
    part: str,
    blocks: Sequence[int],
    seeds: Sequence[int],
    jobs: int,
) -> _Plan:
    refuse_repeated("--blocks", blocks)
    refuse_repeated("--seeds", seeds)
    if jobs < 1:
        raise UsageFault("BAD_VALUE", "--jobs", str(jobs), "1 or more", "correct it")
    refuse_knobs(knobs, {KNOB, "seed", "output_dir", "resume", "overwrite", "part"}, "ablation")
    folder = bundle_folder(bundle)
    absolute = absolute_paths(knobs)
    with training_config(folder, overlays, absolute) as parser:
        if KNOB not in parser:
            raise UsageFault("BAD_VALUE", bundle, f"a bundle without the knob {KNOB}", "pancreas_nl or pancreas_nl_2d")
        budget = used_knobs(parser, _BUDGET)
    parameters = {}
    for number in blocks:
        with training_config(folder, overlays, {**absolute, KNOB: number}) as parser:
            parameters[str(number)] = count_parameters(parser)
    if len(set(parameters.values())) < len(parameters):
        found = f"a network that is the same for {KNOB} {', '.join(parameters)}"
        raise UsageFault("BAD_VALUE", f"{folder.name} {' '.join(overlays)}".strip(), found, "one with non-local blocks")
    plan = _Plan(folder, list(overlays), absolute, part, Path(output_dir).absolute(), budget, parameters)
    record = plan.folder / RECORD
    if record.exists():
        before = read_summary(record)
        if before["rows"] or any(plan.folder.glob("*/checkpoints")):
            remedy = "-o for another folder: runs that differ in more than blocks and seed cannot be compared"
            refuse_other_settings("OTHER_ABLATION", plan.folder, before, plan.identity, remedy)
        if all(before.get(name) == value for name, value in plain(plan.identity).items()):
            plan.rows = list(before["rows"])
            plan.parameters = {**before["parameters"], **parameters}
    make_folder(plan.folder)
    plan.write()
    return plan


def _run(plan: _Plan, blocks: int, seed: int, threads: int | None) -> dict[str, Any]:
    run = plan.run_dir(blocks, seed)
    knobs = {**plan.knobs, KNOB: blocks, "seed": seed}
    resumed = (run / "checkpoints").is_dir()
    seconds = {
        run_id: run_bundle(run_id, plan.bundle, plan.overlays, {**knobs, **extra}, run, threads)
        for run_id, extra in (("training", {"resume": True}), ("evaluating", {"part": plan.part}))
    }
    summary = read_summary(run / f"evaluation_{plan.part}" / "summary.json")
    row = {
        KNOB: blocks,
        "seed": seed,
        "scores": class_scores(summary),
        "conventions": conventions(summary),
        "split_hash": summary["split_hash"],
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "resumed": resumed,
        "run_dir": run.name,
    }
    with plan.lock:
        others = {other["split_hash"] for other in plan.rows} - {row["split_hash"]}
        if others:
            raise Fault("SPLIT_CHANGED", run, f"split {row['split_hash']}", f"{others.pop()}, as in the other runs")
        plan.rows.append(row)
        plan.write()
    return row


def _line(row: Mapping[str, Any]) -> str:
    name, scores = next(iter(row["scores"].items()))
    value = scores.get("dice_mean")
    shown = "no Dice" if value is None else f"dice_mean {value:.4f}"
    blocks = f"{row[KNOB]} block{'s' * (row[KNOB] != 1)}"
    return f"{blocks}, seed {row['seed']}: {name} {shown}, trained in {row['seconds']['training']:.0f} s"
