"""What a report is made from: the folder of an evaluation, read whole, and the run around it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from medseg3d.data.mask_folders import is_volume
from medseg3d.errors import UsageError, UserError
from medseg3d.evaluation import FOREGROUND, Score, Summary
from medseg3d.evaluation.experiment_files import find_record
from medseg3d.evaluation.files import SCORES_CSV, THRESHOLDS_CSV, read_curve, read_files, read_summary
from medseg3d.evaluation.wording import convention
from medseg3d.knobs import split_name
from medseg3d.metrics import BinnedPRCurve, Strata, size_strata
from medseg3d.phantoms.polyps import is_phantom_data
from medseg3d.reports.curves import TrainingCurves, read_training_curves

_PREFIX = "evaluation_"


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case, on one grid; `image` and `truth` may be missing."""

    image: str | Path | None
    truth: str | Path | None
    pred: str | Path

    @property
    def is_picture(self) -> bool:
        """Whether these are 2-D images, not volumes."""
        return not is_volume(Path(self.pred))


@dataclass(frozen=True)
class EvaluatedRun:
    """An evaluation as its files tell it.

    Args:
        name: what the report calls it.
        folder: folder of the evaluation.
        summary: content of summary.json.
        rows: the lines of scores.csv.
        curve: precision-recall curve of the foreground, from pr.npz; None if there is none.
        thresholds: the lines of thresholds.csv; empty if there is none.
        files: case to its files, from files.json; empty if there is none.
        config: the resolved config of the evaluation or the training; empty if none was recorded.
        training: what the training logged, by tag; empty if nothing was found.
        bundle: name of the bundle, empty if it is not known.
    """

    name: str
    folder: Path
    summary: Summary
    rows: Sequence[Mapping[str, Any]]
    curve: BinnedPRCurve | None = None
    thresholds: Sequence[Mapping[str, Any]] = ()
    files: Mapping[str, CaseFiles] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingCurves = field(default_factory=dict)
    bundle: str = ""

    @cached_property
    def classes(self) -> list[str]:
        """The classes in the order of scores.csv."""
        return list(dict.fromkeys(row["class"] for row in self.rows))

    @property
    def region(self) -> str:
        """What scores of two classes and of probabilities are about: all classes together, or the only one."""
        return FOREGROUND if FOREGROUND in self.classes else self.classes[0]

    @property
    def threshold(self) -> float:
        """The probability from which a voxel was counted as foreground."""
        return float(self.summary.context.get("threshold") or 0.5)

    def recorded(self, name: str) -> Any:
        """What the evaluation has stated next to its scores, or else the config; None where neither has."""
        return self.summary.context.get(name) or self.config.get(name)

    @property
    def data_sets(self) -> list[str]:
        """The folders of its data sets; none where nothing was recorded."""
        return data_sets_of(self.recorded("dataset_dir"))

    @property
    def is_phantom(self) -> bool:
        """Whether images were generated, as the data sets themselves say."""
        return any(is_phantom_data(folder) for folder in self.data_sets)

    def cases(self, class_name: str) -> list[Mapping[str, Any]]:
        """The lines of one class."""
        return [row for row in self.rows if row["class"] == class_name]

    def values(self, class_name: str, score: str) -> dict[str, float]:
        """Case to a score of scores.csv; NaN where it has none."""
        return {row["case"]: row[score] for row in self.cases(class_name)}

    def groups(self, class_name: str) -> dict[str, str]:
        """Case to its patient or sequence; empty where none is known."""
        return {row["case"]: row["group"] for row in self.cases(class_name) if "group" in row}

    def score(self, class_name: str, score: str = "dice", over: str = "cases", size: str = "") -> Score | None:
        """The record of one number, by default of the mean Dice over cases; None if this run does not have it."""
        return self.summary.find(class_name, score, over, size)

    def dice(self, class_name: str) -> float | None:
        """The mean Dice over cases; None where it is undefined or not recorded."""
        score = self.score(class_name)
        return None if score is None else score.value

    def taken(self, score: Score) -> str:
        """How one of its scores was taken."""
        return convention(score, self.summary.settings)

    def label(self, class_name: str) -> int | None:
        """The value of a class in the masks; None, all values above 0, if it is the only class or all of them."""
        alone = len(self.classes) == 1 or class_name == FOREGROUND
        return None if alone else self.classes.index(class_name) + 1

    def sizes(self, class_name: str, unit: str) -> dict[str, float]:
        """Case to the size of its ground truth in a unit of `Settings`."""
        rows = self.cases(class_name)
        if unit == "ml":
            return {row["case"]: row["truth_ml"] for row in rows}
        voxels = {row["case"]: row["tp"] + row["fn"] for row in rows}
        if unit == "voxels":
            return voxels
        return {
            row["case"]: 100 * voxels[row["case"]] / max(sum(row[count] for count in ("tp", "fp", "fn", "tn")), 1)
            for row in rows
        }

    def strata(self, class_name: str) -> Strata:
        """The cases by size of the ground truth, in the unit and with the edges of the evaluation."""
        edges = self.summary.size_edges(class_name)
        sizes = self.sizes(class_name, self.summary.settings.size_unit)
        return size_strata(sizes, edges if edges is not None and edges[0] < edges[1] else None)


def read_run(folder: str | Path, name: str = "", bundle: str = "") -> EvaluatedRun:
    """The evaluation in a folder; what older evaluations lack is left empty.

    The training is looked for in the folder and, if the folder is a run's `evaluation_<part>`, in the run.

    Args:
        folder: holds summary.json and scores.csv.
        name: what to call it; by default the folder's own name.
        bundle: name of the bundle; by default what was recorded.

    Raises:
        UserError: `SCORE_FILE` if a file is absent or damaged, or scores.csv has no case.
    """
    folder = Path(folder)
    summary, rows = read_summary(folder / "summary.json"), SCORES_CSV.read(folder / "scores.csv")
    if not rows:
        wanted = "the scores of each case"
        raise UserError("SCORE_FILE", folder / "scores.csv", "no case in it", wanted, "evaluate at least one case")
    around = [folder, folder.resolve().parent] if folder.resolve().name.startswith(_PREFIX) else [folder]
    config = next((found for each in around if (found := read_json(each / "config.json"))), {})
    recorded = summary.context.get("bundle") or Path(str(config.get("bundle_root", ""))).name
    return EvaluatedRun(
        name=name or folder.resolve().name,
        folder=folder,
        summary=summary,
        rows=rows,
        curve=read_curve(folder / "pr.npz") if (folder / "pr.npz").exists() else None,
        thresholds=THRESHOLDS_CSV.read(folder / "thresholds.csv") if (folder / "thresholds.csv").exists() else (),
        files=dict(_read_files(folder / "files.json")),
        config=config,
        training=next((logged for each in around if (logged := read_training_curves(each))), {}),
        bundle=bundle or str(recorded),
    )


def find_evaluations(path: str | Path) -> list[Path]:
    """The folders of the evaluations that a path names: itself, or the `evaluation_*` of a run.

    Raises:
        UserError: `MISSING_FILE` if there is no such folder; `NO_EVALUATION` if there is none in it, with what to run.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(
            "MISSING_FILE", path, "no such folder", "the folder of a run or of an evaluation", "correct the path"
        )
    if (folder / "summary.json").is_file():
        return [folder]
    found = sorted(each.parent for each in folder.glob(f"{_PREFIX}*/summary.json"))
    if not found and not find_record(folder):
        raise UsageError(
            "NO_EVALUATION",
            path,
            "neither summary.json nor evaluation_*/summary.json",
            "the folder of an evaluated run, of an evaluation, or of an experiment",
            f"evaluate first: {_evaluating(folder)}, or medseg3d evaluate on a folder of predictions",
        )
    return found


def data_sets_of(dataset_dir: str | Sequence[str] | None) -> list[str]:
    """The folders that a run's `dataset_dir` names, one or several.

    Example:
        >>> data_sets_of("data/a"), data_sets_of(["data/a", "data/b"]), data_sets_of(None)
        (['data/a'], ['data/a', 'data/b'], [])
    """
    if not dataset_dir:
        return []
    return [dataset_dir] if isinstance(dataset_dir, str) else [str(folder) for folder in dataset_dir]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object as plain values: nothing in it is resolved or run. Empty where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_runs(paths: Sequence[str | Path], bundle: str = "") -> list[EvaluatedRun]:
    """The evaluations that some paths name, each under a name that none of the others has.

    Args:
        paths: folders of evaluations or runs; `NAME=FOLDER` gives the name.
        bundle: name of their bundle; by default what was recorded.

    Raises:
        UserError: as `find_evaluations` and `read_run`; `NAME_COLLISION` if one name was given to two runs.
    """
    found: dict[Path, str] = {}
    for path in paths:
        given, folder = split_name(path)
        evaluations = find_evaluations(folder)
        for each in evaluations:
            part = each.name.removeprefix(_PREFIX)
            found.setdefault(each.resolve(), f"{given} ({part})" if given and len(evaluations) > 1 else given)
    short = unique_names(list(found))
    names = [given or other for given, other in zip(found.values(), short, strict=True)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError("NAME_COLLISION", twice, "the name of two runs", "a name for each", "name them with NAME=RUN")
    return [read_run(folder, name, bundle) for folder, name in zip(found, names, strict=True)]


def unique_names(folders: Sequence[Path]) -> list[str]:
    """A short name for each folder: the last parts of its path that tell it from the others.

    Example:
        >>> unique_names([Path("/runs/a/evaluation_test"), Path("/runs/b/evaluation_test")])
        ['a (test)', 'b (test)']
        >>> unique_names([Path("/a/run/evaluation_test"), Path("/b/run/evaluation_test"), Path("/c")])
        ['a/run (test)', 'b/run (test)', 'c']
    """
    whole = [folder.resolve() for folder in folders]
    for depth in range(1, max((len(path.parts) for path in whole), default=0) + 1):
        names = [_short_name(path, depth) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]


def _short_name(path: Path, depth: int) -> str:
    parts = path.parts[1:]  # without the root
    if path.name.startswith(_PREFIX) and len(parts) > 1:
        return "/".join(parts[:-1][-depth:]) + f" ({path.name.removeprefix(_PREFIX)})"
    return "/".join(parts[-depth:])


def _evaluating(folder: Path) -> str:
    config = read_json(folder / "config.json")
    bundle = Path(str(config.get("bundle_root") or "bundles/pancreas_nl")).name
    return (
        f"python -m monai.bundle run evaluating --config_file bundles/{bundle}/evaluate.json --output_dir {folder} "
        "(with the options of the training)"
    )


def _read_files(file: Path) -> Iterator[tuple[str, CaseFiles]]:
    for case, paths in read_files(file).items() if file.exists() else ():
        known = {kind: _existing(path, file.parent) for kind, path in paths.items()}
        if "pred" in known:
            yield case, CaseFiles(known.get("image"), known.get("truth"), known["pred"])


def _existing(path: str, folder: Path) -> Path:
    """Where a recorded path leads: from here, else from the evaluation's folder, which may have been moved."""
    here = Path(path)
    return here if here.exists() or here.is_absolute() or not (folder / here).exists() else folder / here
