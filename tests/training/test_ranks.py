"""Several processes that train one network, by gloo on a CPU.

They are started here; torchrun starts those of tests/bundles/test_several_processes.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT
from several_processes import train

from medseg3d import ranks
from medseg3d.errors import UserError
from medseg3d.files.tensors import read_tensors
from medseg3d.training import EpochSampler


def known(folder: Path) -> list[dict]:
    """What each of two processes knows at the end of a training."""
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]


def weights(folder: Path, rank: int = 0) -> torch.Tensor:
    """All weights of a process and of its average, in one row."""
    return torch.cat([value.flatten() for value in torch.load(folder / f"rank_{rank}.pt").values()])


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("one")
    train(folder, 4)
    return folder, json.loads((folder / "rank_0.json").read_text())


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of the trainings of several_processes.py, by two processes."""
    folder = tmp_path_factory.mktemp("together")
    train(folder / "augmented", 2, augmented=True)
    words = [sys.executable, str(ROOT / "tests/several_processes.py"), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def two(together) -> tuple[Path, list[dict]]:
    return together / "whole", known(together / "whole")


def test_two_processes_take_the_steps_of_one_with_the_same_batch(one, two):
    assert [each["n"] for each in two[1]] == [2, 2]
    assert two[1][0]["losses"] == pytest.approx(one[1]["losses"], abs=1e-5)
    assert torch.allclose(weights(two[0]), weights(one[0]), rtol=0, atol=1e-5)
    assert two[1][0]["best"] == pytest.approx(one[1]["best"], abs=1e-4)


def test_both_processes_end_with_the_same(two):
    first, second = two[1]
    assert first == second
    assert torch.equal(weights(two[0], 0), weights(two[0], 1))


def test_only_the_first_process_writes(two):
    files = sorted(path.name for path in two[0].rglob("*") if path.is_file() and not path.name.startswith("rank_"))
    assert [name for name in files if not name.startswith("events.")] == [
        *("epoch_00003.pt", "epoch_00003.pt.sha256", "epoch_00004.pt", "epoch_00004.pt.sha256"),
        *("model.pt", "model.pt.sha256"),
    ]
    assert sum(name.startswith("events.") for name in files) == 1


def test_a_resumed_training_of_two_is_the_uninterrupted_one(two, together):
    resumed = together / "resumed"
    assert len(known(resumed)[0]["losses"]) == len(two[1][0]["losses"]) / 2  # of the two epochs after it
    assert torch.equal(weights(resumed), weights(two[0]))
    assert read_tensors(resumed / "checkpoints/epoch_00004.pt")["epoch"] == 4


def test_a_step_that_one_process_cannot_take_is_skipped_by_both(together):
    first, second = known(together / "spoiled")
    assert first["skipped"] == second["skipped"] > 0
    assert torch.equal(weights(together / "spoiled", 0), weights(together / "spoiled", 1))
    assert weights(together / "spoiled").isfinite().all()


def test_two_processes_leave_what_is_frozen_as_one_does(together, tmp_path):
    train(tmp_path, 2, frozen=True)
    one, two = (torch.load(folder / "rank_0.pt") for folder in (tmp_path, together / "frozen"))
    assert torch.equal(one["0.weight"], two["0.weight"])
    assert torch.allclose(weights(together / "frozen"), weights(tmp_path), rtol=0, atol=1e-5)


def test_two_processes_go_on_with_the_augmented_batches_of_one(together, tmp_path):
    train(tmp_path, 4, augmented=True)
    assert torch.equal(weights(together / "augmented", 0), weights(together / "augmented", 1))
    assert torch.allclose(weights(together / "augmented"), weights(tmp_path), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [2, 4])
def test_the_shares_of_the_processes_are_the_keys_of_the_batch(monkeypatch, size):
    whole = list(EpochSampler(num_cases=5, batch_size=4, epochs=2))
    monkeypatch.setattr("medseg3d.training.sampler.world_size", lambda: size)
    monkeypatch.setattr("medseg3d.ranks.world_size", lambda: size)
    shares = []
    for rank in range(size):
        monkeypatch.setattr("medseg3d.training.sampler.rank", lambda rank=rank: rank)
        stream = EpochSampler(num_cases=5, batch_size=4, epochs=2)
        shares.append(list(stream))
    assert len(stream) == len(whole) / 2 / size
    share = 4 // size
    joined = [
        key for start in range(0, len(shares[0]), share) for each in shares for key in each[start : start + share]
    ]
    assert joined == whole


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr("medseg3d.ranks.world_size", lambda: 2)
    with pytest.raises(
        UserError, match=r"BAD_VALUE --batch_size: 3, expected a multiple of the 2 processes.*--batch_size 4"
    ):
        ranks.share_of_batch(3)


def test_processes_that_torchrun_did_not_start_are_refused():
    with pytest.raises(UserError, match=r"TORCHRUN multi_gpu_train.json: a single process.*torchrun --standalone"):
        ranks.join_processes()


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"TORCHRUN process 1 of 2: .*multi_gpu_train.json"):
        ranks.refuse_stray_process()
