"""Checkpoints that survive any interruption, and the best weights of a run.

A run folder holds `checkpoints/epoch_NNNNN.pt` (everything needed to resume, the newest two are kept) and `model.pt`
(the state dict of the best validation, CPU tensors, loadable with `weights_only=True`), each with its
SHA-256 next to it.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch.optim.lr_scheduler import LambdaLR

from medseg3d.errors import UserError
from medseg3d.files.atomic import remove_leftovers
from medseg3d.files.tensors import read_tensors, save_tensors
from medseg3d.knobs import as_flag, choice
from medseg3d.ranks import agreed, rank
from medseg3d.training.averaging import WeightAverage
from medseg3d.training.pretrained import write_initial_weights
from medseg3d.training.sampler import EpochSampler
from medseg3d.training.trainer import SegmentationTrainer

logger = logging.getLogger("medseg3d")

KEPT_CHECKPOINTS = 2
"""One to resume from, and one in case that it is damaged."""

_PROGRESS = ("last_epoch", "_step_count", "_last_lr", "best", "num_bad_epochs", "cooldown_counter")
"""What of the state of torch's and MONAI's schedules changes as a training continues."""


def cpu_state_dict(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The network's state dict as contiguous tensors on the CPU, so that it loads on a machine without a GPU."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


class BestModel:
    """Handler of the validation engine that keeps the weights of the best epoch in `model_file`.

    Args:
        network: the network whose weights are kept.
        model_file: where they are kept.
        metric_name: name of the score in `engine.state.metrics`; greater is better.

    Attributes:
        best: best score so far, -inf before the first.
        best_epoch: its epoch, 1-based; 0 before the first.
        last_epoch: the last epoch that was validated.
    """

    def __init__(self, network: torch.nn.Module, model_file: str | Path, metric_name: str = "val_dice_mean") -> None:
        self.network = network
        self.model_file = Path(model_file)
        self.metric_name = metric_name
        self.best = -math.inf
        self.best_epoch = 0
        self.last_epoch = 0

    def attach(self, engine: Engine) -> None:
        """Judge the network each time that `engine` has completed a validation."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save the weights if this validation is the best so far."""
        score = engine.state.metrics[self.metric_name]
        self.last_epoch = engine.state.epoch
        if math.isnan(score):
            logger.warning("epoch %d: %s is undefined", self.last_epoch, self.metric_name)
            return
        better = score > self.best
        if score == 0 < self.best:
            logger.warning(
                "epoch %d: %s has fallen to 0 from %.4f (epoch %d): the network no longer finds anything. Check the "
                "gradient norm and the attention in TensorBoard; lower --learning_rate",
                self.last_epoch,
                self.metric_name,
                self.best,
                self.best_epoch,
            )
        if better:
            self.best, self.best_epoch = score, self.last_epoch
            self._save()
        logger.info(
            "epoch %d: %s %.4f%s",
            self.last_epoch,
            self.metric_name,
            score,
            " (best so far, saved)" if better else f" (best {self.best:.4f} in epoch {self.best_epoch})",
        )

    def state_dict(self) -> dict[str, float]:
        """What a resumed run must remember."""
        return {"best": self.best, "best_epoch": self.best_epoch, "last_epoch": self.last_epoch}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Remember an earlier run's best."""
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])
        self.last_epoch = int(state["last_epoch"])

    def _save(self) -> None:
        if rank() == 0:
            save_tensors(self.model_file, cpu_state_dict(self.network))


class LastModel(BestModel):
    """Handler like `BestModel` that saves the weights at every validation, whatever the score.

    For protocols without a validation set, which look at the test set during training: no score selects a checkpoint.
    A training is validated after its last epoch, so the weights of that epoch remain. `EarlyStop` never stops it.
    """

    def __call__(self, engine: Engine) -> None:
        """Save the weights."""
        self.best = engine.state.metrics[self.metric_name]
        self.best_epoch = self.last_epoch = engine.state.epoch
        self._save()
        logger.info(
            "epoch %d: %s %.4f (saved: checkpoint_selection is last)", self.last_epoch, self.metric_name, self.best
        )


CHECKPOINT_SELECTIONS = {"best": BestModel, "last": LastModel}


def model_saver(
    network: torch.nn.Module,
    model_file: str | Path,
    metric_name: str = "val_dice_mean",
    checkpoint_selection: str = "best",
) -> BestModel:
    """The handler that saves the weights of the best or of the last validation.

    Arguments are those of `BestModel`, and `checkpoint_selection`: `best` or `last`.

    Raises:
        UserError: `BAD_VALUE` for any other `checkpoint_selection`.
    """
    return choice("checkpoint_selection", checkpoint_selection, CHECKPOINT_SELECTIONS)(network, model_file, metric_name)


class Validation:
    """Handler of the trainer that validates every `interval` epochs and after the last, so that no run ends unjudged.

    (MONAI's `ValidationHandler` leaves out the last epoch when `interval` does not divide it.)

    Args:
        evaluator: the engine that validates.
        interval: epochs.
    """

    def __init__(self, evaluator: Evaluator, interval: int) -> None:
        if interval < 1:
            raise ValueError(f"interval must be at least 1 epoch, got {interval}")
        self.evaluator = evaluator
        self.interval = interval
        # every process validates on all cases; what follows from the scores has to be the same in all of them
        evaluator.add_event_handler(Events.EPOCH_COMPLETED, _agree_on_scores)

    def attach(self, engine: Engine) -> None:
        """Validate after epochs of the trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Validate if it is time to."""
        if engine.state.epoch % self.interval == 0 or engine.state.epoch == engine.state.max_epochs:
            self.evaluator.run(engine.state.epoch)


class EarlyStop:
    """Handler of the trainer that ends a training whose validation has not improved for `patience` epochs.

    Args:
        best_model: knows the best and the last validated epoch.
        patience: epochs; 0 never stops.
    """

    def __init__(self, best_model: BestModel, patience: int) -> None:
        if patience < 0:
            raise ValueError(f"patience must be 0 (never) or a number of epochs, got {patience}")
        self.best_model = best_model
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Look after each epoch of the trainer, and before the first, where a resumed run may have been stopped."""
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Terminate the training when patience is at its end."""
        waited = self.best_model.last_epoch - self.best_model.best_epoch
        if self.patience and self.best_model.best_epoch and waited >= self.patience:
            logger.info("no better validation for %d epochs (patience %d): stopping", waited, self.patience)
            engine.terminate()


class RunCheckpoint:
    """Handler of the trainer that writes everything a run needs to resume, after each epoch.

    Args:
        folder: where the checkpoints are kept.
        trainer: the trainer; its network, optimizer, precision, scaler, position and skipped steps are saved.
        lr_scheduler: its state is saved.
        best_model: its state is saved.
        stream: told at which epoch to start when a run is resumed.
        average: its state is saved; None for a training without.
    """

    def __init__(
        self,
        folder: str | Path,
        trainer: SegmentationTrainer,
        lr_scheduler: Any,
        best_model: BestModel,
        stream: EpochSampler,
        average: WeightAverage | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.trainer = trainer
        self.lr_scheduler = lr_scheduler
        self.best_model = best_model
        self.stream = stream
        self.average = average or WeightAverage(trainer.network, decay=0.0)

    def attach(self, engine: Engine) -> None:
        """Save after each epoch; attach it last, so that validation and schedule have had their turn."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write this epoch's checkpoint, then remove all but the newest two."""
        path = self.folder / f"epoch_{engine.state.epoch:05d}.pt"
        self.trainer.last_checkpoint = path
        if rank() > 0:
            return
        save_tensors(
            path,
            {
                "epoch": engine.state.epoch,
                "epoch_length": engine.state.epoch_length,
                "network": cpu_state_dict(self.trainer.network),
                "optimizer": self.trainer.optimizer.state_dict(),
                "lr_scheduler": self.lr_scheduler.state_dict(),
                "precision": self.trainer.precision.name,
                "scaler": self.trainer.scaler.state_dict(),
                "skipped_steps": self.trainer.skipped_steps,
                "skipped_in_row": self.trainer.skipped_in_row,
                "best_model": self.best_model.state_dict(),
                "average": self.average.state_dict(),
            },
        )
        for old in find_checkpoints(self.folder)[KEPT_CHECKPOINTS:]:
            old.unlink()
            old.with_name(old.name + ".sha256").unlink(missing_ok=True)

    def resume(self) -> int:
        """Restore the newest checkpoint that is whole.

        Returns:
            The number of completed epochs; 0 when there is no checkpoint.

        Raises:
            UserError: `CHECKPOINT` when it belongs to another network or another epoch length, or when every checkpoint
                is damaged.
        """
        remove_leftovers(self.folder)
        found = find_checkpoints(self.folder)
        damaged: list[UserError] = []
        for path in found:
            try:
                state = read_tensors(path)
            except UserError as error:
                logger.warning("%s; falling back to the checkpoint before it", error)
                damaged.append(error)
                continue
            self._restore(path, state)
            return int(state["epoch"])
        if damaged:
            raise damaged[0]
        logger.warning("no checkpoint in %s: starting from the first epoch", self.folder)
        return 0

    def _restore(self, path: Path, state: Mapping[str, Any]) -> None:
        trainer = self.trainer
        if state["epoch_length"] != trainer.state.epoch_length:
            found = f"{state['epoch_length']} iterations per epoch"
            remedy = "resume with the same data, --batch_size and --iterations_per_epoch"
            raise UserError("CHECKPOINT", path, found, f"{trainer.state.epoch_length}, as this run has", remedy)
        try:
            trainer.network.load_state_dict(state["network"])
            trainer.optimizer.load_state_dict(state["optimizer"])
            self.average.load_state_dict(state.get("average", {}))
        except (RuntimeError, ValueError) as error:
            wanted = "the state of this run's network, optimizer and weight average"
            remedy = "resume with the same network options and --ema_decay, or choose another --output_dir"
            raise UserError("CHECKPOINT", path, " ".join(str(error).split())[:300], wanted, remedy) from error
        _go_on_with(self.lr_scheduler, state["lr_scheduler"])
        trainer.go_on_in(
            state.get("precision", trainer.precision.name),  # older checkpoints do not say it, and count no steps
            state["scaler"],
            state.get("skipped_steps", 0),
            state.get("skipped_in_row", 0),
        )
        trainer.last_checkpoint = path
        self.best_model.load_state_dict(state["best_model"])
        trainer.load_state_dict(
            {
                "epoch": state["epoch"],
                "epoch_length": state["epoch_length"],
                # ignite refuses a state that is further than max_epochs; such a run has nothing left to do
                "max_epochs": max(trainer.state.max_epochs, state["epoch"]),
            }
        )
        self.stream.start_epoch = state["epoch"]
        logger.info("resuming after epoch %d of %d (%s)", state["epoch"], trainer.state.max_epochs, path)


def _agree_on_scores(engine: Engine) -> None:
    engine.state.metrics = agreed(engine.state.metrics)


def _go_on_with(lr_scheduler: Any, saved: Mapping[str, Any]) -> None:
    """Take up how far a schedule is, not how long it was: a training that is made longer goes by its new length."""
    progress = {name: saved[name] for name in _PROGRESS if name in saved}
    lr_scheduler.load_state_dict({**lr_scheduler.state_dict(), **progress})
    if isinstance(lr_scheduler, LambdaLR):  # the rate that was saved is the next one of the old length
        rates = zip(lr_scheduler.base_lrs, lr_scheduler.lr_lambdas, strict=True)
        for group, (rate, factor) in zip(lr_scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(lr_scheduler.last_epoch)


def find_checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints in a folder, newest epoch first."""
    return sorted(
        (path for path in Path(folder).glob("epoch_*.pt") if re.fullmatch(r"epoch_\d+\.pt", path.name)),
        key=lambda path: int(path.stem.removeprefix("epoch_")),
        reverse=True,
    )


def attach_checkpoints(
    trainer: SegmentationTrainer,
    best_model: BestModel,
    stream: EpochSampler,
    lr_scheduler: Any,
    output_dir: str | Path,
    resume: bool | str = False,
    average: WeightAverage | None = None,
) -> RunCheckpoint:
    """Let `trainer` write checkpoints to `output_dir/checkpoints`, and first go back to the newest one if asked to.

    A training that begins writes what its network begins with. An `average` is attached to the trainer too. (Among the
    trainer's handlers in a config it would stand as a reference, which MONAI's `check_properties` takes for a
    dictionary.)
    """
    checkpoint = RunCheckpoint(Path(output_dir) / "checkpoints", trainer, lr_scheduler, best_model, stream, average)
    if as_flag(resume, "resume"):
        checkpoint.resume()
    if trainer.state.epoch == 0:
        write_initial_weights(trainer.network, output_dir)
    checkpoint.average.attach(trainer)
    checkpoint.attach(trainer)
    return checkpoint


def claim_run_folder(
    output_dir: str | Path, model_file: str | Path, resume: bool | str = False, overwrite: bool | str = False
) -> None:
    """Make sure that a training does not write over another one by accident.

    Args:
        output_dir: the run folder.
        model_file: the weights that the run will write.
        resume: the run continues with what is there.
        overwrite: what is there is removed: checkpoints, weights and TensorBoard events.

    Raises:
        UserError: `RUN_EXISTS` when there is a run and it shall neither be resumed nor overwritten. Of several
            processes the first one looks.
    """
    if rank() > 0:
        return
    output_dir, model_file = Path(output_dir), Path(model_file)
    checkpoints = find_checkpoints(output_dir / "checkpoints")
    if as_flag(resume, "resume") or not (checkpoints or model_file.exists()):
        return
    if not as_flag(overwrite, "overwrite"):
        state = (
            f"checkpoints up to epoch {int(checkpoints[0].stem.removeprefix('epoch_'))}"
            if checkpoints
            else "a model.pt"
        )
        remedy = "--resume true to continue it, --output_dir for another folder, or --overwrite true to remove it"
        raise UserError("RUN_EXISTS", output_dir, f"a run with {state}", "a new folder", remedy)
    for path in (*checkpoints, model_file):
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".sha256").unlink(missing_ok=True)
    for path in output_dir.glob("events.out.tfevents.*"):
        path.unlink()
