"""The precision-recall curve of a run and the course of its training: the data first, then the image of it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import LineStyleType as LineType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medseg3d.files.atomic import atomic_path
from medseg3d.metrics import BinnedPRCurve, dice, precision, recall
from medseg3d.pictures.colours import OKABE_ITO
from medseg3d.reports.wording import spread

LINE_STYLES: tuple[tuple[str, LineType], ...] = (
    (OKABE_ITO["blue"], "-"),
    (OKABE_ITO["vermillion"], "--"),
    (OKABE_ITO["green"], "-."),
    (OKABE_ITO["purple"], ":"),
    (OKABE_ITO["orange"], (0, (8, 2))),
    (OKABE_ITO["sky"], (0, (5, 1, 1, 1, 1, 1))),
)
"""Colour and dash of each line in turn: either tells the lines apart alone."""

TrainingCurves = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Tag of a logged scalar to its steps (int64, rising) and values (float64)."""

INK = "#333333"
_LEGEND_WIDTH = 54  # characters
_LEVELS_OF_F = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class PRSeries:
    """What is drawn of one precision-recall curve.

    Args:
        name: what the curve is of, as the legend names it.
        recall: (n,), falls from 1 to 0.
        precision: (n,), at the same thresholds; holds from its recall down to the next.
        average_precision: the area under these steps.
        prevalence: the part of all voxels that is foreground: the precision of guessing.
        threshold: the operating threshold.
        operating_point: recall and precision at it; NaN where undefined.
        dice: Dice of the pooled counts at it.
        best: the threshold at which that Dice is highest, and how high; None without foreground in the ground truth.
    """

    name: str
    recall: np.ndarray
    precision: np.ndarray
    average_precision: float
    prevalence: float
    threshold: float
    operating_point: tuple[float, float]
    dice: float
    best: tuple[float, float] | None


def pr_series(name: str, curve: BinnedPRCurve, operating_threshold: float = 0.5) -> PRSeries:
    """The numbers that are drawn of one curve.

    Example:
        >>> curve = BinnedPRCurve()
        >>> curve.update(np.array([-3.0, -1.0, 0.5, 2.0]), np.array([0, 1, 0, 1]))
        >>> series = pr_series("pancreas", curve)
        >>> series.prevalence, series.operating_point
        (0.5, (0.5, 0.5))
    """
    at_point = curve.counts_at(operating_threshold)
    precisions, recalls, _ = curve.curve()
    best = curve.best_threshold("dice") if at_point.n_truth else None
    return PRSeries(
        name=name,
        recall=recalls,
        precision=precisions,
        average_precision=curve.average_precision(),
        prevalence=at_point.n_truth / at_point.n if at_point.n else float("nan"),
        threshold=operating_threshold,
        operating_point=(recall(at_point), precision(at_point)),
        dice=dice(at_point),
        best=None if best is None else (best.threshold, best.value),
    )


def draw_pr(series: Sequence[PRSeries]) -> Figure:
    """Precision over recall, a line for each series.

    The legend gives each line's average precision, a dotted line the precision of guessing, a circle the precision and
    recall at the operating threshold. Thin lines join the points of equal F1, the Dice of the pooled counts.

    Raises:
        ValueError: there is no series.
    """
    if not series:
        raise ValueError("series must hold at least one curve, found none")
    return draw_pr_panels({"": [[each] for each in series]})


def draw_pr_panels(panels: Mapping[str, Sequence[Sequence[PRSeries]]], title: str = "") -> Figure:
    """A panel as of `draw_pr` for each title, side by side.

    Args:
        panels: title to the lines of a panel, each the curves of one or more seeds under one name, all drawn in its
            style; one without a curve keeps its style for the other panels.
        title: of the whole figure.
    """
    figure, all_axes = new_figure(5.4 * len(panels), 4.7 + 0.3 * bool(title), columns=len(panels))
    for axes, (name, lines) in zip(all_axes, panels.items(), strict=True):
        _draw_pr(axes, lines)
        if name:
            axes.set_title(name, color=INK)
    all_axes[0].set_ylabel("precision (fraction of the prediction that is correct)")
    if title:
        figure.suptitle(title, color=INK)
    make_room(figure)
    return figure


def _draw_pr(axes: Axes, lines: Sequence[Sequence[PRSeries]]) -> None:
    _draw_levels_of_f(axes)
    for index, seeds in enumerate(lines):
        if not seeds:
            continue
        colour, dash = line_style(index)
        known = [each for each in seeds if not np.isnan(each.average_precision)]
        if not known:
            axes.plot([], [], color=colour, linestyle=dash, label=wrapped(f"{seeds[0].name}: no true foreground"))
            continue
        alone = len(known) == 1
        areas = spread([each.average_precision for each in known], 1, digits=3)
        label = wrapped(f"{known[0].name}, AP {areas}{'' if alone else f', {len(known)} seeds'}")
        for each in known:
            # post: the curve runs from recall 1 down, and the area under such steps is the average precision
            axes.plot(each.recall, each.precision, color=colour, linestyle=dash, drawstyle="steps-post", label=label,
                      linewidth=1.5 if alone else 0.8)  # fmt: skip
            label = "_"  # one entry in the legend for all seeds
            _mark_operating_point(axes, each, colour, 8 if alone else 5, with_words=len(lines) == 1 and alone)
    drawn = [each for seeds in lines for each in seeds]
    _draw_prevalences(axes, drawn)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall (fraction of the ground truth that is found)")
    if drawn:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, labelcolor=INK)
    else:
        axes.text(0.5, 0.5, "no finished run", ha="center", va="center", color=INK)


def read_training_curves(events_dir: str | Path) -> TrainingCurves:
    """Every scalar that a training has logged to TensorBoard: tag to steps (int64, rising) and values (float64).

    Of a step that was logged twice, as by a run that was killed and resumed, the later value counts. Nothing where
    none was logged.

    Args:
        events_dir: folder with `events.out.tfevents.*` files; those in folders below it are not read.
    """
    if not any(Path(events_dir).glob("*tfevents*")):
        return {}
    events = EventAccumulator(str(events_dir), size_guidance={"scalars": 0})  # all; else 10,000 drawn at random
    events.Reload()
    return {tag: _in_order(events.Scalars(tag)) for tag in events.Tags()["scalars"]}


def draw_training(runs: Mapping[str, TrainingCurves]) -> Figure:
    """The training loss and, below it, the validation Dice over the iterations: they have no common scale.

    Of one run every iteration is shown, of several only the running means, so that they can be told apart. Losses that
    take turns are drawn each by itself, for they have no common scale either.

    Args:
        runs: name of each run to what it logged.
    """
    figure, (loss_axes, score_axes) = new_figure(5.4, 5.6, rows=2, sharex=True)
    for index, (name, curves) in enumerate(runs.items()):
        colour, dash = line_style(index)
        for turn, (objective, (steps, values)) in enumerate(_losses_of(curves).items()):
            window = len(values) // 50 * 2 + 1  # a twenty-fifth of the training
            prefix = "".join(f"{part}, " for part in (name if len(runs) > 1 else "", objective) if part)
            own_colour, own_dash = (colour, dash) if len(runs) > 1 else line_style(turn)
            if len(runs) == 1:
                loss_axes.plot(steps, values, color="#9A9A9A", linewidth=0.7, label=f"{prefix}each iteration")
            if window > 1 or len(runs) > 1:
                label = f"mean over {window} iterations" if window > 1 else "each iteration"
                means = running_mean(values, window)
                loss_axes.plot(steps, means, color=own_colour, linestyle=own_dash, label=wrapped(prefix + label))

        steps, values = curves.get("val_dice_mean", (np.array([]), np.array([])))
        score_axes.plot(steps, values, color=colour, linestyle=dash, marker="o", markersize=3.5)
        if len(values) and not np.isnan(values).all():
            _mark_best(score_axes, steps, values, f"{name}, " if len(runs) > 1 else "", colour if len(runs) > 1 else "")
    loss_axes.set_ylabel("training loss (no unit)")
    loss_axes.set_ylim(bottom=0, top=1.08 * loss_axes.get_ylim()[1])
    score_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    score_axes.set(xlabel="iteration", ylabel="validation Dice,\nmean over cases", ylim=(0, 1.02))
    style = {"frameon": False, "labelcolor": INK}
    if len(runs) == 1:
        for axes in (loss_axes, score_axes):
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="best", **style)
        return figure
    pairs = zip(*(axes.get_legend_handles_labels() for axes in (loss_axes, score_axes)), strict=True)
    handles, labels = ([*one, *other] for one, other in pairs)
    score_axes.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.25), **style)
    make_room(figure)
    return figure


def _losses_of(curves: TrainingCurves) -> TrainingCurves:
    """Name of each loss that took turns to its steps and values; the loss itself, without a name, where none did."""
    prefix = "train_loss_"
    of_turns = {tag.removeprefix(prefix): curve for tag, curve in curves.items() if tag.startswith(prefix)}
    return of_turns or {"": curves.get("train_loss", (np.array([]), np.array([])))}


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each value and its neighbours, `window` in all and fewer at the ends; NaN values are left out.

    Args:
        values: (n,) float64.
        window: odd, so that nothing is shifted.

    Raises:
        ValueError: the window is even or not positive.

    Example:
        >>> running_mean(np.array([4.0, 2.0, float("nan"), 6.0]), 3)
        array([3., 3., 4., 6.])
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and positive, found {window}")
    known = ~np.isnan(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    centre = np.arange(len(values))
    first, last = np.maximum(centre - window // 2, 0), np.minimum(centre + window // 2 + 1, len(values))
    total, n = sums[last] - sums[first], counts[last] - counts[first]
    return np.divide(total, n, out=np.full(len(values), np.nan), where=n > 0)


def line_style(index: int) -> tuple[str, LineType]:
    """Colour and dash of a line; after the last pair of `LINE_STYLES` the colours meet other dashes."""
    n = len(LINE_STYLES)
    return LINE_STYLES[index % n][0], LINE_STYLES[(index + index // n) % n][1]


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """An empty figure of so many inches and its panels, row by row, in the report's style.

    The letters are large for the width, because a page on a telephone shows the figure at 9 cm.
    """
    figure = Figure(figsize=(width, height), dpi=180, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # without pyplot: no global state, no window, safe in threads
    panels = list(np.ravel(figure.subplots(rows, columns, sharex=sharex)))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E2E2E2", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK)
    return figure, panels


def wrapped(label: str) -> str:
    """An entry of a legend below a panel, in lines that are no longer than the panel is wide."""
    return "\n".join(textwrap.wrap(label, _LEGEND_WIDTH))


def make_room(figure: Figure) -> None:
    """Make a figure as much higher as its longest legend below a panel needs."""
    legends = [axes.get_legend() for axes in figure.axes]
    lines = [sum(text.get_text().count("\n") + 1 for text in each.get_texts()) for each in legends if each is not None]
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * max(lines, default=0))


def save_figure(figure: Figure, output_png: str | Path) -> Path:
    """Write a figure as PNG, whole or not at all; its path comes back. Equal figures are equal bytes."""
    with atomic_path(output_png) as temporary:
        figure.savefig(temporary, metadata={"Software": None}, facecolor=figure.get_facecolor())
    return Path(output_png)


def _in_order(events: list) -> tuple[np.ndarray, np.ndarray]:
    latest = {event.step: event.value for event in sorted(events, key=lambda event: event.wall_time)}
    steps = sorted(latest)
    return np.array(steps, dtype=np.int64), np.array([latest[step] for step in steps], dtype=np.float64)


def _draw_levels_of_f(axes: Axes) -> None:
    for level in _LEVELS_OF_F:
        recalls = np.linspace(level / (2 - level), 1, 200)  # from where precision is 1
        precisions = level * recalls / (2 * recalls - level)
        axes.plot(recalls, precisions, color="#C4C4C4", linewidth=0.8, zorder=1, gid="equal F1")
        axes.annotate(
            f"F1 {level:g}",
            (1, level / (2 - level)),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=8,
            color="#767676",
            va="center",
            annotation_clip=False,
        )


def _draw_prevalences(axes: Axes, series: Sequence[PRSeries]) -> None:
    """One line for all curves that share it, as those of runs on the same cases do."""
    levels: dict[float, list[str]] = {}
    for each in series:
        if not np.isnan(each.average_precision):
            levels.setdefault(each.prevalence, []).append(each.name)
    for level, names in levels.items():
        of_whom = f" ({', '.join(dict.fromkeys(names))})" if len(levels) > 1 else ""
        label = wrapped(f"guessing{of_whom}: precision {level:.2g}, the fraction of foreground")
        axes.axhline(level, color="#555555", linestyle=(0, (1, 2)), linewidth=1, label=label)


def _mark_operating_point(axes: Axes, series: PRSeries, colour: str, size: float, with_words: bool) -> None:
    x, y = series.operating_point
    if np.isnan(x) or np.isnan(y):  # nothing is predicted at this threshold
        return
    axes.plot([x], [y], marker="o", markersize=size, markerfacecolor="white", markeredgecolor=colour,
              markeredgewidth=size / 4, linestyle="none", clip_on=False, zorder=4)  # fmt: skip
    if not with_words:
        return
    # towards the middle of the axes, where there is room
    axes.annotate(
        f"threshold {series.threshold:g}\nrecall {x:.3f}, precision {y:.3f}",
        (x, y),
        xytext=(-14 if x > 0.5 else 14, -14 if y > 0.5 else 14),
        textcoords="offset points",
        ha="right" if x > 0.5 else "left",
        va="top" if y > 0.5 else "bottom",
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
    )


def _mark_best(axes: Axes, steps: np.ndarray, values: np.ndarray, name: str, colour: str) -> None:
    best = int(np.nanargmax(values))
    axes.plot([steps[best]], [values[best]], marker="o", markersize=9, markerfacecolor="none",
              markeredgecolor=colour or OKABE_ITO["vermillion"], markeredgewidth=2, linestyle="none",
              label=wrapped(f"{name}best: {values[best]:.3f} at iteration {steps[best]}"))  # fmt: skip
