"""One evaluation for volumes and pictures: every convention side by side, each number named after how it is taken.

Papers print one word, Dice, for numbers that are not the same: a mean over cases, a score of pooled voxels, a mean over
background and foreground (mmsegmentation), a mean over slices, a mean over 256 thresholds (PraNet). Here all of them
come from one pass over the cases, under names of their own, with the number of cases, the spread and an interval.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg3d import metrics
from medseg3d.data.atomic import atomic_path, atomic_write
from medseg3d.data.score_files import (
    score_row,
    write_curve,
    write_files,
    write_groups,
    write_scores,
    write_slices,
    write_summary,
    write_thresholds,
)
from medseg3d.data.score_tables import as_markdown
from medseg3d.metrics import SCORES, BinnedPRCurve, ConfusionCounts
from medseg3d.metrics.scores import LEFT_OUT, score_along

FOREGROUND = "foreground"
"""All classes together against the background; with one class, that class itself."""

THRESHOLDS = np.arange(1, 100) / 100
"""The probabilities of thresholds.csv."""

RESAMPLES = 2000
CONFIDENCE = 0.95


class Evaluation:
    """Scores of cases, added one by one; between two cases only numbers are kept, no image.

    A case is a picture (2-D) or a volume (3-D), all of one kind. With several classes a region "foreground", all of
    them against the background, is scored like one more class: probabilities belong to it.

    Args:
        class_names: names of the foreground classes 1, 2, ... in order.
        grid: the grid that the labels are on ("original grid of the scan"), repeated in every convention.
        slice_axis: volumes: the axis along which slices are scored too; "axial" for the axis nearest to the body's,
            by the affine; None for no scores of slices.
        surface: volumes: also HD95, mean surface distance and surface Dice.
        surface_tolerance_mm: distance up to which the surface Dice takes two borders for one.
        saliency: pictures: also the scores of PraNet's evaluation, of the 256 levels of an 8-bit map; a case without
            a probability counts as a map of 0 and 255.
        pranet_min_max: stretch each map from its minimum to its maximum before that, as PraNet does; it makes a nearly
            empty map a full one.
        edges: the two sizes that part small, medium and large cases, in ml (pictures: % of the picture); None for
            the tertiles of the cases at hand.
        seed: of the resampling behind the intervals.

    Attributes:
        class_names: as given.
        counts: class -> case -> counts.
        curve: precision-recall histogram of foreground against background, of the cases with a probability; None
            without any.
        warnings: what was odd but usable, a sentence each.

    Example:
        >>> evaluation = Evaluation(["polyp"])
        >>> evaluation.add("a", np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]]))
        >>> evaluation.add("b", np.array([[0, 0, 0, 1]]), np.array([[0, 0, 0, 1]]))
        >>> scores = evaluation.summary()["scores"]["polyp"]
        >>> [round(scores[key]["value"], 3) for key in ("dice_mean", "dice_pooled", "mdice_mmseg")]
        [0.833, 0.8, 0.855]
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        grid: str = "",
        slice_axis: int | str | None = None,
        surface: bool = False,
        surface_tolerance_mm: float = 2.0,
        saliency: bool = False,
        pranet_min_max: bool = False,
        edges: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        self.class_names = list(class_names)
        reserved = {"average_precision", *([FOREGROUND] if len(self.class_names) > 1 else [])}
        if not self.class_names or len({*self.class_names, *reserved}) != len(self.class_names) + len(reserved):
            raise ValueError(
                f"class_names must be different names other than {', '.join(sorted(reserved))}, found {class_names}"
            )
        if isinstance(slice_axis, str) and slice_axis != "axial":
            raise ValueError(f"slice_axis must be an axis or 'axial', found {slice_axis!r}")
        if not 0 <= surface_tolerance_mm < math.inf:
            raise ValueError(f"surface_tolerance_mm must be a number not below 0, found {surface_tolerance_mm}")
        metrics.size_strata({}, edges)  # refuses wrong edges before any case is read
        self.region = self.class_names[0] if len(self.class_names) == 1 else FOREGROUND
        self.grid = grid
        self.slice_axis = slice_axis
        self.surface = surface
        self.surface_tolerance_mm = surface_tolerance_mm
        self.saliency = saliency
        self.pranet_min_max = pranet_min_max
        self.edges = edges
        self.seed = seed
        names = list(dict.fromkeys([*self.class_names, self.region]))
        self.counts: dict[str, dict[str, ConfusionCounts]] = {name: {} for name in names}
        self.curve: BinnedPRCurve | None = None
        self.warnings: list[str] = []
        self._levels: dict[str, metrics.LevelCounts] = {}
        self._measured: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
        self._slices: dict[str, dict[str, list[ConfusionCounts]]] = {name: {} for name in names}
        self._voxel_mm3: dict[str, float | None] = {}
        self._groups: dict[str, str | None] = {}
        self._data_sets: dict[str, str] = {}
        self._files: dict[str, dict[str, str]] = {}
        self._ndim = 0
        self._n_prob = 0
        self._at_thresholds = np.zeros((4, len(THRESHOLDS)), np.int64)
        self._sums_at_thresholds = {name: np.zeros((2, len(THRESHOLDS))) for name in SCORES}

    def add(
        self,
        case: str,
        pred: Any,
        truth: Any,
        *,
        prob: Any = None,
        affine: Any = None,
        group: str | None = None,
        data_set: str | None = None,
        files: Mapping[str, str | Path] | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        """Score one case. If anything about it is refused, nothing of it is counted.

        Args:
            case: its name, used once.
            pred: (*spatial), tensor or array of labels 0..number of classes, not one-hot.
            truth: as `pred`, on the same grid.
            prob: (*spatial), probability of the foreground, 0 to 1, where there is one.
            affine: (4, 4), voxel to world in mm, of a volume; without it there are no millilitres and no distances.
            group: the patient or sequence it belongs to; given for every case or for none.
            data_set: which of several data sets it is of; the scores of each are given too.
            files: where its "image", "truth" and "pred" lie, whichever are known.
            warnings: what is odd about it.

        Raises:
            ValueError: shapes differ, a value is no label or no probability, the name was used, pictures and volumes
                or cases with and without a group are mixed, or a volume whose surface is to be scored has no affine.
        """
        pred, truth = _plain(pred), _plain(truth)
        self._check(case, pred, truth, affine, group)
        matrix = None if affine is None or truth.ndim == 2 else np.asarray(affine, np.float64)
        counts = self._count(pred, truth)
        measured: dict[str, dict[str, float]] = {name: {} for name in counts}
        slices = self._count_slices(pred, truth, matrix) if self.slice_axis is not None and truth.ndim == 3 else {}
        if self.surface and truth.ndim == 3:
            for name in counts:
                measured[name] |= self._surface(self._mask(pred, name), self._mask(truth, name), matrix)
        true = self._mask(truth, self.region)
        curve = at_thresholds = None
        if prob is None:
            wrong = counts[self.region].fp + counts[self.region].fn
            error_rate = wrong / counts[self.region].n if counts[self.region].n else math.nan
            errors = {"mse": error_rate, "mae": error_rate}
        else:
            prob = _plain(prob)
            curve = BinnedPRCurve()
            curve.update_prob(prob, true)
            at_thresholds = metrics.threshold_counts(prob, true, THRESHOLDS)
            errors = {
                **metrics.probability_errors(prob, true)._asdict(),
                "average_precision": curve.average_precision(),
            }
        measured[self.region] |= errors
        levels = None
        if self.saliency and truth.ndim == 2:
            soft = (pred > 0).astype(np.float32) if prob is None else prob
            levels = metrics.LevelCounts.from_map(metrics.grey_levels(soft, self.pranet_min_max), true)
            measured[self.region] |= metrics.pranet_scores(levels) | self._saliency_scores(soft, true)

        # from here on nothing can be refused
        self._ndim = truth.ndim
        self._voxel_mm3[case] = None if matrix is None else abs(float(np.linalg.det(matrix[:3, :3])))
        self._groups[case] = group
        if data_set is not None:
            self._data_sets[case] = data_set
        self._files[case] = {kind: str(path) for kind, path in (files or {}).items()}
        self.warnings += [f"{case}: {warning}" for warning in warnings]
        for name in counts:
            self.counts[name][case] = counts[name]
            self._measured[name][case] = measured[name]
            if slices:
                self._slices[name][case] = slices[name]
        if levels is not None:
            self._levels[case] = levels
        if curve is not None and at_thresholds is not None:
            self._n_prob += 1
            self.curve = curve if self.curve is None else self.curve + curve
            self._at_thresholds += np.stack(at_thresholds)
            for score, sums in self._sums_at_thresholds.items():
                values = score_along(score, *at_thresholds)
                sums += np.nan_to_num(values), ~np.isnan(values)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of scores.csv: case and class, overlap, counts, millilitres, and all else that was measured."""
        everything = [columns for cases in self._measured.values() for columns in cases.values()]
        further = list(dict.fromkeys(column for columns in everything for column in columns))
        rows = []
        for case, group in self._groups.items():
            for name in self.counts:
                row = score_row(case, name, self.counts[name][case], self._voxel_mm3[case])
                row |= {column: self._measured[name][case].get(column, math.nan) for column in further}
                rows.append(row if group is None else {**row, "group": group})
        return rows

    def summary(self) -> dict[str, Any]:
        """Every number with its convention, ready for JSON; the intervals take a second or so for a thousand cases.

        Returns:
            `scores`: for each class `<score>_mean` (over cases), `_pooled`, `_slice_mean`, `_group_mean`, the two-class
            scores `..._mmseg` and all else, each a dictionary of value, n, convention and, where they exist, n_nan, sd
            and ci95; n_cases and how many were empty or missed; `strata`, the same for small, medium and large cases;
            `data_sets`, the same for each data set, where cases name theirs.
            Beside the classes `average_precision`, pooled. `intervals`: how they were made. None is undefined.

        Raises:
            ValueError: no case was added.
        """
        scores: dict[str, Any] = {}
        for name in self.counts:
            scores[name] = self._scores_of(name, list(self._groups))
            scores[name] |= self._slice_means(name) | self._group_means(name) | self._two_class(name)
            scores[name]["strata"] = self._strata(name)
            if self._data_sets:
                scores[name]["data_sets"] = self._by_data_set(name)
        if self.curve is not None:
            scores["average_precision"] = {
                "value": _or_none(self.curve.average_precision()),
                "n": self._n_prob,
                "convention": "voxels of all cases pooled, foreground against background, step-wise sum over thresholds"
                + self._on_grid,
            }
        return {
            "scores": scores,
            "intervals": {
                "method": "percentile bootstrap",
                "confidence": CONFIDENCE,
                "resamples": RESAMPLES,
                "resampled": "groups" if self._grouped else "cases",
                "seed": self.seed,
            },
        }

    def write(self, output_dir: str | Path, context: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write the files of the evaluation, all or none; summary.json comes last, as the sign that all are there.

        scores.csv, slices.csv and groups.csv (if there are any), pr.npz and thresholds.csv (if there were
        probabilities), files.json, summary.md, summary.json. What an earlier evaluation left there goes.

        Args:
            output_dir: the folder; made if needed.
            context: what else the summary shall state (seed, part, split, model, versions, ...).

        Returns:
            What summary.json holds.

        Raises:
            ValueError: no case was added.
            Fault: NO_SPACE or NOT_WRITABLE.
        """
        folder = Path(output_dir)
        context = dict(context or {})
        warnings = [*context.pop("warnings", []), *self.warnings]
        summary = {**self.summary(), **context, "warnings": warnings}
        with ExitStack() as stack:
            # what is entered last gets its name first

            def place(name: str) -> Path:
                return stack.enter_context(atomic_path(folder / name))

            write_summary(place("summary.json"), summary)
            with atomic_write(place("summary.md"), "w") as file:
                file.write(as_markdown(summary))
            write_files(place("files.json"), self._files)
            written = {"slices.csv": bool(self._slice_rows()), "groups.csv": self._grouped}
            written |= dict.fromkeys(("pr.npz", "thresholds.csv"), self.curve is not None)
            if self.curve is not None:
                write_thresholds(place("thresholds.csv"), self._threshold_rows())
                write_curve(place("pr.npz"), {FOREGROUND: self.curve})
            if written["groups.csv"]:
                write_groups(place("groups.csv"), self._group_rows())
            if written["slices.csv"]:
                write_slices(place("slices.csv"), self._slice_rows())
            write_scores(place("scores.csv"), self.rows)
            for name in ("summary.json", *(name for name, wanted in written.items() if not wanted)):
                (folder / name).unlink(missing_ok=True)
        return summary

    @property
    def _on_grid(self) -> str:
        return f"; on the {self.grid}" if self.grid else ""

    @property
    def _grouped(self) -> bool:
        return any(group is not None for group in self._groups.values())

    @property
    def _images(self) -> str:
        return "picture" if self._ndim == 2 else "volume"

    def _check(self, case: str, pred: np.ndarray, truth: np.ndarray, affine: Any, group: str | None) -> None:
        if pred.shape != truth.shape:
            raise ValueError(f"{case}: pred {pred.shape} and truth {truth.shape} are on different grids")
        if truth.ndim not in (2, 3):
            raise ValueError(f"{case}: labels must be (*spatial) with 2 or 3 axes, found {truth.ndim}")
        if case in self._groups:
            raise ValueError(f"each case must be added once, found {case} twice")
        if self._ndim not in (0, truth.ndim):
            raise ValueError(f"{case}: pictures and volumes cannot be evaluated together, found {truth.ndim} axes")
        if self._groups and self._grouped != (group is not None):
            raise ValueError(f"{case}: either every case has a group or none has, found {group!r}")
        if self.surface and truth.ndim == 3 and affine is None:
            raise ValueError(f"{case}: distances need the affine of the volume, found none")

    def _mask(self, labels: np.ndarray, name: str) -> np.ndarray:
        if len(self.class_names) == 1:
            return labels  # 0 and 1 already
        return labels > 0 if name == FOREGROUND else labels == self.class_names.index(name) + 1

    def _count(self, pred: np.ndarray, truth: np.ndarray) -> dict[str, ConfusionCounts]:
        of_classes = ConfusionCounts.from_labels(pred, truth, len(self.class_names) + 1)
        counts = dict(zip(self.class_names, of_classes, strict=True))
        if self.region not in counts:
            counts[self.region] = ConfusionCounts.from_masks(pred > 0, truth > 0)
        return counts

    def _count_slices(
        self, pred: np.ndarray, truth: np.ndarray, affine: np.ndarray | None
    ) -> dict[str, list[ConfusionCounts]]:
        axis = _axial_axis(affine) if self.slice_axis == "axial" else int(self.slice_axis or 0)
        pairs = zip(np.moveaxis(pred, axis, 0), np.moveaxis(truth, axis, 0), strict=True)
        counted = [self._count(*pair) for pair in pairs]
        return {name: [counts[name] for counts in counted] for name in self.counts}

    def _surface(self, pred: np.ndarray, truth: np.ndarray, affine: np.ndarray | None) -> dict[str, float]:
        assert affine is not None  # _check refuses
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        scores = metrics.surface_scores(pred, truth, spacing, self.surface_tolerance_mm)._asdict()
        return {name: float(value) for name, value in scores.items() if name != "missed"}

    def _saliency_scores(self, prob: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        if self.pranet_min_max:
            prob = metrics.grey_levels(prob, min_max=True) / 255
        return {"weighted_f": metrics.weighted_f_measure(prob, truth), "s_measure": metrics.s_measure(prob, truth)}

    def _scores_of(self, name: str, cases: Sequence[str]) -> dict[str, Any]:
        """Means over some cases and pooled scores of one class, with intervals."""
        counts = {case: self.counts[name][case] for case in cases}
        groups = {case: str(self._groups[case]) for case in cases} if self._grouped else None
        entries = metrics.summarise(counts, self.grid)
        for score, function in SCORES.items():
            values = [function(each) for each in counts.values()]
            _add_interval(entries[f"{score}_mean"], values, self.seed, list(groups.values()) if groups else None)
            low, high = metrics.pooled_interval(
                counts, score, groups, confidence=CONFIDENCE, resamples=RESAMPLES, seed=self.seed
            )
            if not math.isnan(low):
                entries[f"{score}_pooled"]["ci95"] = [low, high]
        measured = [self._measured[name][case] for case in cases]
        for column in dict.fromkeys(column for columns in measured for column in columns):
            if column in _PRANET_MAXIMA:
                continue
            values = [columns.get(column, math.nan) for columns in measured]
            entry = _mean_entry(values, self._convention(column))
            _add_interval(entry, values, self.seed, list(groups.values()) if groups else None)
            if column in _SURFACE:
                entry["n_missed"] = sum((each.n_truth == 0) != (each.n_pred == 0) for each in counts.values())
            entries[f"{column}_mean"] = entry
        if name == self.region and self._levels:
            maxima = metrics.pranet_scores(*(self._levels[case] for case in cases))
            for column in _PRANET_MAXIMA:
                convention = (
                    f"mean over cases at each level; PraNet-256: {_PRANET_MAXIMA[column]}; "
                    f"{self._levels_of()}{self._on_grid}"
                )
                entries[column] = {"value": maxima[column], "n": len(cases), "convention": convention}
        return entries

    def _convention(self, column: str) -> str:
        if column in _SURFACE:
            missed = "0" if column == "surface_dice" else "the diagonal of the image"
            what = (
                f"{_SURFACE[column].format(tolerance=f'{self.surface_tolerance_mm:g}')}; a case empty in truth and "
                f"prediction is left out; one empty in either counts as {missed}, see n_missed"
            )
        elif column == "average_precision":
            what = f"average precision of each {self._images} by itself; a case empty in the truth is left out"
        elif column in _ERRORS:
            what = f"{_ERRORS[column]}; {self._taken_from('masks, where it is the error rate')}"
        elif column in _SALIENCY:
            what = f"{_SALIENCY[column]}; {self._taken_from('masks as maps of 0 and 1')}; {self._stretching}"
        else:
            what = f"PraNet-256: {_PRANET_MEANS[column]}; {self._levels_of()}"
        return f"mean over cases; {what}{self._on_grid}"

    def _taken_from(self, masks: str) -> str:
        """From what the scores of probabilities were taken."""
        n = len(self._groups)
        if self._n_prob == n:
            return "from probabilities"
        return (
            f"from {masks}" if self._n_prob == 0 else f"from probabilities in {self._n_prob} of {n}, else from {masks}"
        )

    @property
    def _stretching(self) -> str:
        return "pranet-compat: each map stretched to its full range" if self.pranet_min_max else "no min-max"

    def _levels_of(self) -> str:
        return f"{self._taken_from('masks as maps of 0 and 255')}; {self._stretching}"

    def _slice_means(self, name: str) -> dict[str, Any]:
        slices = self._slices[name]
        if not slices:
            return {}
        owners = [str(self._groups[case]) if self._grouped else case for case in slices for _ in slices[case]]
        entries = {}
        for score, function in SCORES.items():
            values = [function(counts) for each in slices.values() for counts in each]
            convention = f"mean over all slices of all volumes; a slice {LEFT_OUT[score]} is left out{self._on_grid}"
            entries[f"{score}_slice_mean"] = _mean_entry(values, convention)
            _add_interval(entries[f"{score}_slice_mean"], values, self.seed, owners)
        return entries

    def _grouped_counts(self, name: str) -> dict[str, list[ConfusionCounts]]:
        groups: dict[str, list[ConfusionCounts]] = {}
        if self._grouped:
            for case, group in self._groups.items():
                groups.setdefault(str(group), []).append(self.counts[name][case])
        return groups

    def _group_means(self, name: str) -> dict[str, Any]:
        groups = self._grouped_counts(name)
        entries = {}
        for score, function in SCORES.items() if groups else ():
            values = [function(sum(each, ConfusionCounts())) for each in groups.values()]
            convention = (
                f"mean over groups (patients or sequences) of the score of the counts summed over the {self._images}s "
                f"of the group; a group {LEFT_OUT[score]} is left out{self._on_grid}"
            )
            entries[f"{score}_group_mean"] = _mean_entry(values, convention)
            _add_interval(entries[f"{score}_group_mean"], values, self.seed)
        return entries

    def _two_class(self, name: str) -> dict[str, Any]:
        if name != self.region:
            return {}
        counts = self.counts[name].values()
        scores = metrics.two_class_scores(sum(counts, ConfusionCounts()))
        means = "mean of background and foreground, each of the counts summed over all cases; as mmsegmentation"
        conventions = {
            **{key: means for key in scores if key.endswith("_mmseg")},
            "aacc_mmseg": "share of all voxels that are right, background included; as mmsegmentation",
        }
        entries = {
            key: {"value": _or_none(scores[key]), "n": len(counts), "convention": convention + self._on_grid}
            for key, convention in conventions.items()
        }
        for key in ("dice_background", "iou_background"):
            entries[f"{key}_pooled"] = {
                "value": _or_none(scores[key]),
                "n": len(counts),
                "convention": f"the background's score of the counts summed over all cases{self._on_grid}",
            }
        return entries

    def _strata(self, name: str) -> dict[str, Any]:
        voxels = {case: self.counts[name][case] for case in self._groups}
        if self._ndim == 2:
            unit = "% of the picture"
            sizes = {case: 100 * counts.n_truth / max(counts.n, 1) for case, counts in voxels.items()}
        elif None in self._voxel_mm3.values():
            unit = "voxels"
            sizes = {case: float(counts.n_truth) for case, counts in voxels.items()}
        else:
            unit = "ml"
            sizes = {case: counts.n_truth * (self._voxel_mm3[case] or 0.0) / 1000 for case, counts in voxels.items()}
        strata = metrics.size_strata(sizes, self.edges)
        entries = {
            stratum: self._scores_of(name, cases) if cases else {"n_cases": 0}
            for stratum, cases in strata.cases.items()
        }
        how = "given" if self.edges is not None else "tertiles of the truths' sizes"
        return {"edges": list(strata.edges), "unit": unit, "edges_are": how, **entries}

    def _by_data_set(self, name: str) -> dict[str, Any]:
        cases: dict[str, list[str]] = {}
        for case, data_set in self._data_sets.items():
            cases.setdefault(data_set, []).append(case)
        return {data_set: self._scores_of(name, own) for data_set, own in cases.items()}

    def _slice_rows(self) -> list[dict[str, Any]]:
        return [
            {"case": case, "class": name, "slice": index, **_counted(counts)}
            for case in self._groups
            for name in self.counts
            for index, counts in enumerate(self._slices[name].get(case, []))
        ]

    def _group_rows(self) -> list[dict[str, Any]]:
        return [
            {"group": group, "class": name, "n_cases": len(counts), **_counted(sum(counts, ConfusionCounts()))}
            for name in self.counts
            for group, counts in self._grouped_counts(name).items()
        ]

    def _threshold_rows(self) -> list[dict[str, Any]]:
        pooled = {score: score_along(score, *self._at_thresholds) for score in SCORES}
        with np.errstate(invalid="ignore"):
            means = {score: total / n for score, (total, n) in self._sums_at_thresholds.items()}
        return [
            {
                "threshold": threshold,
                "n_cases": self._n_prob,
                **{f"{score}_mean": means[score][index] for score in SCORES},
                **{f"{score}_pooled": pooled[score][index] for score in SCORES},
            }
            for index, threshold in enumerate(THRESHOLDS)
        ]


_SURFACE = {
    "hd95_mm": "95th percentile of the distances between the borders, the larger of both directions, in mm",
    "mean_surface_distance_mm": "mean distance between the borders, both directions, in mm",
    "surface_dice": "share of the borders within {tolerance} mm of each other",
}
_ERRORS = {"mse": "mean squared error", "mae": "mean absolute error"}
_SALIENCY = {
    "weighted_f": "weighted F-measure (Margolin 2014, beta 1), 0 where the truth is empty",
    "s_measure": "structure measure (Fan 2017, alpha 0.5)",
}
_ZERO = "0 where nothing true is found"
_LEVEL_SCORES = ("dice", "iou", "recall", "specificity")
_PRANET_MEANS = {
    **{f"{score}_pranet256": f"mean over the 256 levels, {_ZERO}" for score in _LEVEL_SCORES},
    "e_measure_mean": "enhanced alignment (Fan 2018), mean over the 256 levels",
    "e_measure_adaptive": "enhanced alignment (Fan 2018) at twice the mean level",
}
_PRANET_MAXIMA = {
    **{f"max_{score}_pranet256": f"maximum over the 256 levels, {_ZERO}" for score in _LEVEL_SCORES},
    "e_measure_max": "enhanced alignment (Fan 2018), maximum over the 256 levels",
}


def _mean_entry(values: Sequence[float], convention: str) -> dict[str, Any]:
    mean, n, n_nan = metrics.mean_score(values)
    sd = float(np.nanstd(values, ddof=1)) if n > 1 else None
    return {"value": _or_none(mean), "n": n, "n_nan": n_nan, "sd": sd, "convention": convention}


def _add_interval(
    entry: dict[str, Any], values: Sequence[float], seed: int, groups: Sequence[Hashable] | None = None
) -> None:
    low, high = metrics.mean_interval(values, groups, confidence=CONFIDENCE, resamples=RESAMPLES, seed=seed)
    if not math.isnan(low):
        entry["ci95"] = [low, high]


def _counted(counts: ConfusionCounts) -> dict[str, Any]:
    scores = {score: function(counts) for score, function in SCORES.items()}
    return {**scores, "tp": counts.tp, "fp": counts.fp, "fn": counts.fn, "tn": counts.tn}


def _axial_axis(affine: np.ndarray | None) -> int:
    """The axis of the array nearest to feet-head."""
    return 2 if affine is None else int((np.abs(affine[2, :3]) / np.linalg.norm(affine[:3, :3], axis=0)).argmax())


def _plain(array: Any) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        # MONAI's MetaTensor would carry its affine along
        return array.detach().as_subclass(torch.Tensor).cpu().numpy()
    return np.asarray(array)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
