from __future__ import annotations

import re
from pathlib import Path

import pytest

from medseg3d.data.picture_folders import read_picture_folder, split_pictures
from medseg3d.data.splits import PARTS, read_split
from medseg3d.faults import Fault

PATTERN = r"^P_(\d+)-"


def folder_of(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    return path


def pairs(*cases: str) -> list[str]:
    return [f"{part}/{case}.jpg" for case in cases for part in ("images", "masks")]


def test_pictures_are_paired_by_stem_and_sorted(tmp_path):
    folder = folder_of(
        tmp_path, *pairs("b", "a"), "images/c.JPG", "masks/c.png", "images/._a.jpg", "images/notes.txt", "masks/.hidden"
    )
    assert (
        read_picture_folder(folder)
        == read_picture_folder(folder, "")
        == [
            {"case": case, "image": str(folder / "images" / image), "label": str(folder / "masks" / mask)}
            for case, image, mask in (("a", "a.jpg", "a.jpg"), ("b", "b.jpg", "b.jpg"), ("c", "c.JPG", "c.png"))
        ]
    )


@pytest.mark.parametrize(("pattern", "group"), [(PATTERN, "02"), ("^P_02", "P_02")], ids=["group", "whole match"])
def test_the_pattern_finds_the_patient(tmp_path, pattern, group):
    (case,) = read_picture_folder(folder_of(tmp_path, *pairs("P_02-7")), pattern)
    assert case["group"] == group


@pytest.mark.parametrize(
    ("names", "pattern", "words"),
    [
        ([], None, "MISSING_DATA .*no such folder"),
        (["images/a.jpg"], None, "MISSING_DATA .*no folder masks/"),
        (["images/a.txt", "masks/a.png"], None, "MISSING_DATA .*images: found no picture"),
        ([*pairs("a"), "images/b.jpg", "images/c.jpg"], None, r"MISSING_FILE .*b\.jpg: found no mask .*\(2 of 3"),
        ([*pairs("a"), "masks/b.jpg"], None, r"MISSING_FILE .*masks/b\.jpg: found no picture"),
        ([*pairs("a"), "images/a.png"], None, r"DUPLICATE_CASE .*images/a\.png: found a\.jpg beside"),
        (pairs("P_01-1", "scan7"), PATTERN, r"GROUP_PATTERN .*scan7\.jpg: found a name without .*--patient_pattern"),
        (pairs("P_01-1"), "P_(", "GROUP_PATTERN P_.: found no regular expression"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, names, pattern, words):
    with pytest.raises(Fault, match=words):
        read_picture_folder(folder_of(tmp_path / "set", *names), pattern)


def test_no_patient_is_in_two_parts(tmp_path):
    folder = folder_of(tmp_path / "set", *pairs(*(f"P_{patient:02d}-{n}" for patient in range(9) for n in range(3))))
    split_file = tmp_path / "split.json"
    parts = {part: split_pictures(folder, split_file, part, 2, 3, group_pattern=PATTERN) for part in PARTS}
    patients = [{re.match(PATTERN, case["case"])[1] for case in parts[part]} for part in PARTS]
    assert [len(each) for each in patients] == [4, 3, 2]
    assert len(set.union(*patients)) == 9
    assert {case["group"] for case in parts["test"]} == patients[2]
    assert read_split(split_file).count("test") == 2


def test_masks_of_an_evaluation_are_lossless_pictures(tmp_path):
    folder = folder_of(tmp_path / "set", *pairs("a", "b"))
    (case,) = split_pictures(folder, tmp_path / "split.json", "test", 1, 0, mask_dir=tmp_path / "masks")
    assert case["mask_file"] == str(tmp_path / "masks" / f"{case['case']}_seg.png")
    assert "group" not in case


def test_unknown_part_is_a_programming_error(tmp_path):
    with pytest.raises(ValueError, match="got 'valid'"):
        split_pictures(tmp_path, tmp_path / "split.json", "valid", 1, 1)
