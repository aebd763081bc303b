"""Parameters that do not learn, and those that learn at a rate of their own."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from medseg3d.errors import UsageError
from medseg3d.training import (
    AlternatingObjectives,
    BinaryCrossEntropy,
    Objective,
    SegmentationTrainer,
    freeze_parameters,
    learning_rate_factor,
    parameter_groups,
)
from medseg3d.training.parameter_groups import frozen_norms


class Blocks(nn.Module):
    """Two blocks of a convolution and BatchNorm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.decoder = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.decoder(self.encoder(x)))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Any = None, **settings: Any) -> None:
    """Two epochs of two steps."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        {"image": torch.rand(3, 8, 8, generator=generator), "label": torch.rand(1, 8, 8, generator=generator).round()}
        for _ in range(4)
    ]
    SegmentationTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(Dataset(cases), batch_size=2),
        network=network,
        optimizer=optimizer,
        loss_function=loss or BinaryCrossEntropy(),
        **settings,
    ).run()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1),
    "NAdam": lambda groups: torch.optim.NAdam(groups, weight_decay=0.1, decoupled_weight_decay=True),
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda groups: torch.optim.Adam(groups, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_frozen_is_bit_for_bit_what_it_was_statistics_too_and_the_rest_learns(optimizer: str) -> None:
    network = Blocks()
    before = copy.deepcopy(network.state_dict())
    freeze_parameters(network, "encoder*")
    train(network, OPTIMIZERS[optimizer](parameter_groups(network, 0.1)))
    same = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
    assert same == {name for name in before if name.startswith("encoder.")}


def test_a_norm_of_which_one_parameter_learns_counts_on() -> None:
    network = Blocks()
    freeze_parameters(network, ["encoder.1.weight", "decoder.1"])
    train(network, torch.optim.SGD(parameter_groups(network, 0.1)))
    assert [network.encoder[1].num_batches_tracked, network.decoder[1].num_batches_tracked] == [4, 0]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ((), set()),
        ("head", {"head.weight", "head.bias"}),
        (["*.bias"], {"encoder.0.bias", "encoder.1.bias", "decoder.0.bias", "decoder.1.bias", "head.bias"}),
        (["encoder.0", "head.b*"], {"encoder.0.weight", "encoder.0.bias", "head.bias"}),
        (["?ncoder.[1]"], {"encoder.1.weight", "encoder.1.bias"}),
    ],
)
def test_a_pattern_is_of_a_parameter_s_name_or_of_a_module_s(patterns, names) -> None:
    network = Blocks()
    assert set(freeze_parameters(network, patterns)) == names
    assert {name for name, each in network.named_parameters() if not each.requires_grad} == names


@pytest.mark.parametrize("pattern", ["encodr*", "ncoder", "encoder.2"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_parts_there_are(pattern) -> None:
    parts = r"as encoder\*, decoder\*, head\*"
    words = f"'{re.escape(pattern)}', which matches no parameter of this Blocks that is not frozen, .* {parts}"
    with pytest.raises(UsageError, match=f"BAD_VALUE --freeze: {words}"):
        freeze_parameters(Blocks(), ["head", pattern])
    with pytest.raises(UsageError, match=f"BAD_VALUE --lr_factors: {words}"):
        parameter_groups(Blocks(), 0.1, {"head": 0.5, pattern: 0.5})


def test_a_rate_of_what_is_frozen_is_refused() -> None:
    network = Blocks()
    freeze_parameters(network, "encoder")
    with pytest.raises(UsageError, match=r"BAD_VALUE --lr_factors: 'encoder\*', .* that is not frozen"):
        parameter_groups(network, 0.1, {"encoder*": 0.5})


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(UsageError, match="BAD_VALUE --freeze: all 10 parameters"):
        freeze_parameters(Blocks(), ["*coder*", "head"])


def test_an_objective_that_nothing_is_left_to_learn_for_is_refused() -> None:
    class Coarse(Blocks):
        def forward(self, x: torch.Tensor, refine: bool = True) -> torch.Tensor:
            coarse = self.encoder(x)[:, :1]
            return self.head(self.decoder(self.encoder(x))) + coarse if refine else coarse

    turns = AlternatingObjectives(
        [Objective(BinaryCrossEntropy(), "coarse", {"refine": False}), Objective(BinaryCrossEntropy(), "fine")]
    )
    network = Coarse()
    freeze_parameters(network, "encoder")
    with pytest.raises(UsageError, match="BAD_VALUE --freeze: all parameters that the objective coarse trains"):
        train(network, torch.optim.SGD(parameter_groups(network, 0.1)), turns)


def test_norms_that_count_over_all_processes_are_frozen_too() -> None:
    network = Blocks()
    freeze_parameters(network, "encoder")
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # as the trainer does on GPUs
    assert frozen_norms(network) == [network.encoder[1]]


def rates(groups: list[dict[str, Any]], network: nn.Module) -> dict[str, float]:
    """The rate of each parameter by its name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


def test_each_parameter_has_the_factor_of_the_first_pattern_that_matches_it() -> None:
    network = Blocks()
    found = rates(parameter_groups(network, 0.5, {"encoder.0": 0.5, "*coder*": 0.25}), network)
    own = {"encoder.0.weight": 0.25, "encoder.0.bias": 0.25, "head.weight": 0.5, "head.bias": 0.5}
    assert found == {name: own.get(name, 0.125) for name, _ in network.named_parameters()}


def test_a_factor_counts_on_top_of_a_part_s_own_rate() -> None:
    network = nn.ModuleDict({"backbone": nn.Linear(1, 1), "crf": nn.Linear(1, 1)})
    groups = parameter_groups(network, 0.5, {"*.bias": 0.5}, {"crf": 0.25, "refinement": 4.0})
    assert rates(groups, network) == {
        **{"backbone.weight": 0.5, "backbone.bias": 0.25, "crf.weight": 0.25, "crf.bias": 0.125},
    }
    assert len(groups) == 4


SCHEDULES: dict[str, tuple[Callable[[torch.optim.Optimizer], Any], list[float]]] = {
    # 1 - step / 4 after each of two steps, at power 1
    "power": (
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, 2, 2, power=1.0)
        ),
        [1.0, 0.75, 0.5],
    ),
    # the first of two warm-up steps is at 0.5 of the rate, from which it goes in a line to all of it
    "warm-up and cosine": (
        lambda optimizer: WarmupCosineSchedule(optimizer, warmup_steps=2, t_total=4, warmup_multiplier=0.5),
        [0.5, 0.75, 1.0],
    ),
    "plateau": (
        lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=0),
        [1.0, 1.0, 0.1],
    ),
    "constant": (lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0), [1.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_group_follows_the_schedule_from_its_own_rate(schedule: str) -> None:
    optimizer = torch.optim.SGD(parameter_groups(Blocks(), 0.5, {"encoder": 0.1}))
    make, factors = SCHEDULES[schedule]
    scheduler = make(optimizer)
    found = []
    for _ in factors:
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step(*([0.5] if schedule == "plateau" else []))
    assert found == [pytest.approx([0.5 * factor, 0.05 * factor]) for factor in factors]


def test_the_network_is_validated_and_trained_on_with_its_norms_as_frozen_as_before() -> None:
    network, seen = Blocks(), []
    freeze_parameters(network, "encoder")
    network.encoder[1].register_forward_hook(lambda module, *_: seen.append(module.training))
    optimizer = torch.optim.SGD(parameter_groups(network, 0.1))

    class Evaluates:
        def attach(self, engine: Any) -> None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: network.eval())

    train(network, optimizer, train_handlers=[Evaluates()])
    assert seen == [False] * 4
