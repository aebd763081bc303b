"""The bundles' own command line under torchrun."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from commands import knobs, monai_bundle, torchrun
from picture_runs import LENGTH

from medseg3d.files.tensors import read_tensors

pytestmark = pytest.mark.slow


def in_two_processes(bundle: str, folder: Path, **options: object) -> dict[str, torch.Tensor]:
    """The weights after a training in two processes."""
    files = [f"bundles/{bundle}/{name}.json" for name in ("train", "multi_gpu_train")]
    words = ["-m", "monai.bundle", "run", "training", "--config_file", str(files)]
    done = torchrun(*words, *knobs(**options, output_dir=folder))
    assert done.returncode == 0, done.stderr
    return read_tensors(folder / "checkpoints/epoch_00002.pt")["network"]


def test_the_pancreas_bundle_learns_in_two_processes_what_it_learns_in_one(small_knobs, tmp_path):
    options = {**small_knobs, "batch_size": 2, "precision": "float32"}
    words = ["training", "--config_file", "bundles/pancreas_nl/train.json"]
    alone = monai_bundle(*words, *knobs(**options, output_dir=tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr
    one = read_tensors(tmp_path / "one/checkpoints/epoch_00002.pt")["network"]
    two = in_two_processes("pancreas_nl", tmp_path / "two", **options)
    apart = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    # Adam steps by the learning rate, 5e-4, whatever the size of a gradient: where that is rounding, either way
    assert apart.mean() < 5e-5
    assert apart.max() < 6 * 5e-4


def test_processes_without_the_overlay_are_refused_in_one_line(small_knobs, tmp_path):
    words = ["-m", "monai.bundle", "run", "training", "--config_file", "bundles/pancreas_nl/train.json"]
    done = torchrun(*words, *knobs(**small_knobs, output_dir=tmp_path / "run"))
    assert re.search(r"^error: TORCHRUN process \d of 2: .*multi_gpu_train.json", done.stderr, re.MULTILINE)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("bundle", ["polyp_resunetpp", "polyp_cris", "polyp_ann"])
def test_a_polyp_bundle_trains_in_two_processes(bundle, pictures, tmp_path):
    options = {**LENGTH, **pictures, "batch_size": 4, "picture_size": [64, 64], "roi_size": [64, 64]}
    weights = in_two_processes(bundle, tmp_path, **options)
    assert all(value.isfinite().all() for value in weights.values())
