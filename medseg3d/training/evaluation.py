"""Scores of every case while an engine evaluates, and the files they end in."""

from __future__ import annotations

import hashlib
import logging
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric

from medseg3d import metrics
from medseg3d.data.score_files import score_row, write_curve, write_scores, write_summary
from medseg3d.data.splits import read_split

logger = logging.getLogger("medseg3d")


class CaseScores(Metric):
    """Confusion counts of every case and class, and the mean over cases of the per-case Dice as the engine's score.

    Reads from each decollated item of the engine: `case` (name), `label` and `pred` (integer labels, (1, *spatial), on
    one grid) and, if there, `prob` (foreground probability, (1, *spatial)) for the precision-recall curve. What empty
    masks mean is decided in `medseg3d.metrics`.

    Args:
        class_names: names of the foreground classes 1, 2, ... in order.
        prefix: put before the names of the scores in `engine.state.metrics` (`val_` during training, where the grid
            may be the resampled one).
        grid: the grid that labels and predictions are on, stated in every convention.

    Attributes:
        counts: class name -> case -> counts.
        rows: one dictionary per case and class, the rows of scores.csv.
        curve: precision-recall histogram of foreground against background.
    """

    def __init__(self, class_names: Sequence[str], prefix: str = "", grid: str = "") -> None:
        self.class_names = list(class_names)
        self.prefix = prefix
        self.grid = grid
        super().__init__()

    def reset(self) -> None:
        """Forget all cases."""
        self.counts: dict[str, dict[str, metrics.ConfusionCounts]] = {name: {} for name in self.class_names}
        self.rows: list[dict[str, Any]] = []
        self.curve: metrics.BinnedPRCurve | None = None

    def iteration_completed(self, engine: Engine) -> None:
        """Add the engine's current cases."""
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.update({**batch, **output})

    def update(self, output: Mapping[str, Any]) -> None:
        """Add one case."""
        case, truth, pred = output["case"], output["label"], output["pred"]
        if truth.shape != pred.shape:
            raise ValueError(f"{case}: pred {tuple(pred.shape)} and label {tuple(truth.shape)} are on different grids")
        voxel_mm3 = abs(float(np.linalg.det(np.asarray(truth.affine)[:3, :3])))
        truth, pred = (torch.as_tensor(mask).as_subclass(torch.Tensor) for mask in (truth, pred))
        all_counts = metrics.ConfusionCounts.from_labels(pred, truth, len(self.class_names) + 1)
        for name, counts in zip(self.class_names, all_counts, strict=True):
            self.counts[name][case] = counts
            self.rows.append(score_row(case, name, counts, voxel_mm3))
        if "prob" in output:
            if self.curve is None:
                self.curve = metrics.BinnedPRCurve()
            self.curve.update_prob(torch.as_tensor(output["prob"]).as_subclass(torch.Tensor), truth > 0)

    def summary(self) -> dict[str, Any]:
        """The scores of every class, each with its convention, and the average precision where there is a curve."""
        result: dict[str, Any] = {name: metrics.summarise(cases, self.grid) for name, cases in self.counts.items()}
        if self.curve is not None:
            result["average_precision"] = {
                "value": self.curve.average_precision(),
                "n": len(next(iter(self.counts.values()))),
                "convention": "voxels of all cases pooled, foreground against background, step-wise sum over thresholds"
                + (f"; on the {self.grid}" if self.grid else ""),
            }
        return result

    def compute(self) -> float:
        """The mean over classes of the mean over cases of Dice; NaN when no case has foreground in truth or pred."""
        means = [
            metrics.mean_score([row["dice"] for row in self.rows if row["class"] == name])[0] for name in self.counts
        ]
        known = [mean for mean in means if not np.isnan(mean)]
        return float(np.mean(known)) if known else float("nan")

    def completed(self, engine: Engine, name: str) -> None:
        """Put the mean under `name` into the engine's metrics, and the single scores of each class beside it."""
        super().completed(engine, name)
        for class_name, scores in self.summary().items():
            if class_name == "average_precision":
                continue
            for score, entry in scores.items():
                if isinstance(entry, Mapping) and entry.get("value") is not None:
                    label = f"{self.prefix}{score}" + (f"_{class_name}" if len(self.class_names) > 1 else "")
                    engine.state.metrics.setdefault(label, float(entry["value"]))


class ScoreFiles:
    """Handler that writes `scores.csv`, `summary.json` and `pr.npz` when an evaluation is complete.

    Args:
        scores: the scores of the engine.
        output_dir: where the files are written.
        split_file: manifest of the split; its hash is stated.
        model_file: the weights; their SHA-256 is stated.
        context: what else the summary shall state (seed, part, ...).
    """

    def __init__(
        self,
        scores: CaseScores,
        output_dir: str | Path,
        split_file: str | Path,
        model_file: str | Path,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        self.scores = scores
        self.output_dir = Path(output_dir)
        self.split_file = Path(split_file)
        self.model_file = Path(model_file)
        self.context = dict(context or {})

    def attach(self, engine: Engine) -> None:
        """Write when `engine` has seen all cases."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the files; the summary comes last, as the sign that the others are there."""
        write_scores(self.output_dir / "scores.csv", self.scores.rows)
        if self.scores.curve is not None:
            write_curve(self.output_dir / "pr.npz", {"foreground": self.scores.curve})
        write_summary(
            self.output_dir / "summary.json",
            {
                "scores": self.scores.summary(),
                **self.context,
                "split_file": str(self.split_file),
                "split_hash": read_split(self.split_file).hash,
                "model_file": str(self.model_file),
                "model_sha256": hashlib.sha256(self.model_file.read_bytes()).hexdigest(),
                "command": command_line(sys.argv),
                "versions": versions(),
            },
        )
        for name, cases in self.scores.counts.items():
            scores = metrics.summarise(cases)
            for score in ("dice_mean", "dice_pooled"):
                logger.info("%s %s %s (n=%d)", name, score, scores[score]["value"], scores[score]["n"])
        logger.info("scores of %d cases in %s", len(cases), self.output_dir)


def command_line(argv: Sequence[str]) -> list[str]:
    """The words a person would type for this process.

    Example:
        >>> command_line(["/venv/lib/python3.11/site-packages/monai/bundle/__main__.py", "run", "evaluating"])
        ['python', '-m', 'monai.bundle', 'run', 'evaluating']
    """
    program = Path(argv[0])
    if program.name == "__main__.py" and program.parts[-3:-1] == ("monai", "bundle"):
        return ["python", "-m", "monai.bundle", *argv[1:]]
    return list(argv)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that the numbers depend on.

    Example:
        >>> sorted(versions())[:3]
        ['medseg3d', 'monai', 'nibabel']
    """
    packages = ("medseg3d", "monai", "torch", "numpy", "nibabel", "pytorch-ignite")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
