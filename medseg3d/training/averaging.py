"""An average of a network's weights over the iterations of a training, which is validated and kept in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.optim.swa_utils import AveragedModel

from medseg3d.networks.memory_format import channels_last


class WeightAverage:
    """Handler of the trainer that keeps an exponential moving average (EMA) of the weights, torch's `AveragedModel`.

    After n averaged iterations the average keeps `min(decay, (1 + n) / (10 + n))` of itself and takes the rest from
    the network, so that the first weights, which are random, are soon forgotten. What BatchNorm has counted is averaged
    like the weights.

    Args:
        network: the network that is trained.
        decay: as above, 0 to below 1: 0.99 looks back over some 100 iterations, 0.999 over some 1000. 0 for no
            average.

    Attributes:
        network: what to validate and to keep: the average, or the network itself where there is none.

    Raises:
        ValueError: a decay outside of [0, 1).

    References:
        Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM Journal on Control and
        Optimization 30, 838 (1992), for the idea; TensorFlow's `ExponentialMovingAverage` for the ramp.

    Example:
        >>> network = torch.nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(network, decay=0.9)
        >>> for weight in (1.0, 3.0):
        ...     _ = torch.nn.init.constant_(network.weight, weight)
        ...     average.update()
        >>> round(average.network.weight.item(), 3)  # 2/11 of 1 and 9/11 of 3
        2.636
    """

    def __init__(self, network: torch.nn.Module, decay: float = 0.0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self._trained = network
        self._average = AveragedModel(network, avg_fn=self._mix, use_buffers=True) if decay else None
        self.network: torch.nn.Module = network
        if self._average is not None:
            self.network = channels_last(self._average.module)

    def attach(self, engine: Engine) -> None:
        """Average after each iteration of the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)

    def update(self) -> None:
        """Take the network's current weights into the average."""
        if self._average is not None:
            self._average.update_parameters(self._trained)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of its iterations; nothing where there is none."""
        return {} if self._average is None else self._average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with an earlier run's average.

        Raises:
            RuntimeError: it is another network's, or there is none and this run has one, or the other way round.
        """
        if self._average is not None:
            self._average.load_state_dict(state)
        elif state:
            raise RuntimeError("an average of the weights, which this run has not")

    def _mix(self, average: torch.Tensor, current: torch.Tensor, updates: torch.Tensor | int) -> torch.Tensor:
        ramp = (1 + int(updates)) / (10 + int(updates))
        return average + (current - average) * (1 - min(self.decay, ramp))
