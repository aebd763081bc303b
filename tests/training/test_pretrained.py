from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from imagenet_weights import cadene_weights, torchvision_weights
from safetensors.torch import save_file
from torch import nn

from medseg3d.errors import UserError
from medseg3d.networks.backbones import DilatedResNet50, DilatedSEResNeXt50
from medseg3d.training import with_pretrained_encoder
from medseg3d.training.pretrained import find_weights


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something was to be downloaded")

    monkeypatch.setattr(socket, "socket", refuse)


@pytest.fixture(scope="module")
def torchvision() -> dict[str, torch.Tensor]:
    return torchvision_weights()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return nn.ModuleDict({"backbone": DilatedResNet50()})


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty folder of weights of torch's own."""
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def in_backbone(weights: dict[str, torch.Tensor]) -> dict[str, object]:
    """A checkpoint of mmsegmentation."""
    inner = {f"backbone.{key}": tensor for key, tensor in weights.items() if not key.startswith("fc.")}
    return {
        "meta": {"mmseg_version": "1.2.2", "CLASSES": ["polyp"]},
        "state_dict": {**inner, "decode_head.w": torch.ones(2)},
    }


@pytest.mark.parametrize(
    ("name", "save", "layout"),
    [
        ("resnet50-11ad3fa6.pth", torch.save, "torchvision"),
        ("resnet50.safetensors", save_file, "torchvision"),
        ("resnet50_a1_0.pt", lambda w, path: torch.save({"state_dict": w, "epoch": 3}, path), "torchvision"),
        ("ann_r50.pth", lambda w, path: torch.save(in_backbone(w), path), "torchvision, prefix backbone."),
    ],
    ids=["torchvision", "timm safetensors", "timm checkpoint", "mmseg"],
)
def test_files_of_every_kind_fill_the_encoder_and_the_log_counts(
    resnet, torchvision, tmp_path, caplog, name: str, save: Callable, layout: str
):
    for tensor in resnet.state_dict().values():
        tensor.zero_()
    save(torchvision, tmp_path / name)
    with caplog.at_level(logging.INFO, "medseg3d"):
        assert with_pretrained_encoder(resnet, str(tmp_path / name)) is resnet
    state = resnet["backbone"].state_dict()
    assert all(torch.equal(state[key], torchvision[key]) for key in state)
    assert caplog.messages == [
        f"{tmp_path / name}: 265 tensors of the encoder filled, 0 missing, 0 unexpected ({layout})"
    ]


def test_cadenes_file_fills_the_other_encoder(tmp_path, caplog):
    torch.save(cadene_weights(), tmp_path / "se_resnext50_32x4d-a260b3a4.pth", _use_new_zipfile_serialization=False)
    network = nn.ModuleDict({"backbone": DilatedSEResNeXt50()})
    with caplog.at_level(logging.INFO, "medseg3d"):
        with_pretrained_encoder(network, tmp_path / "se_resnext50_32x4d-a260b3a4.pth")
    assert "329 tensors of the encoder filled, 0 missing, 0 unexpected (cadene)" in caplog.text


def test_the_log_names_the_first_of_what_is_missing_and_unexpected(resnet, torchvision, tmp_path, caplog):
    weights = {key: tensor for key, tensor in torchvision.items() if not key.startswith("layer4.2.bn3.")}
    torch.save({**weights, "layer5.a": torch.ones(1), "layer5.b": torch.ones(1)}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, "medseg3d"):
        with_pretrained_encoder(resnet, tmp_path / "w.pth")
    missing = "layer4.2.bn3.weight, layer4.2.bn3.bias, layer4.2.bn3.running_mean, ..."
    assert f"261 tensors of the encoder filled, 4 missing ({missing}), 2 unexpected (layer5.a, layer5.b)" in caplog.text


def test_a_file_that_fits_too_little_is_refused_by_its_path(resnet, torchvision, tmp_path):
    torch.save({key: tensor for key, tensor in torchvision.items() if "layer4" not in key}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"PRETRAINED {tmp_path}/w\.pth: 215 of 265 tensors .*expected at least 95%"):
        with_pretrained_encoder(resnet, tmp_path / "w.pth")


def test_a_pickled_object_is_not_loaded(resnet, tmp_path):
    torch.save({"state_dict": nn.Linear(1, 1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"CHECKPOINT .*w\.pth: .*only tensors"):
        with_pretrained_encoder(resnet, tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["resnet50-11ad3fa6.pth", "resnet50-11ad3fa6", "resnet50"])
def test_a_name_is_looked_up_in_torchs_folder(hub, name):
    for other in ("resnet50-11ad3fa6.pth", "resnet50_a1_0-14fe96d1.pth", "resnet501-0.pth", "resnet50-11ad3fa6.txt"):
        (hub / other).touch()
    assert find_weights(name) == hub / "resnet50-11ad3fa6.pth"


def test_a_file_of_the_name_goes_before_one_with_a_hash_and_a_file_here_before_both(hub):
    (hub / "resnet50-11ad3fa6.pth").touch()
    (hub / "resnet50.safetensors").touch()
    assert find_weights("resnet50") == hub / "resnet50.safetensors"
    Path("resnet50").touch()
    assert find_weights("resnet50") == Path("resnet50")


def test_a_name_that_two_files_have_is_refused_with_both(hub):
    for name in ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth", "vgg16-397923af.pth"):
        (hub / name).touch()
    with pytest.raises(
        UserError,
        match=rf"MISSING_WEIGHTS resnet50: .* 2 of that name .*{hub}: resnet50-0676ba61\.pth, resnet50-11ad3fa6\.pth, ",
    ):
        find_weights("resnet50")


def test_a_name_that_no_file_has_is_refused_with_what_is_there(hub):
    with pytest.raises(UserError, match=rf"MISSING_WEIGHTS resnet50: .* 0 of that name .*{hub}: no weights, expected"):
        find_weights("resnet50")
    (hub / "vgg16-397923af.pth").touch()
    with pytest.raises(UserError, match=r" 0 of that name .*: vgg16-397923af\.pth, .*--pretrained"):
        find_weights("resnet50")


def test_a_path_is_looked_up_nowhere_else(hub):
    (hub / "resnet50.pth").touch()
    with pytest.raises(UserError, match=r"MISSING_WEIGHTS .*/here/weights/resnet50\.pth: no such file,.*--pretrained"):
        find_weights("weights/resnet50.pth")
