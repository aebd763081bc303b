from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from medseg3d.errors import UserError
from medseg3d.training import model_saver


def kept_after(tmp_path, scores, **settings) -> float:
    """The weight that is kept after validations of weights 1, 2, ... with these scores."""
    network = nn.Linear(1, 1)
    handler = model_saver(network, tmp_path / "model.pt", "score", **settings)
    engine = Engine(lambda engine, batch: None)
    handler.attach(engine)
    for epoch, score in enumerate(scores, 1):
        nn.init.constant_(network.weight, epoch)
        engine.state.metrics["score"] = score
        engine.run([0], max_epochs=epoch)
    return torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item()


@pytest.mark.parametrize(
    ("settings", "kept"), [({}, 2), ({"checkpoint_selection": "best"}, 2), ({"checkpoint_selection": "last"}, 3)]
)
def test_the_best_or_the_last_validation_is_kept(tmp_path, settings, kept):
    assert kept_after(tmp_path, [0.2, 0.8, 0.5], **settings) == kept


def test_the_last_is_kept_without_a_score_too(tmp_path):
    assert kept_after(tmp_path, [0.8, float("nan")], checkpoint_selection="last") == 2


@pytest.mark.parametrize("selection", ["best", "last"])
def test_of_several_processes_the_first_alone_keeps_weights(tmp_path, monkeypatch, selection):
    monkeypatch.setattr("medseg3d.training.checkpoints.rank", lambda: 1)
    with pytest.raises(FileNotFoundError):
        kept_after(tmp_path, [0.2, 0.8], checkpoint_selection=selection)


def test_another_selection_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"BAD_VALUE --checkpoint_selection: 'latest', expected one of best, last"):
        model_saver(nn.Linear(1, 1), tmp_path / "model.pt", checkpoint_selection="latest")
