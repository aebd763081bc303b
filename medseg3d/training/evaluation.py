"""An evaluation fed by an engine, and written when the engine is done."""

from __future__ import annotations

import hashlib
import importlib
import logging
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.metrics import Metric

from medseg3d import __version__, metrics
from medseg3d.data.splits import split_record
from medseg3d.errors import UserError
from medseg3d.evaluation import Evaluation
from medseg3d.training.pretrained import initial_weights_record

logger = logging.getLogger("medseg3d")


class CaseScores(Metric):
    """The scores of every case while an engine evaluates, and the mean over cases of Dice as the engine's own score.

    Feeds an `medseg3d.evaluation.Evaluation`. Reads from each decollated item of the engine: `case` (name), `label` and
    `pred` (integer labels, (1, *spatial), on one grid) and, if there, `prob` (foreground probability, (1, *spatial)),
    `group` (patient or sequence), `data_set` (of several) and `error` (why there is no prediction), and of the files
    `image` (its meta), `label` (its meta) and `mask_file`.

    Nothing slow happens during a training: `compute` and what goes into the engine's metrics are sums of counts.
    Distances, maps of images and slices are only measured where an argument asks for them.

    A case with an `error` has no score, and an evaluation with such a case none either: it would be of other cases.
    The engine then gets NaN for the mean and nothing else, and the log says which cases failed.

    Args:
        class_names: names of the foreground classes 1, 2, ... in order.
        prefix: put before the names of the scores in `engine.state.metrics` (`val_` during training, where the grid
            may be the resampled one).
        grid: the grid that labels and predictions are on, stated in every convention.
        surface_tolerance_mm: volumes: also HD95, mean surface distance and surface Dice at this tolerance; None for
            no distances.
        slice_axis: volumes: the axis along which slices are scored too, or "axial".
        saliency: images: also the scores of PraNet's evaluation.
        seed: of the resampling behind the intervals.

    Attributes:
        evaluation: what all cases since the last reset amount to.
        errors: of the cases that failed since then.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        prefix: str = "",
        grid: str = "",
        surface_tolerance_mm: float | None = None,
        slice_axis: int | str | None = None,
        saliency: bool = False,
        seed: int = 0,
    ) -> None:
        self.class_names = list(class_names)
        self._labels: list[str] = []
        self.prefix = prefix
        self._new_evaluation = partial(
            Evaluation,
            self.class_names,
            grid=grid,
            slice_axis=slice_axis,
            surface=surface_tolerance_mm is not None,
            surface_tolerance_mm=surface_tolerance_mm or 0.0,
            saliency=saliency,
            seed=seed,
        )
        super().__init__()

    def reset(self) -> None:
        """Forget all cases."""
        self.evaluation = self._new_evaluation()
        self.errors: list[UserError] = []

    def iteration_completed(self, engine: Engine) -> None:
        """Add the engine's current cases."""
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.update({**batch, **output})

    def update(self, output: Mapping[str, Any]) -> None:
        """Add one case."""
        if "error" in output:
            self.errors.append(output["error"])
            return
        case, truth, pred = output["case"], output["label"], output["pred"]
        if truth.shape != pred.shape:
            raise ValueError(f"{case}: pred {tuple(pred.shape)} and label {tuple(truth.shape)} are on different grids")
        self.evaluation.add(
            case,
            pred[0],
            truth[0],
            prob=output["prob"][0] if "prob" in output else None,
            affine=getattr(truth, "affine", None),
            group=output.get("group"),
            data_set=output.get("data_set"),
            files=_files_of(output),
            warnings=[line for key in ("image", "label") for line in _meta(output, key, "warnings").splitlines()],
        )

    def compute(self) -> float:
        """The mean over classes of the mean over cases of Dice.

        NaN when no case has foreground in truth or pred, and when a case failed.
        """
        if self.errors:
            return math.nan
        means = [
            metrics.mean_score(metrics.dice(case.counts[name]) for case in self.evaluation.cases.values()).mean
            for name in self.class_names
        ]
        return metrics.mean_score(means).mean

    def completed(self, engine: Engine, name: str) -> None:
        """Put the mean under `name` into the engine's metrics, and the single scores of each class next to it."""
        super().completed(engine, name)
        for label in self._labels:  # the engine of a training keeps the scores of its last validation
            engine.state.metrics.pop(label, None)
        self._labels.clear()
        if self.errors:
            failed = f"{len(self.errors)} case{'s' * (len(self.errors) > 1)}"
            logger.warning("no score: %s failed, the first with %s", failed, self.errors[0])
            return
        for class_name in self.evaluation.classes:
            of_class = f"_{class_name}" if len(self.class_names) > 1 else ""
            cases = [case.counts[class_name] for case in self.evaluation.cases.values()]
            total = sum(cases, metrics.ConfusionCounts())
            for score, function in metrics.SCORES.items():
                values = {"mean": metrics.mean_score(map(function, cases)).mean, "pooled": function(total)}
                for over, value in values.items():
                    label = f"{self.prefix}{score}_{over}{of_class}"
                    if label != name and not math.isnan(value):
                        engine.state.metrics[label] = value
                        self._labels.append(label)


class ScoreFiles:
    """Handler that writes the files of an evaluation (`Evaluation.write`) when it is complete.

    Args:
        scores: the scores of the engine.
        output_dir: where the files are written.
        split_file: the split; its hash is stated. Of several data sets a list of theirs.
        model_file: the weights; their SHA-256 is stated, and the file that their training began with.
        context: what else the summary shall state (seed, part, ...).
    """

    def __init__(
        self,
        scores: CaseScores,
        output_dir: str | Path,
        split_file: str | Path | Sequence[str | Path],
        model_file: str | Path,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        self.scores = scores
        self.output_dir = Path(output_dir)
        self.split_file = split_file
        self.model_file = Path(model_file)
        self.context = dict(context or {})

    def attach(self, engine: Engine) -> None:
        """Write when `engine` has seen all cases."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the files; the summary comes last, as the sign that the others are there."""
        summary = self.scores.evaluation.write(
            self.output_dir,
            {
                **self.context,
                **split_record(self.split_file),
                "model_file": str(self.model_file),
                "model_sha256": hashlib.sha256(self.model_file.read_bytes()).hexdigest(),
                **initial_weights_record(self.model_file.parent),
                "command": command_line(sys.argv),
                "versions": versions(),
            },
        )
        for score in summary.pick(score="dice", size="", data_set=""):
            logger.info("%s dice %s %s (n=%d)", score.class_name, score.over, score.value, score.n)
        logger.info("scores of %d cases in %s", summary.settings.n_cases, self.output_dir)


def _files_of(output: Mapping[str, Any]) -> dict[str, str]:
    """The files of a case: image and label from their meta, the mask that was written of it."""
    files = {
        "image": _meta(output, "image", "filename_or_obj"),
        "truth": _meta(output, "label", "filename_or_obj"),
        "pred": str(output.get("mask_file", "")),
    }
    return {kind: path for kind, path in files.items() if path}


def _meta(output: Mapping[str, Any], key: str, name: str) -> str:
    return str(getattr(output.get(key), "meta", {}).get(name, ""))


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

    This package's is that of the code that runs, installed or not; another's is "unknown" where neither its metadata
    nor its module has one.

    Example:
        >>> sorted(versions())[:3]
        ['medseg3d', 'monai', 'nibabel']
    """
    packages = ("monai", "torch", "numpy", "nibabel", "pytorch-ignite")
    others = {package: _version_of(package) for package in packages}
    return {"python": platform.python_version(), "medseg3d": __version__, **others}


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # copied to its place, not installed
        module = importlib.import_module({"pytorch-ignite": "ignite"}.get(package, package))
        return str(getattr(module, "__version__", "unknown"))
