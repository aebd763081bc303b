"""The weights that pancreas_nl_2d ships, made for 2-D images, on volumes: each slice gets what its image gets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import safetensors.torch
import torch
from commands import ROOT
from nibabel.orientations import axcodes2ornt, ornt_transform
from PIL import Image
from scipy.ndimage import label

from medseg3d import predict
from medseg3d.bundle_folders import shipped_weights
from medseg3d.cli import main
from medseg3d.networks import SegResNetNL
from medseg3d.pictures.masks import read_grey

BUNDLE = ROOT / "bundles" / "pancreas_nl_2d"
KNOBS = {"init_filters": 8, "picture_size": 32, "device": "cpu"}
SPACING = (7.0, 7.0, 3.0)  # of rows, columns, slices: 48 x 64 pixels are 448 mm wide
AS_IT_COMES = {"largest_component": False, "fill_holes": False}


def stored(pictures: np.ndarray, codes: str) -> nib.Nifti1Image:
    """Pictures (rows to anterior, columns to the left, slices upwards) as a scan whose axes run as `codes` say."""
    affine = np.array([[0, -SPACING[1], 0, 200], [SPACING[0], 0, 0, -150], [0, 0, SPACING[2], 30], [0, 0, 0, 1]])
    image = nib.Nifti1Image(pictures.astype(np.int16), affine)
    assert nib.aff2axcodes(affine) == ("A", "L", "S")
    return image.as_reoriented(ornt_transform(axcodes2ornt("ALS"), axcodes2ornt(codes)))


def as_pictures(image: nib.Nifti1Image) -> np.ndarray:
    codes = "".join(nib.aff2axcodes(image.affine))
    return np.asarray(image.as_reoriented(ornt_transform(axcodes2ornt(codes), axcodes2ornt("ALS"))).dataobj)


@pytest.fixture(scope="module")
def hounsfield() -> np.ndarray:
    """Blobs of -300 to 500 HU, beyond both ends of the window."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(-300, 500, (1, 1, 8, 10, 5)))
    return torch.nn.functional.interpolate(coarse, (48, 64, 5), mode="trilinear")[0, 0].round().numpy()


@pytest.fixture(scope="module")
def weights(hounsfield, tmp_path_factory) -> Path:
    """Random weights whose masks are neither empty nor full."""
    torch.manual_seed(0)
    network = SegResNetNL(spatial_dims=2, in_channels=3, out_channels=2, init_filters=8, nonlocal_blocks=2).eval()
    slices = torch.from_numpy(hounsfield.clip(0, 255) / 255).float().permute(2, 0, 1)[:, None]
    with torch.inference_mode():
        logits = network(torch.nn.functional.interpolate(slices, (24, 32)).expand(-1, 3, -1, -1))
        shift = (logits[:, 1] - logits[:, 0]).median()
        list(network.parameters())[-1][1] -= shift
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def of_pictures(hounsfield, weights, tmp_path_factory) -> tuple[np.ndarray, np.ndarray]:
    """Masks and probabilities (48, 64, 5) that the image pipeline gives the slices."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "images").mkdir()
    for z in range(hounsfield.shape[2]):
        grey = hounsfield[..., z].clip(0, 255).astype(np.uint8)
        Image.fromarray(np.stack([grey] * 3, -1)).save(folder / "images" / f"{z}.png")
    knobs = {**KNOBS, "model_file": weights}
    report = predict(
        BUNDLE, folder / "images", folder / "masks", prob_dir=folder / "prob", overlays=["image_folder"], knobs=knobs
    )
    assert len(report.done) == 5
    masks = [np.asarray(Image.open(folder / "masks" / f"{z}_seg.png")) > 0 for z in range(5)]
    probs = [read_grey(folder / "prob" / f"{z}_prob.png") for z in range(5)]
    return np.stack(masks, -1), np.stack(probs, -1)


def test_random_weights_mark_something_in_every_picture(of_pictures):
    masks, _ = of_pictures
    assert (masks.any((0, 1)) & ~masks.all((0, 1))).all()


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "ALS", "SPR", "IRP"])
def test_a_slice_gets_what_its_picture_gets_however_the_scan_is_stored(
    codes, hounsfield, weights, of_pictures, tmp_path
):
    scan = stored(hounsfield, codes)
    nib.save(scan, tmp_path / "ct.nii.gz")
    knobs = {**KNOBS, **AS_IT_COMES, "model_file": weights}
    predict(BUNDLE, tmp_path / "ct.nii.gz", tmp_path, prob_dir=tmp_path, overlays=["nih_slices"], knobs=knobs).check()
    mask, prob = nib.load(tmp_path / "ct_seg.nii.gz"), nib.load(tmp_path / "ct_prob.nii.gz")
    assert mask.shape == prob.shape == scan.shape
    assert np.array_equal([mask.affine, prob.affine], [scan.affine] * 2)
    masks, probs = of_pictures
    assert np.abs(as_pictures(prob) - probs).max() < 1e-4
    undecided = np.abs(probs - 0.5) < 1e-4
    assert undecided.mean() < 0.01
    assert np.array_equal((as_pictures(mask) > 0)[~undecided], masks[~undecided])


def test_the_overlay_asks_for_the_largest_component(hounsfield, weights, tmp_path):
    nib.save(stored(hounsfield, "LPS"), tmp_path / "ct.nii.gz")
    knobs = {**KNOBS, "model_file": weights}
    predict(BUNDLE, tmp_path / "ct.nii.gz", tmp_path, overlays=["nih_slices"], knobs=knobs).check()
    cleaned = json.loads((tmp_path / "ct_seg.json").read_text())["cleaned"]
    assert (cleaned["largest_component"], cleaned["fill_holes"]) == (1, True)
    assert cleaned["components_kept"] == 1
    assert label(nib.load(tmp_path / "ct_seg.nii.gz").get_fdata(), np.ones((3, 3, 3)))[1] == 1


def test_the_shipped_weights_are_whole_small_and_have_a_card():
    weights = shipped_weights(BUNDLE)
    content = weights.file.read_bytes()
    digest = weights.file.with_name(f"{weights.file.name}.sha256").read_text().split()[0]
    assert hashlib.sha256(content).hexdigest() == digest == weights.sha256
    assert len(content) <= 25_000_000
    tensors = safetensors.torch.load(content).values()
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert sum(tensor.numel() for tensor in tensors) == 1_642_866
    assert all(torch.isfinite(tensor).all() for tensor in tensors)
    first = weights.file.with_name("README.md").read_text(encoding="utf-8").splitlines()[0]
    assert first.count("Dice") == 2, first


def test_a_bundle_and_a_ct_are_a_whole_command(hounsfield, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scan = stored(hounsfield, "LPS")
    nib.save(scan, "ct.nii.gz")
    assert main(["predict", str(BUNDLE), "ct.nii.gz", "--device", "cpu"]) == 0
    weights = shipped_weights(BUNDLE)
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith(f"weights nih_slices: {weights.file}, sha256 {weights.sha256[:12]}, window_hu [0, 255], ")
    assert "%" not in said
    mask = nib.load("masks/ct_seg.nii.gz")
    assert mask.shape == scan.shape
    assert np.array_equal(mask.affine, scan.affine)
    record = json.loads(Path("masks/ct_seg.json").read_text())
    assert record["model"] == {"class": "SegResNetNL", "sha256": weights.sha256}
    assert record["cleaned"]["largest_component"] == 1
