"""A network that begins with weights of a file that need not fit it whole."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest
import torch
from commands import ROOT
from safetensors.torch import save_file
from torch import nn

from medseg3d.bundle_folders import shipped_weights
from medseg3d.errors import UserError
from medseg3d.networks import ResUNetPlusPlus
from medseg3d.training import with_initial_weights
from medseg3d.training.pretrained import initial_weights_record, write_initial_weights


class Small(nn.Module):
    """Two kernels, a norm and a head, of any number of channels and classes."""

    def __init__(self, channels: int = 1, classes: int = 2, places: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 3, 3)
        self.head = nn.Conv2d(3, classes, 1)
        self.places = nn.Parameter(torch.zeros(1, places))


def filled(value: float, **options: int) -> Small:
    """A network whose floating-point numbers are all `value`."""
    network = Small(**options)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(value)
    return network


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights that are all 0.5, of one channel, two classes and four places, with a tensor of another network's."""
    torch.save({**filled(0.5).state_dict(), "tail.weight": torch.ones(1)}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def constant(tensor: torch.Tensor) -> float:
    """The one value that a tensor is filled with."""
    assert tensor.unique().numel() == 1
    return tensor.flatten()[0].item()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, set()),
        ({"classes": 3}, {"head.weight (2, 3, 1, 1) for (3, 3, 1, 1)", "head.bias (2,) for (3,)"}),
        ({"channels": 4}, {"first.weight (3, 1, 3, 3) for (3, 4, 3, 3)"}),
        ({"places": 9}, {"places (1, 4) for (1, 9)"}),
    ],
    ids=["the same", "classes", "channels", "size"],
)
def test_what_fits_is_loaded_and_what_does_not_stays_as_it_was_made(file, options, kept):
    network = with_initial_weights(filled(0.25, **options), file)
    values = {name: constant(tensor) for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    names = {each.split()[0] for each in kept}
    assert {name for name, value in values.items() if value == 0.25} == names
    assert {name for name, value in values.items() if value == 0.5} == values.keys() - names
    assert set(network.initial_weights["of_another_shape"]) == kept
    assert network.initial_weights["unexpected"] == ("tail.weight",)


def test_the_log_says_what_was_loaded_and_what_was_not(file, caplog):
    with caplog.at_level(logging.INFO, "medseg3d"):
        with_initial_weights(filled(0.25, classes=3), file)
    # 4 layers of two tensors, BatchNorm's 3 statistics, the places; 2 of the head are of other classes
    assert caplog.messages == [
        f"training starts from {file}: 10 of 12 tensors loaded; 2 left random, of another shape in the file "
        "(head.weight (2, 3, 1, 1) for (3, 3, 1, 1), head.bias (2,) for (3,)); 1 in the file unused (tail.weight)"
    ]


@pytest.mark.parametrize(
    "state",
    [
        {"encoder.weight": torch.ones(3, 3, 3, 3)},
        nn.Conv3d(1, 3, 3).state_dict(),
        # norms of equal lengths are no sign of a network: its kernels are of three dimensions here
        {**{name: value for name, value in Small().state_dict().items() if value.ndim < 2}, "first.weight": 1.0},
    ],
    ids=["other names", "other names and dimensions", "vectors alone"],
)
def test_a_file_of_another_network_is_refused_and_leaves_the_network_as_it_was(state, tmp_path):
    torch.save(state, tmp_path / "other.pt")
    network = filled(0.25)
    with pytest.raises(
        UserError, match=r"CHECKPOINT .*other\.pt: 0 of the 4 kernels and matrices of this Small in it; "
    ):
        with_initial_weights(network, tmp_path / "other.pt")
    assert constant(network.norm.weight) == 0.25


def test_a_file_that_has_nothing_but_the_encoder_is_taken(tmp_path):
    torch.save({"first.weight": filled(0.5).first.weight}, tmp_path / "encoder.pt")
    network = with_initial_weights(filled(0.25), tmp_path / "encoder.pt")
    assert (constant(network.first.weight), constant(network.second.weight)) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("model.safetensors", lambda state, path: save_file(state, path)),
        ("lightning.ckpt", lambda state, path: torch.save({"state_dict": state}, path)),
        ("half.pt", lambda state, path: torch.save({k: v.half() if v.ndim else v for k, v in state.items()}, path)),
    ],
)  # fmt: skip
def test_files_of_every_kind_are_read(name, save, tmp_path):
    save(filled(0.5).state_dict(), tmp_path / name)
    network = with_initial_weights(filled(0.25), tmp_path / name)
    assert constant(network.second.weight) == 0.5
    assert network.second.weight.dtype == torch.float32


def test_a_bundle_s_name_stands_for_the_weights_that_it_ships():
    shipped = shipped_weights(ROOT / "bundles/polyp_resunetpp")
    network = with_initial_weights(ResUNetPlusPlus(3, 4), "polyp_resunetpp")
    assert network.initial_weights["sha256"] == shipped.sha256
    assert [each.split()[0] for each in network.initial_weights["of_another_shape"]] == ["head.weight", "head.bias"]
    assert (len(network.initial_weights["fitting"]), network.initial_weights["missing"]) == (279, ())


@pytest.mark.parametrize("name", ["polyp_cris", "nowhere.pt"])
def test_neither_a_file_nor_a_bundle_with_weights_is_refused_with_those_there_are(name):
    with pytest.raises(UserError, match=r"MISSING_WEIGHTS .*: neither a file nor .* one of .*polyp_resunetpp"):
        with_initial_weights(Small(), name)


def test_the_run_s_folder_says_what_it_began_with(file, tmp_path):
    write_initial_weights(with_initial_weights(Small(classes=3), file), tmp_path)
    account = json.loads((tmp_path / "initial_weights.json").read_text())
    assert account["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert account["file"] == str(file)
    assert len(account["fitting"]) == 10
    assert initial_weights_record(tmp_path)["initial_weights"] == {
        **{"file": str(file), "sha256": account["sha256"], "fitting": 10, "missing": 0, "unexpected": 1},
        **{"of_another_shape": 2, "of_another_kind": 0},
    }


def test_a_run_that_begins_at_random_leaves_no_account_of_another(file, tmp_path):
    write_initial_weights(with_initial_weights(Small(), file), tmp_path)
    write_initial_weights(with_initial_weights(Small()), tmp_path)
    assert initial_weights_record(tmp_path) == {}
