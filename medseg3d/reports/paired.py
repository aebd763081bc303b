"""Two runs on the same cases, or two sets of runs paired by seed: by how much they differ, and how far that carries."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from medseg3d.metrics import Interval, mean_interval

Scores = Mapping[str, float]
"""Case to its score; NaN where it has none."""


@dataclass(frozen=True)
class PairedDifference:
    """A score of one run less that of another, case by case, which most of the spread between cases cancels in.

    Attributes:
        cases: case -> its difference, mean over the pairs of runs; those that every run has a score of. Empty where
            mean scores alone are known.
        pairs: mean difference over the cases for each pair of runs, which is one for each seed.
        interval: 95 % interval of the mean over cases, by a bootstrap over cases or their groups with all networks
            held fixed; both ends NaN for fewer than two.
    """

    cases: Scores
    pairs: Sequence[float]
    interval: Interval

    @property
    def value(self) -> float:
        """The mean over cases and pairs, of pairs alone without a case; NaN without either."""
        known = list(self.cases.values()) or list(self.pairs)
        return statistics.fmean(known) if known else math.nan

    @property
    def signs(self) -> dict[str, int]:
        """In how many cases it is higher, equal and lower."""
        values = list(self.cases.values())
        return {
            "higher": sum(value > 0 for value in values),
            "equal": sum(value == 0 for value in values),
            "lower": sum(value < 0 for value in values),
        }

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on that side of 0 and several seeds do not contradict it, else 0.

        Without cases, as of a record alone, several seeds decide.
        """
        if not self.cases:
            return round(math.copysign(1, self.value)) if len(self.pairs) > 1 and is_clear(self.pairs) else 0
        low, high = self.interval
        if not (low > 0 or high < 0) or (len(self.pairs) > 1 and not is_clear(self.pairs)):
            return 0
        return 1 if low > 0 else -1

    @property
    def verdict(self) -> str:
        """What may be said of it, in words."""
        low, high = self.interval
        if not self.cases and self.pairs:
            said = {1: "higher for every seed", -1: "lower for every seed", 0: "undecided by the seeds"}
            return f"{said[self.sign]}; the cases are not available"
        if math.isnan(low + high):
            return "too few cases for an interval"
        if self.sign:
            word, side = ("higher", "above") if self.sign > 0 else ("lower", "below")
            return f"{word} on these cases: the interval lies {side} 0" + ", for every seed" * (len(self.pairs) > 1)
        return "undecided: " + ("the interval holds 0" if low <= 0 <= high else "the seeds differ by as much")


def paired_difference(
    pairs: Sequence[tuple[Scores, Scores]], groups: Mapping[str, Hashable] | None = None
) -> PairedDifference:
    """The first of each pair less the second, on the cases that all of them have a score of.

    Args:
        pairs: one for each seed.
        groups: the group of each case (patient, sequence); frames of one sequence say less than as many cases apart.
            Without one for every case, cases are drawn.

    Example:
        >>> one, other = {"a": 0.5, "b": 0.75, "c": 1.0}, {"a": 0.25, "b": 0.25, "d": 1.0}
        >>> difference = paired_difference([(one, other)])
        >>> difference.value, dict(difference.cases), difference.verdict
        (0.375, {'a': 0.25, 'b': 0.5}, 'higher on these cases: the interval lies above 0')
    """
    runs = [scores for pair in pairs for scores in pair]
    shared = [case for case in runs[0] if not any(math.isnan(scores.get(case, math.nan)) for scores in runs)]
    gains = [[one[case] - other[case] for case in shared] for one, other in pairs]
    cases = {case: statistics.fmean(gain) for case, gain in zip(shared, zip(*gains, strict=True), strict=True)}
    of_case = [groups[case] for case in shared] if groups and groups.keys() >= set(shared) else None
    return PairedDifference(
        cases,
        [statistics.fmean(gain) for gain in gains] if shared else [],
        mean_interval(list(cases.values()), of_case),
    )


def is_clear(gains: Sequence[float]) -> bool:
    """Whether all have one sign and their mean exceeds twice its standard error; for two or more.

    With few seeds that is a low bar: it guards against reading noise, and proves nothing.
    """
    agree = abs(sum(math.copysign(1, gain) for gain in gains)) == len(gains)
    return agree and abs(statistics.fmean(gains)) > 2 * statistics.stdev(gains) / math.sqrt(len(gains))
