"""The curves of a report: precision over recall, Dice over thresholds, and the trainings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg3d.evaluation import FOREGROUND
from medseg3d.reports.charts import draw_thresholds
from medseg3d.reports.curves import PRSeries, TrainingCurves, draw_pr, draw_training, pr_series, save_figure
from medseg3d.reports.document import Block, Picture, Text
from medseg3d.reports.runs import EvaluatedRun
from medseg3d.reports.tables import curve_table
from medseg3d.reports.wording import number, plural


def curve_blocks(runs: Sequence[EvaluatedRun], figures: Path) -> list[Block]:
    """Precision-recall curves and their table; what has none is said."""
    series = [
        pr_series(run.name if len(runs) > 1 else FOREGROUND, run.curve, run.threshold)
        for run in runs
        if run.curve is not None
    ]
    blocks: list[Block] = []
    if series:
        sentences = " ".join(_pr_sentence(each) for each in series)
        at = f", threshold {series[0].threshold:g}" if len({each.threshold for each in series}) == 1 else ""
        blocks += [
            Picture(
                save_figure(draw_pr(series), figures / "pr.png"),
                alt=f"Precision over recall. {sentences}",
                caption=f"AP, average precision, is the area under the steps; a circle is the operating point{at}; the "
                "dotted line is the precision of guessing; grey lines join points of equal F1, which is the Dice of "
                f"the pooled voxels.{f' {sentences}' if len(series) == 1 else ''}",
            ),
            curve_table(series),
        ]
    why = "there is no pr.npz, which needs probabilities, not masks alone"
    return blocks + _without("Not recorded", runs, [run for run in runs if run.curve is None], why)


def _without(what: str, runs: Sequence[EvaluatedRun], lacking: Sequence[EvaluatedRun], why: str) -> list[Block]:
    return [Text(f"{what}{of_runs(runs, [run.name for run in lacking])}: {why}.")] if lacking else []


def _pr_sentence(series: PRSeries) -> str:
    recall, precision = (number(value) for value in series.operating_point)
    return (
        f"{series.name}: average precision {number(series.average_precision)}; at threshold "
        f"{series.threshold:g} recall {recall} and precision {precision}; guessing {series.prevalence:.2g}."
    )


def threshold_blocks(runs: Sequence[EvaluatedRun], figures: Path) -> list[Block]:
    """The Dice at other thresholds than the one that was used; what has none is said."""
    having = [run for run in runs if run.thresholds]
    blocks: list[Block] = []
    if having:
        sentences = []
        for run in having:
            best = max(run.thresholds, key=lambda row: -1 if math.isnan(row["dice_mean"]) else row["dice_mean"])
            of_whom = f"{run.name}: threshold" if len(runs) > 1 else "Threshold"
            sentences.append(
                f"{of_whom} {run.threshold:g} was used; on these cases the mean Dice is highest, "
                f"{number(best['dice_mean'])}, at {best['threshold']:g}."
            )
        words = " ".join(sentences)
        blocks += [
            Picture(
                save_figure(draw_thresholds(having), figures / "thresholds.png"),
                alt=f"Dice over the threshold of the probability. {words}",
                caption=f"{words} A circle marks the threshold that was used.",
            ),
            Text(
                "A threshold chosen on the scored cases themselves inflates the score. Choose it on the "
                "validation set, with medseg3d threshold, and keep it.",
                style="soft",
            ),
        ]
    without = [run for run in runs if not run.thresholds]
    return blocks + _without("Scores at other thresholds are not recorded", runs, without, "there is no thresholds.csv")


def training_blocks(runs: Sequence[EvaluatedRun], figures: Path) -> list[Block]:
    """Loss and validation Dice of each training; what has none is said."""
    trainings = _trainings(runs)
    blocks: list[Block] = []
    if trainings:
        words = " ".join(_training_sentence(name, logged, len(runs) > 1) for name, logged in trainings.items())
        figure = draw_training(trainings)
        caption = (
            f"{words} Validation has cases of its own and may be measured on the resampled grid: its Dice is not the "
            "headline's."
        )
        blocks.append(Picture(save_figure(figure, figures / "training.png"), alt=words, caption=caption))
    why = "no TensorBoard events were found in the evaluation's folder or the run around it"
    return blocks + _without("Not recorded", runs, [run for run in runs if not run.training], why)


def _trainings(runs: Sequence[EvaluatedRun]) -> dict[str, TrainingCurves]:
    """What was logged, once for each training: evaluations of one on two parts of the data share its curves."""
    found: list[tuple[list[str], TrainingCurves]] = []
    for run in runs:
        same = next((names for names, logged in found if _equal(logged, run.training)), None)
        if same is not None:
            same.append(run.name)
        elif run.training:
            found.append(([run.name], run.training))
    return {_common_name(names): logged for names, logged in found}


def _common_name(names: Sequence[str]) -> str:
    """What several evaluations of one training are called together: their run, where they differ in the part alone."""
    runs = {name.rpartition(" (")[0] for name in names}
    return runs.pop() if len(names) > 1 and len(runs) == 1 and "" not in runs else ", ".join(names)


def _equal(one: TrainingCurves, other: TrainingCurves) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(a, b, equal_nan=True) for tag in one for a, b in zip(one[tag], other[tag], strict=True)
    )


def _training_sentence(name: str, logged: TrainingCurves, name_it: bool) -> str:
    sentences = []
    if "train_loss" in logged:
        steps, losses = logged["train_loss"]
        sentences.append(f"training loss over {plural(len(steps), 'iteration')}, {losses[0]:.3f} to {losses[-1]:.3f}.")
    if "val_dice_mean" in logged:
        _, scores = logged["val_dice_mean"]
        times = "once" if len(scores) == 1 else f"{len(scores)} times"
        best = "undefined" if np.isnan(scores).all() else number(float(np.nanmax(scores)))
        sentences.append(f"validation Dice, mean over cases, measured {times}, at best {best}.")
    words = " ".join(sentence[:1].upper() + sentence[1:] for sentence in sentences)
    words = words or "Neither training loss nor validation Dice was logged."
    return f"{name}: {words[:1].lower()}{words[1:]}" if name_it else words


def of_runs(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> str:
    """Whose it is, where there are several runs: " of A, B"."""
    return "" if len(runs) == 1 else f" of {', '.join(names)}"
