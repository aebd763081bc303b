"""Maps of labels: integers, whatever type they are stored in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg3d.errors import UserError
from medseg3d.files.folders import first_of
from medseg3d.volumes.header import VolumeHeader

_WHOLE = 2e-5  # a label stored as 16 bits with a slope comes back within 1.6e-5 of the integer it was


def check_labels(
    array: np.ndarray, labels: Sequence[int] | None, path: str | Path, header: VolumeHeader | None = None
) -> np.ndarray:
    """The label map as uint8, once every voxel has been seen to hold a legal value.

    Of any shape and real type; see `holds_integers` for what is taken for an integer. `labels` are the values allowed,
    0 to 255; None allows all of them.

    Raises:
        UserError: LABEL_SET, naming the values found.

    Example:
        >>> check_labels(np.array([0.0, 1.0, 1.0]), (0, 1), "label.nii.gz")
        array([0, 1, 1], dtype=uint8)
    """
    allowed = np.zeros(256, bool)
    allowed[list(range(256) if labels is None else labels)] = True
    wanted = "integers from 0 to 255" if labels is None else f"only the labels {sorted(labels)}"
    with np.errstate(invalid="ignore"):
        as_uint8 = array.astype(np.uint8, order="K")
        if not np.array_equal(as_uint8, array) and holds_integers(array):
            array = np.rint(array)
            as_uint8 = array.astype(np.uint8, order="K")
    # slice by slice: numpy widens an index to 64 bits first
    if np.array_equal(as_uint8, array) and all(allowed[part].all() for part in as_uint8.T):
        return as_uint8
    values = np.unique(array)
    integer = np.isfinite(values) & (values == np.rint(values)) & (values >= 0) & (values <= 255)
    legal = integer & allowed[np.where(integer, values, 0).astype(np.uint8)]
    strange = [f"{value:g}" for value in values[~legal]]
    found = f"the values {first_of(strange, 8)}{stored_scaled(header)}"
    remedy = "correct the label or name its values with --labels"
    if not np.all(integer):
        remedy = "labels have integer values; check that it was not resampled with interpolation and is not an image"
    raise UserError("LABEL_SET", path, found, wanted, remedy)


def holds_integers(array: np.ndarray) -> bool:
    """Whether every value is an integer, or within 2e-5 of one, as labels are that were stored with a slope.

    Example:
        >>> holds_integers(np.array([0, 1.0000153])), holds_integers(np.array([0, 0.9999]))
        (True, False)
    """
    # slice by slice: no second volume in memory, and a map is known by its first one with foreground
    return array.dtype.kind != "f" or all(bool((np.abs(part - np.rint(part)) <= _WHOLE).all()) for part in array.T)


def label_counts(values: np.ndarray) -> dict[int, int]:
    """How often each label but 0 is there, of those that are.

    Example:
        >>> label_counts(np.array([[0, 1], [3, 3]]))
        {1: 1, 3: 2}
    """
    # slice by slice: bincount widens its input to 64 bits
    counts = np.sum([np.bincount(part.ravel(order="K"), minlength=256) for part in values.T], axis=0)
    return {value: int(count) for value, count in enumerate(counts) if value and count}


def stored_scaled(header: VolumeHeader | None) -> str:
    """What a message on odd values says of a file that stores them with a slope; nothing of any other."""
    if header is None or (header.slope, header.intercept) == (1, 0):
        return ""
    return f", stored with slope {header.slope:.7g} and intercept {header.intercept:.7g} (store labels unscaled)"
