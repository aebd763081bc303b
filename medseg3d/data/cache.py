"""A training set in memory, as much of it as fits, with augmentation that depends on nothing but the key asked for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, MetaTensor, get_track_meta, set_track_meta
from monai.transforms import Compose, MapTransform, Randomizable, RandomizableTrait, Transform
from monai.utils import MAX_SEED
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from medseg3d.data.ahead import map_ahead
from medseg3d.errors import UserError, find_user_error, internal_error
from medseg3d.memory import available_memory
from medseg3d.ranks import local_world_size, rank

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
    return sum(leaf.nbytes for leaf in tree_leaves(item) if isinstance(leaf, (torch.Tensor, np.ndarray)))


class CaseCache(CacheDataset):
    """MONAI's `CacheDataset` that stops before memory is full, and whose items are a function of their key.

    Three differences from the parent:

    * It fills the cache until `memory_fraction` of the memory that was available is taken, then says how many cases
      are kept and how many will be prepared again whenever they are requested. (The parent fills until the process is
      killed.)
    * `dataset[CaseKey(index, seed)]` seeds every random transform with `seed` first. A sample is then the same in any
      process, with any number of workers and after any interruption. `dataset[index]` behaves as in the parent.
    * With a `CaseKey`, what comes out is plain tensors, and so is what the transforms from the first random one on get:
      MONAI's record of what was done to a `MetaTensor` takes a third of their time, and no loss reads it. What asks for
      an affine (`Spacingd`, `Orientationd`) has to stand before them.

    Args:
        data: one dictionary per case, as `transform` expects it.
        transform: a `Compose`; what precedes its first random transform is cached.
        memory_fraction: share of the memory available now that the cache may take, 0 (no cache) to 1.
        num_workers: threads that fill the cache; 0 for none.
        name: what the messages call this data set.

    Raises:
        UserError: `NO_CASES` when `data` is empty; whatever a transform refuses, unwrapped from MONAI's RuntimeErrors.
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
            raise UserError(
                "NO_CASES", f"the {name} set", "no case", "at least one", "check the split file and the data set"
            )
        self.memory_fraction = memory_fraction
        self.workers = num_workers
        self.name = name
        # MONAI takes a Compose within a Compose for a random transform and would cache nothing from there on
        chain = Compose(transform).flatten()
        self.seeder = Seeder(chain)
        self.first_random = chain.get_index_of_first(
            lambda step: isinstance(step, RandomizableTrait) or not isinstance(step, Transform)
        )
        # the crop that follows the cache copies what it takes, so the cached volumes need not be copied for it
        super().__init__(
            data=data,
            transform=chain,
            cache_rate=1.0 if memory_fraction > 0 else 0.0,
            copy_cache=False,
        )

    def _fill_cache(self, indices: Any = None) -> list:
        """The prepared items of `indices`, up to the memory budget; called by the parent's constructor."""
        wanted = list(range(self.cache_num)) if indices is None else list(indices)
        budget = int(self.memory_fraction * available_memory() / local_world_size())
        kept: list = []
        taken = 0
        with contextlib.closing(map_ahead(self._load_or_refuse, wanted, self.workers)) as prepared:
            # disable=None: silent where nobody watches, as in a log file
            silent = True if rank() > 0 else None
            for item in tqdm(prepared, total=len(wanted), desc=f"loading the {self.name} cases", disable=silent):
                taken += size_in_memory(item)
                if taken > budget:
                    break
                kept.append(item)
        if len(kept) < len(wanted):
            logger.warning(
                "%d of the %d %s cases fit in memory (%.1f GiB of %.1f GiB available, cache_memory %.2f); "
                "the other %d are prepared again each time, which is slower. Raise --cache_memory, free memory, or "
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
        with unwrapped_errors(self.data[index]):
            return self._load_cache_item(index)

    def __getitem__(self, key: Any) -> Any:
        index = key.index if isinstance(key, CaseKey) else key
        with unwrapped_errors(self.data[index] if isinstance(index, int) else {}):
            return self._sample(key) if isinstance(key, CaseKey) else super().__getitem__(key)

    def _sample(self, key: CaseKey) -> Any:
        item: Any = self._cache[key.index] if key.index < self.cache_num else self._load_cache_item(key.index)
        plain = {name: value.as_tensor() if isinstance(value, MetaTensor) else value for name, value in item.items()}
        if self.first_random is None:
            return plain
        self.seeder(key.seed)
        tracked = get_track_meta()
        set_track_meta(False)
        try:
            return self.transform(plain, start=self.first_random)
        finally:
            set_track_meta(tracked)


class Seeder:
    """Does what `chain.set_random_state(seed)` does, to the bit, in a fraction of its time.

    MONAI makes new random states, each of which asks the system for entropy before it gets its seed (0.2 ms, and a
    chain has a dozen). Here those that are there get their seed. A transform that does not simply hand its seed on to
    what it holds is left to its own method.

    Example:
        >>> from monai.transforms import RandAffined, RandFlipd
        >>> chain = Compose([RandFlipd("image", 0.5), RandAffined("image", 0.5)])
        >>> Seeder(chain)(3)
        >>> draws = [step.R.rand() for step in chain.transforms]
        >>> draws == [step.R.rand() for step in chain.set_random_state(3).transforms]
        True
    """

    def __init__(self, chain: Compose) -> None:
        self.chain = chain.set_random_state(seed=0)
        # the objects, not their states: a worker of a data loader gives them new ones
        self.steps = [(step, _of_one_seed(step)) for step in chain.transforms if isinstance(step, Randomizable)]

    def __call__(self, seed: int) -> None:
        """Seed the chain and every transform in it."""
        self.chain.R.seed(seed % MAX_SEED)
        for step, parts in self.steps:
            own = int(self.chain.R.randint(MAX_SEED, dtype="uint32"))
            if not parts:
                step.set_random_state(seed=own)
            for part in parts:
                part.R.seed(own % MAX_SEED)


def _of_one_seed(step: Randomizable) -> list[Randomizable]:
    """A random transform and the random ones it holds, if they all get the seed that it gets; none otherwise."""
    parts = list(_random_parts(step))
    step.set_random_state(seed=7)
    wanted = _key(np.random.RandomState(7))
    return parts if all(np.array_equal(_key(part.R), wanted) for part in parts) else []


def _key(state: np.random.RandomState) -> np.ndarray:
    return state.get_state(legacy=False)["state"]["key"]


def _random_parts(value: Any) -> Iterator[Randomizable]:
    if isinstance(value, Randomizable):
        yield value
    if isinstance(value, (Randomizable, MapTransform)):
        value = vars(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _random_parts(part)


@contextlib.contextmanager
def unwrapped_errors(item: Mapping[str, Any]) -> Iterator[None]:
    """Context in which MONAI's "applying transform ..." RuntimeErrors give way to the `UserError` they wrap.

    Where they wrap none, to an `INTERNAL` that names the case and the innermost cause.
    """
    try:
        yield
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is error or (
            user_error is None and not (isinstance(error, RuntimeError) and error.__cause__ is not None)
        ):
            raise
        if user_error is not None:
            raise user_error from None
        image = item.get("image")  # a tensor where the items are not files
        raise internal_error(error, image if isinstance(image, str) else str(item.get("case"))) from error
