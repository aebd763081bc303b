"""A supervised trainer that does on a CPU what MONAI's does on a GPU, and that can be resumed exactly."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.workflow import Workflow
from monai.utils.enums import CommonKeys as Keys

from medseg3d.faults import Fault
from medseg3d.knobs import as_flag
from medseg3d.networks.memory_format import channels_last, contiguous_group_norms
from medseg3d.training.objectives import AlternatingObjectives, Loss, Objective

logger = logging.getLogger("medseg3d")


class SegmentationTrainer(SupervisedTrainer):
    """MONAI's `SupervisedTrainer` with mixed precision on any device, channels-last tensors and a restorable scaler.

    Differences from the parent (monai 1.6.1): autocast follows the device (float16 with loss scaling on CUDA, bfloat16
    without on CPU; the parent's is CUDA only); the loss is computed in float32; the gradient scaler is made with the
    trainer, not in `run`, so that its state survives a resume; torch's seed is set anew before every iteration, so that
    dropout too is a function of (seed, iteration); a loss that is not finite stops the training; a batch may go
    through the network in parts, and the network may return a tuple (logits, auxiliary logits, ...); several losses
    may take turns.

    Args:
        amp: mixed precision.
        micro_batch_size: cases that go through the network at a time, their gradients summed up to the step of the
            whole batch; 0 for all at once. Each part weighs as many cases as it has. Less memory; the same gradient
            where the loss is a mean over cases and nothing in the network looks across cases (BatchNorm does: its
            statistics are then the part's).
        max_grad_norm: gradients are clipped to this L2 norm; 0 or None leaves them alone.
        seed: seed of what the network draws at random.
        loss_function: a loss, or `AlternatingObjectives`.
        kwargs: as in `monai.engines.SupervisedTrainer`.

    Raises:
        Fault: `BAD_VALUE` where the epochs end out of turn; from `run`, `BATCH_PART` as `part_of_batch` has it, and
            `LOSS_NOT_FINITE`.
    """

    def __init__(
        self,
        *,
        amp: bool | str = False,
        max_grad_norm: float | None = None,
        micro_batch_size: int = 0,
        seed: int = 0,
        loss_function: Loss | AlternatingObjectives,
        **kwargs: Any,
    ) -> None:
        if micro_batch_size < 0:
            raise ValueError(f"micro_batch_size must be 0 (the whole batch) or more, got {micro_batch_size}")
        super().__init__(amp=False, decollate=False, loss_function=loss_function, **kwargs)
        self.schedule = (
            loss_function
            if isinstance(loss_function, AlternatingObjectives)
            else AlternatingObjectives([Objective(loss_function)])
        )
        self.schedule.check_epochs(self.state.max_epochs)
        self.device_type = torch.device(self.state.device).type
        self.autocast_dtype = torch.float16 if self.device_type == "cuda" else torch.bfloat16
        self.use_amp = as_flag(amp, "amp")
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.use_amp and self.device_type == "cuda")
        self.max_grad_norm = max_grad_norm
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.network: torch.nn.Module = channels_last(kwargs["network"])
        contiguous_group_norms(self.network)
        self.add_event_handler(Events.ITERATION_STARTED, self._seed_iteration)

    @property
    def turn(self) -> int:
        """Which objective of the schedule the current iteration is for, 0-based."""
        return self.schedule.turn(self.state.epoch - 1, self.state.iteration - 1)

    def run(self) -> None:
        """Train from the current state to `max_epochs`; nothing where a resumed run was complete."""
        if self.state.epoch >= self.state.max_epochs:  # ignite would begin anew from epoch 0
            logger.info("all %d epochs are done; raise --epochs to go on", self.state.epoch)
            return
        Workflow.run(self)

    def _seed_iteration(self) -> None:
        # not once per epoch: making a data loader's iterator draws from the same generator, and a resumed run makes one
        # where the uninterrupted run does not
        torch.manual_seed(self.seed * 1_000_003 + self.state.iteration)

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict:
        inputs, targets = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        inputs, targets = (batch.as_subclass(torch.Tensor) for batch in (inputs, targets))

        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        at_a_time = self.micro_batch_size or len(inputs)
        parts = zip(inputs.split(at_a_time), targets.split(at_a_time), strict=True)
        results = [self._backward(engine, *part, len(inputs)) for part in parts]
        if self.max_grad_norm:
            engine.scaler.unscale_(engine.optimizer)
            torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_grad_norm)
        engine.scaler.step(engine.optimizer)
        engine.scaler.update()
        logits = torch.cat([part for part, _ in results])
        loss = torch.stack([part for _, part in results]).sum()
        return {Keys.IMAGE: inputs, Keys.LABEL: targets, Keys.PRED: logits, Keys.LOSS: loss}

    def _backward(
        self, engine: Any, inputs: torch.Tensor, targets: torch.Tensor, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the gradients of a part of a batch; its logits and its share of the loss, detached."""
        objective = self.schedule.objectives[self.turn]
        with (
            part_of_batch(len(inputs), batch, self.micro_batch_size),
            torch.autocast(self.device_type, dtype=self.autocast_dtype, enabled=self.use_amp),
        ):
            output = engine.inferer(channels_last(inputs), engine.network, **objective.network_arguments)
        heads = (output,) if isinstance(output, torch.Tensor) else output
        heads = tuple(head.float() for head in heads)
        loss = objective.loss(heads[0] if len(heads) == 1 else heads, targets) * (len(inputs) / batch)
        if not torch.isfinite(loss):
            raise Fault(
                "LOSS_NOT_FINITE",
                f"iteration {engine.state.iteration}",
                f"a loss of {loss.item()}",
                "a finite number",
                "lower --learning_rate, or --amp false",
            )
        engine.scaler.scale(loss).backward()
        return heads[0].detach(), loss.detach()


@contextmanager
def part_of_batch(part: int, batch: int, at_a_time: int) -> Iterator[None]:
    """While a part of a batch goes through a network in training: a `Fault` where BatchNorm has one value of a channel.

    A map that is pooled over the picture, as in DeepLabv3+, has one value of each channel for every picture, and a
    single picture no variance of them.

    Args:
        part: cases in the part.
        batch: cases in the batch.
        at_a_time: the `micro_batch_size` that made the part, 0 for none.

    Raises:
        Fault: `BATCH_PART`.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        whole = part == batch
        raise Fault(
            "BATCH_PART",
            f"--batch_size {batch}" if whole else f"--micro_batch_size {at_a_time}",
            f"{part} at a time of a batch of {batch}: {error}",
            "parts that the network can train on",
            "--batch_size 2 or more" if whole else "choose at least 2, of which --batch_size is a multiple",
        ) from error
