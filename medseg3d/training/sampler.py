"""The order in which a training sees its cases."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from medseg3d.data.cache import CaseKey
from medseg3d.ranks import rank, share_of_batch, world_size


class EpochSampler(Sampler[CaseKey]):
    """The keys of a whole training in order: a function of the seed and the epoch, so a run can start at any epoch.

    Every epoch walks through seeded permutations of the cases until `iterations_per_epoch * batch_size` keys are drawn.
    Iterating gives the keys of all epochs from `start_epoch` on, in one stream, so that workers live on between epochs.

    Of several processes that train together each gets its share of every batch, all of them the keys of one.

    Args:
        num_cases: number of cases in the data set.
        batch_size: cases per iteration, of all processes together.
        epochs: number of epochs in all.
        iterations_per_epoch: iterations per epoch; None or 0 means one walk through all cases.
        seed: seed of the order and of every case key.

    Example:
        >>> stream = EpochSampler(num_cases=3, batch_size=1, epochs=2, seed=0)
        >>> [key.index for key in stream][3:] == [key.index for key in stream.epoch_keys(1)]
        True
    """

    def __init__(
        self, num_cases: int, batch_size: int, epochs: int, iterations_per_epoch: int | None = None, seed: int = 0
    ) -> None:
        for name, value in (("num_cases", num_cases), ("batch_size", batch_size), ("epochs", epochs)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.num_cases = num_cases
        self.batch_size = batch_size
        self.share = share_of_batch(batch_size)
        self.epochs = epochs
        self.keys_per_epoch = (iterations_per_epoch or math.ceil(num_cases / batch_size)) * batch_size
        self.seed = seed
        self.start_epoch = 0

    def epoch_keys(self, epoch: int) -> Iterator[CaseKey]:
        """The keys of one epoch (0-based), those of all processes."""
        rng = np.random.default_rng([self.seed, epoch])
        order: list[int] = []
        for _ in range(self.keys_per_epoch):
            if not order:
                order = rng.permutation(self.num_cases).tolist()
            yield CaseKey(order.pop(0), int(rng.integers(2**32)))

    def __iter__(self) -> Iterator[CaseKey]:
        for epoch in range(self.start_epoch, self.epochs):
            for number, key in enumerate(self.epoch_keys(epoch)):
                if number % self.batch_size // self.share == rank():
                    yield key

    def __len__(self) -> int:
        """Keys per epoch (not per training): the data loader's length is then the epoch's, as MONAI's trainer wants."""
        return self.keys_per_epoch // world_size()
