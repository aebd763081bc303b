"""The 2-D bundle on a folder of slice pictures and on volumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT
from monai.bundle import ConfigWorkflow
from PIL import Image

from medseg3d.data.score_files import read_scores
from medseg3d.data.splits import read_split

BUNDLE = "bundles/pancreas_nl_2d"
SMALL = {"picture_size": 32, "init_filters": 8, "epochs": 2, "iterations_per_epoch": 3, "batch_size": 2}
"""Knobs of a training that takes seconds; its masks mean nothing."""


def run(run_id: str, config: str, overlays: tuple[str, ...] = (), **knobs: object) -> ConfigWorkflow:
    """What `python -m monai.bundle run` does, without the seconds that a process takes to start."""
    workflow = ConfigWorkflow(
        config_file=[f"{BUNDLE}/{name}.json" for name in (config, *overlays)],
        workflow_type="train",
        run_id=run_id,
        logging_file=False,
        **knobs,
    )
    workflow.initialize()
    workflow.run()
    return workflow


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def picture_folder(folder: Path, patients: int = 4, slices: int = 2) -> Path:
    """Slices of 48 x 64 pixels with one bright ellipse each, as JPEG, their masks as JPEG too."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :64]
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for patient in range(patients):
        for number in range(slices):
            row, column = rng.integers(16, 32), rng.integers(20, 44)
            mask = ((rows - row) / 8) ** 2 + ((columns - column) / 12) ** 2 < 1
            picture = np.clip(rng.normal(60, 20, mask.shape) + 120 * mask, 0, 255)
            for part, grey in (("images", picture), ("masks", 255 * mask)):
                levels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
                Image.fromarray(levels).save(folder / part / f"PANCREAS_{patient:04d}-{number}.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, object]:
    """Overrides for a training of seconds on generated pictures."""
    folder = picture_folder(tmp_path_factory.mktemp("pictures") / "slices")
    split = folder.parent / "split.json"
    return {**SMALL, "dataset_dir": str(folder), "split_file": str(split), "test_cases": 1, "val_cases": 1}


class TestPictures:
    """The overlay for a folder of pictures."""

    @pytest.fixture(scope="class")
    def run_dir(self, pictures, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("runs") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            run("training", "train", ("pictures",), **pictures, output_dir=str(folder))
            run("evaluating", "evaluate", ("pictures",), **pictures, output_dir=str(folder))
        return folder

    def test_training_leaves_weights_and_checkpoints(self, run_dir):
        assert torch.load(run_dir / "model.pt", weights_only=True)
        assert len(list((run_dir / "checkpoints").glob("*.pt"))) == 2

    def test_the_test_part_is_of_patients_that_were_not_trained_on(self, run_dir, pictures):
        split = read_split(pictures["split_file"])
        assert [split.count(part) for part in ("train", "val", "test")] == [2, 1, 1]
        rows = read_scores(run_dir / "evaluation_test" / "scores.csv")
        assert [row["case"] for row in rows] == split.test

    def test_the_scores_are_those_of_the_masks_on_the_original_picture(self, run_dir, pictures):
        for row in read_scores(run_dir / "evaluation_test" / "scores.csv"):
            stored = Image.open(Path(pictures["dataset_dir"]) / "masks" / f"{row['case']}.jpg").convert("L")
            true = np.asarray(stored) > 127
            found = np.asarray(Image.open(run_dir / "evaluation_test" / "masks" / f"{row['case']}_seg.png")) > 0
            assert found.shape == true.shape == (48, 64)
            counts = ((true & found).sum(), (~true & found).sum(), (true & ~found).sum(), (~true & ~found).sum())
            assert tuple(row[name] for name in ("tp", "fp", "fn", "tn")) == counts

    def test_the_summary_states_the_grid(self, run_dir):
        summary = json.loads((run_dir / "evaluation_test" / "summary.json").read_text())
        assert "original grid of the picture" in summary["scores"]["pancreas"]["dice_mean"]["convention"]


def test_real_slices_of_held_out_patients_are_scored(real_data, tmp_path):
    knobs = {
        **SMALL,
        "dataset_dir": str(real_data / "nih-pancreas-2d"),
        "split_file": str(tmp_path / "split.json"),
        "output_dir": str(tmp_path / "run"),
        "epochs": 1,
    }
    run("training", "train", ("pictures",), **knobs)
    run("evaluating", "evaluate", ("pictures",), **knobs)
    split = read_split(tmp_path / "split.json")
    assert [split.count(part) for part in ("train", "val", "test")] == [30, 7, 10]
    rows = read_scores(tmp_path / "run" / "evaluation_test" / "scores.csv")
    assert [row["case"] for row in rows] == split.test
    assert all(row["tp"] + row["fp"] + row["fn"] + row["tn"] == 512 * 512 for row in rows)
