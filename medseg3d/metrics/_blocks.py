"""Large arrays of any kind and dimension as small flat NumPy pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

BLOCK = 2**18
"""Voxels in a piece: what is computed from one stays in the cache."""

ArrayLike = torch.Tensor | np.ndarray


def blocks(**arrays: ArrayLike) -> Iterator[list[np.ndarray]]:
    """Pieces of at most `BLOCK` voxels, flat, the same voxels of every array.

    Args:
        arrays: tensors on any device or arrays, all of one shape; their names are for the error message.

    Raises:
        ValueError: shapes differ.
    """
    present = {name: _plain(array) for name, array in arrays.items()}
    shapes = {name: tuple(array.shape) for name, array in present.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{', '.join(shapes)} must have the same shape, found {shapes}")
    yield from _split([_in_order_of(next(iter(present.values())), array) for array in present.values()])


def as_array(array: Any) -> np.ndarray:
    """A tensor on any device, or whatever else NumPy takes, as an array; bfloat16, unknown to NumPy, as float32."""
    plain = _plain(array)
    if isinstance(plain, torch.Tensor):
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).cpu().numpy()
    return plain


def binary(block: np.ndarray, name: str) -> np.ndarray:
    """The piece as bool; `name` is for the error message.

    Raises:
        ValueError: a value is neither 0 nor 1.
    """
    if block.dtype == bool:
        return block
    ones = block != 0
    if not np.array_equal(block, ones):
        found = np.unique(block[block != ones])
        raise ValueError(f"{name} must hold 0 and 1 only, found also {_few(found)}")
    return ones


def labels(block: np.ndarray, name: str, num_classes: int) -> np.ndarray:
    """The piece as integers; `name` is for the error message.

    Raises:
        ValueError: a value is none of 0..num_classes-1.
    """
    with np.errstate(invalid="ignore"):  # NaN is caught by the comparison
        integers = block.astype(np.intp)
    wrong = (integers < 0) | (integers >= num_classes) | (integers != block)
    if wrong.any():
        found = _few(np.unique(block[wrong]))
        raise ValueError(f"{name} must hold labels 0..{num_classes - 1} only, found also {found}")
    return integers


def _few(values: np.ndarray) -> str:
    return ", ".join(str(value) for value in values[:5].tolist()) + (", ..." if len(values) > 5 else "")


def _plain(array: ArrayLike) -> ArrayLike:
    if isinstance(array, torch.Tensor):
        # MONAI's MetaTensor would carry its affine through every slice
        return array.detach().as_subclass(torch.Tensor)
    return np.asarray(array)


def _in_order_of(first: ArrayLike, array: ArrayLike) -> ArrayLike:
    """The axes sorted as those of `first` lie in memory, so that a NIfTI volume is read from front to back."""
    strides = first.stride() if isinstance(first, torch.Tensor) else first.strides
    order = sorted(range(len(strides)), key=lambda axis: -abs(strides[axis]))
    return array.permute(order) if isinstance(array, torch.Tensor) else array.transpose(order)


def _split(arrays: list[ArrayLike]) -> Iterator[list[np.ndarray]]:
    shape = arrays[0].shape
    size = int(np.prod(shape))
    if size <= BLOCK:
        yield [_flat(array) for array in arrays]
        return
    rows = BLOCK * shape[0] // size
    if rows == 0:
        for row in range(shape[0]):
            yield from _split([array[row] for array in arrays])
    else:
        for start in range(0, shape[0], rows):
            yield [_flat(array[start : start + rows]) for array in arrays]


def _flat(block: ArrayLike) -> np.ndarray:
    return as_array(block).reshape(-1)
