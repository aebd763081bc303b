"""The strategies of CRIS: which loss is whose, what it moves, and that a run is the same however it is cut."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.transforms import Identity
from picture_runs import scalars
from torch import nn

from medseg3d.data.cache import CaseCache
from medseg3d.errors import UserError
from medseg3d.networks import RefinedSegmenter, SegNet
from medseg3d.training import (
    AlternatingObjectives,
    BestModel,
    BinaryCrossEntropy,
    EpochSampler,
    FinalLoss,
    Objective,
    ProbabilityError,
    SegmentationTrainer,
    attach_checkpoints,
    attach_tensorboard,
    parameter_groups,
)
from medseg3d.training.progress import TrainingLog

BATCHES = 2
FINAL = Objective(FinalLoss(BinaryCrossEntropy()), "final")
BACKBONE = Objective(ProbabilityError(), "backbone", {"refine": False})


def cases() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(4, 3, 16, 16, generator=generator)
    return [{"image": picture, "label": (picture[:1] > 0.7).to(torch.uint8)} for picture in pictures]


class Run:
    """A training of a refined SegNet on four images, two at a time; gradients and weights are kept by iteration."""

    def __init__(self, *objectives: Objective, interleave: str = "epoch", epochs: int = 4, **settings: Any) -> None:
        torch.manual_seed(0)
        backbone = SegNet(features=(4, 8), convolutions=(1, 1))
        # dropout far above the paper's, so that a draw that should not be shows
        self.network = RefinedSegmenter(backbone, channels=4, dropout=0.3)
        self.stream = EpochSampler(4, 2, epochs)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.trainer = SegmentationTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=DataLoader(CaseCache(cases(), Identity()), batch_size=2, sampler=self.stream),
            network=self.network,
            optimizer=self.optimizer,
            loss_function=AlternatingObjectives(objectives or (BACKBONE, FINAL), interleave),
            **settings,
        )
        self.losses: list[float] = []
        self.reached: list[tuple[bool, bool]] = []
        self.weights = [copy.deepcopy(self.network.state_dict())]
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._look)

    def _look(self, engine: Any) -> None:
        self.losses.append(engine.state.output["loss"].item())
        self.weights.append(copy.deepcopy(self.network.state_dict()))
        parts = (self.network.backbone, self.network.refinement)
        self.reached.append(tuple(any(p.grad is not None for p in part.parameters()) for part in parts))

    def __call__(self) -> Run:
        self.trainer.run()
        return self

    def moved(self, part: str) -> list[bool]:
        """Whether any parameter of a part is another after each iteration."""
        names = [name for name, _ in self.network.named_parameters() if name.startswith(f"{part}.")]
        steps = zip(self.weights, self.weights[1:], strict=False)
        return [any(not torch.equal(before[name], after[name]) for name in names) for before, after in steps]


@pytest.fixture(scope="module")
def cris() -> Run:
    return Run()()


def test_the_refinement_rests_bit_for_bit_in_even_epochs(cris):
    state = [cris.optimizer.state[parameter]["exp_avg"] for parameter in cris.network.refinement.parameters()]
    assert all(moment.abs().max() > 0 for moment in state)  # by its momentum Adam would move it
    assert cris.moved("refinement") == [False] * BATCHES + [True] * BATCHES + [False] * BATCHES + [True] * BATCHES
    assert cris.moved("backbone") == [True] * 4 * BATCHES


def test_gradients_are_none_where_a_loss_does_not_reach(cris):
    even, odd = [(True, False)] * BATCHES, [(True, True)] * BATCHES
    assert cris.reached == even + odd + even + odd


def test_the_refinement_is_not_even_run_in_even_epochs(monkeypatch):
    run, calls = Run(epochs=2), []
    run.network.refinement.register_forward_hook(lambda *_: calls.append(run.trainer.state.epoch))
    run()
    assert calls == [2] * BATCHES


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_losses_are_the_papers_by_the_parity_of_the_epoch(cris, epoch):
    """The first iteration of each of the first two epochs, by the equations."""
    items = cases()
    keys = [key.index for key in cris.stream.epoch_keys(epoch)][:2]
    pictures, labels = (torch.stack([items[key][name] for key in keys]) for name in ("image", "label"))
    network = copy.deepcopy(cris.network)
    network.load_state_dict(cris.weights[epoch * BATCHES])
    network.train()
    torch.manual_seed(1 + epoch * BATCHES)  # as the trainer does before each iteration, for the dropout
    truth = labels.float()
    final, logits = network(pictures)
    prob = logits.sigmoid() if epoch == 0 else final.sigmoid()
    squares = ((prob - truth) ** 2).mean()
    crosses = -(truth * prob.log() + (1 - truth) * (1 - prob).log()).mean()
    assert cris.losses[epoch * BATCHES] == pytest.approx((squares, crosses)[epoch].item(), rel=1e-5)


def test_fcn_differs_from_cris_in_the_schedule_alone():
    """While it is the final loss's turn, a training with turns is the one without, bit for bit."""
    fcn, turns = Run(FINAL, epochs=2)(), Run(FINAL, BACKBONE, epochs=2)()
    assert fcn.reached == [(True, True)] * 2 * BATCHES
    assert turns.losses[:BATCHES] == fcn.losses[:BATCHES]
    assert all(torch.equal(value, fcn.weights[BATCHES][name]) for name, value in turns.weights[BATCHES].items())
    assert turns.losses[BATCHES:] != fcn.losses[BATCHES:]


def test_turns_by_the_step():
    run = Run(interleave="step", epochs=3)()
    assert run.moved("refinement") == [False, True] * 3
    assert run.reached == [(True, False), (True, True)] * 3


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_in_parts_takes_one_turn(size):
    run = Run(epochs=2, micro_batch_size=size)()
    assert run.moved("refinement") == [False] * BATCHES + [True] * BATCHES


def test_half_precision_rests_and_moves_the_same(cris):
    run = Run(precision="bfloat16")()
    assert run.moved("refinement") == cris.moved("refinement")
    assert run.losses != cris.losses


@pytest.mark.parametrize("interleave", ["epoch", "step"])
@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_resumed_run_goes_on_in_turn(tmp_path, interleave, stopped_after):
    def run(epochs: int, resume: bool) -> Run:
        run = Run(interleave=interleave, epochs=4)
        run.trainer.state.max_epochs = epochs
        scheduler = torch.optim.lr_scheduler.ConstantLR(run.optimizer, factor=1.0)
        best = BestModel(run.network, tmp_path / "model.pt")
        attach_checkpoints(run.trainer, best, run.stream, scheduler, tmp_path, resume)
        return run()

    run(stopped_after, resume=False)
    resumed = run(4, resume=True)
    whole = Run(interleave=interleave, epochs=4)()
    assert resumed.losses == whole.losses[stopped_after * BATCHES :]
    assert all(torch.equal(value, whole.weights[-1][name]) for name, value in resumed.weights[-1].items())


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_training_that_would_end_in_the_backbones_turn_is_refused(epochs):
    words = rf"BAD_VALUE --epochs {epochs}: .*epoch of backbone.*multiple of 2.*trains final.*--epochs {epochs + 1}"
    with pytest.raises(UserError, match=words):
        Run(epochs=epochs)
    Run(epochs=epochs, interleave="step")
    Run(FINAL, epochs=epochs)


def test_another_interleave_is_refused_by_name():
    with pytest.raises(UserError, match="BAD_VALUE --interleave: 'batch', expected one of epoch, step"):
        AlternatingObjectives([BACKBONE, FINAL], "batch")


@pytest.mark.parametrize("objectives", [(), (FINAL, FINAL)])
def test_objectives_must_be_there_and_differ_in_name(objectives):
    with pytest.raises(ValueError, match="one or more with names of their own"):
        AlternatingObjectives(objectives)


def test_tensorboard_shows_whose_turn_it_is_and_each_loss_by_itself(tmp_path):
    run = Run(epochs=2)
    attach_tensorboard(run.trainer, Engine(lambda *_: None), tmp_path / "cris")
    losses = dict(enumerate(run().losses, start=1))
    logged = scalars(tmp_path / "cris")
    assert logged["objective"] == [(1, 0), (2, 0), (3, 1), (4, 1)]
    assert [step for step, _ in logged["train_loss_backbone"]] == [1, 2]
    assert [step for step, _ in logged["train_loss_final"]] == [3, 4]
    tags = ("train_loss", "train_loss_backbone", "train_loss_final")
    assert {tag: dict(logged[tag]) for tag in tags} == {
        tag: pytest.approx({step: losses[step] for step, _ in logged[tag]}) for tag in tags
    }


def test_a_single_loss_has_no_tag_but_its_own(tmp_path):
    run = Run(FINAL, epochs=1)
    attach_tensorboard(run.trainer, Engine(lambda *_: None), tmp_path)
    run()
    assert scalars(tmp_path).keys() == {"train_loss", "learning_rate", "gradient_norm", "skipped_steps"}


def test_a_part_of_a_network_learns_at_its_own_rate():
    network = nn.ModuleDict({"backbone": nn.Conv2d(3, 1, 1), "crf": nn.Linear(2, 2), "crfs": nn.Linear(2, 2)})
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.Adam(parameter_groups(network, 0.001, learning_rates={"crf": 0.1}))
    sum(parameter.sum() for parameter in network.parameters()).backward()
    optimizer.step()  # Adam's first step is the learning rate
    moved = {name: (before[name] - value).flatten().tolist() for name, value in network.state_dict().items()}
    assert moved == {
        name: pytest.approx([0.1 if name.startswith("crf.") else 0.001] * len(steps), rel=1e-3)
        for name, steps in moved.items()
    }


def test_losses_are_those_of_torch_on_labels_of_any_type():
    logits, labels = torch.randn(2, 1, 4, 5), torch.randint(0, 2, (2, 1, 4, 5), dtype=torch.uint8)
    truth = labels.float()
    crosses, squares = nn.BCEWithLogitsLoss()(logits, truth), nn.MSELoss()(logits.sigmoid(), truth)
    assert BinaryCrossEntropy()(logits, labels) == pytest.approx(crosses.item())
    assert ProbabilityError()(logits, labels) == pytest.approx(squares.item())
    assert FinalLoss(BinaryCrossEntropy())((logits, F.relu(logits)), labels) == pytest.approx(crosses.item())
    assert FinalLoss(BinaryCrossEntropy())(logits, labels) == pytest.approx(crosses.item())


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), ProbabilityError()])
def test_two_logits_are_those_of_background_and_foreground(loss):
    logits, labels = torch.randn(2, 2, 4, 5), torch.randint(0, 2, (2, 1, 4, 5))
    prob = logits.softmax(1)[:, 1:]
    expected = {
        BinaryCrossEntropy: F.binary_cross_entropy(prob, labels.float()),
        ProbabilityError: (prob - labels).square().mean(),
    }
    assert loss(logits, labels) == pytest.approx(expected[type(loss)].item())


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), ProbabilityError()])
@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 3, 4, 5), (1, 1, 4, 5)])
def test_labels_of_another_shape_are_refused_and_not_broadcast(loss, shape):
    with pytest.raises(ValueError, match=r"must be \(B, 1, \*spatial\) for logits \[2, 1, 4, 5\], got \["):
        loss(torch.zeros(2, 1, 4, 5), torch.zeros(shape))


def test_the_turns_in_tensorboard_survive_a_kill_in_the_middle_of_an_epoch(tmp_path):
    def run(killed_in: int = 0, resume: bool = False) -> None:
        run = Run(epochs=4)
        scheduler = torch.optim.lr_scheduler.ConstantLR(run.optimizer, factor=1.0)
        best = BestModel(run.network, tmp_path / "model.pt")
        attach_checkpoints(run.trainer, best, run.stream, scheduler, tmp_path, resume)
        log = TrainingLog(run.trainer, tmp_path)

        @run.trainer.on(Events.ITERATION_COMPLETED)
        def kill(engine: Engine) -> None:
            if engine.state.iteration == killed_in:
                log.writers[0].flush()
                raise KeyboardInterrupt

        run()

    with pytest.raises(KeyboardInterrupt):
        run(killed_in=3 * BATCHES - 1)  # of the third epoch no checkpoint is left
    run(resume=True)
    turns = [0] * BATCHES + [1] * BATCHES + [0] * BATCHES + [1] * BATCHES
    assert scalars(tmp_path)["objective"] == list(enumerate(turns, start=1))
