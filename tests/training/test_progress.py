from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.handlers import LrScheduleHandler
from picture_runs import scalars
from torch import nn

from medseg3d.training import SegmentationTrainer, attach_tensorboard


@pytest.mark.parametrize("epoch_level", [True, False], ids=["by the epoch", "by the iteration"])
def test_tensorboard_has_the_learning_rate_that_a_step_was_taken_with(tmp_path: Path, epoch_level: bool) -> None:
    cases = [{"image": torch.rand(1, 4, 4), "label": torch.ones(1, 4, 4)}] * 2
    network = nn.Conv2d(1, 1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    halved = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    trainer = SegmentationTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(Dataset(cases), batch_size=1),
        network=network,
        optimizer=optimizer,
        loss_function=nn.BCEWithLogitsLoss(),
        train_handlers=[LrScheduleHandler(halved, print_lr=False, epoch_level=epoch_level)],
    )
    attach_tensorboard(trainer, Engine(lambda *_: None), tmp_path)
    taken: list[float] = []
    optimizer.register_step_pre_hook(lambda each, *_: taken.append(each.param_groups[0]["lr"]))
    trainer.run()
    assert taken == ([1.0, 1.0, 0.5, 0.5] if epoch_level else [1.0, 0.5, 0.25, 0.125])
    assert scalars(tmp_path)["learning_rate"] == list(enumerate(taken, start=1))


def test_tensorboard_has_the_gradients_norm_of_each_step_and_the_share_of_skipped_ones(tmp_path: Path) -> None:
    cases = [{"image": torch.full((1, 2, 2), fill), "label": torch.ones(1, 2, 2)} for fill in (2.0, float("nan"))]
    network = nn.Conv2d(1, 1, 1)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    trainer = SegmentationTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(Dataset(cases), batch_size=1),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=nn.BCEWithLogitsLoss(),
    )
    attach_tensorboard(trainer, Engine(lambda *_: None), tmp_path)
    trainer.run()
    logged = scalars(tmp_path)
    # at logits of 0 the gradient is (0.5 - 1) * 2 by the weight and 0.5 - 1 by the bias
    norms = dict(logged["gradient_norm"])
    assert [norms[1], norms[3]] == pytest.approx([1.25**0.5] * 2)
    assert torch.tensor([norms[2], norms[4]]).isnan().all()
    assert logged["skipped_steps"] == [(2, 0.5), (4, 0.5)]
