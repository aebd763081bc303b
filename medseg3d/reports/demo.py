"""The main job from end to end on generated phantoms: train, evaluate, segment, report."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import medseg3d
from medseg3d.bundle import bundle_folder, bundle_root, monai_words, run_monai
from medseg3d.data.phantoms import write_phantom_dataset
from medseg3d.data.splits import split_cases
from medseg3d.faults import UsageFault
from medseg3d.reports.baselines import interval_baseline, mean_mask_baseline
from medseg3d.reports.page import Goal, Remarks
from medseg3d.reports.run_report import write_report
from medseg3d.reports.runs import read_run
from medseg3d.reports.tables import Baseline

DICE_TO_REACH = 0.6
"""Mean Dice over the test phantoms, on their original grids, for the pancreas to count as found."""

WHY = (
    "Grey values alone and position alone stay far below (see the comparison: both are given the best interval and "
    "the best mask for these very cases). To get here a network must have learnt texture, shape and surroundings of "
    "the organ from other phantoms; and the masks must have come back to each volume's own grid, spacing and "
    "orientation, because a mirrored or shifted mask scores near 0."
)

TEST_CASES = 3
VAL_CASES = 2


@dataclass(frozen=True)
class DemoResult:
    """What the demo came to.

    Attributes:
        dice: mean Dice over the test cases.
        reached: whether that is at least `DICE_TO_REACH`.
        folder: where everything is.
        page: the report.
        seconds: what took how long.
    """

    dice: float
    reached: bool
    folder: Path
    page: Path
    seconds: dict[str, float]


def run_demo(
    output_dir: str | Path,
    *,
    cases: int = 26,
    seed: int = 0,
    epochs: int | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> DemoResult:
    """Make phantoms, train pancreas_nl on them, evaluate, segment new ones, and write a report.

    Runs the commands that a user would run, each in its own process, and shows them.

    Args:
        output_dir: new folder for phantoms, run, masks and report.
        cases: labelled phantoms; 3 of them are test cases and 2 validation cases.
        seed: seed of phantoms, split and training.
        epochs: length of the training; None for the overlay's.
        overwrite: remove what an earlier demo left in `output_dir`.
        say: where messages for the user go.

    Raises:
        Fault: `NOT_EMPTY` if the folder holds something; `RUN_FAILED` if a command fails, with its exit code.
    """
    bundle = bundle_folder(Path(medseg3d.__file__).parent.parent / "bundles" / "pancreas_nl")
    folder = Path(output_dir).absolute()
    _claim(folder, overwrite)
    data, run, evaluation = folder / "phantoms", folder / "run", folder / "run" / "evaluation_test"
    seconds: dict[str, float] = {}
    knobs = {
        "dataset_dir": data,
        "output_dir": run,
        "test_cases": TEST_CASES,
        "val_cases": VAL_CASES,
        "seed": seed,
        **({} if epochs is None else {"epochs": epochs}),
    }

    say(f"1/4 phantoms: {cases} abdomens with a label and 2 without, in {data}")
    started = time.perf_counter()
    write_phantom_dataset(data, cases=cases, seed=seed)
    seconds["phantoms"] = time.perf_counter() - started
    for number, (run_id, config) in enumerate(
        (("training", "train.json"), ("evaluating", "evaluate.json"), ("inferring", "inference.json")), start=2
    ):
        files = [f"bundles/{bundle.name}/{config}", f"bundles/{bundle.name}/phantom.json"]
        say(f"{number}/4 {run_id}: python {shlex.join(monai_words(run_id, files, knobs))}")
        seconds[run_id] = run_monai(run_id, files, knobs, root=bundle_root(bundle))

    part = partial(split_cases, data, data / "split.json", test_cases=TEST_CASES, val_cases=VAL_CASES)
    test, train = part("test"), part("train")
    interval, interval_dice, n = interval_baseline(test)
    evaluated = read_run(evaluation, name="pancreas_nl")
    dice = evaluated.scores("pancreas")["dice_mean"]["value"] or 0.0
    remarks = Remarks(
        data=f"{cases} generated phantoms: {len(train)} for training, {VAL_CASES} for validation, {len(test)} for test",
        baselines=[
            Baseline(
                "best HU interval",
                interval_dice,
                n,
                f"every voxel from {interval[0]} to {interval[1]} HU, an interval chosen on the test truths themselves",
            ),
            Baseline(
                "best fixed mask",
                mean_mask_baseline([case["label"] for case in train], [case["label"] for case in test]),
                n,
                "where most training phantoms have their pancreas; the level is chosen on the test truths themselves",
            ),
        ],
        goal=Goal(DICE_TO_REACH, WHY),
        seconds=seconds,
    )
    page = write_report(
        [evaluated], folder, title="medseg3d demo: pancreas_nl on phantoms", remarks=remarks, with_networks=False
    )
    return DemoResult(dice, dice >= DICE_TO_REACH, folder, page, seconds)


def _claim(folder: Path, overwrite: bool) -> None:
    marker = folder / "demo.json"
    if folder.exists() and any(folder.iterdir()):
        if not (overwrite and marker.is_file()):
            what = "an earlier demo" if marker.is_file() else "files that are not a demo's"
            remedy = "--overwrite to replace it, or " if marker.is_file() else ""
            raise UsageFault("NOT_EMPTY", folder, what, "an empty or new folder", f"{remedy}-o for another folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"made_by": f"medseg3d {medseg3d.__version__} demo"}) + "\n", encoding="utf-8")
