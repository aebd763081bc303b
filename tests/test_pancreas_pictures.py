"""scripts/pancreas_pictures.py: slices without a pancreas beside those of a folder, and a training that takes them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from commands import ROOT
from picture_runs import run_bundle
from PIL import Image

from medseg3d.data.picture_folders import read_picture_folder
from medseg3d.data.splits import read_split
from medseg3d.errors import UserError
from medseg3d.pictures.masks import read_picture_mask
from medseg3d.pictures.reading import read_picture
from medseg3d.transforms import LoadPictured


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pancreas_pictures", ROOT / "scripts" / "pancreas_pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def scan(tmp_path) -> tuple[Path, Path]:
    """A scan stored R A S of 12 slices 3 mm apart, and its label: the organ, 7, in slices 5 and 6."""
    ct = np.random.default_rng(0).integers(-500, 500, (40, 30, 12), dtype=np.int16)
    label = np.zeros(ct.shape, np.uint8)
    label[10:14, 10:14, 5:7] = 7
    label[:5, :5] = 3
    affine = np.diag([4.0, 4.0, 3.0, 1.0])
    for name, array in (("ct", ct), ("label", label)):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    return tmp_path / "ct.nii.gz", tmp_path / "label.nii.gz"


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Two images of each of 20 patients."""
    folder = tmp_path / "slices"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    picture = np.zeros((30, 40, 3), np.uint8)
    picture[10:15, 10:20] = 255
    for patient in range(1, 21):
        for z in range(2):
            Image.fromarray(picture).save(folder / "images" / f"PANCREAS_{patient:04d}-1{z:03d}.jpg")
            Image.fromarray(picture[..., 0]).save(folder / "masks" / f"PANCREAS_{patient:04d}-1{z:03d}.png")
    return folder


@pytest.fixture
def made(script, scan, pictures, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "made"
    words = ["--pictures", pictures, "--leave-out", "0003", "--negatives", *scan, "7", "--upper", scan[0], "8"]
    monkeypatch.setattr("sys.argv", ["pancreas_pictures.py", str(folder), *map(str, words)])
    script.main()
    return folder


def test_slices_away_from_the_organ_become_pictures_with_empty_masks(made, scan):
    cases = {case["case"]: case for case in read_picture_folder(made, r"PANCREAS_(\d+)-")}
    assert len(cases) == 38 + 2 + 2
    assert not any(case.startswith("PANCREAS_0003") for case in cases)
    # 9 mm below slice 5 and above slice 6 are 0 and 1, 10 and 11; one every 6 mm of those
    first, second = sorted({case["group"] for case in cases.values()})[-2:]
    assert sorted(case for case in cases if case[9:13] >= "9000") == [
        *(f"PANCREAS_{first}-{z:04d}" for z in (0, 10)),
        *(f"PANCREAS_{second}-{z:04d}" for z in (8, 10)),
    ]
    case = cases[f"PANCREAS_{first}-0010"]
    assert not read_picture_mask(case["label"]).any()
    # R A S to rows towards anterior and columns to the left
    expected = nib.load(scan[0]).get_fdata()[::-1, :, 10].T.clip(0, 255)
    picture = read_picture(case["image"]).astype(float)
    assert picture.shape == (30, 40, 3)
    assert np.ptp(picture, axis=-1).max() == 0
    assert np.corrcoef(picture[..., 0].ravel(), expected.ravel())[0, 1] > 0.95  # JPEG of noise


def test_scans_are_in_the_training_part_and_patients_stay_where_they_are(made, script, tmp_path):
    patients = [f"{number:04d}" for number in range(1, 21) if number != 3]
    alone = script.make_split(patients, 10, 7, 0)
    groups = {case["group"] for case in read_picture_folder(made, script.PATIENT)}
    both = script.make_split(sorted(groups), 10, 7, 0)
    assert (both.test, both.val) == (alone.test, alone.val)
    assert set(both.train) - set(alone.train) == {group for group in groups if group >= "9001"}


def test_a_training_takes_pictures_with_empty_masks(made, tmp_path):
    knobs = {"picture_size": 16, "init_filters": 8, "epochs": 1, "batch_size": 8, "val_interval": 1, "num_workers": 0}
    split = tmp_path / "split.json"
    places = {"dataset_dir": str(made), "split_file": str(split), "output_dir": str(tmp_path / "run")}
    run_bundle("pancreas_nl_2d", "training", "train", ("image_folder",), **knobs, **places)
    assert (tmp_path / "run" / "checkpoints" / "epoch_00001.pt").is_file()
    assert sum(case[9:13] >= "9000" for case in read_split(split).train) == 4
    empty = next((made / "masks").glob("PANCREAS_9*"))
    item = LoadPictured(["image", "label"])({"image": made / "images" / f"{empty.stem}.jpg", "label": empty})
    assert not item["label"].any()


def test_a_label_without_the_organ_is_refused(script, scan):
    volume = script.read_as_pictures(scan[0])
    with pytest.raises(UserError, match=r"LABEL_SET .*no voxel of the organ"):
        script.slices_without(np.zeros((12, 30, 40), bool), volume)
    with pytest.raises(UserError, match=r"PAIR_GEOMETRY .*11 slices"):
        script.slices_without(np.zeros((11, 30, 40), bool), volume)
    with pytest.raises(UserError, match="MISSING_FILE"):
        script.read_as_pictures(scan[0].with_name("absent.nii.gz"))
