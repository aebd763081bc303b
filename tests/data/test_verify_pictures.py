from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg3d.data.splits import make_split, write_split
from medseg3d.data.verify import verify_pictures
from medseg3d.errors import UserError


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def disc(height: int = 24, width: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (((rows - 12) ** 2 + (columns - 16) ** 2 < 64) * 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Frames 20 to 29 of ClinicDB's layout: sequence 1 up to 25, sequence 2 from 26."""
    rng = np.random.default_rng(0)
    for frame in range(20, 30):
        write(tmp_path / "set" / "Original" / f"{frame}.tif", rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        write(tmp_path / "set" / "Ground Truth" / f"{frame}.tif", disc())
    return tmp_path / "set"


def test_sound_data_set_has_no_error(folder):
    calls = []
    report = verify_pictures(folder, expected_cases=10, progress=lambda done, total: calls.append((done, total)))
    assert (report.errors, report.warnings, report.n_cases) == ([], [], 10)
    assert report.label_values == {0: 10, 1: 10}
    assert calls == [(done, 10) for done in range(1, 11)]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_problem_is_listed_and_not_only_the_first(folder, workers):
    (folder / "Ground Truth" / "20.tif").unlink()
    (folder / "Original" / "21.tif").unlink()
    write(folder / "Ground Truth" / "22.tif", disc(32, 24))
    write(folder / "Ground Truth" / "23.tif", np.full((24, 32), 100, np.uint8))
    picture = folder / "Original" / "24.tif"
    picture.write_bytes(picture.read_bytes()[:200])
    write(folder / "Ground Truth" / "25.tif", 255 - disc())
    write(folder / "Ground Truth" / "26.tif", np.zeros((24, 32), np.uint8))
    report = verify_pictures(folder, expected_cases=10, workers=workers)
    found = [(error.code, Path(error.subject).relative_to(folder.parent).as_posix()) for error in report.errors]
    assert found[:-1] == [
        ("MISSING_FILE", "set/Original/20.tif"),
        ("MISSING_FILE", "set/Ground Truth/21.tif"),
        ("CASE_COUNT", "set"),
        ("PAIR_GEOMETRY", "set/Ground Truth/22.tif"),
        ("LABEL_SET", "set/Ground Truth/23.tif"),
    ]
    assert found[-1][0] in ("TRUNCATED", "DECODE")
    assert found[-1][1] == "set/Original/24.tif"
    ((path, warning),) = report.warnings
    assert path.endswith("25.tif")
    assert warning.startswith("FOREGROUND")
    assert report.label_values == {0: 7, 1: 6}


def test_a_picture_of_another_shape_than_its_mask_names_both(folder):
    write(folder / "Ground Truth" / "22.tif", disc(32, 24))
    (error,) = verify_pictures(folder).errors
    assert (error.found, error.wanted) == (
        "32 rows of 24 pixels",
        f"24 rows of 32 pixels, as in {folder}/Original/22.tif",
    )


def test_a_picture_that_is_there_twice_is_a_warning_and_in_two_parts_an_error(folder, tmp_path):
    # the same pixels in another format
    Image.open(folder / "Original" / "20.tif").save(folder / "Original" / "29.png")
    (folder / "Original" / "29.tif").unlink()
    report = verify_pictures(folder)
    assert report.errors == []
    assert report.warnings == [(str(folder), "DUPLICATE_PICTURE: 20, 29 are the same image")]
    split_file = tmp_path / "split.json"
    write_split(split_file, make_split([str(frame) for frame in range(20, 30)], ["29"], 0))
    (error,) = verify_pictures(folder, split_file).errors
    assert str(error).startswith(f"LEAKAGE {split_file}: the same image as 20 in train and 29 in test")


def test_a_sequence_in_two_parts_is_a_warning_that_says_what_it_means(folder, tmp_path):
    ids = [str(frame) for frame in range(20, 30)]
    write_split(tmp_path / "frames.json", make_split(ids, ["22", "27"], 0))
    report = verify_pictures(folder, tmp_path / "frames.json", "clinicdb-sequence")
    assert report.errors == []
    ((path, warning),) = report.warnings
    assert path == str(tmp_path / "frames.json")
    assert warning.startswith(
        "LEAKAGE: 2 patients or sequences are in more than one part, 2 of 2 test cases are theirs"
    )
    assert "clinicdb-01, 20, 21, 23 and 2 more in train and 22 in test" in warning
    groups = {case: "01" if int(case) < 26 else "02" for case in ids}
    write_split(tmp_path / "groups.json", make_split(ids, 1, 0, groups=groups))
    assert verify_pictures(folder, tmp_path / "groups.json", "clinicdb-sequence").warnings == []


def test_groups_of_the_manifest_itself_are_checked(folder, tmp_path):
    ids = [str(frame) for frame in range(20, 30)]
    groups = {case: "01" if int(case) < 26 else "02" for case in ids}
    write_split(tmp_path / "split.json", make_split(ids, ["22"], 0, groups=groups))
    ((_, warning),) = verify_pictures(folder, tmp_path / "split.json").warnings
    assert warning.startswith("LEAKAGE: 1 patients")


def test_a_manifest_of_another_data_set_is_an_error(folder, tmp_path):
    write_split(tmp_path / "split.json", make_split([*map(str, range(20, 30)), "cju1"], 1, 0))
    (error,) = verify_pictures(folder, tmp_path / "split.json").errors
    assert (error.code, error.found) == ("SPLIT_MISMATCH", "1 cases that the data set lacks (cju1)")


def test_known_data_sets_are_known_by_their_folder(folder):
    shutil.move(folder, folder.with_name("CVC-ClinicDB"))
    (error,) = verify_pictures(folder.with_name("CVC-ClinicDB")).errors
    assert (error.code, error.wanted) == ("CASE_COUNT", "612")


def test_no_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="MISSING_DATA"):
        verify_pictures(tmp_path / "nothing")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pattern"), [("kvasir-seg", None), ("cvc-clinicdb", "clinicdb-sequence")])
def test_real_pictures_have_no_error(real_data, name, pattern):
    report = verify_pictures(real_data / name, group_pattern=pattern)
    assert report.errors == []
    assert {warning.split(":")[0] for _, warning in report.warnings} <= {"FOREGROUND"}
