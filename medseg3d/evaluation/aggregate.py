"""From what was counted in each case to records of scores: every convention side by side, with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from medseg3d import metrics
from medseg3d.evaluation.records import Case, CaseCount, Over, Score, Unit
from medseg3d.metrics import SCORES, ConfusionCounts
from medseg3d.metrics.levels import MAXIMA

RESAMPLES = 2000
CONFIDENCE = 0.95

SURFACE = ("hd95_mm", "mean_surface_distance_mm", "surface_dice")
"""Scores in which a case counts that has either nothing in the ground truth or nothing in the prediction."""

_TWO_CLASSES = ("mdice", "miou", "mrecall", "mprecision", "aacc")
_BACKGROUND = ("dice_background", "iou_background")

Cases = Mapping[str, Case]
"""By name."""


@dataclass(frozen=True)
class Aggregation:
    """From cases to scores.

    Attributes:
        region: the class that probabilities and two-class scores are of.
        size_unit: of the sizes of ground truth.
        grid: repeated in every record.
        edges: the two sizes that part small, medium and large cases; None for tertiles.
        seed: of the resampling behind the intervals.
    """

    region: str
    size_unit: Unit
    grid: str
    edges: Sequence[float] | None
    seed: int

    def scores(self, name: str, cases: Cases) -> tuple[list[Score], list[CaseCount]]:
        """All scores of a class: of all cases, of the small, medium and large ones, of each data set."""
        scores = self._of_cases(name, cases) + self._over_slices(name, cases) + self._over_groups(name, cases)
        if name == self.region:
            scores += self._two_classes(name, cases)
        counted = [_count(name, cases)]
        strata = metrics.size_strata(self._sizes(name, cases), self.edges)
        low, high = map(_or_none, strata.edges)
        bounds = {"small": (None, low), "medium": (low, high), "large": (high, None)}
        parts = [(size, "", names) for size, names in strata.cases.items()]
        for data_set in dict.fromkeys(case.data_set for case in cases.values() if case.data_set is not None):
            parts.append(("", data_set, [key for key, case in cases.items() if case.data_set == data_set]))
        for size, data_set, names in parts:
            own = {key: cases[key] for key in names}
            least, below = bounds.get(size, (None, None))
            count = replace(_count(name, own), size=size, data_set=data_set, from_size=least, below_size=below)
            counted.append(count)
            scores += [
                replace(score, size=size, data_set=data_set) for score in (self._of_cases(name, own) if own else ())
            ]
        return scores, counted

    def pooled(
        self,
        name: str,
        score: str,
        value: float,
        n: int,
        interval: tuple[float, float] = (math.nan, math.nan),
        over: Over = "pooled",
    ) -> Score:
        """The record of a score that is not a mean over cases, slices or groups."""
        low, high = map(_or_none, interval)
        return Score(name, score, over, _or_none(value), n, grid=self.grid, low=low, high=high)

    def _of_cases(self, name: str, cases: Cases) -> list[Score]:
        """Means over some cases and their pooled scores."""
        counts = {key: case.counts[name] for key, case in cases.items()}
        total = sum(counts.values(), ConfusionCounts())
        groups = {key: str(case.group) for key, case in cases.items()} if are_grouped(cases) else None
        owners = list(groups.values()) if groups else None
        scores = []
        for score, function in SCORES.items():
            scores.append(self._mean(name, score, [function(each) for each in counts.values()], owners))
            interval = metrics.pooled_interval(counts, score, groups, CONFIDENCE, RESAMPLES, self.seed)
            scores.append(self.pooled(name, score, function(total), len(cases), interval))
        measured = [case.measured[name] for case in cases.values()]
        missed = sum((each.n_truth == 0) != (each.n_pred == 0) for each in counts.values())
        for score in dict.fromkeys(score for values in measured for score in values if score not in MAXIMA):
            mean = self._mean(name, score, [values.get(score, math.nan) for values in measured], owners)
            scores.append(replace(mean, missed=missed) if score in SURFACE else mean)
        levels = [case.levels for case in cases.values() if case.levels is not None]
        if name == self.region and levels:
            best = metrics.pranet_scores(*levels)
            scores += [self.pooled(name, score, best[score], len(cases), over="levels") for score in MAXIMA]
        return scores

    def _over_slices(self, name: str, cases: Cases) -> list[Score]:
        grouped = are_grouped(cases)
        slices = [each for case in cases.values() for each in case.slices.get(name, ())]
        owners = [str(case.group) if grouped else key for key, case in cases.items() for _ in case.slices.get(name, ())]
        return [
            self._mean(name, score, [function(each) for each in slices], owners, over="slices")
            for score, function in (SCORES.items() if slices else ())
        ]

    def _over_groups(self, name: str, cases: Cases) -> list[Score]:
        totals = [sum(each, ConfusionCounts()) for each in group_counts(name, cases).values()]
        return [
            self._mean(name, score, [function(total) for total in totals], over="groups")
            for score, function in (SCORES.items() if totals else ())
        ]

    def _two_classes(self, name: str, cases: Cases) -> list[Score]:
        found = metrics.two_class_scores(sum((case.counts[name] for case in cases.values()), ConfusionCounts()))
        return [
            *(self.pooled(name, score, found[score], len(cases), over="two_classes") for score in _TWO_CLASSES),
            *(self.pooled(name, score, found[score], len(cases)) for score in _BACKGROUND),
        ]

    def _mean(
        self,
        name: str,
        score: str,
        values: Sequence[float],
        owners: Sequence[Hashable] | None = None,
        over: Over = "cases",
    ) -> Score:
        mean, n, left_out = metrics.mean_score(values)
        low, high = map(_or_none, metrics.mean_interval(values, owners, CONFIDENCE, RESAMPLES, self.seed))
        sd = statistics.stdev(value for value in values if not math.isnan(value)) if n > 1 else None
        return Score(name, score, over, _or_none(mean), n, grid=self.grid, low=low, high=high, sd=sd, left_out=left_out)

    def _sizes(self, name: str, cases: Cases) -> dict[str, float]:
        """Case -> size of its ground truth."""
        counts = {key: case.counts[name] for key, case in cases.items()}
        if self.size_unit == "percent":
            return {key: 100 * each.n_truth / max(each.n, 1) for key, each in counts.items()}
        if self.size_unit == "voxels":
            return {key: float(each.n_truth) for key, each in counts.items()}
        return {key: each.n_truth * (cases[key].voxel_mm3 or 0.0) / 1000 for key, each in counts.items()}


def are_grouped(cases: Cases) -> bool:
    """Whether they name a patient or sequence; all do, or none."""
    first = next(iter(cases.values()), None)
    return first is not None and first.group is not None


def group_counts(name: str, cases: Cases) -> dict[str, list[ConfusionCounts]]:
    """Group -> the counts of its cases; empty without groups."""
    groups: dict[str, list[ConfusionCounts]] = {}
    for case in cases.values():
        if case.group is not None:
            groups.setdefault(case.group, []).append(case.counts[name])
    return groups


def _count(name: str, cases: Cases) -> CaseCount:
    counts = [case.counts[name] for case in cases.values()]
    return CaseCount(
        name,
        n=len(counts),
        empty_truth=sum(each.n_truth == 0 for each in counts),
        empty_pred=sum(each.n_pred == 0 for each in counts),
        missed=sum(each.n_pred == 0 < each.n_truth for each in counts),
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
