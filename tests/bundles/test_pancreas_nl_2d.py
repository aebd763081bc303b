"""The 2-D bundle on a folder of slice images and on volumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import ROOT, monai_bundle, wait_until
from commands import knobs as words
from monai.bundle import ConfigWorkflow
from picture_runs import differing_weights, run_bundle, train_and_evaluate
from PIL import Image

from medseg3d.cli import main
from medseg3d.data.splits import read_split
from medseg3d.evaluation.files import GROUPS_CSV, SCORES_CSV, SLICES_CSV, read_summary

BUNDLE = "bundles/pancreas_nl_2d"
SMALL = {"picture_size": 32, "init_filters": 8, "epochs": 2, "iterations_per_epoch": 3, "batch_size": 2}
"""Knobs of a training that takes seconds; its masks mean nothing."""


run = partial(run_bundle, "pancreas_nl_2d")


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
    """Overrides for a training of seconds on generated images."""
    folder = picture_folder(tmp_path_factory.mktemp("pictures") / "slices")
    split = folder.parent / "split.json"
    return {**SMALL, "dataset_dir": str(folder), "split_file": str(split), "test_cases": 1, "val_cases": 1}


class TestPictures:
    """The overlay for a folder of images."""

    @pytest.fixture(scope="class")
    def run_dir(self, pictures, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("runs") / "run"
        return train_and_evaluate("pancreas_nl_2d", folder, ("image_folder",), **pictures)

    def test_training_leaves_weights_and_checkpoints(self, run_dir):
        assert torch.load(run_dir / "model.pt", weights_only=True)
        assert len(list((run_dir / "checkpoints").glob("*.pt"))) == 2

    def test_the_test_part_is_of_patients_that_were_not_trained_on(self, run_dir, pictures):
        split = read_split(pictures["split_file"])
        assert [split.count(part) for part in ("train", "val", "test")] == [2, 1, 1]
        rows = SCORES_CSV.read(run_dir / "evaluation_test" / "scores.csv")
        assert [row["case"] for row in rows] == split.test

    def test_the_scores_are_those_of_the_masks_on_the_original_picture(self, run_dir, pictures):
        rows = SCORES_CSV.read(run_dir / "evaluation_test" / "scores.csv")
        masks = Path(pictures["dataset_dir"]) / "masks"
        true = np.stack([np.asarray(Image.open(masks / f"{row['case']}.jpg").convert("L")) > 127 for row in rows])
        made = run_dir / "evaluation_test" / "masks"
        found = np.stack([np.asarray(Image.open(made / f"{row['case']}_seg.png")) > 0 for row in rows])
        assert found.shape == true.shape == (2, 48, 64)
        counts = np.stack([true & found, ~true & found, true & ~found, ~true & ~found]).sum((2, 3)).T
        assert [[row[name] for name in ("tp", "fp", "fn", "tn")] for row in rows] == counts.tolist()

    def test_the_pictures_of_a_patient_are_scored_together_too(self, run_dir, pictures):
        (row,) = GROUPS_CSV.read(run_dir / "evaluation_test" / "groups.csv")
        single = SCORES_CSV.read(run_dir / "evaluation_test" / "scores.csv")
        assert row["group"] == read_split(pictures["split_file"]).test[0][len("PANCREAS_") :].split("-")[0]
        assert [row[name] for name in ("tp", "fp", "fn")] == [
            sum(r[name] for r in single) for name in ("tp", "fp", "fn")
        ]

    def test_the_summary_states_the_grid(self, run_dir):
        summary = read_summary(run_dir / "evaluation_test" / "summary.json")
        assert summary.find("pancreas", "dice").grid == "original grid of the image"

    def test_predict_writes_a_mask_for_each_picture(self, run_dir, pictures, tmp_path):
        size = {key: pictures[key] for key in ("picture_size", "init_filters")}
        options = ["--config-overlay", "image_folder", *words(**size, model_file=run_dir / "model.pt")]
        folder = Path(pictures["dataset_dir"]) / "images"
        assert main(["predict", str(ROOT / BUNDLE), str(folder), "-o", str(tmp_path), *options]) == 0
        masks = sorted(path.name for path in tmp_path.glob("*.png"))
        assert masks == sorted(f"{path.stem}_seg.png" for path in folder.iterdir())
        found = np.asarray(Image.open(tmp_path / masks[0]))
        assert found.shape == (48, 64)
        record = json.loads((tmp_path / masks[0].replace(".png", ".json")).read_text())
        assert record["geometry"] == {"shape": [48, 64]}
        assert record["labels"].get("1", {"pixels": 0})["pixels"] == (found == 255).sum()

    def check(self, *more: str, **changed: object) -> int:
        return main(["check", str(ROOT / BUNDLE), "--config-overlay", "image_folder", *words(**changed), *more])

    def test_a_sound_folder_passes_the_check(self, pictures, run_dir, capsys):
        assert self.check(**pictures, output_dir=run_dir) == 0
        out = capsys.readouterr().out
        said = ("8 images", "of 2, 1, 1 patients", "model.pt holds weights of this network", "no problems found")
        assert [part for part in said if part not in out] == []

    def test_the_check_names_every_bad_picture(self, pictures, tmp_path, capsys):
        folder = picture_folder(tmp_path / "slices")
        Image.new("L", (9, 9)).save(folder / "masks" / "PANCREAS_0001-0.jpg")
        (folder / "images" / "PANCREAS_0002-1.jpg").write_bytes(b"\xff\xd8\xff")
        changed = {**pictures, "dataset_dir": folder, "split_file": tmp_path / "split.json", "output_dir": tmp_path}
        assert self.check(**changed) == 1
        err = capsys.readouterr().err
        assert "PAIR_GEOMETRY" in err
        assert "PANCREAS_0001-0.jpg" in err
        assert "PANCREAS_0002-1.jpg" in err

    def test_a_name_without_a_patient_is_refused(self, pictures, tmp_path, capsys):
        folder = picture_folder(tmp_path / "slices")
        for part in ("images", "masks"):
            (folder / part / "PANCREAS_0001-0.jpg").rename(folder / part / "scan.jpg")
        changed = {**pictures, "dataset_dir": folder, "split_file": tmp_path / "split.json", "output_dir": tmp_path}
        assert self.check(**changed) == 1
        assert "GROUP_PATTERN" in capsys.readouterr().err


class TestVolumes:
    """Slices of volumes with their neighbours, on phantoms."""

    @pytest.fixture(scope="class")
    def volumes(self, phantom_dir) -> dict[str, object]:
        split = {"split_file": str(phantom_dir.parent / "split_2d.json"), "test_cases": 1, "val_cases": 1}
        size = {"spacing": [8, 8, -1], "roi_size": [16, 16], "init_filters": 8, "crops_per_case": 2}
        length = {"epochs": 2, "iterations_per_epoch": 3, "val_interval": 2, "num_workers": 0}
        return {"dataset_dir": str(phantom_dir), **split, **size, **length}

    @pytest.fixture(scope="class")
    def run_dir(self, volumes, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("volumes") / "run"
        return train_and_evaluate("pancreas_nl_2d", folder, **volumes)

    def test_the_network_sees_a_slice_and_its_neighbours(self, volumes, tmp_path):
        workflow = ConfigWorkflow(
            config_file=f"{BUNDLE}/train.json",
            workflow_type="train",
            logging_file=False,
            **volumes,
            output_dir=str(tmp_path),
        )
        workflow.initialize()
        batch = next(iter(workflow.parser.get_parsed_content("train::dataloader")))
        assert batch["image"].shape == (4, 3, 16, 16)
        assert batch["label"].shape == (4, 1, 16, 16)

    def test_the_scores_are_those_of_the_masks_on_the_original_grid(self, run_dir, volumes):
        (row,) = SCORES_CSV.read(run_dir / "evaluation_test" / "scores.csv")
        truth = nib.load(Path(volumes["dataset_dir"]) / "labelsTr" / f"{row['case']}.nii.gz")
        pred = nib.load(run_dir / "evaluation_test" / "masks" / f"{row['case']}_seg.nii.gz")
        assert np.allclose(pred.affine, truth.affine)
        true, found = truth.get_fdata() > 0, pred.get_fdata() > 0
        assert (row["tp"], row["fp"], row["fn"]) == ((true & found).sum(), (~true & found).sum(), (true & ~found).sum())
        slices = SLICES_CSV.read(run_dir / "evaluation_test" / "slices.csv")
        assert sum(each["tp"] + each["fn"] for each in slices) == true.sum()

    def test_predict_writes_masks_in_the_geometry_of_each_scan(self, run_dir, volumes, phantom_dir, tmp_path):
        size = {key: volumes[key] for key in ("spacing", "roi_size", "init_filters")}
        options = words(**size, model_file=run_dir / "model.pt")
        scans = phantom_dir / "imagesTs"
        options += ["--probabilities", str(tmp_path / "probs")]
        assert main(["predict", str(ROOT / BUNDLE), str(scans), "-o", str(tmp_path), *options]) == 0
        images = {path.name.removesuffix(".nii.gz"): nib.load(path) for path in scans.glob("*.nii.gz")}
        masks = {name: nib.load(tmp_path / f"{name}_seg.nii.gz") for name in images}
        probs = {name: nib.load(tmp_path / "probs" / f"{name}_prob.nii.gz") for name in images}
        grids, *results = (
            {name: (file.shape, file.get_sform().tolist()) for name, file in files.items()}
            for files in (images, masks, probs)
        )
        assert results == [grids, grids] != [{}, {}]
        found = {name: np.asarray(mask.dataobj) == 1 for name, mask in masks.items()}
        assert [name for name in found if not np.array_equal(found[name], probs[name].get_fdata() > 0.5)] == []

    def test_a_sound_data_set_passes_the_check(self, run_dir, volumes, capsys):
        options = words(**volumes, output_dir=run_dir)
        assert main(["check", str(ROOT / BUNDLE), *options]) == 0
        assert "no problems found" in capsys.readouterr().out


@pytest.mark.slow  # 47 patients' slices; generated ones are trained on above
def test_real_slices_of_held_out_patients_are_scored(real_data, tmp_path):
    knobs = {
        **SMALL,
        "dataset_dir": str(real_data / "nih-pancreas-2d"),
        "split_file": str(tmp_path / "split.json"),
        "output_dir": str(tmp_path / "run"),
        "epochs": 1,
    }
    run("training", "train", ("image_folder",), **knobs)
    run("evaluating", "evaluate", ("image_folder",), **knobs)
    split = read_split(tmp_path / "split.json")
    assert [split.count(part) for part in ("train", "val", "test")] == [30, 7, 10]
    rows = SCORES_CSV.read(tmp_path / "run" / "evaluation_test" / "scores.csv")
    assert [row["case"] for row in rows] == split.test
    assert all(row["tp"] + row["fp"] + row["fn"] + row["tn"] == 512 * 512 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["volumes", "images"])
def test_a_killed_and_resumed_training_ends_with_the_same_bits(kind, pictures, phantom_dir, tmp_path):
    files = [f"{BUNDLE}/train.json", *([f"{BUNDLE}/image_folder.json"] if kind == "images" else [])]
    changed = pictures
    if kind == "volumes":
        small = {"spacing": [8, 8, -1], "roi_size": [16, 16], "init_filters": 8, "num_workers": 0}
        changed = {**small, "dataset_dir": phantom_dir, "split_file": tmp_path / "split.json"}
    length = {"test_cases": 1, "val_cases": 1, "epochs": 4, "iterations_per_epoch": 20, "val_interval": 1}
    line = ["training", "--config_file", str(files), *words(**{**changed, **length})]
    done = monai_bundle(*line, "--output_dir", str(tmp_path / "whole"))
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "monai.bundle", "run", *line, "--output_dir", str(tmp_path / "run")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    wait_until((tmp_path / "run/checkpoints/epoch_00001.pt").exists, process)
    process.kill()
    process.wait()
    assert not (tmp_path / "run/checkpoints/epoch_00004.pt").exists()
    done = monai_bundle(*line, "--output_dir", str(tmp_path / "run"), "--resume", "true")
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch" in done.stderr
    assert differing_weights(tmp_path / "run", tmp_path / "whole", epoch=4) == []
