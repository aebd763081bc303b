"""What a segmentation is worth that has learnt nothing: the lines a trained network has to be above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from monai.transforms import Compose, Orientationd, Spacingd

from medseg3d.metrics import ConfusionCounts, dice, mean_score
from medseg3d.transforms import LoadVolumed
from medseg3d.volumes.reading import read_volume

HU_STEP = 5


def best_interval_dice(images: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> tuple[tuple[int, int], float]:
    """The HU interval whose voxels agree best with the ground truth, chosen with it at hand, and its mean Dice.

    No interval scores better in steps of 5 HU between -200 and 400. It is an upper bound and no method.

    Args:
        images: volumes in HU.
        truths: 0/1 masks of the same shapes.

    Returns:
        (low, high) in HU, high excluded, and the mean over cases of Dice.

    Example:
        >>> image = np.array([0, 50, 100, 150]); truth = np.array([0, 1, 1, 0])
        >>> best_interval_dice([image], [truth])
        ((5, 105), 1.0)
    """
    edges = np.arange(-200, 400 + HU_STEP, HU_STEP)
    inside, everything = [], []
    for image, truth in zip(images, truths, strict=True):
        below = [np.histogram(voxels, bins=edges)[0].cumsum() for voxels in (image[truth > 0], image[truth == 0])]
        inside.append((np.concatenate([[0], below[0]]), int((truth > 0).sum())))
        everything.append(np.concatenate([[0], below[1]]))
    best, interval = -1.0, (0, 0)
    for low in range(len(edges) - 1):
        scores = []
        for (found, total), other in zip(inside, everything, strict=True):
            tp, fp = found[low + 1 :] - found[low], other[low + 1 :] - other[low]
            scores.append(2 * tp / np.maximum(tp + fp + total, 1))
        mean = np.mean(scores, axis=0)
        high = int(mean.argmax())
        if mean[high] > best:
            best, interval = float(mean[high]), (int(edges[low]), int(edges[low + 1 + high]))
    return interval, best


def interval_baseline(cases: Sequence[Mapping[str, str]]) -> tuple[tuple[int, int], float, int]:
    """`best_interval_dice` of the files of some cases, and how many there were."""
    images = [read_volume(case["image"])[0] for case in cases]
    truths = [read_volume(case["label"])[0] > 0 for case in cases]
    return *best_interval_dice(images, truths), len(cases)


def mean_mask_baseline(
    train_labels: Sequence[str | Path], test_labels: Sequence[str | Path], spacing: float = 4.0
) -> float:
    """`mean_mask_dice` of label files, resampled to RAS and one spacing (mm)."""
    prepare = Compose(
        [
            LoadVolumed("label", labels=None),
            Orientationd("label", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd("label", pixdim=(spacing,) * 3, mode="nearest"),
        ]
    )
    masks, truths = (
        [prepare({"label": path})["label"][0].numpy() > 0 for path in paths] for paths in (train_labels, test_labels)
    )
    return mean_mask_dice(masks, truths)


def mean_mask_dice(masks: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """Mean Dice of one fixed mask for all: where, aligned by centre of volume, most of `masks` have foreground.

    The level of "most" is the one that scores best on `truths`, so this too is an upper bound: of what position alone
    tells.

    Args:
        masks: boolean volumes of one spacing and orientation; all are cropped to the smallest, about their centres.
        truths: the volumes to score on, likewise.

    Raises:
        ValueError: there are no masks.

    Example:
        >>> mask = np.array([0, 1, 1, 0], bool)
        >>> mean_mask_dice([mask, mask], [np.array([0, 0, 1, 1], bool)])
        0.5
    """
    if not masks:
        raise ValueError("masks must hold at least one volume, found none")
    shape = np.min([mask.shape for mask in (*masks, *truths)], axis=0)
    average = np.mean([_centre(mask, shape) for mask in masks], axis=0)
    truths = [_centre(truth, shape) for truth in truths]
    return max(
        mean_score(dice(ConfusionCounts.from_masks(average >= level, truth)) for truth in truths).mean
        for level in np.unique(average[average > 0])
    )


def _centre(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    start = [(size - wanted) // 2 for size, wanted in zip(volume.shape, shape, strict=True)]
    return volume[tuple(slice(first, first + wanted) for first, wanted in zip(start, shape, strict=True))]
