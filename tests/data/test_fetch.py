from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from urllib.error import URLError

import nibabel as nib
import numpy as np
import pytest

from medseg3d.data import fetch
from medseg3d.data.fetch import fetch_pancreas
from medseg3d.data.verify import verify_msd
from medseg3d.errors import UserError


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([0.8, 0.8, 2.5, 1.0]) if affine is None else affine), path)


def write_case(folder: Path, name: str, part: str = "Tr") -> None:
    rng = np.random.default_rng(0)
    write_volume(folder / f"images{part}" / f"{name}.nii.gz", rng.integers(-1000, 900, (6, 7, 8)).astype(np.int16))
    if part == "Tr":
        write_volume(folder / "labelsTr" / f"{name}.nii.gz", rng.integers(0, 3, (6, 7, 8)).astype(np.uint8))


@pytest.fixture
def dataset(tmp_path) -> Path:
    folder = tmp_path / "task"
    for name in ("p_1", "p_2", "p_3"):
        write_case(folder, name)
    write_case(folder, "p_9", "Ts")
    content = {
        "name": "Pancreas",
        "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in ("p_1", "p_2", "p_3")
        ],
        "test": ["./imagesTs/p_9.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_sound_data_set_has_no_error(dataset):
    calls = []
    report = verify_msd(dataset, expected_cases=3, progress=lambda done, total: calls.append((done, total)))
    assert report.errors == []
    assert (report.n_cases, report.n_test) == (3, 1)
    assert report.label_values == {0: 3, 1: 3, 2: 3}
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_problem_is_listed_and_not_only_the_first(dataset, workers):
    image = dataset / "imagesTr" / "p_1.nii.gz"
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)  # one flipped bit
    write_volume(dataset / "labelsTr" / "p_2.nii.gz", np.full((6, 7, 8), 7, np.uint8))
    (dataset / "labelsTr" / "p_3.nii.gz").unlink()
    write_volume(dataset / "imagesTs" / "p_9.nii.gz", np.zeros((6, 7, 8, 2), np.int16))
    shutil.copy(dataset / "imagesTr" / "p_2.nii.gz", dataset / "imagesTr" / "p_7.nii.gz")
    shutil.copy(dataset / "imagesTr" / "p_2.nii.gz", dataset / "imagesTr" / "._p_2.nii.gz")  # AppleDouble: no error
    report = verify_msd(dataset, expected_cases=4, workers=workers)
    found = [(error.code, Path(error.subject).relative_to(dataset).as_posix()) for error in report.errors]
    assert found == [
        ("CASE_COUNT", "dataset.json"),
        ("MISSING_FILE", "labelsTr/p_3.nii.gz"),
        ("UNNAMED_FILE", "imagesTr/p_7.nii.gz"),
        ("CHECKSUM", "imagesTr/p_1.nii.gz"),
        ("LABEL_SET", "labelsTr/p_2.nii.gz"),
        ("DIMENSIONS", "imagesTs/p_9.nii.gz"),
    ]


@pytest.mark.parametrize(
    ("label", "affine", "code"),
    [
        (np.zeros((6, 7, 9), np.uint8), None, "PAIR_GEOMETRY"),
        (np.zeros((6, 7, 8), np.uint8), np.diag([-0.8, 0.8, 2.5, 1.0]), "PAIR_GEOMETRY"),
        (np.full((6, 7, 8), 0.9999, np.float32), None, "LABEL_SET"),
        (np.zeros((6, 7, 8), np.uint8), np.diag([800, 800, 2500, 1.0]), "SPACING_RANGE"),
    ],
)
def test_a_label_that_does_not_fit_its_image_is_an_error(dataset, label, affine, code):
    write_volume(dataset / "labelsTr" / "p_2.nii.gz", label, affine)
    (error,) = verify_msd(dataset).errors
    assert error.code == code
    assert error.subject.endswith("labelsTr/p_2.nii.gz")


def test_a_windowed_image_is_a_warning(dataset):
    write_volume(dataset / "imagesTr" / "p_3.nii.gz", np.full((6, 7, 8), 30, np.int16))
    report = verify_msd(dataset)
    assert report.errors == []
    ((path, warning),) = report.warnings
    assert path.endswith("imagesTr/p_3.nii.gz")
    assert warning.startswith("HU_RANGE")


def test_msd_pancreas_must_have_281_cases(dataset):
    folder = dataset.rename(dataset.parent / "Task07_Pancreas")
    (error,) = verify_msd(folder).errors
    assert (error.code, error.found, error.wanted) == ("CASE_COUNT", "3 labelled cases", "281")


def test_a_folder_without_a_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="MISSING_DATA"):
        verify_msd(tmp_path / "nothing")


@pytest.fixture
def server(dataset, tmp_path, monkeypatch):
    """MONAI's downloader, with a small archive in place of the 11.4 GB one; the list of what it was asked for."""
    archive = tmp_path / "served.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(dataset, arcname="Task07_Pancreas")
    monkeypatch.setattr(fetch, "PANCREAS_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(fetch, "ARCHIVE_BYTES", archive.stat().st_size)
    asked = []

    def retrieve(url, path, reporthook=None):
        asked.append((url, Path(path).parent.parent))
        shutil.copy(archive, path)

    monkeypatch.setattr("monai.apps.utils.urlretrieve", retrieve)
    return asked


def test_fetched_data_set_is_whole_and_passes_verification(server, tmp_path):
    said = []
    folder = fetch_pancreas(tmp_path / "data", say=said.append)
    assert folder == tmp_path / "data" / "Task07_Pancreas"
    assert verify_msd(folder, expected_cases=3).errors == []
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["Task07_Pancreas"]  # no archive, no leftovers
    assert "11.4 GB" in said[0]
    assert "CC BY-SA 4.0" in said[0]


def test_download_goes_to_the_disk_that_was_asked_for(server, tmp_path):
    before = tempfile.gettempdir()
    fetch_pancreas(tmp_path / "data", say=lambda text: None)
    ((url, folder),) = server
    assert url == "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task07_Pancreas.tar"
    assert folder == tmp_path / "data"
    assert tempfile.gettempdir() == before


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    for _ in range(2):
        fetch_pancreas(tmp_path / "data", say=lambda text: None)
    assert len(server) == 1


def test_archive_put_there_by_hand_is_used_and_may_be_kept(server, tmp_path):
    (tmp_path / "data").mkdir()
    shutil.copy(tmp_path / "served.tar", tmp_path / "data" / "Task07_Pancreas.tar")
    fetch_pancreas(tmp_path / "data", say=lambda text: None, keep_archive=True)
    assert server == []
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["Task07_Pancreas", "Task07_Pancreas.tar"]


def test_another_archive_is_refused(server, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Task07_Pancreas.tar").write_bytes(b"<html>proxy</html>")
    with pytest.raises(UserError, match=r"CHECKSUM .*Task07_Pancreas\.tar.*delete it"):
        fetch_pancreas(tmp_path / "data", say=lambda text: None)
    assert not (tmp_path / "data" / "Task07_Pancreas").exists()


@pytest.mark.parametrize("error", [URLError("no route to host"), TimeoutError("timed out"), PermissionError("denied")])
def test_no_network_gives_the_steps_by_hand(server, tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("monai.apps.utils.urlretrieve", fail)
    with pytest.raises(UserError, match="NO_NETWORK") as caught:
        fetch_pancreas(tmp_path / "data", say=lambda text: None)
    archive = tmp_path / "data" / "Task07_Pancreas.tar"
    said = ("amazonaws.com/Task07_Pancreas.tar", fetch.PANCREAS_MD5, str(archive))
    assert [part for part in said if part not in caught.value.remedy] == []
    assert list((tmp_path / "data").iterdir()) == []


def test_a_full_disk_is_met_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "ARCHIVE_BYTES", 10**18)
    with pytest.raises(UserError, match=r"NO_SPACE.*--root"):
        fetch_pancreas(tmp_path / "data" / "deep", say=lambda text: None)
    assert server == []


def test_files_of_the_user_are_not_touched(server, tmp_path):
    folder = tmp_path / "data" / "Task07_Pancreas"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="NOT_EMPTY"):
        fetch_pancreas(tmp_path / "data", say=lambda text: None)
    assert (folder / "mine.txt").read_text() == "mine"
    assert server == []


def test_an_interrupted_unpacking_leaves_no_half_data_set(server, tmp_path, monkeypatch):
    def half(archive, output):
        (Path(output) / "Task07_Pancreas" / "imagesTr").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("monai.apps.extractall", half)
        with pytest.raises(KeyboardInterrupt):
            fetch_pancreas(tmp_path / "data", say=lambda text: None)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["Task07_Pancreas.tar"]
    assert verify_msd(fetch_pancreas(tmp_path / "data", say=lambda text: None), expected_cases=3).errors == []
    assert len(server) == 1  # the archive was complete


def test_known_archive_is_that_of_monai():
    from monai.apps import DecathlonDataset

    published = DecathlonDataset.resource[fetch.PANCREAS_NAME], DecathlonDataset.md5[fetch.PANCREAS_NAME]
    assert published == (fetch.PANCREAS_URL, fetch.PANCREAS_MD5)


def test_a_real_case_has_no_error_and_no_warning(real_data, tmp_path):
    names = {"image": "imagesTr", "label": "labelsTr"}
    for key, folder in names.items():
        (tmp_path / folder).mkdir()
        source = real_data / "nih-pancreas-ct" / "small" / f"{key}_0001.nii.gz"
        (tmp_path / folder / "p_1.nii.gz").symlink_to(source.resolve())
    entry = {key: f"./{folder}/p_1.nii.gz" for key, folder in names.items()}
    content = {"labels": {"0": "background", "1": "pancreas"}, "training": [entry]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    report = verify_msd(tmp_path)
    assert (report.errors, report.warnings, report.label_values) == ([], [], {0: 1, 1: 1})
