"""What an experiment has come to by now: the runs of each condition, and by how much conditions differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.evaluation import Score
from medseg3d.evaluation.experiment_files import read_experiment
from medseg3d.evaluation.wording import OVER
from medseg3d.files.plain import read_json
from medseg3d.metrics import Interval
from medseg3d.reports.paired import PairedDifference, Scores, paired_difference
from medseg3d.reports.runs import EvaluatedRun, data_sets_of, read_run

Row = Mapping[str, Any]
"""A finished run, as its row.json has it."""

Levels = tuple[Any, ...]
"""A level of each factor: what runs that differ in the seed alone have in common."""

Pair = tuple[Levels, Levels]
"""A condition and the one that it is compared with."""


@dataclass(frozen=True)
class Gain:
    """One condition less another.

    Attributes:
        pairs: the two; several for the mean over them.
        scores: score of a case -> its difference, case by case, between runs of one seed. Of the score that the
            experiment is about it is the difference by seed alone, where the folders of the runs are not here.
        by_seed: what that score is a mean over -> the difference of the means for each seed.
    """

    pairs: Sequence[Pair]
    scores: Mapping[str, PairedDifference]
    by_seed: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Comparison:
    """A finished or half-finished experiment.

    Attributes:
        folder: where it is.
        record: as `read_experiment` gives it. Without the folders of its runs it has their mean scores, and no cases.
    """

    folder: Path
    record: Mapping[str, Any]

    @property
    def title(self) -> str:
        """What its definition calls it."""
        return self.record.get("title", "Experiment")

    @property
    def score(self) -> str:
        """The score that it is about."""
        return self.record.get("score", "dice")

    @property
    def factors(self) -> list[str]:
        """What is varied, in the order of `Levels`."""
        return list(self.record["factors"])

    @property
    def seeds(self) -> list[int]:
        """Of the trainings that were requested."""
        return sorted({run["seed"] for run in self.record["asked"]})

    @property
    def class_name(self) -> str:
        """The first class, which it is about."""
        return self.record["rows"][0]["evaluation"].classes[0]

    @property
    def missing(self) -> list[str]:
        """The folders of the runs that are neither finished nor failed."""
        there = {row["run_dir"] for row in self.record["rows"]} | set(self.record["failures"])
        return [run["run_dir"] for run in self.record["asked"] if run["run_dir"] not in there]

    @property
    def data_factor(self) -> str:
        """The factor whose levels are data sets; empty where all runs have the same."""
        factors = self.record["factors"].items()
        return next((name for name, each in factors if all("dataset_dir" in level for level in each.values())), "")

    @cached_property
    def data(self) -> dict[str, dict[str, Any]]:
        """Level of that factor, or "", to its folders: `cases` by part, `split_file`, `split_hash`, `phantom` each."""
        known = self.record["data"]
        if not self.data_factor:
            return {"": known}
        levels = self.record["factors"][self.data_factor].items()
        return {name: {each: known[each] for each in data_sets_of(level["dataset_dir"])} for name, level in levels}

    @property
    def varied(self) -> list[str]:
        """The factors within a data set."""
        return [name for name in self.factors if name != self.data_factor]

    def conditions(self, data: str) -> list[Levels]:
        """Those that were requested on a data set of `data`; numbers rise, words are in the order of the definition."""
        asked = [self.levels(run) for run in self.record["asked"] if data in ("", run.get(self.data_factor))]
        first = [list(dict.fromkeys(column)) for column in zip(*asked, strict=True)]
        places = [
            sorted(levels) if all(isinstance(level, int | float) for level in levels) else levels for levels in first
        ]
        return sorted(
            set(asked),
            key=lambda levels: [known.index(level) for known, level in zip(places, levels, strict=True)],
        )

    def levels(self, run: Row) -> Levels:
        """The condition of a run."""
        return tuple(run[factor] for factor in self.factors)

    def level(self, levels: Levels, factor: str) -> Any:
        """The level of one factor, or the value that all runs have of a knob of that name; None where there is none."""
        known = {**self.record["knobs"], **dict(zip(self.factors, levels, strict=True))}
        return known.get(factor)

    def rows(self, levels: Levels) -> list[Row]:
        """The finished runs of a condition, by seed."""
        return sorted((row for row in self.record["rows"] if self.levels(row) == levels), key=lambda row: row["seed"])

    def rows_of(self, data: str) -> list[Row]:
        """The finished runs on a data set of `data`, condition by condition."""
        return [row for levels in self.conditions(data) for row in self.rows(levels)]

    @cached_property
    def runs(self) -> dict[str, EvaluatedRun]:
        """Folder of each finished run that is here to its evaluation on the part that is scored."""
        folders = {row["run_dir"]: self.folder / row["run_dir"] for row in self.record["rows"]}
        part = f"evaluation_{self.record['part']}"
        return {name: read_run(folder / part, name) for name, folder in folders.items() if folder.is_dir()}

    def find(self, row: Row, score: str, over: str = "cases") -> Score | None:
        """A mean score of a finished run; None where it has none."""
        return row["evaluation"].find(self.class_name, score, over)

    def value(self, row: Row, score: str, over: str = "cases") -> float | None:
        """Its value; the pooled MSE, over all pixels of all images, comes from the cases."""
        if (score, over) == ("mse", "pooled") and row["run_dir"] in self.runs:
            cases = self.runs[row["run_dir"]].cases(self.class_name)
            pixels = [sum(case[count] for count in ("tp", "fp", "fn", "tn")) for case in cases]
            mse = [case.get("mse", math.nan) for case in cases]
            pooled = math.fsum(n * each for n, each in zip(pixels, mse, strict=True)) / sum(pixels)
            return None if math.isnan(pooled) else pooled
        found = self.find(row, score, over)
        return None if found is None else found.value

    def values(self, levels: Levels, score: str, over: str = "cases") -> dict[int, float]:
        """Seed to that score of the finished runs of a condition that have it."""
        found = {row["seed"]: self.value(row, score, over) for row in self.rows(levels)}
        return {seed: value for seed, value in found.items() if value is not None}

    @cached_property
    def overs(self) -> list[str]:
        """What every finished run has means of the score over."""
        rows = self.record["rows"]
        return [over for over in OVER if rows and all(self.find(row, self.score, over) for row in rows)]

    def gains(self, data: str) -> list[Gain]:
        """Each condition less each that the reference names, where runs of one seed are finished; then their means.

        Of two levels that are both references, the later one less the earlier. The means are those over the other
        factors, where more than one of their levels has both.
        """
        conditions = self.conditions(data)
        reference = {name: _listed(levels) for name, levels in self.record["reference"].items()}
        references = list(product(*reference.values()))
        found: dict[tuple[Levels, Levels], list[Pair]] = {}
        for one in conditions:
            own = tuple(self.level(one, factor) for factor in reference)
            for each in references[: references.index(own)] if own in references else references:
                changed = dict(zip(reference, each, strict=True))
                other = tuple(changed.get(name, level) for name, level in zip(self.factors, one, strict=True))
                if self._shared_seeds([(one, other)]):
                    found.setdefault((own, each), []).append((one, other))
        single = [[pair] for pairs in found.values() for pair in pairs]
        single.sort(key=lambda pairs: conditions.index(pairs[0][0]))
        means = [pairs for pairs in found.values() if len(pairs) > 1 and self._shared_seeds(pairs)]
        return [self._gain(pairs) for pairs in (*single, *means)]

    def _shared_seeds(self, pairs: Sequence[Pair]) -> list[int]:
        """Those that all conditions of some pairs have a finished run of."""
        found = [{row["seed"] for row in self.rows(levels)} for pair in pairs for levels in pair]
        return sorted(set.intersection(*found))

    def _gain(self, pairs: Sequence[Pair]) -> Gain:
        finished = {(levels, row["seed"]): row for pair in pairs for levels in pair for row in self.rows(levels)}
        # for each seed the runs of the ones and of the others
        sides = [
            [[finished[levels, seed] for levels in side] for side in zip(*pairs, strict=True)]
            for seed in self._shared_seeds(pairs)
        ]
        by_seed = {over: self._by_seed(sides, over) for over in self.overs}
        rows = [row for both in sides for side in both for row in side]
        if not all(row["run_dir"] in self.runs for row in rows):
            alone = PairedDifference({}, by_seed.get("cases", []), Interval(math.nan, math.nan))
            return Gain(pairs, {self.score: alone}, by_seed)
        name = self.class_name
        groups = {case: group for row in rows for case, group in self.runs[row["run_dir"]].groups(name).items()}
        has_mse = all("mse" in case for case in self.runs[rows[0]["run_dir"]].cases(name))

        def mean(side: Sequence[Row], score: str) -> Scores:
            return _mean([self.runs[row["run_dir"]].values(name, score) for row in side])

        scores = {
            score: paired_difference([(mean(one, score), mean(other, score)) for one, other in sides], groups)
            for score in dict.fromkeys([self.score, *["mse"] * has_mse])
        }
        return Gain(pairs, scores, by_seed)

    def _by_seed(self, sides: Sequence[Sequence[Sequence[Row]]], over: str) -> list[float]:
        found = []
        for both in sides:
            values = [[self.value(row, self.score, over) for row in side] for side in both]
            one, other = ([value for value in side if value is not None] for side in values)
            if len(one) + len(other) == sum(map(len, both)):
                found.append(statistics.fmean(one) - statistics.fmean(other))
        return found

    @property
    def keeps_last(self) -> bool:
        """Whether each run keeps the weights of its last epoch, whatever its validation Dice."""
        conditions = self.record["conditions"]  # records of earlier versions say `selection`
        return conditions.get("checkpoint_selection", conditions.get("selection")) == "last"

    @cached_property
    def kept(self) -> dict[str, tuple[int, float]]:
        """Folder of each finished run to the epoch whose weights it has kept, and its validation Dice.

        Those whose TensorBoard events are gone are left out.
        """
        found = {}
        for row in self.record["rows"]:
            logged = self.runs[row["run_dir"]].training if row["run_dir"] in self.runs else {}
            nothing = (np.array([]), np.array([]))
            (steps, scores), (iterations, _) = (logged.get(tag, nothing) for tag in ("val_dice_mean", "train_loss"))
            if row["epochs"] and len(iterations) and not np.isnan(scores).all():
                place = len(scores) - 1 if self.keeps_last else int(np.nanargmax(scores))
                found[row["run_dir"]] = (round(steps[place] * row["epochs"] / iterations[-1]), float(scores[place]))
        return found

    def threshold_value(self, row: Row) -> float | None:
        """The score that the threshold of a finished run was chosen by, if its file is here."""
        file = self.folder / row["run_dir"] / "threshold.json"
        return read_json(file)["value"] if file.is_file() else None


def read_comparison(folder: str | Path, name: str) -> Comparison:
    """The experiment in a folder whose record is NAME.json, with what is finished by now.

    Raises:
        UserError: `SCORE_FILE` if there is none, or it is damaged.
    """
    return Comparison(Path(folder), read_experiment(folder, name))


def _listed(levels: Any) -> list[Any]:
    return levels if isinstance(levels, list) else [levels]


def _mean(runs: Sequence[Scores]) -> Scores:
    """Case to its mean over runs, of the cases that all have."""
    return {case: statistics.fmean(run[case] for run in runs) for case in runs[0] if all(case in run for run in runs)}
