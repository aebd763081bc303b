"""`medseg3d predict` on NRRD and MetaImage: whole commands on a bundle for CT with tiny random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from ray_runs import own_process

from medseg3d.cli import main

KINDS = {"a": ".nii.gz", "b": ".nrrd", "c": ".nhdr", "d": ".mha", "e": ".mhd"}


@pytest.fixture
def scans(predict) -> Path:
    """One CT in five formats; the current directory is that above."""
    values = np.random.default_rng(0).integers(-1000, 1200, (20, 24, 28)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.3, 1.2, 2.1))
    image.SetOrigin((-80.4, 20.6, 300.1))
    image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    Path("scans").mkdir()
    for name, suffix in KINDS.items():
        sitk.WriteImage(image, f"scans/{name}{suffix}")
    return Path("scans")


def read(path: Path) -> tuple[np.ndarray, tuple]:
    image = sitk.ReadImage(str(path))
    grid = image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    return sitk.GetArrayFromImage(image), tuple(np.round(value, 4).tolist() for value in map(np.array, grid))


def test_one_ct_in_five_formats_has_one_mask_in_the_format_of_each(predict, scans, capsys):
    assert predict(scans, "--format", "source", "--probabilities", "probs") == 0
    masks = {name: next(Path("masks").glob(f"{name}_seg.[nm]*")) for name in KINDS}
    assert [path.name.partition(".")[2] for path in masks.values()] == ["nii.gz", "nrrd", "nrrd", "mha", "mha"]
    arrays, grids = zip(*map(read, masks.values()), strict=True)
    assert 0 < arrays[0].astype(bool).mean() < 1
    assert [np.array_equal(array, arrays[0]) for array in arrays] == [True] * 5
    assert set(map(str, grids)) == {str(read(scans / "a.nii.gz")[1])}
    maps = [read(path)[0] for path in sorted(Path("probs").glob("*_prob.*"))]
    assert [np.array_equal(each, maps[0]) for each in maps] == [True] * 5
    assert json.loads(Path("masks/c_seg.json").read_text())["mask"]["file"] == "c_seg.nrrd"
    assert predict(scans, "--format", "source", "--probabilities", "probs") == 0
    assert "0 segmented, 5 skipped" in capsys.readouterr().out
    assert main(["verify", "masks", "probs", "--images", "scans"]) == 0
    other = bytearray((scans / "e.raw").read_bytes())
    other[1000] ^= 1
    (scans / "e.raw").write_bytes(other)
    assert main(["verify", "masks", "probs", "--images", "scans"]) == 1
    assert predict(scans, "--format", "source", "--probabilities", "probs") == 0
    assert "1 segmented, 4 skipped" in capsys.readouterr().out


def test_masks_are_nifti_unless_another_format_is_asked_for(predict, scans):
    assert predict(scans / "b.nrrd", scans / "e.mhd") == 0
    assert sorted(path.name for path in Path("masks").iterdir()) == [
        *("b_seg.json", "b_seg.nii.gz", "e_seg.json", "e_seg.nii.gz")
    ]
    assert predict(scans / "a.nii.gz", scans / "e.mhd", "--format", "nrrd", "-o", "nrrd") == 0
    assert sorted(path.name for path in Path("nrrd").glob("*.nrrd")) == ["a_seg.nrrd", "e_seg.nrrd"]
    assert main(["evaluate", "--pred", "masks", "--truth", "nrrd", "-o", "scores", "--missing", "leave-out"]) == 1
    Path("nrrd/a_seg.nrrd").rename("nrrd/b_seg.nrrd")
    assert main(["evaluate", "--pred", "masks", "--truth", "nrrd", "-o", "scores", "--class-names", "a", "b"]) == 0
    assert "1.000" in Path("scores/summary.md").read_text()


def test_a_bad_volume_stops_no_other(predict, scans, capsys):
    (scans / "d.mha").write_bytes((scans / "d.mha").read_bytes()[:-100])
    (scans / "c.raw").unlink()
    assert predict(scans) == 3
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert [line.split(":")[1].split()[0] for line in errors] == ["MISSING_FILE", "TRUNCATED"]
    assert len(list(Path("masks").glob("*.nii.gz"))) == 3


def test_pictures_have_no_format_of_volumes(tmp_path, capsys):
    (tmp_path / "a.png").touch()
    assert main(["predict", "polyp_resunetpp", str(tmp_path / "a.png"), "--format", "nrrd"]) == 2
    assert "--format nrrd: a bundle for 2-D images, expected one for volumes" in capsys.readouterr().err


@pytest.mark.slow  # the real Ray, as in tests/inference/test_cluster.py
def test_workers_of_a_cluster_write_the_format_of_each_scan(predict, scans):
    pytest.importorskip("ray")
    for name in "ace":
        for path in scans.glob(f"{name}.*"):
            path.unlink()
    with own_process() as within:
        words = ("--format", "source", "--cluster", "ray", "--workers", "2")
        assert predict(scans, *words, within=within) == 0
    assert sorted(path.name for path in Path("masks").glob("*_seg.[nm]*")) == ["b_seg.nrrd", "d_seg.mha"]
