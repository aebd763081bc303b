"""Learning rates that MONAI and torch lack."""

from __future__ import annotations

from collections.abc import Sequence


def learning_rate_factor(
    iteration: int,
    epochs: int,
    iterations_per_epoch: int,
    power: float = 0.9,
    floor: float = 0.0,
    drop_epochs: Sequence[int] = (),
    gamma: float = 0.1,
) -> float:
    """What the first learning rate is multiplied with, for `torch.optim.lr_scheduler.LambdaLR` called per iteration.

    `floor + (1 - floor) * (1 - iteration / iterations) ** power`, times `gamma` for every drop that is past.
    A function of the iteration alone: a resumed run goes on with it, and one that was made longer goes by its new
    length. (torch's `PolynomialLR` has no floor.) Where the floor is mmsegmentation's `eta_min` over the first rate,
    this is what its recursion comes to.

    Args:
        iteration: iterations done, from 0.
        epochs: of the whole training; from its end on the factor stays what it was.
        iterations_per_epoch: iterations of each.
        power: 1 for a straight line, 0 for none.
        floor: share of the first rate that the power comes down to.
        drop_epochs: numbers of epochs after which the rate is `gamma` times what it was.
        gamma: as above.

    References:
        Liu, Rabinovich and Berg, ParseNet, 2015, https://arxiv.org/abs/1506.04579, for the power.

    Example:
        >>> [round(learning_rate_factor(step, 2, 2, power=1.0, floor=0.2), 2) for step in range(5)]
        [1.0, 0.8, 0.6, 0.4, 0.2]
        >>> [round(learning_rate_factor(step, 2, 2, power=0.0, drop_epochs=[1]), 2) for step in range(5)]
        [1.0, 1.0, 0.1, 0.1, 0.1]
    """
    left = max(0.0, 1 - iteration / (epochs * iterations_per_epoch))
    drops = sum(iteration >= epoch * iterations_per_epoch for epoch in drop_epochs)
    return (floor + (1 - floor) * left**power) * gamma**drops
