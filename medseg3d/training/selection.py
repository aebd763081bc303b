"""Which weights of a training are kept."""

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
    """`BestModel` that keeps the weights of the last validation whatever its score, so that no score selects anything.

    For protocols without a validation set, which look at the test set while they train. A training is validated after
    its last epoch, so what stays is that epoch's. `EarlyStop` never stops it.
    """

    def __call__(self, engine: Engine) -> None:
        """Save the weights."""
        self.best = engine.state.metrics[self.metric_name]
        self.best_epoch = self.last_epoch = engine.state.epoch
        if rank() == 0:
            save_tensors(self.model_file, cpu_state_dict(self.network))
        logger.info("epoch %d: %s %.4f (saved, as any)", self.last_epoch, self.metric_name, self.best)


SELECTIONS = {"best": BestModel, "last": LastModel}


def kept_model(
    network: torch.nn.Module, model_file: str | Path, metric_name: str = "val_dice_mean", selection: str = "best"
) -> BestModel:
    """The handler that keeps the weights of the best or of the last validation.

    Args:
        network: as `BestModel` has it.
        model_file: as `BestModel` has it.
        metric_name: as `BestModel` has it.
        selection: `best` or `last`.

    Raises:
        UserError: `BAD_VALUE` for another selection.
    """
    return choice("selection", selection, SELECTIONS)(network, model_file, metric_name)
