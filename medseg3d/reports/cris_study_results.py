"""What a study of the CRIS grid has come to by now, read from its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.evaluation.experiment_files import read_experiment
from medseg3d.faults import Fault
from medseg3d.files.plain import read_json
from medseg3d.reports.curves import read_training_curves
from medseg3d.reports.runs import run_of_row

NAME = "study"
"""Of the experiment, whose record is study.json."""

_ORDER = ("unet", "unet_plus_plus", "segnet", "backbone", "fcn", "crf", "cris")
"""Backbones, then strategies, as the paper has them."""


@dataclass(frozen=True)
class Study:
    """A finished or half-finished study.

    Attributes:
        folder: where it is.
        record: content of study.json.
        asked: levels, seed and folder of each combination that it shall have.
        rows: one dictionary per finished combination; its `run` is the evaluation of the part that is scored.
        failures: folder of each failed combination -> why.
    """

    folder: Path
    record: Mapping[str, Any]
    asked: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    failures: Mapping[str, str]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What all runs have in common."""
        tune = self.record["tune"] or {"trials": 0, "knobs": {}}
        return {
            **{"bundle": self.record["bundle"], "knobs": self.record["knobs"], "part": self.record["part"]},
            **{"trials": tune["trials"], "tune_epochs": tune["knobs"].get("epochs")},
            "threshold_part": self.record["threshold"]["part"],
        }

    @property
    def data(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> manifest, its hash, pictures of each part, whether generated."""
        sets = self.record["factors"]["data"].items()
        return {name: self.record["data"][settings["dataset_dir"]] for name, settings in sets}

    @property
    def conditions(self) -> Mapping[str, Any]:
        """Knobs that the result depends on."""
        return self.record["conditions"]

    @property
    def seeds(self) -> list[int]:
        """Of the trainings that were asked for."""
        return sorted({each["seed"] for each in self.asked})

    @property
    def missing(self) -> list[Mapping[str, Any]]:
        """The combinations that were asked for and are neither finished nor failed."""
        there = {row["run_dir"] for row in self.rows} | set(self.failures)
        return [each for each in self.asked if each["run_dir"] not in there]

    def of(self, data: str, backbone: str = "", strategy: str = "") -> list[Mapping[str, Any]]:
        """The finished runs of a data set, a backbone and a strategy, by seed; empty words leave a choice open."""
        found = [
            row
            for row in self.rows
            if row["data"] == data and backbone in ("", row["backbone"]) and strategy in ("", row["strategy"])
        ]
        place = _ORDER.index
        return sorted(found, key=lambda row: (place(row["backbone"]), place(row["strategy"]), row["seed"]))

    def score(self, row: Mapping[str, Any], score: str, over: str) -> float | None:
        """A score of a finished run; the pooled MSE, over all pixels of all pictures, comes from scores.csv."""
        run = row["run"]
        if (score, over) != ("mse", "pooled"):
            found = run.score(run.region, score, over)
            return None if found is None else found.value
        pixels = [
            (sum(each[count] for count in ("tp", "fp", "fn", "tn")), each["mse"]) for each in run.cases(run.region)
        ]
        return math.fsum(n * mse for n, mse in pixels) / sum(n for n, _ in pixels)

    def threshold_value(self, row: Mapping[str, Any]) -> float:
        """The Dice per picture that the threshold of a finished run was chosen by, on the part for thresholds."""
        return read_json(self.folder / row["run_dir"] / "threshold.json")["value"]

    @cached_property
    def kept(self) -> dict[str, tuple[int, float]]:
        """Folder of each finished combination -> the epoch whose weights it has kept, and its validation Dice.

        Those whose TensorBoard events are gone are left out.
        """
        found = {}
        for row in self.rows:
            try:
                logged = read_training_curves(self.folder / row["run_dir"])
                (steps, scores), (iterations, _) = logged["val_dice_mean"], logged["train_loss"]
            except (Fault, KeyError):
                continue
            place = len(scores) - 1 if self.conditions.get("selection") == "last" else int(np.nanargmax(scores))
            found[row["run_dir"]] = (round(steps[place] * row["epochs"] / iterations[-1]), float(scores[place]))
        return found


def read_study(folder: str | Path) -> Study:
    """The study in a folder, with what is finished by now.

    Raises:
        Fault: `SCORE_FILE` if there is none, or a file of a finished run is absent or damaged.
    """
    folder = Path(folder)
    record = read_experiment(folder, NAME, "study cris")
    rows = [{**row, "run": run_of_row(folder, row, record["part"])} for row in record["rows"]]
    return Study(folder, record, record["asked"], rows, record["failures"])
