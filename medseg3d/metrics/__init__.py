"""Counts in, numbers out; pictures and volumes alike."""

from medseg3d.metrics.counts import ConfusionCounts
from medseg3d.metrics.pr_curve import BestThreshold, BinnedPRCurve, log_odds
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
    summarise,
)

__all__ = [
    "SCORES",
    "BestThreshold",
    "BinnedPRCurve",
    "ConfusionCounts",
    "MeanScore",
    "accuracy",
    "dice",
    "iou",
    "log_odds",
    "mean_score",
    "precision",
    "recall",
    "specificity",
    "summarise",
]
