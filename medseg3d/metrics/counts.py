"""Confusion counts of two masks: all that the overlap scores need."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import index

import numpy as np

from medseg3d.metrics._blocks import ArrayLike, binary, blocks, labels


@dataclass(frozen=True, slots=True)
class ConfusionCounts:
    """True and false positives and negatives of one class, in voxels (pixels, in 2-D images).

    Counts of several cases are pooled by addition: `sum(counts, ConfusionCounts())`.

    Args:
        tp: foreground in ground truth and prediction.
        fp: foreground in the prediction only.
        fn: foreground in the ground truth only.
        tn: background in both.

    Raises:
        ValueError: a count is negative.

    Example:
        >>> import numpy as np
        >>> counts = ConfusionCounts.from_masks(np.array([[1, 1], [0, 0]]), np.array([[1, 0], [1, 0]]))
        >>> counts
        ConfusionCounts(tp=1, fp=1, fn=1, tn=1)
        >>> counts + counts
        ConfusionCounts(tp=2, fp=2, fn=2, tn=2)
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            count = index(getattr(self, field.name))  # NumPy's integers would neither grow nor go into JSON
            if count < 0:
                raise ValueError(f"{field.name} must not be negative, found {count}")
            object.__setattr__(self, field.name, count)

    @classmethod
    def from_masks(cls, pred: ArrayLike, truth: ArrayLike) -> ConfusionCounts:
        """The counts of a predicted mask against the true one.

        Args:
            pred: (*spatial), tensor or array of any numeric type, 0 or 1.
            truth: as `pred`.

        Raises:
            ValueError: shapes differ, or a value is neither 0 nor 1 (the message names it).
        """
        tp = predicted = true = counted = 0
        for truths, preds in blocks(truth=truth, pred=pred):
            t, p = binary(truths, "truth"), binary(preds, "pred")
            counted += t.size
            tp += int(np.count_nonzero(t & p))
            true += int(np.count_nonzero(t))
            predicted += int(np.count_nonzero(p))
        return cls(tp=tp, fp=predicted - tp, fn=true - tp, tn=counted - predicted - true + tp)

    @classmethod
    def from_labels(cls, pred: ArrayLike, truth: ArrayLike, num_classes: int) -> list[ConfusionCounts]:
        """The counts of each foreground class 1..num_classes-1, one-vs-rest.

        Args:
            pred: (*spatial), tensor or array of labels 0..num_classes-1, not one-hot.
            truth: as `pred`.
            num_classes: number of classes including background, at least 2.

        Raises:
            ValueError: shapes differ, or a value is not a valid label (the message names it).

        Example:
            >>> import numpy as np
            >>> for counts in ConfusionCounts.from_labels(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]), 3):
            ...     print(counts)
            ConfusionCounts(tp=1, fp=0, fn=1, tn=2)
            ConfusionCounts(tp=1, fp=1, fn=0, tn=2)
        """
        if num_classes < 2:
            raise ValueError(f"num_classes must count the background too and be at least 2, found {num_classes}")
        flat = np.zeros(num_classes**2, dtype=np.int64)
        for t, p in blocks(truth=truth, pred=pred):
            pairs = labels(t, "truth", num_classes) * num_classes + labels(p, "pred", num_classes)
            flat += np.bincount(pairs, minlength=num_classes**2)
        confusion = flat.reshape(num_classes, num_classes)  # rows: truth, columns: prediction
        true, predicted, total = confusion.sum(1), confusion.sum(0), confusion.sum()
        return [
            cls(tp=tp, fp=predicted[k] - tp, fn=true[k] - tp, tn=total - predicted[k] - true[k] + tp)
            for k, tp in enumerate(confusion.diagonal())
            if k > 0
        ]

    @property
    def n_truth(self) -> int:
        """Foreground voxels of the ground truth."""
        return self.tp + self.fn

    @property
    def n_pred(self) -> int:
        """Foreground voxels of the prediction."""
        return self.tp + self.fp

    @property
    def n(self) -> int:
        """All voxels counted."""
        return self.tp + self.fp + self.fn + self.tn

    def __add__(self, other: ConfusionCounts) -> ConfusionCounts:
        if not isinstance(other, ConfusionCounts):
            return NotImplemented
        return ConfusionCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)
