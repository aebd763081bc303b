"""Counts in, numbers out; 2-D images and volumes alike."""

from medseg3d.metrics.counts import ConfusionCounts
from medseg3d.metrics.errors import ProbabilityErrors, probability_errors
from medseg3d.metrics.intervals import Interval, mean_interval, pooled_interval
from medseg3d.metrics.levels import (
    LevelCounts,
    ThresholdCounts,
    grey_levels,
    pranet_curves,
    pranet_scores,
    threshold_counts,
)
from medseg3d.metrics.pr_curve import BestThreshold, BinnedPRCurve
from medseg3d.metrics.saliency import s_measure, weighted_f_measure
from medseg3d.metrics.scores import (
    SCORES,
    MeanScore,
    accuracy,
    dice,
    iou,
    mean_score,
    precision,
    recall,
    specificity,
    two_class_scores,
)
from medseg3d.metrics.strata import Strata, size_strata
from medseg3d.metrics.surface import SurfaceScores, surface_scores

__all__ = [
    "SCORES",
    "BestThreshold",
    "BinnedPRCurve",
    "ConfusionCounts",
    "Interval",
    "LevelCounts",
    "MeanScore",
    "ProbabilityErrors",
    "Strata",
    "SurfaceScores",
    "ThresholdCounts",
    "accuracy",
    "dice",
    "grey_levels",
    "iou",
    "mean_interval",
    "mean_score",
    "pooled_interval",
    "pranet_curves",
    "pranet_scores",
    "precision",
    "probability_errors",
    "recall",
    "s_measure",
    "size_strata",
    "specificity",
    "surface_scores",
    "threshold_counts",
    "two_class_scores",
    "weighted_f_measure",
]
