from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from picture_runs import polyp_folder
from PIL import Image

from medseg3d.bundle import read_config
from medseg3d.bundle_folders import config_files
from medseg3d.data.picture_folders import read_picture_folder
from medseg3d.errors import UserError
from medseg3d.files.tensors import read_tensors, save_tensors
from medseg3d.pictures.masks import read_picture_mask

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
SESSION = SCRIPTS / "gpu_session.sh"
sys.path.append(str(SCRIPTS))  # after tests, where a module has the name of a script

import ship_weights  # noqa: E402
import write_errors  # noqa: E402
from pack_pictures import pack  # noqa: E402


def test_a_packed_data_set_has_the_same_pictures_and_masks(tmp_path):
    source = polyp_folder(tmp_path / "polyps")
    pack(source, tmp_path / "packed")
    cases, packed = (read_picture_folder(folder) for folder in (source, tmp_path / "packed"))
    assert [case["case"] for case in packed] == [case["case"] for case in cases]
    assert [Path(each["image"]).read_bytes() for each in packed] == [Path(each["image"]).read_bytes() for each in cases]
    masks, expected = ([read_picture_mask(each["label"]).tolist() for each in of] for of in (packed, cases))
    assert masks == expected
    assert {(mask.format, mask.mode) for mask in (Image.open(each["label"]) for each in packed)} == {("PNG", "1")}


def test_packed_pictures_shrink_with_their_masks(tmp_path):
    source = polyp_folder(tmp_path / "polyps")
    pack(source, tmp_path / "packed", side=24)
    cases, packed = (read_picture_folder(folder) for folder in (source, tmp_path / "packed"))
    sizes, before = ([Image.open(each["image"]).size for each in of] for of in (packed, cases))
    assert [max(size) for size in sizes] == [24] * len(cases)
    assert [width / height for width, height in sizes] == pytest.approx([w / h for w, h in before], rel=0.05)
    masks, whole = ([read_picture_mask(each["label"]) for each in of] for of in (packed, cases))
    assert [mask.shape[::-1] for mask in masks] == sizes
    assert [mask.mean() for mask in masks] == pytest.approx([mask.mean() for mask in whole], abs=0.02)


def test_nothing_is_packed_over_a_folder(tmp_path):
    source = polyp_folder(tmp_path / "polyps")
    with pytest.raises(UserError, match="OUTPUT_EXISTS"):
        pack(source, source)


def test_shipped_weights_may_share_statistics_and_are_small_unless_any_size_will_do(tmp_path, monkeypatch):
    statistics = torch.rand(4)
    state = {"query.running_mean": statistics, "key.running_mean": statistics, "weight": torch.rand(4)}
    save_tensors(tmp_path / "model.pt", state)
    (tmp_path / "config.json").write_text('{"seed": 3, "dataset_dir": "/home/me"}')
    ship_weights.ship(tmp_path, tmp_path / "model.safetensors")
    shipped = read_tensors(tmp_path / "model.safetensors")
    assert torch.equal(shipped["query.running_mean"], statistics)
    assert torch.equal(shipped["key.running_mean"], statistics)
    assert torch.equal(shipped["weight"], state["weight"].half())
    monkeypatch.setattr(ship_weights, "LARGEST", 10)
    with pytest.raises(UserError, match="at most 10"):
        ship_weights.ship(tmp_path, tmp_path / "large.safetensors")
    ship_weights.ship(tmp_path, tmp_path / "large.safetensors", any_size=True)
    again = read_tensors(tmp_path / "large.safetensors")  # not byte by byte: safetensors orders its metadata at random
    assert again.keys() == shipped.keys()
    assert all(torch.equal(again[name], shipped[name]) for name in shipped)


bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@bash
def test_the_gpu_session_tells_its_steps_and_refuses_others(tmp_path):
    def run(*steps: str) -> subprocess.CompletedProcess:
        environment = {"PATH": "/usr/bin:/bin", "SESSION": str(tmp_path / "gpu")}
        return subprocess.run(["bash", str(SESSION), *steps], capture_output=True, text=True, env=environment)

    told = run()
    assert told.returncode == 2
    steps = set(re.findall(r"gpu_session.sh (?:setup )?(\w+)", told.stdout))
    assert steps >= {"pack", "prove", "train", "benchmark"}
    refused = run("trian")
    assert refused.returncode == 2
    assert "unknown step trian: pack, setup, prove, train or benchmark" in refused.stderr


def test_the_gpu_session_names_knobs_and_options_that_there_are():
    words = set(re.findall(r"(?<=\s|\()--(\w[\w-]*)", SESSION.read_text(encoding="utf-8")))
    known = {"config_file"}
    for bundle in (ROOT / "bundles").glob("[a-z]*"):
        known |= set(read_config(config_files(bundle, "train.json", ())).get())
    options = " ".join(path.read_text(encoding="utf-8") for path in [*(ROOT / "benchmarks").glob("*.py")])
    options += (ROOT / "medseg3d/cli/verbs.json").read_text(encoding="utf-8")
    options += " ".join(path.read_text(encoding="utf-8") for path in SCRIPTS.glob("*.py"))
    known |= set(re.findall(r'"--(\w[\w-]*)"', options))
    pip = {"quiet", "no-deps", "no-index", "constraint", "dest", "upgrade", "target"}
    others = {"foreground", "query-gpu"}  # of timeout and nvidia-smi
    assert words - known <= pip | others


def codes(kind: str) -> set[str]:
    return set(json.loads(write_errors.CODES.read_text(encoding="utf-8"))[kind])


def test_every_code_that_is_raised_is_explained():
    assert {code for _, code in write_errors.raised_codes()} - codes("errors") == set()
    assert set(write_errors.warning_codes()) - codes("warnings") == set()


def test_every_code_that_is_explained_is_in_the_source():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "medseg3d").rglob("*.py"))
    assert [code for code in sorted(codes("errors")) if f'"{code}"' not in source] == []
    assert [code for code in sorted(codes("warnings")) if f"{code}: " not in source] == []


def test_the_page_of_errors_is_the_one_that_the_script_writes():
    assert write_errors.DOCUMENT.read_text(encoding="utf-8") == write_errors.document()
