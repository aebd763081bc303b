"""`medseg3d doctor`: machine and installation, without what is nobody's business."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import psutil
import pytest
import torch
from commands import ROOT

from medseg3d import __version__, bundle_folders
from medseg3d.cli import main


@pytest.fixture
def found(capsys, monkeypatch) -> dict:
    """What it says as JSON, of a machine with some variables."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("CUDA_CACHE_PATH", "/home/somebody/cache")
    monkeypatch.setenv("MY_PASSWORD", "secret")
    assert main(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_names_versions_processor_memory_and_extras(found):
    assert found["versions"]["medseg3d"] == __version__
    assert found["processor"]["threads of torch"] == torch.get_num_threads()
    assert found["processor"]["precision"].split(":")[0] in ("float32", "bfloat16")
    assert found["memory_gb"]["total"] == round(psutil.virtual_memory().total / 2**30, 1)
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert set(found["extras"]) >= {"dicom", "tune", "test"}
    assert found["installation"].startswith("from a clone")


def test_it_names_no_path_and_no_variable_of_somebody_else(found):
    assert found["environment"]["OMP_NUM_THREADS"] == "2"
    assert found["environment"]["CUDA_CACHE_PATH"] == "(set)"
    text = json.dumps(found)
    assert [each for each in ("secret", "somebody", str(ROOT), str(Path.home())) if each in text] == []


def test_the_text_holds_the_same(found, capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "    polyp_resunetpp      weights kvasir_clinicdb128, sha256 96a0b6994215, state sound" in lines
    assert f"    medseg3d             {__version__}" in lines
    assert [line for line in lines if line.startswith("gpus")] == ["gpus" if found["gpus"] else "gpus           none"]


@pytest.mark.parametrize(
    ("damage", "state"), [(lambda file: file.write_bytes(b"no"), "damaged"), (Path.unlink, "missing")]
)
def test_weights_that_are_not_sound_are_told_by_the_exit_code(damage, state, tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "bundles" / "polyp_resunetpp", tmp_path / "polyp_resunetpp")
    damage(tmp_path / "polyp_resunetpp" / "models" / "kvasir_clinicdb128.safetensors")
    monkeypatch.setattr(bundle_folders, "INSTALLED", tmp_path)
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["bundles"]["polyp_resunetpp"]["state"] == state
