"""Whether the attention of a network that trains is alive: its entropy and its largest logit, once per epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

logger = logging.getLogger("medseg3d")

COLLAPSED = 0.01
"""Share of the possible entropy below which attention counts as collapsed: nearly every query sees one position."""


@dataclass(frozen=True)
class AttentionStatistics:
    """What the softmax of an attention does.

    Attributes:
        entropy: of the weights, the mean over queries, as a share of the possible (the logarithm of the number of
            positions): 1 is a plain mean over all positions, 0 the choice of a single one.
        largest_logit: largest absolute value that goes into the softmax; float16 ends at 65,504.
    """

    entropy: float
    largest_logit: float

    @property
    def collapsed(self) -> bool:
        """Whether the entropy is below `COLLAPSED`, or nothing can be said of it because a logit is not finite."""
        return not self.entropy >= COLLAPSED


def attention_statistics(logits: torch.Tensor) -> AttentionStatistics:
    """Entropy and largest logit of (..., S) logits, a softmax over the last dimension.

    A single position (S = 1) leaves no choice: its entropy counts as 1.

    Example:
        >>> attention_statistics(torch.zeros(1, 2, 8))
        AttentionStatistics(entropy=1.0, largest_logit=0.0)
        >>> attention_statistics(1000 * torch.eye(8)).collapsed
        True
    """
    positions = logits.shape[-1]
    logarithms = torch.log_softmax(logits.double(), -1)
    entropy = -(logarithms.exp() * logarithms).sum(-1).mean()
    share = entropy / math.log(positions) if positions > 1 else torch.ones(())
    return AttentionStatistics(round(share.item(), 6), logits.abs().max().item())


class AttentionWatch:
    """Handler of the trainer that looks at every attention of its network in the last iteration of each epoch.

    An attention is a module with a method `attention_logits` that takes what its `forward` takes. One that has
    collapsed is told of in a warning, once until it recovers.

    Attributes:
        statistics: of the last epoch that was looked at, by name of the module.
    """

    def __init__(self, network: nn.Module) -> None:
        self.attentions = {
            name: module for name, module in network.named_modules() if hasattr(module, "attention_logits")
        }
        self.statistics: dict[str, AttentionStatistics] = {}
        self._collapsed: set[str] = set()
        self._look_on = ExitStack()

    def attach(self, engine: Engine) -> None:
        """Look while `engine`, the trainer, runs."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """While the context lasts, each pass through the network renews `statistics`.

        A network that was compiled is run uncompiled meanwhile: compiled code passes over hooks that came after it.
        """
        with ExitStack() as undo:
            for name, module in self.attentions.items():
                undo.callback(module.register_forward_pre_hook(self._look(name)).remove)
            if self.attentions:
                undo.enter_context(torch.compiler.set_stance("force_eager"))
            yield

    def _look(self, name: str) -> Any:
        def look(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            self.statistics[name] = attention_statistics(module.attention_logits(*inputs))

        return look

    def _begin(self, engine: Engine) -> None:
        if engine.state.iteration % engine.state.epoch_length == 0:
            self._look_on.enter_context(self.looking())

    def _end(self, engine: Engine) -> None:
        if engine.state.iteration % engine.state.epoch_length != 0:
            return
        self._look_on.close()
        for name, found in self.statistics.items():
            if found.collapsed and name not in self._collapsed:
                logger.warning(
                    "epoch %d: %s has collapsed: the entropy of its attention is %.2g %% of the maximum, its "
                    "largest logit %.3g. Nearly every position attends to a single one, and its gradient has vanished. "
                    "Lower --learning_rate, or choose a form with bounded logits.",
                    engine.state.epoch,
                    name,
                    100 * found.entropy,
                    found.largest_logit,
                )
        self._collapsed = {name for name, found in self.statistics.items() if found.collapsed}
