from __future__ import annotations

import subprocess

import pytest
import torch
from safetensors.torch import save_file

from medseg3d.errors import UserError
from medseg3d.files.tensors import read_tensors, save_tensors


def test_what_is_saved_is_read_back(tmp_path):
    state = {"epoch": 3, "network": {"weight": torch.arange(4.0)}, "groups": [{"lr": 0.1}]}
    save_tensors(tmp_path / "model.pt", state)
    back = read_tensors(tmp_path / "model.pt")
    assert torch.equal(back["network"].pop("weight"), torch.arange(4.0))
    assert back == {"epoch": 3, "network": {}, "groups": [{"lr": 0.1}]}


def test_the_sum_is_in_the_form_of_sha256sum(tmp_path):
    save_tensors(tmp_path / "model.pt", {"weight": torch.ones(2)})
    subprocess.run(["sha256sum", "--check", "--strict", "model.pt.sha256"], cwd=tmp_path, check=True)


def test_what_cannot_be_loaded_safely_is_not_saved(tmp_path):
    with pytest.raises(Exception, match=r"weights_only|WeightsUnpickler|allowlist"):
        save_tensors(tmp_path / "model.pt", {"class": UserError})
    assert list(tmp_path.iterdir()) == []


def flip_a_byte(content: bytes) -> bytes:
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (flip_a_byte, "CHECKSUM"),
        (lambda content: content[:-100], "CHECKSUM"),
        (lambda content: b"", "CHECKSUM"),
    ],
)
def test_a_file_that_is_not_what_was_saved_is_refused_by_its_sum(tmp_path, damage, code):
    path = tmp_path / "model.pt"
    save_tensors(path, {"weight": torch.ones(200)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"{code} .*model\.pt: sha256"):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 truncated"])
def test_what_torch_cannot_load_is_refused_by_name(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"CHECKPOINT .*model\.pt: {len(content)} bytes that torch cannot load"):
        read_tensors(path)


def test_a_pickled_object_is_refused(tmp_path):
    torch.save({"network": torch.nn.Linear(1, 1)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"CHECKPOINT .*only tensors"):
        read_tensors(tmp_path / "model.pt")


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    torch.save({"conv": {"weight": torch.tensor([1.0, float("nan")])}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"NON_FINITE .*NaN or infinity in conv\.weight"):
        read_tensors(tmp_path / "model.pt")


def test_a_missing_file_is_refused_with_its_whole_path(tmp_path):
    with pytest.raises(UserError, match=rf"MISSING_WEIGHTS {tmp_path}/model\.pt: no such file.*train first"):
        read_tensors(tmp_path / "model.pt")


def test_files_of_old_pytorch_are_read(tmp_path):
    """Cadene's and torchvision's first files are of before the ZIP format."""
    torch.save({"weight": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(tmp_path / "old.pth")["weight"], torch.ones(3))


def test_safetensors_are_read_and_checked_as_well(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"conv.weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}, path)
    state = read_tensors(path)
    assert torch.equal(state["conv.weight"], torch.arange(6.0).reshape(2, 3))
    assert state["n"] == 3
    content = path.read_bytes()
    for damaged in (b"", content[:-4], b"<html>404</html>"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"CHECKPOINT .*{len(damaged)} bytes that safetensors cannot load"):
            read_tensors(path)
    save_file({"weight": torch.tensor([float("inf")])}, path)
    with pytest.raises(UserError, match="NON_FINITE"):
        read_tensors(path)
