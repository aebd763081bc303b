from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.losses import DiceCELoss
from picture_runs import scalars
from torch import nn

from medseg3d.networks import SegResNetNL
from medseg3d.networks.asymmetric_nonlocal import AsymmetricNonLocal
from medseg3d.phantoms.polyps import make_polyp_phantom
from medseg3d.training import BestModel, SegmentationTrainer, attach_tensorboard
from medseg3d.training.attention import AttentionStatistics, AttentionWatch, attention_statistics

BLOCKS = ("nonlocal_blocks.0.attention", "nonlocal_blocks.1.attention")


class TestAttentionStatistics:
    def test_equal_logits_have_all_the_entropy_that_is_possible(self):
        assert attention_statistics(torch.full((2, 3, 5), -7.0)) == AttentionStatistics(1.0, 7.0)

    def test_by_hand(self):
        logits = torch.tensor([[0.0, math.log(3.0)]])  # weights of 1/4 and 3/4
        expected = (0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / math.log(2)
        found = attention_statistics(logits)
        assert found.entropy == pytest.approx(expected, abs=1e-6)
        assert found.largest_logit == pytest.approx(math.log(3.0))
        assert not found.collapsed

    @pytest.mark.parametrize("value", [1e5, float("inf"), float("nan")])
    def test_a_choice_of_one_position_has_collapsed(self, value):
        assert attention_statistics(torch.tensor([[0.0, value, 0.0]])).collapsed

    def test_a_single_position_leaves_no_choice(self):
        assert not attention_statistics(torch.zeros(1, 4, 1)).collapsed


def test_attention_of_a_compiled_network_is_seen_too():
    network = SegResNetNL(spatial_dims=2, init_filters=8, in_channels=3, out_channels=2, nonlocal_blocks=2)
    watch = AttentionWatch(network)
    network.compile(backend="eager")  # traced as with every backend
    picture = torch.rand(1, 3, 32, 32)
    network(picture)
    with watch.looking():
        network(picture)
    assert set(watch.statistics) == set(BLOCKS)
    watch.statistics.clear()
    network(picture)
    assert watch.statistics == {}


@pytest.fixture(scope="module")
def phantoms() -> list[dict[str, torch.Tensor]]:
    drawn = [make_polyp_phantom(seed, size=(32, 32)) for seed in range(8)]
    return [
        {
            "image": torch.tensor(phantom.picture).permute(2, 0, 1) / 255,
            "label": torch.tensor(phantom.mask)[None].float(),
        }
        for phantom in drawn
    ]


def trainer_of(network: nn.Module, cases: list[dict[str, torch.Tensor]], epochs: int) -> SegmentationTrainer:
    return SegmentationTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(cases), batch_size=4),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=0.01),
        loss_function=DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True),
    )


def trained_attention(cases, attention: str, dtype: torch.dtype, iterations: int = 12) -> list[AttentionStatistics]:
    """What the two blocks' attention does after a short training, by a plain loop in the type asked for."""
    torch.manual_seed(0)
    network = SegResNetNL(2, init_filters=8, in_channels=3, nonlocal_attention=attention)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    loss_function = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    watch = AttentionWatch(network)
    for iteration in range(iterations):
        batch = cases[4 * (iteration % 2) :][:4]
        images, labels = (torch.stack([case[key] for case in batch]) for key in ("image", "label"))
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), watch.looking():
            logits = network(images)
        scaler.scale(loss_function(logits.float(), labels)).backward()
        scaler.step(optimizer)
        scaler.update()
    return [watch.statistics[block] for block in BLOCKS]


@pytest.mark.parametrize(
    ("attention", "dtype"),
    [
        *itertools.product(["scaled", "cosine"], [torch.float32, torch.bfloat16]),
        # torch is slow in it on a CPU; the smaller asymmetric block below is trained in it in every suite
        pytest.param("scaled", torch.float16, marks=pytest.mark.slow),
        pytest.param("cosine", torch.float16, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_conditioned_attention_stays_alive_in_training(phantoms, attention, dtype):
    found = trained_attention(phantoms, attention, dtype)
    assert min(block.entropy for block in found) > 0.2
    assert max(block.largest_logit for block in found) < 1000


def test_the_literal_form_collapses_within_a_dozen_steps(phantoms):
    found = trained_attention(phantoms, "literal", torch.float32, iterations=12)
    assert [block.collapsed for block in found] == [True, True]
    # 24,000 to 90,000, by the processor; conditioned ones stay below 100
    assert min(block.largest_logit for block in found) > 5_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_asymmetric_attention_stays_alive_in_training(dtype):
    torch.manual_seed(0)
    block = AsymmetricNonLocal(16, 16, inner_channels=8, shared=True)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    features = 100 * torch.randn(2, 16, 16, 16)  # BatchNorm before the softmax takes the scale away
    watch = AttentionWatch(block)
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), watch.looking():
            output = block(features, features)
        scaler.scale((output.float() - features.roll(1, 2)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert watch.statistics["attention"].entropy > 0.2
    assert watch.statistics["attention"].largest_logit < 1000


def test_looking_changes_no_weight_and_no_statistic_of_a_norm(phantoms):
    torch.manual_seed(0)
    blocks = [AsymmetricNonLocal(3, 3, inner_channels=4) for _ in range(2)]
    blocks[1].load_state_dict(blocks[0].state_dict())
    image = phantoms[0]["image"][None]
    blocks[0](image, image)
    with AttentionWatch(blocks[1]).looking():
        blocks[1](image, image)
    one, other = (block.state_dict() for block in blocks)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_tensorboard_has_entropy_and_largest_logit_of_every_block_and_epoch(phantoms, tmp_path: Path):
    torch.manual_seed(0)
    trainer = trainer_of(SegResNetNL(2, init_filters=8, in_channels=3), phantoms, epochs=2)
    attach_tensorboard(trainer, Engine(lambda *_: None), tmp_path)
    trainer.run()
    logged = scalars(tmp_path)
    entropy = [each for block in BLOCKS for each in logged[f"attention/{block}/entropy"]]
    assert [step for step, _ in entropy] == [2, 4] * len(BLOCKS)  # iterations that end an epoch
    assert all(0 < value <= 1 for _, value in entropy)
    assert all(value > 0 for block in BLOCKS for _, value in logged[f"attention/{block}/largest_logit"])


def test_a_collapsed_attention_is_told_of_in_words_and_once(phantoms, caplog):
    torch.manual_seed(0)
    network = SegResNetNL(2, init_filters=8, in_channels=3, nonlocal_blocks=1, nonlocal_attention="literal")
    trainer = trainer_of(network, phantoms, epochs=8)
    AttentionWatch(network).attach(trainer)
    trainer.run()
    warnings = [message for message in caplog.messages if "nonlocal_blocks.0.attention has collapsed" in message]
    assert len(warnings) == 1
    assert "attends to a single one" in warnings[0]


def test_a_validation_that_falls_to_zero_is_told_of(tmp_path: Path, caplog):
    network = nn.Linear(1, 1)
    best = BestModel(network, tmp_path / "model.pt")
    engine = Engine(lambda *_: None)
    told = []
    for epoch, score in enumerate([0.0, 0.3, 0.1, 0.0], start=1):
        engine.state.epoch, engine.state.metrics = epoch, {"val_dice_mean": score}
        best(engine)
        told.append([message for message in caplog.messages if "has fallen to 0" in message])
    assert told[:3] == [[], [], []]
    (fallen,) = told[3]
    assert "val_dice_mean has fallen to 0 from 0.3000 (epoch 2)" in fallen
