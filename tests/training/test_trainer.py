from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import nn

from medseg3d.faults import Fault
from medseg3d.training import AuxiliaryLoss, SegmentationTrainer


class TwoHeads(nn.Module):
    """Two convolutions of one picture, both returned while training."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.auxiliary = nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(3, 1, 1)

    def forward(self, x: torch.Tensor) -> Any:
        logits = self.main(x)
        return (logits, self.auxiliary(x)) if self.training else logits


class PooledOverPicture(nn.Module):
    """BatchNorm of one value for each picture and channel, as DeepLabv3+ has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 1, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x + self.norm(x.mean((2, 3), keepdim=True)))


def trained(network: nn.Module, loss: nn.Module, batch_size: int = 5, **settings: Any) -> tuple[nn.Module, float]:
    """A copy of the network after one epoch of five cases, and the last loss that was reported."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        {"image": torch.rand(3, 8, 8, generator=generator), "label": torch.rand(1, 8, 8, generator=generator).round()}
        for _ in range(5)
    ]
    network = copy.deepcopy(network)
    trainer = SegmentationTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(Dataset(cases), batch_size=batch_size),
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


@pytest.mark.parametrize(
    ("batch_size", "size", "words"),
    [
        (1, 0, r"--batch_size 1: found 1 at a time of a batch of 1: .*; next: --batch_size 2 or more"),
        (5, 1, r"--micro_batch_size 1: found 1 at a time of a batch of 5: .*; next: choose at least 2"),
        (5, 2, r"--micro_batch_size 2: found 1 at a time of a batch of 5: .*; next: choose at least 2"),
    ],
)
def test_a_part_that_cannot_be_normalised_is_refused_before_any_step(
    batch_size: int, size: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, steps, step = PooledOverPicture(), [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: steps.append(1) or step(self))
    with pytest.raises(Fault, match=f"BATCH_PART {words}"):
        trained(network, nn.BCEWithLogitsLoss(), batch_size, micro_batch_size=size)
    assert not steps
    trained(network, nn.BCEWithLogitsLoss(), micro_batch_size=3)  # of 3 and 2
    assert steps


def test_another_error_of_a_network_stays_what_it_is() -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("input size [8, 8] must be divisible by 32")

    network = nn.Conv2d(3, 1, 1)
    network.register_forward_pre_hook(refuse)
    with pytest.raises(ValueError, match="must be divisible by 32"):
        trained(network, nn.BCEWithLogitsLoss())
