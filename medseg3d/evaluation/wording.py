"""Scores in words: what each is called, and how it was taken; words.json and this are the only place that says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg3d.evaluation.records import Score, Settings, Summary

Family = Literal["", "surface", "probability", "saliency"]


@dataclass(frozen=True)
class Words:
    """A score in words.

    Attributes:
        label: as a line of a table names it.
        taken: how it is taken of one case.
        family: of what it is a score, where it is not one of counts.
        decimals: of its value in a table.
        left_out: of what a score of counts is undefined.
    """

    label: str
    taken: str = ""
    family: Family = ""
    decimals: int = 3
    left_out: str = ""


WORDS: dict[str, Words] = {
    name: Words(**words)
    for name, words in json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8")).items()
}
"""Every score that an evaluation makes."""

OVER: dict[str, str] = {
    "cases": "mean over cases",
    "groups": "mean over groups",
    "slices": "mean over slices",
    "pooled": "pooled",
    "two_classes": "two classes",
    "levels": "256 thresholds",
}
"""What scores are means over."""

KINDS: dict[str, str] = {
    **{over: OVER[over] for over in ("cases", "groups", "slices", "pooled")},
    "surface": "distances between surfaces, mean over cases",
    "probability": "errors and ranking of the probabilities, mean over cases",
    "two_classes": "two classes, background and foreground, as mmsegmentation",
    "saliency": "256 thresholds and structure, as PraNet",
}
"""The tables of a class in their order: kind to heading."""

UNITS = {"ml": "ml", "percent": "% of the image", "voxels": "voxels"}


def kind_of(score: Score) -> str:
    """In which table a score stands: a key of `KINDS`."""
    if score.over == "cases":
        return WORDS[score.score].family or "cases"
    return "saliency" if score.over == "levels" else score.over


def convention(score: Score, settings: Settings) -> str:
    """How a score was taken, in parts that a semicolon separates.

    Example:
        >>> convention(Score("polyp", "recall", "cases", 0.5, 3, grid="original grid"), Settings())
        'mean over cases; a case empty in the ground truth is left out; on the original grid'
    """
    return _taken(score, settings) + (f"; on the {score.grid}" if score.grid else "")


def taken_of(summary: Summary, class_name: str, score: str, over: str = "cases") -> str:
    """How a score of a summary was taken, and of how many; empty where it is not there."""
    found = summary.find(class_name, score, over)
    return "" if found is None else f"{convention(found, summary.settings)}; n={found.n}"


def _taken(score: Score, settings: Settings) -> str:
    left_out = f"{WORDS[score.score].left_out} is left out"
    match score.over:
        case "cases":
            return f"mean over cases; {_of_one_case(score.score, settings)}"
        case "slices":
            return f"mean over all slices of all volumes; a slice {left_out}"
        case "groups":
            return (
                "mean over groups (patients or sequences) of the score from the counts summed over the "
                f"{settings.images}s of the group; a group {left_out}"
            )
        case "two_classes" if score.score == "aacc":
            return "fraction of correct voxels, background included; as in mmsegmentation"
        case "two_classes":
            return "mean of background and foreground, each from the counts summed over all cases; as in mmsegmentation"
        case "levels":
            return f"mean over cases at each level; PraNet-256: {WORDS[score.score].taken}; {_levels_of(settings)}"
        case "pooled" if score.score == "average_precision":
            return "voxels of all cases pooled, foreground against background, step-wise sum over thresholds"
        case "pooled" if score.score in ("dice_background", "iou_background"):
            return "the background's score from the counts summed over all cases"
        case _:
            return "one score from the counts summed over all cases"


def _of_one_case(name: str, settings: Settings) -> str:
    words = WORDS[name]
    if words.family == "surface":
        taken = words.taken.format(tolerance=settings.surface_tolerance_mm)
        missed = "0" if name == "surface_dice" else "the diagonal of the image"
        return (
            f"{taken}; a case empty in both ground truth and prediction is left out; one empty in only one of them "
            f"counts as {missed}, see missed"
        )
    if name == "average_precision":
        return f"average precision of each {settings.images} separately; a case empty in the ground truth is left out"
    if words.family == "probability":
        return f"{words.taken}; {_taken_from('masks, for which it is the error rate', settings)}"
    if name in ("weighted_f", "s_measure"):
        return f"{words.taken}; {_taken_from('masks as maps of 0 and 1', settings)}; {_stretching(settings)}"
    if words.family == "saliency":
        return f"{words.taken}; {_levels_of(settings)}"
    return f"a case {words.left_out} is left out"


def _levels_of(settings: Settings) -> str:
    return f"{_taken_from('masks as maps of 0 and 255', settings)}; {_stretching(settings)}"


def _taken_from(masks: str, settings: Settings) -> str:
    """From what the scores of probabilities were taken."""
    if settings.n_probabilities == settings.n_cases:
        return "from probabilities"
    if settings.n_probabilities == 0:
        return f"from {masks}"
    return f"from probabilities in {settings.n_probabilities} of {settings.n_cases}, else from {masks}"


def _stretching(settings: Settings) -> str:
    return "pranet-compat: each map stretched to its full range" if settings.pranet_min_max else "no min-max"
