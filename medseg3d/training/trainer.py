"""A supervised trainer that does on a CPU what MONAI's does on a GPU, and that can be resumed exactly."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.workflow import Workflow
from monai.handlers import MLFlowHandler
from monai.utils.enums import CommonKeys as Keys
from torch.nn.parallel import DistributedDataParallel

from medseg3d.errors import UsageError, UserError
from medseg3d.knobs import as_flag
from medseg3d.networks.compiling import compile_network
from medseg3d.networks.memory_format import channels_last, contiguous_group_norms
from medseg3d.precision import Precision, choose_precision
from medseg3d.ranks import mean_over_processes, rank, world_size
from medseg3d.training.batch_augmentation import BatchAugmentation
from medseg3d.training.losses import AlternatingObjectives, Loss, Objective
from medseg3d.training.parameter_groups import frozen_norms

logger = logging.getLogger("medseg3d")


class SegmentationTrainer(SupervisedTrainer):
    """MONAI's `SupervisedTrainer` with mixed precision on any device, channels-last tensors and a restorable scaler.

    Differences from the parent (monai 1.6.1): any precision on any device (the parent's is autocast on CUDA only); the
    loss is computed in float32; the gradient scaler is made with the trainer, not in `run`, so that its state survives
    a resume; torch's seed is reset before every iteration, so that dropout too is a function of (seed, iteration);
    a step whose loss or gradient is not finite is skipped; a batch may be augmented on the device, and go through the
    network in parts; the network may return a tuple (logits, auxiliary logits, ...); several losses may take turns.

    A skipped step leaves no trace: weights, the optimizer's state and the network's buffers, as BatchNorm's running
    statistics are, stay those of the step before. In float16 the loss scale falls, and with the first scale of 65,536
    a few steps may go so.

    Parameters that do not require a gradient are frozen: they and the running statistics of norms whose own they are
    (`medseg3d.training.parameter_groups.frozen_norms`) stay as they are.

    Processes that `medseg3d.ranks.join_processes` has joined train one network: the step is that of their batches
    together where the loss is a mean over cases, and all skip a step that one would have to skip. On GPUs BatchNorm
    takes its statistics over all of them; on CPUs, for which torch has no such BatchNorm, over those of each process.

    The engine's output of an iteration also holds `gradient_norm`, the L2 norm of all gradients before they are
    clipped, float32 on the network's device, and `skipped`, a bool.

    Args:
        precision: as `medseg3d.precision.choose_precision` takes or gives it.
        micro_batch_size: cases that go through the network at a time, their gradients summed up to the step of the
            whole batch; 0 for all at once. Each part weighs as many cases as it has. Less memory; the same gradient
            where the loss is a mean over cases and nothing in the network looks across cases (BatchNorm does: its
            statistics are then the part's).
        compile: the network goes through `torch.compile`, see `compile_network`: after a minute or so for each shape
            that it meets. Needs a C++ compiler on a CPU, and Triton on a GPU.
        max_grad_norm: gradients are clipped to this L2 norm; 0 or None leaves them alone.
        max_skipped_steps: how many steps in a row may be skipped; one more ends the training. So does a last epoch of
            which every step was skipped.
        seed: seed of what the network and the augmentation draw at random.
        augmentation: done to each batch on the device; None for nothing.
        loss_function: a loss, or `AlternatingObjectives`.
        kwargs: as in `monai.engines.SupervisedTrainer`.

    Attributes:
        skipped_steps: how many steps have been skipped since the training began.
        skipped_in_row: how many in a row up to now.
        last_checkpoint: the newest checkpoint that a stopped training can resume from, if there is any.
        trackers: MONAI's handlers of MLflow runs that this training is logged to.

    Raises:
        UserError: `BAD_VALUE` where the epochs end out of turn; from `run`, `BATCH_PART` as `part_of_batch` has it,
            `LOSS_NOT_FINITE`, and `ENGINE` where compiled code is wrong.
    """

    def __init__(
        self,
        *,
        precision: Precision | str = "float32",
        max_grad_norm: float | None = None,
        max_skipped_steps: int = 20,
        micro_batch_size: int = 0,
        compile: bool | str = False,
        seed: int = 0,
        augmentation: BatchAugmentation | None = None,
        loss_function: Loss | AlternatingObjectives,
        **kwargs: Any,
    ) -> None:
        for name, value in (("micro_batch_size", micro_batch_size), ("max_skipped_steps", max_skipped_steps)):
            if value < 0:
                what = "the whole batch" if name == "micro_batch_size" else "none"
                raise ValueError(f"{name} must be 0 ({what}) or more, got {value}")
        self.trackers: list[MLFlowHandler] = []
        super().__init__(amp=False, decollate=False, loss_function=loss_function, **kwargs)
        self.schedule = (
            loss_function
            if isinstance(loss_function, AlternatingObjectives)
            else AlternatingObjectives([Objective(loss_function)])
        )
        self.schedule.check_epochs(self.state.max_epochs)
        self.device_type = torch.device(self.state.device).type
        self.precision = (
            precision if isinstance(precision, Precision) else choose_precision(precision, self.state.device)
        )
        self.scaler = self.precision.scaler(self.device_type)
        self.max_grad_norm = max_grad_norm
        self.max_skipped_steps = max_skipped_steps
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.augmentation = augmentation
        self.network: torch.nn.Module = channels_last(kwargs["network"])
        contiguous_group_norms(self.network)
        self.replica = self._replica()
        self.frozen_norms = frozen_norms(self.network)
        if as_flag(compile, "compile"):
            compile_network(self.network)
        self.skipped_steps = self.skipped_in_row = self._skipped_before_epoch = 0
        self.last_checkpoint: Path | None = None
        self.add_event_handler(Events.EPOCH_STARTED, self._count_from_here)
        self.add_event_handler(Events.ITERATION_STARTED, self._seed_iteration)

    @property
    def skipped_share(self) -> float:
        """Which share of the steps of the current epoch has been skipped, 0 to 1."""
        return (self.skipped_steps - self._skipped_before_epoch) / self.state.epoch_length

    def go_on_in(self, precision: str, scaler: dict[str, Any], skipped_steps: int, skipped_in_row: int) -> None:
        """Take up the precision, the state of the scaler and the counts of a training that is resumed."""
        self.precision.go_on_from(precision)
        self.scaler = self.precision.scaler(self.device_type)
        self.skipped_steps = skipped_steps
        if self.precision.name == precision:
            self.scaler.load_state_dict(scaler)
            self.skipped_in_row = skipped_in_row

    @property
    def turn(self) -> int:
        """Which objective of the schedule the current iteration is for, 0-based."""
        return self.schedule.turn(self.state.epoch - 1, self.state.iteration - 1)

    def run(self) -> None:
        """Train from the current state to `max_epochs`; nothing where a resumed run was complete."""
        if self.state.epoch >= self.state.max_epochs:  # ignite would start again from epoch 0
            logger.info("all %d epochs are done; raise --epochs to continue", self.state.epoch)
            return
        Workflow.run(self)
        if self.skipped_in_row >= self.state.epoch_length:  # a short training may end before it has skipped too many
            raise self._not_finite("a last epoch that trains")

    def _seed_iteration(self) -> None:
        # not once per epoch: making a data loader's iterator draws from the same generator, and a resumed run makes one
        # where the uninterrupted run does not
        torch.manual_seed(self.seed * 1_000_003 + self.state.iteration + rank() * 1_000_000_007)

    def _replica(self) -> torch.nn.Module:
        """The network as it is called: in a process among several, one whose gradients are averaged with theirs."""
        if world_size() == 1:
            return self.network
        norms = [each for each in self.network.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
        if norms and self.device_type == "cuda":
            self.network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
        elif norms:
            logger.warning("%d BatchNorm layers compute their statistics separately in each process", len(norms))
        return DistributedDataParallel(
            self.network,
            device_ids=[self.state.device] if self.device_type == "cuda" else None,
            find_unused_parameters=len(self.schedule.objectives) > 1,  # an objective trains a part of the network
        )

    def _exchange(self, wanted: bool) -> AbstractContextManager[None]:
        """Context in which the processes average the gradients, or keep their own for the next part of the batch."""
        if wanted or not isinstance(self.replica, DistributedDataParallel):
            return nullcontext()
        return self.replica.no_sync()

    def _count_from_here(self) -> None:
        self._skipped_before_epoch = self.skipped_steps

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict:
        inputs, targets = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        inputs, targets = (batch.as_subclass(torch.Tensor) for batch in (inputs, targets))
        if self.augmentation is not None:
            batch = {Keys.IMAGE: inputs, Keys.LABEL: targets}
            batch = self.augmentation(batch, self.seed, engine.state.iteration, first=rank() * len(inputs))
            inputs, targets = batch[Keys.IMAGE], batch[Keys.LABEL]

        engine.network.train()
        for frozen in self.frozen_norms:
            frozen.eval()
        engine.optimizer.zero_grad(set_to_none=True)
        buffers = [(buffer, buffer.clone()) for buffer in engine.network.buffers()]
        at_a_time = self.micro_batch_size or len(inputs)
        parts = list(zip(inputs.split(at_a_time), targets.split(at_a_time), strict=True))
        results = []
        for number, part in enumerate(parts, start=1):
            with self._exchange(number == len(parts)):
                results.append(self._backward(engine, *part, len(inputs)))
        logits = torch.cat([part for part, _ in results])
        loss = mean_over_processes(torch.stack([part for _, part in results]).sum())

        engine.scaler.unscale_(engine.optimizer)
        parameters = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        numbers = torch.stack([loss, norm]).tolist()  # the one time that the CPU waits for a GPU here
        skipped = not all(map(math.isfinite, numbers))
        if skipped:
            for buffer, before in buffers:
                buffer.copy_(before)
        else:
            if self.max_grad_norm:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, norm)
            engine.scaler.step(engine.optimizer)
        engine.scaler.update()
        self._count(skipped, *numbers)
        return {
            **{Keys.IMAGE: inputs, Keys.LABEL: targets, Keys.PRED: logits, Keys.LOSS: loss},
            **{"gradient_norm": norm, "skipped": skipped},
        }

    def _backward(
        self, engine: Any, inputs: torch.Tensor, targets: torch.Tensor, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the gradients of a part of a batch; its logits and its share of the loss, detached."""
        objective = self.schedule.objectives[self.turn]
        with part_of_batch(len(inputs), batch, self.micro_batch_size), self.precision.autocast(self.device_type):
            output = engine.inferer(channels_last(inputs), self.replica, **objective.network_arguments)
        heads = (output,) if isinstance(output, torch.Tensor) else output
        heads = tuple(head.float() for head in heads)
        loss = objective.loss(heads[0] if len(heads) == 1 else heads, targets) * (len(inputs) / batch)
        if not loss.requires_grad:
            found = f"all parameters that the objective {objective.name or 'of the training'} trains"
            raise UsageError("BAD_VALUE", "--freeze", found, "at least one trainable parameter", "freeze fewer parts")
        engine.scaler.scale(loss).backward()
        return heads[0].detach(), loss.detach()

    def _count(self, skipped: bool, loss: float, norm: float) -> None:
        """Count and log a skipped step; a `UserError` where there are too many in a row."""
        if not skipped:
            self.skipped_in_row = 0
            return
        self.skipped_steps += 1
        self.skipped_in_row += 1
        logger.warning(
            "iteration %d: step skipped, %d in a row: the loss is %g, the norm of the gradient %g%s",
            *(self.state.iteration, self.skipped_in_row, loss, norm),
            f"; the loss scale falls to {self.scaler.get_scale():g}" if self.scaler.is_enabled() else "",
        )
        if self.skipped_in_row > self.max_skipped_steps:
            raise self._not_finite(f"no more than --max_skipped_steps {self.max_skipped_steps}")

    def _not_finite(self, wanted: str) -> UserError:
        found = f"{self.skipped_in_row} steps in a row without a finite loss and gradient"
        return UserError("LOSS_NOT_FINITE", f"iteration {self.state.iteration}", found, wanted, self._remedy())

    def _remedy(self) -> str:
        reduced = self.precision.dtype is not None
        if self.last_checkpoint is None:
            return "--precision float32" if reduced else "lower --learning_rate"
        if reduced:
            change = "--precision float32"
        else:
            change = f"--seed {self.seed + 1} (other batches; or restart with a lower --learning_rate)"
        return f"rerun the command with --resume true {change} to continue from {self.last_checkpoint}, which is intact"


class Handlers:
    """Handler that attaches others: those that a user or MONAI's `--tracking mlflow` adds to an engine's own.

    Args:
        handlers: each with `attach(engine)`.
        artifacts: files that an `MLFlowHandler` keeps at the end, those that are there.
        training: the engine is of a training, whose curves `medseg3d.training.attach_tensorboard` logs, to MLflow too;
            an `MLFlowHandler` then logs none of its own.
    """

    def __init__(self, handlers: Sequence[Any], artifacts: Sequence[str | Path] = (), training: bool = False) -> None:
        self.handlers = handlers
        self.artifacts = tuple(map(str, artifacts))
        self.training = training

    def attach(self, engine: Engine) -> None:
        """Attach each of them, in order."""
        for handler in self.handlers:
            if isinstance(handler, MLFlowHandler):
                handler.artifacts = (*handler.artifacts, *self.artifacts)
                if self.training:
                    handler.iteration_log = handler.epoch_log = False
                if isinstance(engine, SegmentationTrainer):
                    engine.trackers.append(handler)
            handler.attach(engine)


@contextmanager
def part_of_batch(part: int, batch: int, at_a_time: int) -> Iterator[None]:
    """While a part of a batch goes through a network in training: `UserError` where BatchNorm has one value of a
    channel.

    A map that is pooled over the image, as in DeepLabv3+, has one value of each channel for every image, and a
    single image no variance of them.

    Raises:
        UserError: `BATCH_PART`.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        whole = part == batch
        knob = f"--batch_size {batch}" if whole else f"--micro_batch_size {at_a_time}"
        found = f"{part} at a time of a batch of {batch}: {error}"
        remedy = "--batch_size 2 or more" if whole else "choose at least 2, of which --batch_size is a multiple"
        raise UserError("BATCH_PART", knob, found, "parts that the network can train on", remedy) from error
