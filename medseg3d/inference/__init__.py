"""Inference: sliding windows, weights, and case by case from scans to masks on disk."""

from medseg3d.inference.cluster import RayWorkers
from medseg3d.inference.predictor import CasePredictor, Failure, PredictionResult
from medseg3d.inference.weights import load_weights
from medseg3d.inference.windows import SliceWindows, SlidingWindow, mirrored, with_engine

__all__ = [
    "CasePredictor",
    "Failure",
    "PredictionResult",
    "RayWorkers",
    "SliceWindows",
    "SlidingWindow",
    "load_weights",
    "mirrored",
    "with_engine",
]
