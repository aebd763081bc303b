from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.losses import DiceCELoss
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose, EnsureTyped, RandAffined, RandFlipd, RandGaussianNoised
from torch import nn

from medseg3d.data.cache import CaseCache
from medseg3d.errors import UserError
from medseg3d.files.tensors import read_tensors, save_tensors
from medseg3d.inference import SlidingWindow
from medseg3d.precision import Precision
from medseg3d.training import (
    BatchAugmentation,
    BestModel,
    CaseScores,
    EarlyStop,
    EpochSampler,
    SegmentationTrainer,
    Validation,
    WeightAverage,
    attach_checkpoints,
    claim_run_folder,
    freeze_parameters,
    parameter_groups,
)
from medseg3d.training.checkpoints import find_checkpoints
from medseg3d.transforms import LogitsToLabelsd


def cases(spoiled: str = "") -> list[dict]:
    rng = torch.Generator().manual_seed(7)
    items = []
    for name in ("a", "b", "c"):
        image = torch.rand(1, 8, 8, 8, generator=rng)
        items.append({"case": name, "image": image, "label": (image > 0.6).to(torch.uint8)})
        if name in spoiled:
            image[0, 0, 0] = math.nan
    return items


class StoppedError(Exception):
    """Stands for kill -9: nothing after it runs."""


class SmallRun:
    """A whole training as train.json wires it, on three tiny volumes, with dropout in the network."""

    def __init__(
        self,
        folder,
        epochs=4,
        resume=False,
        patience=0,
        channels=4,
        precision="float32",
        workers=0,
        spoiled="",
        spoiled_validation="",
        ema_decay=0.0,
        freeze=(),
        lr_factors=None,
        **settings,
    ):
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv3d(1, channels, 3, padding=1), nn.ReLU(), nn.Dropout(0.2), nn.Conv3d(channels, 2, 1)
        )
        self.average = WeightAverage(self.network, ema_decay)
        freeze_parameters(self.network, freeze)
        optimizer = torch.optim.AdamW(parameter_groups(self.network, 0.01, lr_factors))
        scheduler = WarmupCosineSchedule(optimizer, warmup_steps=1, t_total=epochs, warmup_multiplier=0.1)
        tensors = EnsureTyped(["image", "label"])
        random = [RandFlipd(["image", "label"], prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=0.5)]
        training = CaseCache(cases(spoiled), Compose([tensors, *random]))
        self.stream = EpochSampler(len(training), 1, epochs, seed=0)
        self.scores = CaseScores(["pancreas"], prefix="val_")
        self.evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=DataLoader(CaseCache(cases(spoiled_validation), Compose([tensors])), batch_size=1),
            network=self.average.network,
            inferer=SlidingWindow((8, 8, 8)),
            postprocessing=LogitsToLabelsd("pred", error_key="error"),
            key_val_metric={"val_dice_mean": self.scores},
        )
        self.best = BestModel(self.average.network, folder / "model.pt")
        self.best.attach(self.evaluator)
        self.trainer = SegmentationTrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=DataLoader(training, batch_size=1, sampler=self.stream, num_workers=workers),
            network=self.network,
            optimizer=optimizer,
            loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
            train_handlers=[self.average, Validation(self.evaluator, 1), EarlyStop(self.best, patience)],
            precision=precision,
            **settings,
        )
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: scheduler.step())
        self.losses: list[float] = []
        self.trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine: self.losses.append(engine.state.output["loss"].item())
        )
        attach_checkpoints(self.trainer, self.best, self.stream, scheduler, folder, resume, self.average)

    def run(self, interrupt_at: int | None = None) -> SmallRun:
        if interrupt_at is None:
            self.trainer.run()
            return self

        def interrupt(engine):
            if engine.state.iteration == interrupt_at:
                raise StoppedError

        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, interrupt)
        with pytest.raises(StoppedError):
            self.trainer.run()
        return self

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.network.state_dict().items()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> SmallRun:
    run = SmallRun(tmp_path_factory.mktemp("whole"))
    return run.run()


@pytest.mark.parametrize(("iteration", "workers"), [(1, 0), (3, 0), (4, 0), (8, 0), (12, 0), (8, 2)])
def test_an_interrupted_and_resumed_run_is_the_uninterrupted_one(tmp_path, whole, iteration, workers):
    SmallRun(tmp_path, workers=workers).run(interrupt_at=iteration)
    resumed = SmallRun(tmp_path, resume=True, workers=workers)
    done = resumed.trainer.state.epoch
    # the epoch whose last iteration was cut off before its checkpoint is done again
    assert done == max(0, (iteration - 1) // 3)
    resumed.run()
    assert resumed.losses == whole.losses[done * 3 :]
    assert equal(resumed.weights(), whole.weights())
    assert resumed.best.state_dict() == whole.best.state_dict()
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert equal(saved, torch.load(whole.best.model_file, weights_only=True))


def test_a_training_with_its_augmentation_on_the_device_is_resumed_exactly(tmp_path, whole):
    both = ["image", "label"]
    random = [
        *(RandFlipd(both, prob=0.5, spatial_axis=1), RandGaussianNoised("image", prob=0.5)),
        RandAffined(both, prob=0.5, rotate_range=[0.3] * 3, mode=["bilinear", "nearest"], padding_mode="zeros"),
    ]
    settings = {"augmentation": BatchAugmentation(random)}
    undisturbed = SmallRun(tmp_path / "whole", **settings).run()
    SmallRun(tmp_path / "cut", **settings).run(interrupt_at=8)
    resumed = SmallRun(tmp_path / "cut", resume=True, **settings).run()
    assert resumed.losses == undisturbed.losses[6:]
    assert equal(resumed.weights(), undisturbed.weights())
    assert undisturbed.losses[0] != whole.losses[0]


def test_a_fine_tuning_is_resumed_with_its_frozen_parts_and_its_rates(tmp_path):
    settings = {"freeze": "0.weight", "lr_factors": {"3": 0.1}}
    whole = SmallRun(tmp_path / "whole", **settings).run()
    SmallRun(tmp_path / "cut", **settings).run(interrupt_at=7)
    resumed = SmallRun(tmp_path / "cut", resume=True, **settings)
    found = [group["lr"] for group in resumed.trainer.optimizer.param_groups]
    assert found[1] == pytest.approx(0.1 * found[0])
    resumed.run()
    assert equal(resumed.weights(), whole.weights())
    assert torch.equal(whole.weights()["0.weight"], SmallRun(tmp_path / "begun").weights()["0.weight"])


def test_the_last_checkpoint_is_passed_over_when_it_is_damaged(tmp_path, whole):
    SmallRun(tmp_path).run(interrupt_at=10)
    newest, older = find_checkpoints(tmp_path / "checkpoints")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(bytes(content))
    resumed = SmallRun(tmp_path, resume=True)
    assert resumed.trainer.state.epoch == int(older.stem[-5:])
    assert equal(resumed.run().weights(), whole.weights())


def test_two_checkpoints_are_kept(whole):
    folder = whole.best.model_file.parent / "checkpoints"
    assert [path.name for path in find_checkpoints(folder)] == ["epoch_00004.pt", "epoch_00003.pt"]
    assert len(list(folder.iterdir())) == 4  # each with its sha256


def test_a_finished_run_resumed_does_nothing(whole):
    again = SmallRun(whole.best.model_file.parent, resume=True)
    started = []
    again.trainer.add_event_handler(Events.STARTED, lambda _: started.append(True))
    again.run()
    assert started == []
    assert equal(again.weights(), whole.weights())


def test_resuming_without_a_checkpoint_starts_from_the_first_epoch(tmp_path, whole, caplog):
    run = SmallRun(tmp_path, resume=True)
    assert "no checkpoint in" in caplog.text
    assert run.run().losses == whole.losses


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    SmallRun(tmp_path).run(interrupt_at=5)
    with pytest.raises(
        UserError, match=r"CHECKPOINT .*epoch_00001\.pt.*size mismatch.*resume with the same network options"
    ):
        SmallRun(tmp_path, resume=True, channels=8)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("spoiled", ["", "b"])
def test_reduced_precision_trains_on_a_cpu_and_resumes_to_the_same_weights(tmp_path, precision, spoiled):
    settings = {"precision": precision, "spoiled": spoiled}
    expected = SmallRun(tmp_path / "whole", **settings).run()
    SmallRun(tmp_path / "cut", **settings).run(interrupt_at=7)
    resumed = SmallRun(tmp_path / "cut", **settings, resume=True).run()
    assert equal(resumed.weights(), expected.weights())
    assert not equal(expected.weights(), SmallRun(tmp_path / "fp32", spoiled=spoiled).run().weights())
    # 4 epochs of 3 cases, in each of which one may be spoiled
    assert expected.trainer.skipped_steps == resumed.trainer.skipped_steps == 4 * len(spoiled)
    state = resumed.trainer.scaler.state_dict()
    assert state == expected.trainer.scaler.state_dict()
    if precision == "float16":
        assert state["scale"] == 2.0 ** (16 - 4 * len(spoiled))
        # steps since the scale has last been changed: of the last epoch's, those after the spoiled one
        assert state["_growth_tracker"] == (12 if not spoiled else last_good_steps(expected))


def last_good_steps(run: SmallRun) -> int:
    losses = [math.isfinite(loss) for loss in run.losses]
    return losses[::-1].index(False)


def test_the_count_of_skipped_steps_in_a_row_goes_on(tmp_path):
    def run(**more) -> SmallRun:
        return SmallRun(tmp_path, spoiled="abc", max_skipped_steps=4, **more)

    run().run(interrupt_at=4)
    resumed = run(resume=True)
    assert (resumed.trainer.skipped_steps, resumed.trainer.skipped_in_row) == (3, 3)
    with pytest.raises(UserError, match=r"LOSS_NOT_FINITE iteration 5: 5 steps in a row"):
        resumed.run()


def test_too_many_skipped_steps_name_the_checkpoint_and_the_line_to_go_on_with(tmp_path):
    SmallRun(tmp_path, epochs=2, precision="float16").run()
    with pytest.raises(
        UserError, match=r"--resume true --precision float32 to continue from .*epoch_00003\.pt"
    ) as caught:
        SmallRun(tmp_path, epochs=9, resume=True, precision="float16", spoiled="abc", max_skipped_steps=4).run()
    path = find_checkpoints(tmp_path / "checkpoints")[0]
    assert str(path) in caught.value.remedy
    # the line holds: the weights are those before the first skipped step, and the count starts anew
    resumed = SmallRun(tmp_path, epochs=4, resume=True, precision="float32")
    assert resumed.trainer.skipped_in_row == 0
    assert all(math.isfinite(loss) for loss in resumed.run().losses)


@pytest.mark.parametrize("before", ["float32", "bfloat16", "float16"])
def test_a_precision_that_was_chosen_for_the_device_gives_way_to_the_checkpoints(tmp_path, before):
    expected = SmallRun(tmp_path / "whole", precision=before).run().weights()
    SmallRun(tmp_path / "moved", precision=before).run(interrupt_at=8)
    other = "float32" if before == "bfloat16" else "bfloat16"
    moved = SmallRun(tmp_path / "moved", precision=Precision(other, "this machine"), resume=True).run()
    assert moved.trainer.precision.name == before
    assert equal(moved.weights(), expected)


@pytest.mark.parametrize(("before", "after"), [("float16", "bfloat16"), ("float32", "float16")])
def test_another_precision_that_is_asked_for_is_had_with_a_warning(tmp_path, before, after, caplog):
    SmallRun(tmp_path, precision=before).run(interrupt_at=8)
    resumed = SmallRun(tmp_path, precision=after, resume=True)
    assert f"precision {after} from here on, as requested; so far this training used {before}" in caplog.text
    assert resumed.trainer.scaler.is_enabled() == (after == "float16")
    assert all(math.isfinite(loss) for loss in resumed.run().losses)


def test_a_checkpoint_from_before_precision_was_kept_is_gone_on_with(tmp_path, whole):
    SmallRun(tmp_path).run(interrupt_at=8)
    for path in find_checkpoints(tmp_path / "checkpoints"):
        state = read_tensors(path)
        save_tensors(path, {key: value for key, value in state.items() if key not in ("precision", "skipped_steps")})
    assert equal(SmallRun(tmp_path, resume=True).run().weights(), whole.weights())


@pytest.mark.parametrize("spoiled", ["b", "abc"])
def test_a_validation_that_fails_is_no_score_and_keeps_no_weights(tmp_path, spoiled, caplog):
    run = SmallRun(tmp_path, epochs=2, spoiled_validation=spoiled)
    run.run()
    assert math.isnan(run.evaluator.state.metrics["val_dice_mean"])
    assert [name for name in run.evaluator.state.metrics if name != "val_dice_mean"] == []
    assert not run.best.model_file.exists()
    assert run.best.state_dict() == {"best": -math.inf, "best_epoch": 0, "last_epoch": 2}
    assert (
        f"no score: {len(spoiled)} case{'s' * (len(spoiled) > 1)} failed, the first with NON_FINITE {spoiled[0]}: "
        in caplog.text
    )


def engine_with(score: float, epoch: int) -> SimpleNamespace:
    return SimpleNamespace(state=SimpleNamespace(metrics={"val_dice_mean": score}, epoch=epoch))


def test_a_resumed_run_goes_on_with_the_average_of_weights_which_is_kept(tmp_path):
    whole = SmallRun(tmp_path / "whole", ema_decay=0.9).run()
    SmallRun(tmp_path / "cut", ema_decay=0.9).run(interrupt_at=8)
    resumed = SmallRun(tmp_path / "cut", ema_decay=0.9, resume=True).run()
    assert equal(resumed.average.network.state_dict(), whole.average.network.state_dict())
    kept = torch.load(whole.best.model_file, weights_only=True)
    assert equal(torch.load(resumed.best.model_file, weights_only=True), kept)
    if whole.best.best_epoch == 4:
        assert equal(kept, whole.average.network.state_dict())
    assert not equal(whole.weights(), whole.average.network.state_dict())


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.0), (0.0, 0.9)])
def test_a_run_is_not_resumed_with_an_average_that_it_had_not(tmp_path, before, after):
    SmallRun(tmp_path, epochs=1, ema_decay=before).run()
    with pytest.raises(UserError, match=r"CHECKPOINT.*--ema_decay"):
        SmallRun(tmp_path, epochs=2, ema_decay=after, resume=True)


@pytest.mark.slow
def test_a_compiled_network_trains_as_it_does_without(tmp_path, whole):
    compiled = SmallRun(tmp_path, compile=True).run()
    assert compiled.weights().keys() == whole.weights().keys()
    assert compiled.losses == pytest.approx(whole.losses, abs=0.02)


def test_only_a_better_model_is_kept(tmp_path):
    network = nn.Linear(1, 1)
    best = BestModel(network, tmp_path / "model.pt")
    for epoch, (score, weight) in enumerate([(0.5, 1.0), (0.7, 2.0), (0.6, 3.0), (math.nan, 4.0)], start=1):
        nn.init.constant_(network.weight, weight)
        best(engine_with(score, epoch))
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == 2.0
    assert best.state_dict() == {"best": 0.7, "best_epoch": 2, "last_epoch": 4}


@pytest.mark.parametrize(("patience", "stops"), [(0, False), (3, False), (2, True), (1, True)])
def test_patience_counts_the_epochs_since_the_best(tmp_path, patience, stops):
    best = BestModel(nn.Linear(1, 1), tmp_path / "model.pt")
    best.load_state_dict({"best": 0.7, "best_epoch": 2, "last_epoch": 4})
    stopped = []
    EarlyStop(best, patience)(SimpleNamespace(terminate=lambda: stopped.append(True)))
    assert bool(stopped) is stops


class TestRunFolder:
    def test_a_new_folder_is_free(self, tmp_path):
        claim_run_folder(tmp_path / "new", tmp_path / "new" / "model.pt")

    def test_a_run_is_not_written_over(self, whole):
        folder = whole.best.model_file.parent
        with pytest.raises(UserError, match=r"RUN_EXISTS .*checkpoints up to epoch 4.*--resume true"):
            claim_run_folder(folder, folder / "model.pt")
        claim_run_folder(folder, folder / "model.pt", resume=True)

    def test_overwriting_removes_the_run_and_nothing_else(self, tmp_path):
        SmallRun(tmp_path, epochs=1).run()
        (tmp_path / "events.out.tfevents.1").touch()
        (tmp_path / "notes.txt").write_text("mine")
        claim_run_folder(tmp_path, tmp_path / "model.pt", overwrite=True)
        assert [path.name for path in sorted(tmp_path.rglob("*")) if path.is_file()] == ["notes.txt"]


def test_a_run_made_longer_goes_by_the_new_length_from_its_first_step_on(tmp_path):
    SmallRun(tmp_path, epochs=4).run()
    longer = SmallRun(tmp_path, epochs=8, resume=True)
    rates = []
    longer.trainer.add_event_handler(
        Events.EPOCH_STARTED, lambda _: rates.append(longer.trainer.optimizer.param_groups[0]["lr"])
    )
    longer.run()
    # the cosine from epoch 1 to 8 at 4, 5, 6 and 7
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * (epoch - 1) / 7)) / 2 for epoch in (4, 5, 6, 7)])
