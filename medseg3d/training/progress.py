"""What a person sees of a running training: a progress bar, and curves and images in TensorBoard and MLflow."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from medseg3d.pictures.overlays import draw_errors
from medseg3d.ranks import rank
from medseg3d.training.attention import AttentionWatch
from medseg3d.training.trainer import SegmentationTrainer
from medseg3d.volumes.planes import mask_centre, plane_slices

_COMPUTED = re.compile(r'"[$@%]|"_target_"|"_desc_"')


def attach_progress_bar(trainer: SegmentationTrainer) -> None:
    """Show one bar over the whole training: epoch, iterations, loss, last validation score, time taken and time left.

    (ignite's `ProgressBar` starts again each epoch, so its time left is the epoch's.)
    """
    bar = tqdm(
        total=trainer.state.max_epochs * trainer.state.epoch_length,
        initial=trainer.state.iteration,
        desc="training",
        unit="it",
        dynamic_ncols=True,
        disable=True if rank() > 0 else None,  # None: silent where nobody watches, as in a log file
    )

    def advance(engine: Engine) -> None:
        bar.set_description(f"epoch {engine.state.epoch}/{engine.state.max_epochs}", refresh=False)
        bar.set_postfix(loss=f"{engine.state.output['loss'].item():.3f}", refresh=False)
        bar.update(engine.state.iteration - bar.n)

    trainer.add_event_handler(Events.ITERATION_COMPLETED, advance)
    trainer.add_event_handler(Events.COMPLETED, lambda _: bar.close())


class MLflowWriter:
    """What `SummaryWriter` is to TensorBoard, to the run of an `MLFlowHandler` of MONAI's.

    Scalars are sent when they are flushed: one by one they would take as long as a small step.
    """

    MOST, MOST_KNOBS = 1000, 100
    """Numbers and parameters that MLflow takes at once."""

    def __init__(self, handler: MLFlowHandler) -> None:
        self.handler = handler
        self._waiting: list[Any] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Log a number."""
        from mlflow.entities import Metric

        self._waiting.append(Metric(tag, float(value), int(1000 * time.time()), step))

    def add_image(self, tag: str, image: np.ndarray, step: int, dataformats: str = "HWC") -> None:
        """Log an image (H, W, 3), uint8; characters that MLflow does not take in a name are `_`."""
        key = re.sub(r"[^\w\-. /]", "_", tag, flags=re.ASCII)
        self.handler.client.log_image(self._run_id, image, key=key, step=step)

    def add_knobs(self, knobs: Mapping[str, Any]) -> None:
        """Log knobs as parameters of the run, which MLflow never changes: a resumed run has those it began with."""
        from mlflow.entities import Param

        logged = self.handler.client.get_run(self._run_id).data.params
        new = [Param(name, str(value)) for name, value in knobs.items() if name not in logged]
        for start in range(0, len(new), self.MOST_KNOBS):
            self.handler.client.log_batch(self._run_id, params=new[start : start + self.MOST_KNOBS])

    def flush(self) -> None:
        """Send what waits."""
        for start in range(0, len(self._waiting), self.MOST):
            self.handler.client.log_batch(self._run_id, metrics=self._waiting[start : start + self.MOST])
        self._waiting = []

    def close(self) -> None:
        """Nothing: the handler ends the run."""

    @property
    def _run_id(self) -> str:
        return self.handler.cur_run.info.run_id


def knobs_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs in a resolved config: what is neither computed nor a component.

    Example:
        >>> knobs_of({"_desc_": "a", "epochs": 2, "model_file": "$os.path.join(@output_dir, 'm.pt')", "labels": [0, 1]})
        {'epochs': 2, 'labels': [0, 1]}
    """
    return {
        name: value
        for name, value in config.items()
        if not name.startswith("_") and not _COMPUTED.search(json.dumps(value))
    }


class TrainingLog:
    """Handler that logs knobs, loss, learning rate and gradient per iteration, attention per epoch, and validations.

    Parameters with a rate of their own have it under `learning_rate_group_1` and so on.

    Of every attention in the network `attention/<name>/entropy` is a share of the possible and
    `attention/<name>/largest_logit` the largest absolute value before the softmax.

    Where several losses take turns, `objective` is the number of the one whose turn it is, and each has a tag of its
    own next to `train_loss`, such as `train_loss_final`.

    `gradient_norm` is the L2 norm before clipping; `skipped_steps`, once an epoch, the share of its steps that were
    skipped because the loss or the gradient was not finite.

    Every step is the trainer's iteration, so that a resumed run can tell TensorBoard which events it repeats. The
    learning rate of an iteration is the one that its step is taken with: it is read before the iteration, after which
    a schedule may have set the next one's.

    Args:
        trainer: the engine that trains.
        output_dir: the run folder; events are written there. Its `config.json`, where there is one, has the knobs.
        images: how many of the first validation cases are drawn.
    """

    def __init__(self, trainer: SegmentationTrainer, output_dir: str | Path, images: int = 2) -> None:
        self.trainer = trainer
        self.images = images
        self.config = Path(output_dir) / "config.json"
        done = trainer.state.iteration
        self.writers: list[SummaryWriter | MLflowWriter] = [
            SummaryWriter(str(output_dir), purge_step=done + 1 if done else None),
            *map(MLflowWriter, trainer.trackers),
        ]
        trainer.add_event_handler(Events.STARTED, self._log_knobs)
        trainer.add_event_handler(Events.ITERATION_STARTED, self._log_learning_rate)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._log_iteration)
        self.watch = AttentionWatch(trainer.network)
        self.watch.attach(trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._log_epoch)
        trainer.add_event_handler(Events.COMPLETED, self._close)

    def attach(self, evaluator: Engine) -> None:
        """Log the validations of `evaluator`."""
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._draw_case)
        evaluator.add_event_handler(Events.COMPLETED, self._log_validation)

    def _log_knobs(self, engine: Engine) -> None:
        if not self.config.is_file():  # a training from Python
            return
        knobs = knobs_of(json.loads(self.config.read_text(encoding="utf-8")))
        for writer in self.writers:
            if isinstance(writer, MLflowWriter):
                writer.add_knobs(knobs)
            else:
                rows = "\n".join(f"| {name} | `{value}` |" for name, value in knobs.items())
                writer.add_text("knobs", f"| knob | value |\n|---|---|\n{rows}", engine.state.iteration)

    def _log_learning_rate(self, engine: Engine) -> None:
        for number, group in enumerate(self.trainer.optimizer.param_groups):
            tag = f"learning_rate_group_{number}" if number else "learning_rate"
            self._log(tag, group["lr"], engine.state.iteration)

    def _log_iteration(self, engine: Engine) -> None:
        step = engine.state.iteration
        loss = engine.state.output["loss"].item()
        self._log("train_loss", loss, step)
        self._log("gradient_norm", engine.state.output["gradient_norm"].item(), step)
        objectives, turn = self.trainer.schedule.objectives, self.trainer.turn
        if len(objectives) > 1:
            self._log("objective", turn, step)
            self._log(f"train_loss_{objectives[turn].name}", loss, step)

    def _log_epoch(self, engine: Engine) -> None:
        for name, found in self.watch.statistics.items():
            self._log(f"attention/{name}/entropy", found.entropy, engine.state.iteration)
            self._log(f"attention/{name}/largest_logit", found.largest_logit, engine.state.iteration)
        self._log("skipped_steps", self.trainer.skipped_share, engine.state.iteration)
        for writer in self.writers:
            writer.flush()

    def _close(self, engine: Engine) -> None:
        for writer in self.writers:
            writer.close()

    def _log(self, tag: str, value: float, step: int) -> None:
        for writer in self.writers:
            writer.add_scalar(tag, value, step)

    def _log_validation(self, engine: Engine) -> None:
        for name, value in engine.state.metrics.items():
            self._log(name, value, self.trainer.state.iteration)

    def _draw_case(self, engine: Engine) -> None:
        if engine.state.iteration > self.images:
            return
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            image, truth, pred = (
                torch.as_tensor(output[key]).as_subclass(torch.Tensor)[0].cpu().numpy()
                for key in ("image", "label", "pred")
            )
            panel = (three_plane_panel if image.ndim == 3 else picture_panel)(image, truth, pred)
            for writer in self.writers:
                writer.add_image(f"validation/{batch['case']}", panel, self.trainer.state.iteration, dataformats="HWC")


def attach_tensorboard(
    trainer: SegmentationTrainer, evaluator: Engine, output_dir: str | Path, images: int = 2
) -> None:
    """Log `trainer` and its `evaluator` to TensorBoard events in `output_dir`, and to the runs of MLflow that its
    handlers begin; of several processes, the first.
    """
    if rank() > 0:
        return
    TrainingLog(trainer, output_dir, images).attach(evaluator)


def three_plane_panel(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """An RGB picture: axial, coronal and sagittal plane in columns, plain above and with errors in colour below.

    The planes go through the ground truth and the prediction, as `medseg3d.volumes.planes` shows them. Voxels are drawn
    square.

    Args:
        image: (X, Y, Z) float in [0, 1], axes towards Right, Anterior, Superior (RAS).
        truth: (X, Y, Z) integer labels, 0 is background.
        pred: (X, Y, Z) integer labels.

    Returns:
        (H, W, 3) uint8.

    Example:
        >>> three_plane_panel(np.zeros((4, 6, 8)), np.zeros((4, 6, 8), int), np.zeros((4, 6, 8), int)).shape
        (16, 14, 3)
    """
    voxels = np.eye(4)
    centre = mask_centre((truth > 0) | (pred > 0), voxels)
    cuts = zip(*(plane_slices(volume, voxels, centre).values() for volume in (image, truth, pred)), strict=True)
    columns = [picture_panel(*(cut.pixels for cut in plane)) for plane in cuts]
    height = max(column.shape[0] for column in columns)
    return np.concatenate(
        [np.pad(column, ((0, height - column.shape[0]), (0, 0), (0, 0))) for column in columns], axis=1
    )


def picture_panel(image: np.ndarray, truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """An RGB picture of a 2-D case: plain above and with its errors (`medseg3d.pictures.overlays.draw_errors`) below.

    Args:
        image: (H, W) float in [0, 1].
        truth: (H, W) integer labels, 0 is background.
        pred: (H, W) integer labels.

    Returns:
        (2 H, W, 3) uint8.

    Example:
        >>> picture_panel(np.zeros((4, 6)), np.ones((4, 6), int), np.ones((4, 6), int))[4, 0].tolist()
        [0, 95, 69]
    """
    plain = np.repeat((np.clip(image, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    return np.concatenate([plain, draw_errors(plain, truth, pred)], axis=0)
