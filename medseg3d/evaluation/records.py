"""Scores as records: one row per number, with its class, convention and confidence interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medseg3d.errors import UserError
from medseg3d.metrics import ConfusionCounts, LevelCounts

VERSION = 2
"""Of the form that scores have in summary.json and in the records of experiments; what has another is refused."""

FOREGROUND = "foreground"
"""All classes together against the background; with one class, that class itself."""

Over = Literal["cases", "groups", "slices", "pooled", "two_classes", "levels"]
"""What a score is a mean over; pooled: no mean, but one score of the counts summed over all cases; two_classes: mean of
background and foreground, each pooled, as mmsegmentation; levels: the best of 256 thresholds, common to all cases."""

Unit = Literal["ml", "percent", "voxels"]
"""Of the size of a ground truth; percent: of the image."""


@dataclass(frozen=True)
class Case:
    """The data kept of a case; no images.

    Attributes:
        counts: by class.
        measured: class -> score -> value: scores that are not computed from counts.
        slices: class -> counts of each slice; empty if slices are not scored.
        levels: counts at 256 levels, where PraNet's scores are requested.
        voxel_mm3: volume of a voxel; None if unknown.
        group: the patient or sequence.
        data_set: which of several it is of.
        files: kind -> path.
    """

    counts: Mapping[str, ConfusionCounts]
    measured: Mapping[str, Mapping[str, float]]
    slices: Mapping[str, Sequence[ConfusionCounts]]
    levels: LevelCounts | None
    voxel_mm3: float | None
    group: str | None
    data_set: str | None
    files: Mapping[str, str]


@dataclass(frozen=True)
class Score:
    """One number of an evaluation.

    Attributes:
        class_name: the class that it scores.
        score: `dice`, `hd95_mm`, ...; `medseg3d.evaluation.wording` has them all.
        over: what it is a mean over.
        value: None if undefined.
        n: number of cases, groups or slices that it includes.
        size: the stratum, by the size of the ground truth; empty for cases of all sizes.
        data_set: one of several data sets; empty for all.
        grid: the grid on which the labels were compared.
        low: lower end of the 95 % interval; None if there is none, as with fewer than two cases.
        high: its upper end.
        sd: standard deviation (n - 1) of the averaged values; None for pooled scores and fewer than two values.
        left_out: number of cases without this score; None for pooled scores.
        missed: distances: number of cases with either empty ground truth or an empty prediction.
    """

    class_name: str
    score: str
    over: Over
    value: float | None
    n: int
    size: str = ""
    data_set: str = ""
    grid: str = ""
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    left_out: int | None = None
    missed: int | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the 95 % interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class CaseCount:
    """Number of cases of a class, and how many are empty or missed.

    Attributes:
        class_name: as in `Score`.
        n: all of them.
        empty_truth: with empty ground truth.
        empty_pred: with an empty prediction.
        missed: with ground truth and an empty prediction.
        size: as in `Score`.
        data_set: as in `Score`.
        from_size: inclusive lower limit of the ground-truth size; None for no limit.
        below_size: exclusive upper limit; None for no limit.
    """

    class_name: str
    n: int
    empty_truth: int
    empty_pred: int
    missed: int
    size: str = ""
    data_set: str = ""
    from_size: float | None = None
    below_size: float | None = None


@dataclass(frozen=True)
class Settings:
    """The settings of an evaluation that define its conventions.

    Attributes:
        images: image (2-D) or volume (3-D).
        n_cases: all of them.
        n_probabilities: those with a probability.
        pranet_min_max: whether maps were min-max normalized for PraNet's scores.
        surface_tolerance_mm: of the surface Dice.
        size_unit: of the sizes of ground truth.
        size_edges_given: whether the caller gave the limits between small, medium and large; otherwise they are the
            tertiles of the cases.
    """

    images: Literal["picture", "volume"] = "picture"
    n_cases: int = 0
    n_probabilities: int = 0
    pranet_min_max: bool = False
    surface_tolerance_mm: float = 0.0
    size_unit: Unit = "voxels"
    size_edges_given: bool = False


@dataclass(frozen=True)
class Summary:
    """All numbers of an evaluation: the content of summary.json.

    Attributes:
        scores: a record for each.
        cases: how many cases there were, for each class, size and data set.
        settings: common to all scores.
        intervals: how the intervals were computed.
        context: further entries from the caller (part, seed, split, model, versions, warnings, ...).
    """

    scores: Sequence[Score] = ()
    cases: Sequence[CaseCount] = ()
    settings: Settings = Settings()
    intervals: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """The classes, in order."""
        return list(dict.fromkeys(score.class_name for score in self.scores))

    @property
    def warnings(self) -> list[str]:
        """Unusual but usable input, one sentence each."""
        return list(self.context.get("warnings") or [])

    def pick(self, **columns: Any) -> list[Score]:
        """The scores that have these values: `class_name="pancreas", over="cases", size=""`."""
        return [score for score in self.scores if all(getattr(score, key) == value for key, value in columns.items())]

    def find(self, class_name: str, score: str, over: str = "cases", size: str = "") -> Score | None:
        """The score of a class, of the cases of all data sets; None where there is none."""
        found = self.pick(class_name=class_name, score=score, over=over, size=size, data_set="")
        return found[0] if found else None

    def size_edges(self, class_name: str) -> tuple[float, float] | None:
        """The sizes of the ground truth from which a class is medium and large; None where nothing has a size."""
        for count in self.cases:
            if (count.class_name, count.size) == (class_name, "medium"):
                low, high = count.from_size, count.below_size
                return None if low is None or high is None else (low, high)
        return None

    @property
    def whole(self) -> Summary:
        """Only the scores of all cases together, without the context."""
        return replace(self, scores=self.pick(size="", data_set=""), context={})

    def as_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        rows = {name: [asdict(row) for row in getattr(self, name)] for name in _ROWS}
        own = {"version": VERSION, **rows, "settings": asdict(self.settings), "intervals": dict(self.intervals)}
        return {**own, **self.context}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: str | Path) -> Summary:
        """The summary from the content of a file.

        Raises:
            UserError: SCORE_FILE if it is of another version, or not of this form.
        """
        check_version(content, path)
        try:
            rows: dict[str, Any] = {name: [row(**each) for each in content[name]] for name, row in _ROWS.items()}
            settings, intervals = Settings(**content["settings"]), content["intervals"]
        except (KeyError, TypeError) as error:
            found = f"scores of another form ({error})"
            raise UserError(
                "SCORE_FILE", path, found, "a summary that medseg3d wrote", "run the evaluation again"
            ) from error
        context = {key: value for key, value in content.items() if key not in {*_ROWS, *_OWN}}
        return cls(**rows, settings=settings, intervals=intervals, context=context)


def check_version(content: Mapping[str, Any], path: str | Path) -> None:
    """Reject scores in the format of an earlier or later version.

    Raises:
        UserError: SCORE_FILE.
    """
    version = content.get("version", "1 or older")
    if version != VERSION:
        remedy = "run the evaluation again, or use the version of medseg3d that has written it"
        raise UserError("SCORE_FILE", path, f"scores in format {version}", f"format {VERSION}", remedy)


_ROWS: Mapping[str, type] = {"scores": Score, "cases": CaseCount}
_OWN = {"version", "settings", "intervals"}
