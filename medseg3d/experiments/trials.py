"""What came of the trials of a study, as it stands in trials.csv and best.json."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg3d.files.atomic import atomic_write

COMPLETE, PRUNED, DIVERGED, FAILED, RUNNING = "complete", "pruned", "diverged", "failed", "running"
"""The states of a trial."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a study.

    Attributes:
        number: how many were drawn before it; a trial that was interrupted and begun again keeps it.
        state: `complete`, `pruned` (stopped as it was below the median), `diverged` (its loss was no finite number),
            `failed` or `running`.
        score: its best validation score; None before the first.
        best_epoch: the epoch of that score; 0 before the first.
        last_epoch: the last epoch that was validated; 0 before the first.
        seconds: what it took, since it was last begun; None while it runs.
        values: knob -> value.
        folder: its run folder.
        reason: why it diverged or failed, else nothing.
    """

    number: int
    state: str
    score: float | None
    best_epoch: int
    last_epoch: int
    seconds: float | None
    values: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    reason: str = ""

    def sentence(self, metric: str) -> str:
        """What came of it."""
        score = "no score" if self.score is None else f"{metric} {self.score:.4f} at epoch {self.best_epoch}"
        ends = {
            COMPLETE: f"{score} of {self.last_epoch}",
            PRUNED: f"pruned after epoch {self.last_epoch}, {score}",
            DIVERGED: f"diverged after epoch {self.last_epoch}, {score}: {self.reason}",
            FAILED: f"failed: {self.reason}",
        }
        return f"trial {self.number}: {values_sentence(self.values)}; {ends.get(self.state, self.state)}"


def best_record(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the highest score, the earlier one of equals; None where none is complete.

    Example:
        >>> trials = [TrialRecord(0, "complete", 0.5, 3, 9, 60.0), TrialRecord(1, "pruned", 0.6, 1, 1, 6.0)]
        >>> best_record(trials).number
        0
    """
    complete = [record for record in records if record.state == COMPLETE and record.score is not None]
    return max(complete, key=lambda record: (record.score, -record.number), default=None)


def shown(value: Any) -> str:
    """A knob's value in a table: floats with three digits.

    Example:
        >>> shown(0.000321987), shown("unet"), shown(16)
        ('0.000322', 'unet', '16')
    """
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def values_sentence(values: Mapping[str, Any]) -> str:
    """Knobs and their values.

    Example:
        >>> values_sentence({"learning_rate": 0.000321987, "batch_size": 16})
        'learning_rate 0.000322, batch_size 16'
    """
    return ", ".join(f"{knob} {shown(value)}" for knob, value in values.items())


def trials_markdown(records: Sequence[TrialRecord], metric: str, knobs: Sequence[str]) -> str:
    """A table of the trials, the best first, then by state and number."""
    from medseg3d.evaluation.page import markdown_table  # brings MONAI: no worker of a study needs it

    order = (COMPLETE, PRUNED, DIVERGED, FAILED, RUNNING)
    ranked = sorted(
        records,
        key=lambda record: (
            order.index(record.state),
            -(record.score or 0.0) * (record.state == COMPLETE),
            record.number,
        ),
    )
    head = ("trial", *knobs, metric, "epoch", "state", "s")
    rows = [
        (
            str(record.number),
            *(shown(record.values.get(knob, "")) for knob in knobs),
            "" if record.score is None else f"{record.score:.4f}",
            f"{record.best_epoch} of {record.last_epoch}" if record.last_epoch else "",
            record.state,
            "" if record.seconds is None else f"{record.seconds:.0f}",
        )
        for record in ranked
    ]
    return markdown_table(head, rows, range(len(head)))


def write_trials(path: Path, records: Sequence[TrialRecord], metric: str, knobs: Sequence[str]) -> None:
    """Write trials.csv, a line for each trial in the order of their numbers; what there is not is an empty cell."""
    with atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", metric, "best_epoch", "last_epoch", "seconds", "folder", "reason", *knobs])
        for each in sorted(records, key=lambda record: record.number):
            seconds = None if each.seconds is None else round(each.seconds, 1)
            own = [each.number, each.state, each.score, each.best_epoch, each.last_epoch, seconds, each.folder]
            writer.writerow([*own, each.reason, *(each.values.get(knob, "") for knob in knobs)])
