"""The precision-recall curve of a run and the course of its training: the data first, then the picture of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medseg3d.data.atomic import atomic_path
from medseg3d.faults import Fault
from medseg3d.metrics import BinnedPRCurve, precision, recall
from medseg3d.reports.planes import OKABE_ITO

LINE_STYLES: tuple[tuple[str, str], ...] = (
    (OKABE_ITO["blue"], "-"),
    (OKABE_ITO["vermillion"], "--"),
    (OKABE_ITO["green"], "-."),
    (OKABE_ITO["purple"], ":"),
)
"""Colour and dash of each line in turn: either tells the lines apart alone."""

_INK = "#333333"


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
    """

    name: str
    recall: np.ndarray
    precision: np.ndarray
    average_precision: float
    prevalence: float
    threshold: float
    operating_point: tuple[float, float]


def pr_figure(curves: Mapping[str, BinnedPRCurve], output_png: str | Path, operating_threshold: float = 0.5) -> Path:
    """Write a PNG of precision over recall, one line for each curve; its path comes back.

    The legend gives each line's average precision, a dotted line the precision of guessing, a mark the precision and
    recall at the operating threshold.

    Args:
        curves: legend name to curve.
        output_png: file to write, whole or not at all.
        operating_threshold: probability from which a voxel counts as foreground.

    Raises:
        ValueError: there is no curve, or the threshold is outside [0, 1].

    Example:
        >>> import tempfile
        >>> curve = BinnedPRCurve()
        >>> curve.update(np.array([-3.0, -1.0, 0.5, 2.0]), np.array([0, 1, 0, 1]))
        >>> pr_figure({"pancreas": curve}, Path(tempfile.mkdtemp()) / "pr.png").name
        'pr.png'
    """
    if not curves:
        raise ValueError("curves must hold at least one curve, found none")
    figure = draw_pr([pr_series(name, curve, operating_threshold) for name, curve in curves.items()])
    return save_figure(figure, output_png)


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
    return PRSeries(
        name=name,
        recall=recalls,
        precision=precisions,
        average_precision=curve.average_precision(),
        prevalence=at_point.n_truth / at_point.n if at_point.n else float("nan"),
        threshold=operating_threshold,
        operating_point=(recall(at_point), precision(at_point)),
    )


def draw_pr(series: list[PRSeries]) -> Figure:
    """The figure of `pr_figure`."""
    figure, (axes,) = new_figure(6.4, 5.2)
    for index, each in enumerate(series):
        colour, dash = LINE_STYLES[index % len(LINE_STYLES)]
        if np.isnan(each.average_precision):
            axes.plot([], [], color=colour, linestyle=dash, label=f"{each.name}: no foreground in the truth")
            continue
        label = f"{each.name}, AP {each.average_precision:.3f}"
        # post: the curve runs from recall 1 down, and the area under such steps is the average precision
        axes.plot(each.recall, each.precision, color=colour, linestyle=dash, drawstyle="steps-post", label=label)
        axes.axhline(
            each.prevalence, color=colour, linestyle=":", linewidth=1, label=_prevalence_label(each, len(series))
        )
        _mark_operating_point(axes, each, colour)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall (part of the truth that is found)")
    axes.set_ylabel("precision (part of the prediction that is true)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, labelcolor=_INK)
    return figure


def training_figure(events_dir: str | Path, output_png: str | Path) -> Path:
    """Write a PNG of the training loss and, below it, the validation Dice over the iterations; its path comes back.

    Args:
        events_dir: folder with TensorBoard event files, as `read_training_curves` takes it.
        output_png: file to write, whole or not at all.

    Raises:
        Fault: NO_EVENTS.
    """
    return save_figure(draw_training(read_training_curves(events_dir)), output_png)


def read_training_curves(events_dir: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every scalar that a training has logged to TensorBoard: tag to steps (int64, rising) and values (float64).

    Of a step that was logged twice, as by a run that was killed and resumed, the later value counts.

    Args:
        events_dir: folder with `events.out.tfevents.*` files; those in folders below it are not read.

    Raises:
        Fault: NO_EVENTS.
    """
    folder = Path(events_dir)
    if not any(folder.glob("*tfevents*")):
        raise Fault(
            "NO_EVENTS",
            folder,
            "no TensorBoard event file",
            "events.out.tfevents.* written by a training",
            "give the output folder of a training",
        )
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0: all; by default 10,000 drawn at random
    events.Reload()
    return {tag: _in_order(events.Scalars(tag)) for tag in events.Tags()["scalars"]}


def draw_training(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], loss: str = "train_loss", score: str = "val_dice_mean"
) -> Figure:
    """The figure of `training_figure`: two panels, as loss and Dice have no common scale."""
    figure, (loss_axes, score_axes) = new_figure(6.4, 5.6, rows=2, sharex=True)
    loss_axes.tick_params(labelbottom=True)
    steps, values = curves.get(loss, (np.array([]), np.array([])))
    window = len(values) // 50 * 2 + 1  # a twenty-fifth of the training
    loss_axes.plot(steps, values, color="#9A9A9A", linewidth=0.7, label="each iteration")
    if window > 1:
        smooth = running_mean(values, window)
        loss_axes.plot(steps, smooth, color=LINE_STYLES[0][0], label=f"mean over {window} iterations")
    loss_axes.set_ylabel("training loss (no unit)")
    loss_axes.set_ylim(bottom=0)
    loss_axes.legend(loc="upper right", frameon=False, labelcolor=_INK)

    steps, values = curves.get(score, (np.array([]), np.array([])))
    score_axes.plot(steps, values, color=LINE_STYLES[0][0], marker="o", markersize=4)
    if len(values) and not np.isnan(values).all():
        _mark_best(score_axes, steps, values)
    score_axes.set(xlabel="iteration", ylabel="validation Dice, mean over cases", ylim=(0, 1.02))
    return figure


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


def save_figure(figure: Figure, output_png: str | Path) -> Path:
    """Write a figure as PNG, whole or not at all; its path comes back. Equal figures are equal bytes."""
    with atomic_path(output_png) as temporary:
        figure.savefig(temporary, metadata={"Software": None}, facecolor=figure.get_facecolor())
    return Path(output_png)


def _in_order(events: list) -> tuple[np.ndarray, np.ndarray]:
    latest = {event.step: event.value for event in sorted(events, key=lambda event: event.wall_time)}
    steps = sorted(latest)
    return np.array(steps, dtype=np.int64), np.array([latest[step] for step in steps], dtype=np.float64)


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """An empty figure in inches and its panels, row by row, in the manner of every figure of the reports."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # without pyplot: no global state, no window, safe in threads
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E2E2E2", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_INK)
    return figure, panels


def _prevalence_label(series: PRSeries, how_many: int) -> str:
    of_whom = f" ({series.name})" if how_many > 1 else ""
    return f"guessing{of_whom}: precision {series.prevalence:.2g}, the part of all voxels that is foreground"


def _mark_operating_point(axes: Axes, series: PRSeries, colour: str) -> None:
    x, y = series.operating_point
    if np.isnan(x) or np.isnan(y):  # nothing is predicted at this threshold
        return
    axes.plot([x], [y], marker="o", markersize=8, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=2,
              linestyle="none", clip_on=False, zorder=4)  # fmt: skip
    # towards the middle of the axes, where there is room
    axes.annotate(
        f"threshold {series.threshold:g}\nrecall {x:.3f}, precision {y:.3f}",
        (x, y),
        xytext=(-14 if x > 0.5 else 14, -14 if y > 0.5 else 14),
        textcoords="offset points",
        ha="right" if x > 0.5 else "left",
        va="top" if y > 0.5 else "bottom",
        color=_INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
    )


def _mark_best(axes: Axes, steps: np.ndarray, values: np.ndarray) -> None:
    best = int(np.nanargmax(values))
    axes.plot([steps[best]], [values[best]], marker="o", markersize=9, markerfacecolor="none",
              markeredgecolor=OKABE_ITO["vermillion"], markeredgewidth=2, linestyle="none",
              label=f"best: {values[best]:.3f} at iteration {steps[best]}")  # fmt: skip
    axes.legend(loc="best", frameon=False, labelcolor=_INK)
