"""Accumulating an evaluation case by case: counts and measured scores, no images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d import metrics
from medseg3d.evaluation.aggregate import CONFIDENCE, RESAMPLES, Aggregation, are_grouped
from medseg3d.evaluation.files import write_evaluation
from medseg3d.evaluation.records import FOREGROUND, Case, Settings, Summary, Unit
from medseg3d.metrics import SCORES, BinnedPRCurve, ConfusionCounts
from medseg3d.metrics._blocks import as_array
from medseg3d.metrics.scores import score_along

THRESHOLDS = np.arange(1, 100) / 100
"""The probabilities of thresholds.csv."""


@dataclass(eq=False)
class Evaluation:
    """Scores of cases that are added one by one; only numbers are kept between cases, no images.

    Cases are either all 2-D images or all volumes. With several classes, the region "foreground" (all classes against
    the background) is scored as an additional class; probabilities refer to it.

    Args:
        class_names: names of the foreground classes 1, 2, ... in order.
        grid: the grid that the labels are on ("original grid of the scan"), repeated in every record.
        slice_axis: volumes: axis along which slices are also scored; "axial" for the axis nearest to the body axis,
            according to the affine; None for no slice scores.
        surface: volumes: also HD95, mean surface distance and surface Dice.
        surface_tolerance_mm: tolerance of the surface Dice.
        saliency: images: also the scores of PraNet's evaluation, of the 256 levels of an 8-bit map; a case without
            a probability counts as a map of 0 and 255.
        pranet_min_max: min-max normalize each map before that, as PraNet does; it turns a nearly empty map into a
            full one.
        edges: the two limits between small, medium and large cases, in ml (2-D images: % of the image); None for
            the tertiles of the evaluated cases.
        seed: random seed of the bootstrap confidence intervals.

    Attributes:
        class_names: as given.
        classes: these, and "foreground" if there are several.
        cases: the data kept of each case, by name.
        curve: precision-recall histogram of foreground against background, of the cases with a probability; None
            without any.
        warnings: unusual but usable input, one sentence each.

    Example:
        >>> evaluation = Evaluation(["polyp"])
        >>> evaluation.add("a", np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]]))
        >>> evaluation.add("b", np.array([[0, 0, 0, 1]]), np.array([[0, 0, 0, 1]]))
        >>> summary = evaluation.summary()
        >>> ways = [("dice", "cases"), ("dice", "pooled"), ("mdice", "two_classes")]
        >>> [round(summary.find("polyp", *way).value, 3) for way in ways]
        [0.833, 0.8, 0.855]
    """

    class_names: Sequence[str]
    _: KW_ONLY
    grid: str = ""
    slice_axis: int | str | None = None
    surface: bool = False
    surface_tolerance_mm: float = 2.0
    saliency: bool = False
    pranet_min_max: bool = False
    edges: Sequence[float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.class_names = list(self.class_names)
        reserved = {FOREGROUND} if len(self.class_names) > 1 else set()
        if not self.class_names or len({*self.class_names, *reserved}) != len(self.class_names) + len(reserved):
            other = " other than foreground" if reserved else ""
            raise ValueError(f"class_names must be different names{other}, found {self.class_names}")
        if isinstance(self.slice_axis, str) and self.slice_axis != "axial":
            raise ValueError(f"slice_axis must be an axis or 'axial', found {self.slice_axis!r}")
        if not 0 <= self.surface_tolerance_mm < math.inf:
            raise ValueError(f"surface_tolerance_mm must be a number not below 0, found {self.surface_tolerance_mm}")
        metrics.size_strata({}, self.edges)  # refuses wrong edges before any case is read
        self.region = self.class_names[0] if len(self.class_names) == 1 else FOREGROUND
        self.classes = list(dict.fromkeys([*self.class_names, self.region]))
        self.cases: dict[str, Case] = {}
        self.curve: BinnedPRCurve | None = None
        self.warnings: list[str] = []
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
        """Score one case. If it is rejected, nothing of it is counted.

        Args:
            case: its name, used once.
            pred: (*spatial), tensor or array of labels 0..number of classes, not one-hot.
            truth: as `pred`, on the same grid.
            prob: (*spatial), probability of the foreground, 0 to 1, where there is one.
            affine: (4, 4), voxel to world in mm, for volumes; without it there are no volumes in ml and no distances.
            group: the patient or sequence it belongs to; given for every case or for none.
            data_set: which of several data sets it belongs to; each is also scored separately.
            files: paths of its "image", "truth" and "pred", as far as known.
            warnings: what is unusual about it.

        Raises:
            ValueError: shapes differ, a value is not a label or probability, the name was used, 2-D images and volumes
                or cases with and without a group are mixed, or a volume whose surface is to be scored has no affine.
        """
        pred, truth = as_array(pred), as_array(truth)
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
            prob = as_array(prob)
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
        self.warnings += [f"{case}: {warning}" for warning in warnings]
        self.cases[case] = Case(
            counts=counts,
            measured=measured,
            slices=slices,
            levels=levels,
            voxel_mm3=None if matrix is None else abs(float(np.linalg.det(matrix[:3, :3]))),
            group=None if group is None else str(group),
            data_set=data_set,
            files={kind: str(path) for kind, path in (files or {}).items()},
        )
        if curve is not None and at_thresholds is not None:
            self._n_prob += 1
            self.curve = curve if self.curve is None else self.curve + curve
            self._at_thresholds += np.stack(at_thresholds)
            for score, sums in self._sums_at_thresholds.items():
                values = score_along(score, *at_thresholds)
                sums += np.nan_to_num(values), ~np.isnan(values)

    def summary(self) -> Summary:
        """All scores with their conventions; the intervals take about a second per thousand cases.

        Raises:
            ValueError: no case was added.
        """
        if not self.cases:
            raise ValueError("an evaluation must have at least one case, found none")
        in_ml = all(case.voxel_mm3 is not None for case in self.cases.values())
        unit: Unit = "percent" if self._ndim == 2 else "ml" if in_ml else "voxels"
        how = Aggregation(self.region, unit, self.grid, self.edges, self.seed)
        of_classes = [how.scores(name, self.cases) for name in self.classes]
        scores = [score for scores, _ in of_classes for score in scores]
        if self.curve is not None:
            value = self.curve.average_precision()
            scores.append(how.pooled(self.region, "average_precision", value, self._n_prob))
        return Summary(
            scores=scores,
            cases=[count for _, counted in of_classes for count in counted],
            settings=Settings(
                images="picture" if self._ndim == 2 else "volume",
                n_cases=len(self.cases),
                n_probabilities=self._n_prob,
                pranet_min_max=self.pranet_min_max,
                surface_tolerance_mm=self.surface_tolerance_mm,
                size_unit=unit,
                size_edges_given=self.edges is not None,
            ),
            intervals={
                "method": "percentile bootstrap",
                "confidence": CONFIDENCE,
                "resamples": RESAMPLES,
                "resampled": "groups" if are_grouped(self.cases) else "cases",
                "seed": self.seed,
            },
        )

    def write(self, output_dir: str | Path, context: Mapping[str, Any] | None = None) -> Summary:
        """Write the files of the evaluation, all or none; summary.json is written last and marks completion.

        scores.csv, slices.csv and groups.csv (if there are any), pr.npz and thresholds.csv (if there were
        probabilities), files.json, summary.md, summary.json. Files of an earlier evaluation are removed.

        Args:
            output_dir: the folder, created if missing.
            context: further entries of the summary (seed, part, split, model, versions, ...).

        Returns:
            The content of summary.json.

        Raises:
            ValueError: no case was added.
            UserError: NO_SPACE or NOT_WRITABLE.
        """
        context = dict(context or {})
        stated = {**context, "warnings": [*context.get("warnings", []), *self.warnings]}
        summary = replace(self.summary(), context=stated)
        thresholds = [] if self.curve is None else self._threshold_rows()
        write_evaluation(output_dir, self.cases, summary, thresholds, self.curve)
        return summary

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

    def _check(self, case: str, pred: np.ndarray, truth: np.ndarray, affine: Any, group: str | None) -> None:
        if pred.shape != truth.shape:
            raise ValueError(f"{case}: pred {pred.shape} and ground truth {truth.shape} are on different grids")
        if truth.ndim not in (2, 3):
            raise ValueError(f"{case}: labels must be (*spatial) with 2 or 3 axes, found {truth.ndim}")
        if case in self.cases:
            raise ValueError(f"each case must be added once, found {case} twice")
        if self._ndim not in (0, truth.ndim):
            raise ValueError(f"{case}: 2-D images and volumes cannot be evaluated together, found {truth.ndim} axes")
        if self.cases and are_grouped(self.cases) != (group is not None):
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
        return {name: [counts[name] for counts in counted] for name in self.classes}

    def _surface(self, pred: np.ndarray, truth: np.ndarray, affine: np.ndarray | None) -> dict[str, float]:
        assert affine is not None  # _check refuses
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        scores = metrics.surface_scores(pred, truth, spacing, self.surface_tolerance_mm)._asdict()
        return {name: float(value) for name, value in scores.items() if name != "missed"}

    def _saliency_scores(self, prob: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        if self.pranet_min_max:
            prob = metrics.grey_levels(prob, min_max=True) / 255
        return {"weighted_f": metrics.weighted_f_measure(prob, truth), "s_measure": metrics.s_measure(prob, truth)}


def _axial_axis(affine: np.ndarray | None) -> int:
    """The axis of the array nearest to feet-head."""
    return 2 if affine is None else int((np.abs(affine[2, :3]) / np.linalg.norm(affine[:3, :3], axis=0)).argmax())
