"""Which weights of a training are saved as its model: those of the best or of the last validation."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from ignite.engine import Engine

from medseg3d.files.tensors import save_tensors
from medseg3d.knobs import choice
from medseg3d.ranks import rank
from medseg3d.training.checkpoints import BestModel, cpu_state_dict

logger = logging.getLogger("medseg3d")


class LastModel(BestModel):
    """Handler like `BestModel` that saves the weights at every validation, whatever the score.

    For protocols without a validation set, which look at the test set during training: no score selects a checkpoint.
    A training is validated after its last epoch, so the weights of that epoch remain. `EarlyStop` never stops it.
    """

    def __call__(self, engine: Engine) -> None:
        """Save the weights."""
        self.best = engine.state.metrics[self.metric_name]
        self.best_epoch = self.last_epoch = engine.state.epoch
        if rank() == 0:
            save_tensors(self.model_file, cpu_state_dict(self.network))
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

    Args:
        network: as in `BestModel`.
        model_file: as in `BestModel`.
        metric_name: as in `BestModel`.
        checkpoint_selection: `best` or `last`.

    Raises:
        UserError: `BAD_VALUE` for any other `checkpoint_selection`.
    """
    return choice("checkpoint_selection", checkpoint_selection, CHECKPOINT_SELECTIONS)(network, model_file, metric_name)
