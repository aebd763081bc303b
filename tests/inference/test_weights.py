from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import small_network
from torch import nn

from medseg3d.errors import UserError
from medseg3d.files.tensors import save_tensors
from medseg3d.inference import load_weights


@pytest.mark.parametrize("key", [None, "model", "network", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_loaded_network_computes_what_the_saved_one_did(tmp_path: Path, key: str | None, prefix: str) -> None:
    saved, fresh = small_network(), small_network()
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter += 0.1
    state = {prefix + name: value for name, value in saved.state_dict().items()}
    path = tmp_path / "model.pt"
    save_tensors(path, state if key is None else {key: state, "epoch": 3})
    image = torch.rand(1, 1, 8, 8, 8)
    assert not torch.equal(fresh(image), saved(image))
    assert load_weights(fresh, path) is fresh
    assert torch.equal(fresh(image), saved(image))
    assert fresh.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"nonlocal_blocks": 2}, r"8 unexpected \(nonlocal_blocks\.1\."),
        ({"nonlocal_blocks": 0}, r"8 missing \(nonlocal_blocks\.0\."),
        ({"init_filters": 16}, r"of another shape \(convInit\.conv\.weight \(16, 1, 3, 3, 3\) for \(8, 1, 3, 3, 3\)"),
        ({"out_channels": 3}, r"2 of another shape \(.*\(3, 8, 1, 1, 1\) for \(2, 8, 1, 1, 1\)"),
    ],
)
def test_weights_of_another_network_are_refused_and_the_network_stays(tmp_path: Path, other: dict, words: str) -> None:
    save_tensors(tmp_path / "model.pt", small_network(**other).state_dict())
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(
        UserError, match=rf"CHECKPOINT .*model\.pt: weights of a different network: .*{words}.*--init_filters"
    ):
        load_weights(network, tmp_path / "model.pt")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def under(*keys: str, prefix: str = "") -> Callable[[dict], dict]:
    """A trainer's file: the state dict with a prefix, under keys."""

    def wrap(state: dict) -> dict:
        content: dict = {prefix + name: value for name, value in state.items()}
        for key in reversed(keys):
            content = {"epoch": 3, key: content}
        return content

    return wrap


@pytest.mark.parametrize(
    "wrap",
    [
        *(under(prefix=prefix) for prefix in ("_orig_mod.", "module._orig_mod.", "module.module.", "model.")),
        *(under(key) for key in ("net", "network_weights", "model_state_dict", "state_dict", "model", "network")),
        under("state_dict", prefix="model._orig_mod."),
    ],
)
def test_weights_come_out_of_the_wrappers_of_other_trainers(tmp_path: Path, wrap: Callable) -> None:
    saved, fresh = small_network(), small_network()
    torch.save(wrap(saved.state_dict()), tmp_path / "model.pt")
    load_weights(fresh, tmp_path / "model.pt")
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in saved.state_dict().items())


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"best": np.float64(0.5)}, r"numpy\.\S*scalar"),
        ({"args": argparse.Namespace(lr=1)}, r"argparse\.Namespace"),
        ({"net": nn.Conv2d(1, 1, 1)}, r"torch\.nn\.modules\.conv\.Conv2d"),
    ],
)
def test_what_is_no_tensor_is_named_with_how_to_save_tensors_only(tmp_path: Path, extra: dict, named: str) -> None:
    torch.save({"model": small_network().state_dict(), **extra}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=rf"CHECKPOINT .*: {named} in it, .*torch\.save\(network\.state_dict\(\)"):
        load_weights(small_network(), tmp_path / "model.pt")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_other_kinds_of_numbers_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({name: value.to(dtype) for name, value in small_network().state_dict().items()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=rf"CHECKPOINT .*{dtype}"):
        load_weights(small_network(), tmp_path / "model.pt")


def test_a_file_with_no_name_of_the_network_is_not_blamed_on_its_knobs(tmp_path: Path) -> None:
    torch.save({"other.weight": torch.ones(1)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"Hint: none of the names belong to this network"):
        load_weights(small_network(), tmp_path / "model.pt")


@pytest.mark.parametrize(("content", "code"), [(None, "MISSING_WEIGHTS"), (b"no weights", "CHECKPOINT")])
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: bytes | None, code: str) -> None:
    if content is not None:
        (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UserError, match=code):
        load_weights(small_network(), tmp_path / "model.pt")
