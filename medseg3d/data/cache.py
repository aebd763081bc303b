"""A training set in memory, as much of it as fits, with augmentation that depends on nothing but the key asked for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from monai.data import CacheDataset
from monai.transforms import Compose
from tqdm import tqdm

from medseg3d.data.ahead import map_ahead
from medseg3d.faults import Fault, find_fault

logger = logging.getLogger("medseg3d")


@dataclass(frozen=True)
class CaseKey:
    """Which case, and the seed of everything random that is done to it."""

    index: int
    seed: int


def size_in_memory(item: Any) -> int:
    """Bytes held by the tensors and arrays in a (nested) item of a data set.

    Example:
        >>> size_in_memory({"image": torch.zeros(1, 4, 4, 4), "spacing": np.zeros(3), "case": "a"})
        280
    """
    if isinstance(item, torch.Tensor):
        return item.element_size() * item.nelement()
    if isinstance(item, np.ndarray):
        return item.nbytes
    if isinstance(item, Mapping):
        return sum(size_in_memory(value) for value in item.values())
    if isinstance(item, (list, tuple)):
        return sum(size_in_memory(value) for value in item)
    return 0


class CaseCache(CacheDataset):
    """MONAI's `CacheDataset` that stops before memory is full, and whose items are a function of their key.

    Two differences from the parent:

    * It fills the cache until `memory_fraction` of the memory that was available is taken, then says how many cases
      are kept and how many will be prepared anew whenever they are asked for. (The parent fills until the process is
      killed.)
    * `dataset[CaseKey(index, seed)]` seeds every random transform with `seed` first. A sample is then the same in any
      process, with any number of workers and after any interruption. `dataset[index]` behaves as in the parent.

    Args:
        data: one dictionary per case, as `transform` expects it.
        transform: a `Compose`; what precedes its first random transform is cached.
        memory_fraction: share of the memory available now that the cache may take, 0 (no cache) to 1.
        num_workers: threads that fill the cache; 0 for none.
        name: what the messages call this data set.

    Raises:
        Fault: `NO_CASES` when `data` is empty; whatever a transform refuses, unwrapped from MONAI's RuntimeErrors.
    """

    def __init__(
        self,
        data: Sequence[dict],
        transform: Sequence[Callable] | Callable,
        memory_fraction: float = 0.5,
        num_workers: int = 2,
        name: str = "training",
    ) -> None:
        if not 0 <= memory_fraction <= 1:
            raise ValueError(f"memory_fraction must lie in [0, 1], got {memory_fraction}")
        if len(data) == 0:
            raise Fault(
                "NO_CASES", f"{name} part", "no case", "at least one", "look at the split file and the data set"
            )
        self.memory_fraction = memory_fraction
        self.workers = num_workers
        self.name = name
        # the crop that follows the cache copies what it takes, so the cached volumes need not be copied for it
        super().__init__(
            data=data,
            # MONAI takes a Compose within a Compose for a random transform and would cache nothing from there on
            transform=Compose(transform).flatten(),
            cache_rate=1.0 if memory_fraction > 0 else 0.0,
            copy_cache=False,
        )

    def _fill_cache(self, indices: Any = None) -> list:
        """The prepared items of `indices`, up to the memory budget; called by the parent's constructor."""
        wanted = list(range(self.cache_num)) if indices is None else list(indices)
        budget = int(self.memory_fraction * psutil.virtual_memory().available)
        kept: list = []
        taken = 0
        with contextlib.closing(map_ahead(self._load_or_refuse, wanted, self.workers)) as prepared:
            # disable=None: silent where nobody watches, as in a log file
            for item in tqdm(prepared, total=len(wanted), desc=f"loading the {self.name} cases", disable=None):
                taken += size_in_memory(item)
                if taken > budget:
                    break
                kept.append(item)
        if len(kept) < len(wanted):
            logger.warning(
                "%d of the %d %s cases fit in memory (%.1f GiB of %.1f GiB available, cache_memory %.2f); "
                "the other %d are prepared anew each time, which is slower. Raise --cache_memory, free memory, or "
                "coarsen --spacing.",
                len(kept),
                len(wanted),
                self.name,
                min(taken, budget) / 2**30,
                budget / max(self.memory_fraction, 1e-9) / 2**30,
                self.memory_fraction,
                len(self.data) - len(kept),
            )
        self.cache_num: int = len(kept)
        return kept

    def _load_or_refuse(self, index: int) -> Any:
        with unwrapped_faults():
            return self._load_cache_item(index)

    def __getitem__(self, key: Any) -> Any:
        with unwrapped_faults():
            if isinstance(key, CaseKey):
                self.transform.set_random_state(seed=key.seed)
                return super().__getitem__(key.index)
            return super().__getitem__(key)


class unwrapped_faults:  # noqa: N801 - a context manager reads as a phrase
    """Context in which MONAI's "applying transform ..." RuntimeErrors give way to the `Fault` they wrap."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        fault = find_fault(error)
        if fault is not None and fault is not error:
            raise fault from None
