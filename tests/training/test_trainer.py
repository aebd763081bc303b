from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import nn

from medseg3d.training import AuxiliaryLoss, SegmentationTrainer


class TwoHeads(nn.Module):
    """Two convolutions of one picture, both returned while training."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.auxiliary = nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(3, 1, 1)

    def forward(self, x: torch.Tensor) -> Any:
        logits = self.main(x)
        return (logits, self.auxiliary(x)) if self.training else logits


def trained(network: nn.Module, loss: nn.Module, **settings: Any) -> tuple[nn.Module, float]:
    """A copy of the network after one step on five cases, and the loss that was reported."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        {"image": torch.rand(3, 8, 8, generator=generator), "label": torch.rand(1, 8, 8, generator=generator).round()}
        for _ in range(5)
    ]
    network = copy.deepcopy(network)
    trainer = SegmentationTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(Dataset(cases), batch_size=5),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.5),
        loss_function=loss,
        **settings,
    )
    trainer.run()
    return network, trainer.state.output["loss"].item()


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_a_batch_in_parts_is_the_step_of_the_whole_batch(size: int) -> None:
    network, loss = nn.Conv2d(3, 1, 3, padding=1), nn.BCEWithLogitsLoss()
    whole, whole_loss = trained(network, loss)
    parts, parts_loss = trained(network, loss, micro_batch_size=size)
    assert parts_loss == pytest.approx(whole_loss, abs=1e-6)
    for one, other, before in zip(whole.parameters(), parts.parameters(), network.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
        assert not torch.equal(one, before)


@pytest.mark.parametrize("size", [0, 2])
def test_auxiliary_heads_are_trained_too(size: int) -> None:
    network = TwoHeads()
    after, _ = trained(network, AuxiliaryLoss(nn.BCEWithLogitsLoss(), 0.4), micro_batch_size=size)
    alone, _ = trained(network.main, nn.BCEWithLogitsLoss())
    assert torch.allclose(after.main.weight, alone.weight, atol=1e-6)
    assert not torch.equal(after.auxiliary.weight, network.auxiliary.weight)


def test_less_than_nothing_at_a_time_is_refused() -> None:
    with pytest.raises(ValueError, match="micro_batch_size must be 0"):
        trained(TwoHeads(), nn.BCEWithLogitsLoss(), micro_batch_size=-1)
