from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.transforms import RandFlipd, RandGaussianNoised
from torch import nn

from medseg3d.errors import UserError
from medseg3d.training import AuxiliaryLoss, BatchAugmentation, BinaryCrossEntropy, Handlers, SegmentationTrainer


class TwoHeads(nn.Module):
    """Two convolutions of one image, both returned while training."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.auxiliary = nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(3, 1, 1)

    def forward(self, x: torch.Tensor) -> Any:
        logits = self.main(x)
        return (logits, self.auxiliary(x)) if self.training else logits


class PooledOverPicture(nn.Module):
    """BatchNorm of one value for each image and channel, as DeepLabv3+ has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 1, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x + self.norm(x.mean((2, 3), keepdim=True)))


def five_cases() -> list[dict[str, torch.Tensor]]:
    """Pictures of 8 x 8 pixels with their masks."""
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.rand(3, 8, 8, generator=generator), "label": torch.rand(1, 8, 8, generator=generator).round()}
        for _ in range(5)
    ]


def trained(network: nn.Module, loss: nn.Module, batch_size: int = 5, **settings: Any) -> tuple[nn.Module, float]:
    """A copy of the network after one epoch of the five cases, and the last loss that was reported."""
    network = copy.deepcopy(network)
    trainer = SegmentationTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(Dataset(five_cases()), batch_size=batch_size),
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
    one, other, before = (
        torch.cat([parameter.flatten() for parameter in each.parameters()]) for each in (whole, parts, network)
    )
    assert torch.allclose(one, other, atol=1e-6)
    assert (one != before).all()


@pytest.mark.parametrize("size", [0, 2])
def test_a_batch_is_augmented_once_whatever_the_parts(size: int) -> None:
    network, loss = nn.Conv2d(3, 1, 3, padding=1), nn.BCEWithLogitsLoss()
    augment = BatchAugmentation([RandFlipd(["image", "label"], 0.5, 0), RandGaussianNoised("image", 0.5)])
    found, found_loss = trained(network, loss, micro_batch_size=size, augmentation=augment, seed=4)
    batch = augment(next(iter(DataLoader(Dataset(five_cases()), batch_size=5))), seed=4, iteration=1)
    expected = loss(network(batch["image"]), batch["label"])
    expected.backward()
    assert found_loss == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(found.weight, network.weight - 0.5 * network.weight.grad, atol=1e-6)
    assert trained(network, loss)[1] != pytest.approx(expected.item(), abs=1e-4)


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
        (1, 0, r"--batch_size 1: 1 at a time of a batch of 1: .*. Hint: --batch_size 2 or more"),
        (5, 1, r"--micro_batch_size 1: 1 at a time of a batch of 5: .*. Hint: choose at least 2"),
        (5, 2, r"--micro_batch_size 2: 1 at a time of a batch of 5: .*. Hint: choose at least 2"),
    ],
)
def test_a_part_that_cannot_be_normalised_is_refused_before_any_step(
    batch_size: int, size: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, steps, step = PooledOverPicture(), [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: steps.append(1) or step(self))
    with pytest.raises(UserError, match=f"BATCH_PART {words}"):
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


class Normed(nn.Module):
    """A convolution, BatchNorm and another convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.end = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.norm(self.conv(x)).relu())


def picture(fill: float | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, 8, 8, generator=generator)
    if fill is not None:
        image[0, 0, 0] = fill
    return {"image": image, "label": torch.rand(1, 8, 8, generator=generator).round()}


def training(cases: list[dict], batch_size: int = 1, network: nn.Module | None = None, **settings: Any):
    torch.manual_seed(0)
    network = network or Normed()
    trainer = SegmentationTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(Dataset(cases), batch_size=batch_size),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=0.1),
        **{"loss_function": nn.BCEWithLogitsLoss(), **settings},
    )
    trainer.outputs = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: trainer.outputs.append(engine.state.output))
    return trainer


def state_of(trainer: SegmentationTrainer) -> dict[str, torch.Tensor]:
    moments = trainer.optimizer.state_dict()["state"]
    state = {f"{number}.{name}": value for number, each in moments.items() for name, value in each.items()}
    return {**trainer.network.state_dict(), **state}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("batch_size", "settings"), [(1, {}), (2, {"micro_batch_size": 1}), (2, {"max_grad_norm": 0.1})]
)
def test_a_step_that_is_not_finite_leaves_no_trace(
    bad: float, precision: str, batch_size: int, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    good = [picture(seed=number) for number in range(6)]
    spoiled = [*good[:2], *[picture(bad)] * batch_size, *good[2:]]
    if batch_size == 2:
        spoiled[2] = good[0]  # the other half of a spoiled batch is sound
    with_it = training(spoiled, batch_size, precision=precision, **settings)
    without = training(good, batch_size, precision=precision, **settings)
    for trainer in (with_it, without):
        trainer.run()
    found, expected = ({name: value.float() for name, value in state_of(each).items()} for each in (with_it, without))
    # in float16 the scale has halved, and small gradients are rounded elsewhere
    atol = 2e-2 if precision == "float16" else 0
    assert [name for name in found if not torch.allclose(found[name], expected[name], atol=atol)] == []
    place = 2 // batch_size
    assert [output["skipped"] for output in with_it.outputs] == [
        number == place for number in range(len(with_it.outputs))
    ]
    assert (with_it.skipped_steps, with_it.skipped_in_row, without.skipped_steps) == (1, 0, 0)
    assert with_it.skipped_share == pytest.approx(1 / len(with_it.outputs))
    lines = [line for line in caplog.messages if "skipped" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"iteration {place + 1}: step skipped, 1 in a row: the loss is nan")
    assert lines[0].endswith("the loss scale falls to 32768" if precision == "float16" else "nan")


def test_a_gradient_that_is_not_finite_is_as_bad_as_a_loss() -> None:
    network = nn.Conv2d(3, 1, 1)
    before = copy.deepcopy(network)
    network.weight.register_hook(lambda gradient: gradient * float("inf"))
    trainer = training([picture()], network=network)
    with pytest.raises(UserError, match="LOSS_NOT_FINITE"):
        trainer.run()
    assert torch.isfinite(trainer.outputs[0]["loss"])
    assert trainer.skipped_steps == 1
    assert torch.equal(network.bias, before.bias)


def test_float16_halves_its_scale_until_the_gradient_fits() -> None:
    trainer = training([picture(seed=number) for number in range(12)], precision="float16")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    trainer.run()
    skipped = [output["skipped"] for output in trainer.outputs]
    halvings = sum(skipped)
    assert skipped[0]
    assert not skipped[-1]
    assert trainer.scaler.get_scale() == 2.0 ** (24 - halvings)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_network_computes_in_the_precision_and_the_loss_in_float32(precision: str) -> None:
    seen = []
    network = Normed()
    network.conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(logits.dtype)
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)

    training([picture()], network=network, precision=precision, loss_function=loss).run()
    assert seen == [getattr(torch, precision), torch.float32]


def test_many_skipped_steps_in_a_row_end_the_training_and_others_do_not() -> None:
    good, bad = picture(), picture(float("nan"))
    between = training([bad, bad, good] * 3, max_skipped_steps=2)
    between.run()
    assert between.skipped_steps == 6
    in_a_row = training([good, bad, bad, bad, good], max_skipped_steps=2)
    with pytest.raises(UserError, match="LOSS_NOT_FINITE iteration 4: 3 steps in a row without a finite loss"):
        in_a_row.run()


@pytest.mark.parametrize(
    ("precision", "checkpoint", "words"),
    [
        ("float16", None, "Hint: --precision float32$"),
        ("float32", None, "Hint: lower --learning_rate$"),
        (
            "bfloat16",
            "runs/a/epoch_00007.pt",
            "Hint: rerun the command with --resume true --precision float32 to continue from runs/a/epoch_00007.pt",
        ),
        (
            "float32",
            "runs/a/epoch_00007.pt",
            r"--resume true --seed 4 \(other batches; .*--learning_rate\) to continue from runs/a/epoch_00007.pt",
        ),
    ],
)
def test_its_end_says_how_to_go_on(precision: str, checkpoint: str | None, words: str) -> None:
    trainer = training([picture(float("nan"))], precision=precision, max_skipped_steps=0, seed=3)
    trainer.last_checkpoint = checkpoint and Path(checkpoint)
    with pytest.raises(UserError, match=words):
        trainer.run()


@pytest.mark.parametrize("max_grad_norm", [0, 0.01])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_gradients_norm_is_that_before_clipping_and_scaling(max_grad_norm: float, precision: str) -> None:
    trainer = training([picture()], max_grad_norm=max_grad_norm, precision=precision)
    network, case = copy.deepcopy(trainer.network), picture()
    trainer.run()
    nn.functional.binary_cross_entropy_with_logits(network(case["image"][None]), case["label"][None]).backward()
    norm = sum(each.grad.square().sum().item() for each in network.parameters()) ** 0.5
    assert trainer.outputs[0]["gradient_norm"].item() == pytest.approx(
        norm, rel=1e-5 if precision == "float32" else 0.01
    )
    clipped = sum(each.grad.square().sum().item() for each in trainer.network.parameters()) ** 0.5
    assert clipped == pytest.approx(max_grad_norm or norm, rel=0.01)


def test_a_training_that_ends_in_an_epoch_of_skipped_steps_fails() -> None:
    with pytest.raises(
        UserError, match=r"LOSS_NOT_FINITE iteration 2: 2 steps in a row .*expected a last epoch that trains"
    ):
        training([picture(float("nan"))] * 2).run()
    training([picture(), picture(float("nan"))]).run()


def test_fewer_skipped_steps_than_none_are_refused() -> None:
    with pytest.raises(ValueError, match="max_skipped_steps must be 0"):
        training([picture()], max_skipped_steps=-1)


def test_handlers_that_are_added_hear_the_engine_after_its_own() -> None:
    heard: list[str] = []

    class Says:
        def __init__(self, word: str) -> None:
            self.word = word

        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: heard.append(self.word))

    network = nn.Conv2d(3, 1, 1)
    trained(network, BinaryCrossEntropy(), train_handlers=[Says("own"), Handlers([Says("first"), Says("second")])])
    assert heard == ["own", "first", "second"]
