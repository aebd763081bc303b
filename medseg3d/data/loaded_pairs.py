"""The prediction and the ground truth of a case, read as labels on one grid, whoever wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg3d.data.mask_folders import MaskPair, is_volume
from medseg3d.errors import UserError
from medseg3d.pictures.masks import GreyPicture, read_levels
from medseg3d.volumes.geometry import GRID_TOLERANCE, check_pair
from medseg3d.volumes.header import VolumeHeader
from medseg3d.volumes.label_maps import check_labels, holds_integers, stored_scaled
from medseg3d.volumes.reading import read_header, read_volume

_KINDS = ("auto", "mask", "probability")
_FEW_LEVELS = 8  # as many as a map of labels may have, and fewer than any map of probabilities that is worth a curve
_ROUNDING = 1e-6  # by which a softmax in float32 may leave [0, 1]
_ON_ITS_GRID = "write the prediction on the grid of its ground truth; nothing is resized or resampled silently"


@dataclass
class LoadedPair:
    """The masks of one case, on one grid.

    Attributes:
        case: as in `MaskPair`.
        pred: (*spatial) uint8 labels; of an image 0 and 1.
        truth: (*spatial) uint8 labels.
        prob: (*spatial) float32 foreground probability in [0, 1], where the prediction is one.
        affine: (4, 4) float64, voxel index of the ground truth to RAS mm; None for images.
        kind: what the prediction was taken for: "mask", "probability" or, where there is none, "missing".
        warnings: `CODE: sentence` each.
    """

    case: str
    pred: np.ndarray
    truth: np.ndarray
    prob: np.ndarray | None
    affine: np.ndarray | None
    kind: str
    warnings: list[str] = field(default_factory=list)


def prediction_kind(pairs: Sequence[MaskPair]) -> str:
    """Whether the predictions of a folder are masks or maps of foreground probability: "mask" or "probability".

    They are maps as soon as one of them is: a NIfTI volume with fractions, or a lossless image of more than two
    levels. Ask once for all, because the map of a case in which nothing was found may be a mask to look at. 2-D images
    and volumes of floating point are read for it, up to the first map.

    Raises:
        UserError: as `read_pair`; LABEL_SET also for images that have more than two but at most 8 levels each: these
            are labels of several classes, or maps too coarse to be told from them.
    """
    files = [pair.pred for pair in pairs if pair.pred is not None]
    if all(is_volume(file) for file in files):
        return "probability" if any(_is_fractional(file) for file in files) else "mask"
    return _kind_of_pictures(map(read_levels, files))


def read_pair(
    pair: MaskPair, pred_kind: str = "auto", threshold: float = 0.5, grid_tolerance: float = GRID_TOLERANCE
) -> LoadedPair:
    """The prediction and the ground truth of one case as labels on one grid; nothing is resized or resampled.

    The truth is always a mask: integer labels of a NIfTI volume, or a 2-D image as `read_picture_mask` takes it, in the
    grid of the file.

    Args:
        pair: as `paired_masks` gives it.
        pred_kind: "mask", "probability", or "auto", which decides by this one file as `prediction_kind` does by all.
        threshold: foreground is where the probability is at least this.
        grid_tolerance: voxels that a corner of the prediction may lie from that of the ground truth.

    Raises:
        UserError: as `read_volume` or `read_picture`; LABEL_SET (values that are not labels, or no probabilities);
            PAIR_GEOMETRY (shapes differ, or a corner lies further than that from where it should).
    """
    if pred_kind not in _KINDS:
        raise ValueError(f"pred_kind must be one of {_KINDS}, found {pred_kind!r}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be from 0 to 1, found {threshold}")
    truth, header, remarks = _truth(pair.truth)
    warnings = [f"{remark} (truth)" for remark in remarks]
    loaded = LoadedPair(pair.case, truth, truth, None, header.affine if header else None, "mask", warnings)
    if pair.pred is None:
        loaded.kind = "missing"
        loaded.pred = np.zeros_like(truth)
        loaded.prob = np.zeros(truth.shape, np.float32) if pred_kind == "probability" else None
        warnings.append("MISSING_PREDICTION: counted as an empty mask")
        return loaded
    off_grid: tuple[str, ...] = ()
    if header is None:
        loaded.kind, values, remarks = _read_picture(pair.pred, pair.truth, truth.shape, pred_kind)
    else:
        array, own = read_volume(pair.pred)
        remarks = own.warnings
        off_grid = check_pair(header, own, grid_tolerance, "its ground truth", _ON_ITS_GRID)
        loaded.kind, values = volume_values(array, own, pred_kind)
    warnings += [*(f"{remark} (prediction)" for remark in remarks), *off_grid]
    if loaded.kind == "probability":
        loaded.prob, values = values, (values >= np.float32(threshold)).astype(np.uint8)
    loaded.pred = values
    return loaded


def volume_values(array: np.ndarray, header: VolumeHeader, kind: str = "auto") -> tuple[str, np.ndarray]:
    """What a volume holds: "mask" and its labels in uint8, or "probability" and float32 in [0, 1].

    Of the kind "auto", fractions are taken for probabilities.

    Raises:
        UserError: LABEL_SET for values that are neither.
    """
    if kind == "auto":
        kind = "mask" if holds_integers(array) else "probability"
    values = check_labels(array, None, header.path, header) if kind == "mask" else _probabilities(array, header)
    return kind, values


def picture_values(grey: GreyPicture, kind: str = "auto") -> tuple[str, np.ndarray, tuple[str, ...]]:
    """The same of an image, a mask of which is 0 and 1, and what is odd about it.

    Raises:
        UserError: LABEL_SET, also for what may be a coarse map or several classes.
    """
    if kind == "auto":
        kind = _kind_of_pictures([grey])
    if kind == "probability":
        return kind, grey.probabilities(), ()
    mask, remarks = grey.mask()
    return kind, mask.view(np.uint8), remarks


def _truth(path: Path) -> tuple[np.ndarray, VolumeHeader | None, tuple[str, ...]]:
    if is_volume(path):
        array, header = read_volume(path)
        return check_labels(array, None, path, header), header, header.warnings
    mask, remarks = read_levels(path).mask()
    return mask.view(np.uint8), None, remarks


def _is_fractional(path: Path) -> bool:
    header = read_header(path)
    if header.dtype.kind in "iu" and header.slope == int(header.slope) and header.intercept == int(header.intercept):
        return False
    return not holds_integers(read_volume(path)[0])


def _probabilities(array: np.ndarray, header: VolumeHeader) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        found = f"values from {low:g} to {high:g}, taken for probabilities{stored_scaled(header)}"
        wanted = "foreground probabilities from 0 to 1, or integer labels"
        remedy = "write the output of the sigmoid or softmax, not logits, and do not resample it with splines"
        raise UserError("LABEL_SET", header.path, found, wanted, remedy)
    prob = array.astype(np.float32, order="K", copy=False)
    return np.clip(prob, 0, 1, out=prob)


def _read_picture(
    path: Path, truth: Path, shape: tuple[int, ...], pred_kind: str
) -> tuple[str, np.ndarray, tuple[str, ...]]:
    grey = read_levels(path)
    if grey.levels.shape != shape:
        wanted = f"that of its ground truth {truth}: shape {shape}"
        raise UserError("PAIR_GEOMETRY", path, f"shape {grey.levels.shape}", wanted, _ON_ITS_GRID)
    return picture_values(grey, pred_kind)


def _kind_of_pictures(greys: Iterable[GreyPicture]) -> str:
    coarse: tuple[Path, list[int]] | None = None
    for grey in greys:
        if grey.lossy or grey.is_binary:
            continue
        levels = np.unique(grey.levels).tolist()
        if len(levels) > _FEW_LEVELS:
            return "probability"
        coarse = coarse or (grey.path, levels)
    if coarse is None:
        return "mask"
    path, levels = coarse
    found = f"{len(levels)} levels, {', '.join(map(str, levels))}: labels of several classes, or coarse probabilities"
    remedy = "state with --pred-kind whether the predictions are masks or probabilities"
    raise UserError("LABEL_SET", path, found, f"a mask of two levels or a map of more than {_FEW_LEVELS}", remedy)
