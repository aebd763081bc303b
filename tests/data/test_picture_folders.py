from __future__ import annotations

import re
from pathlib import Path

import pytest

from medseg3d.data.picture_folders import read_picture_folder, split_files, split_pictures
from medseg3d.data.splits import PARTS, read_split
from medseg3d.errors import UserError

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
        (["images/a.txt", "masks/a.png"], None, "MISSING_DATA .*images: no image"),
        ([*pairs("a"), "images/b.jpg", "images/c.jpg"], None, r"MISSING_FILE .*b\.jpg: no mask .*\(2 of 3"),
        ([*pairs("a"), "masks/b.jpg"], None, r"MISSING_FILE .*masks/b\.jpg: no image"),
        ([*pairs("a"), "images/a.png"], None, r"DUPLICATE_CASE .*images/a\.png: a\.jpg beside"),
        (pairs("P_01-1", "scan7"), PATTERN, r"GROUP_PATTERN .*scan7\.jpg: a name without .*--group_pattern"),
        (pairs("P_01-1"), "P_(", "BAD_VALUE --group_pattern P_.: an invalid regular expression"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, names, pattern, words):
    with pytest.raises(UserError, match=words):
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


def test_pictures_that_are_not_read_are_named(tmp_path, caplog):
    for name in ("images/a.jfif", "masks/a.png", "images/b.gif", "masks/b.gif", "images/sub/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [case["case"] for case in read_picture_folder(tmp_path)] == ["a"]
    of_images, of_masks = (record.getMessage() for record in caplog.records)
    assert of_images.startswith(f"NOT_READ: 2 files below {tmp_path / 'images'} (b.gif, sub/c.jpg)")
    assert of_masks.startswith(f"NOT_READ: 1 file below {tmp_path / 'masks'} (b.gif)")


def test_masks_of_an_evaluation_are_lossless_pictures(tmp_path):
    folder = folder_of(tmp_path / "set", *pairs("a", "b"))
    (case,) = split_pictures(folder, tmp_path / "split.json", "test", 1, 0, mask_dir=tmp_path / "masks")
    assert case["mask_file"] == str(tmp_path / "masks" / f"{case['case']}_seg.png")
    assert "group" not in case


def test_unknown_part_is_a_programming_error(tmp_path):
    with pytest.raises(ValueError, match="'valid'"):
        split_pictures(tmp_path, tmp_path / "split.json", "valid", 1, 1)


def both(images: str, masks: str, *cases: str, suffix: str = "png") -> list[str]:
    return [f"{part}/{case}.{suffix}" for case in cases for part in (images, masks)]


@pytest.mark.parametrize(
    "names",
    [
        [*pairs("a", "b"), "kavsir_bboxes.json"],
        both("image", "mask", "a", "b"),
        both("Original", "Ground Truth", "a", "b", suffix="tif"),
        both("PNG/Original", "PNG/Ground Truth", "a", "b"),
    ],
    ids=["Kvasir-SEG", "PraNet", "ClinicDB TIF", "ClinicDB PNG"],
)
def test_published_layouts_are_read_as_they_are(tmp_path, names):
    cases = read_picture_folder(folder_of(tmp_path, *names))
    assert [case["case"].split("/")[-1] for case in cases] == ["a", "b"]
    assert all(Path(case[key]).is_file() for case in cases for key in ("image", "label"))


PRANET = [
    *both("TrainDataset/image", "TrainDataset/mask", "1", "2", "40", "cju1", "cju2"),
    *both("TestDataset/CVC-ClinicDB/images", "TestDataset/CVC-ClinicDB/masks", "3", "41"),
    *both("TestDataset/CVC-300/images", "TestDataset/CVC-300/masks", "3"),
    "__MACOSX/images/._1.png",
]


def test_pranets_folders_name_their_cases_and_leave_test_to_test(tmp_path):
    folder, split_file = folder_of(tmp_path / "polyps", *PRANET), tmp_path / "split.json"
    call = {"test_cases": 0.1, "val_cases": 1, "group_pattern": "clinicdb-sequence", "train_list": "TrainDataset/*"}
    parts = {part: split_pictures(folder, split_file, part, **call) for part in PARTS}
    assert [case["case"] for case in parts["test"]] == [
        "TestDataset/CVC-300/3",
        "TestDataset/CVC-ClinicDB/3",
        "TestDataset/CVC-ClinicDB/41",
    ]
    assert [case["group"] for case in parts["test"]] == ["TestDataset/CVC-300/3", "clinicdb-01", "clinicdb-02"]
    assert len({case["group"] for case in parts["val"]}) == 1
    assert len(parts["train"]) + len(parts["val"]) == 5
    (first, *_) = split_pictures(folder, split_file, "test", mask_dir=tmp_path / "masks", **call)
    assert first["mask_file"] == str(tmp_path / "masks" / "TestDataset" / "CVC-300" / "3_seg.png")


def test_one_test_set_of_pranet_is_a_data_set_of_its_own(tmp_path):
    folder = folder_of(tmp_path, *PRANET) / "TestDataset" / "CVC-ClinicDB"
    assert [case["case"] for case in read_picture_folder(folder)] == ["3", "41"]


def test_one_data_set_in_two_formats_is_not_read_twice(tmp_path):
    folder = folder_of(
        tmp_path,
        *both("PNG/Original", "PNG/Ground Truth", "1", "2"),
        *both("TIF/Original", "TIF/Ground Truth", "1", "2", suffix="tif"),
    )
    with pytest.raises(UserError, match=r"DUPLICATE_CASE .*TIF: the 2 names that .*PNG has too.*--dataset_dir"):
        read_picture_folder(folder)
    assert [case["case"] for case in read_picture_folder(folder / "TIF")] == ["1", "2"]


def test_a_set_that_lacks_its_masks_is_not_passed_over(tmp_path):
    folder = folder_of(tmp_path, *PRANET, "TestDataset/Kvasir/images/cju9.png")
    with pytest.raises(UserError, match=r"MISSING_DATA .*Kvasir: no folder masks/"):
        read_picture_folder(folder)


@pytest.mark.parametrize("lines", ["b\na\nc\n", "a.jpg\r\nb.jpg\r\n\r\nc.JPG", "\ufeffa\n b \nc"])
def test_a_published_list_is_for_training_and_validation(tmp_path, lines):
    folder = folder_of(tmp_path / "set", *pairs("a", "b", "c", "d", "e"))
    (tmp_path / "train.txt").write_text(lines, encoding="utf-8")
    call = {"test_cases": 0.1, "val_cases": 1, "train_list": tmp_path / "train.txt"}
    parts = {
        part: [case["case"] for case in split_pictures(folder, tmp_path / "split.json", part, **call)] for part in PARTS
    }
    # as in test_splits: a is the lowest of a, b and c
    assert parts == {"train": ["b", "c"], "val": ["a"], "test": ["d", "e"]}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("a\nx\ny", r"CASE_LIST .*train\.txt: 2 names that the data set lacks \(x, y\)"),
        ("a\nb\nc", "CASE_LIST .*3 of the data set's 3 cases, .*others left for testing"),
        ("", "CASE_LIST .*0 of"),
    ],
)
def test_a_list_of_other_cases_is_refused(tmp_path, lines, words):
    folder = folder_of(tmp_path / "set", *pairs("a", "b", "c"))
    (tmp_path / "train.txt").write_text(lines)
    with pytest.raises(UserError, match=words):
        split_pictures(folder, tmp_path / "split.json", "test", 1, 0, train_list=tmp_path / "train.txt")
    with pytest.raises(UserError, match=r"MISSING_FILE .*other\.txt"):
        split_pictures(folder, tmp_path / "split.json", "test", 1, 0, train_list=tmp_path / "other.txt")


def test_frames_of_clinicdb_are_split_by_sequence(tmp_path):
    frames = [str(frame) for frame in range(1, 613, 3)]
    folder = folder_of(tmp_path / "set", *both("Original", "Ground Truth", *frames, suffix="tif"))
    call = {"test_cases": 0.15, "val_cases": 0.15, "group_pattern": "clinicdb-sequence"}
    parts = {part: split_pictures(folder, tmp_path / "split.json", part, **call) for part in PARTS}
    groups = [{case["group"] for case in parts[part]} for part in PARTS]
    assert [len(each) for each in groups] == [21, 4, 4]
    assert len(set.union(*groups)) == 29


class TestSeveralDataSets:
    @pytest.fixture
    def folders(self, tmp_path) -> list[str]:
        stills = [f"still{number:02d}" for number in range(20)]
        frames = [str(frame) for frame in range(1, 613, 6)]
        return [
            str(folder_of(tmp_path / "stills", *pairs(*stills))),
            str(folder_of(tmp_path / "frames", *pairs(*frames))),
        ]

    @pytest.fixture
    def manifests(self, tmp_path) -> list[str]:
        return [str(tmp_path / "stills.json"), str(tmp_path / "frames.json")]

    @pytest.mark.parametrize(("index", "name"), enumerate(("stills", "frames")))
    @pytest.mark.parametrize("part", PARTS)
    def test_each_has_the_split_that_it_has_alone(self, folders, manifests, tmp_path, index, name, part):
        rules = {"test_cases": [2, 0.15], "val_cases": [3, 0.15], "group_pattern": ["", "clinicdb-sequence"]}
        together = split_pictures(folders, manifests, part, **rules)
        alone = tmp_path / "alone.json"
        own = split_pictures(folders[index], alone, part, **{key: values[index] for key, values in rules.items()})
        among = [case for case in together if case["data_set"] == name]
        assert [case["case"] for case in among] == [f"{name}/{case['case']}" for case in own] != []
        assert [case["image"] for case in among] == [case["image"] for case in own]
        assert read_split(alone).hash == read_split(manifests[index]).hash

    def test_a_picture_without_group_is_a_group_beside_those_that_have_one(self, folders, manifests):
        cases = split_pictures(folders, manifests, "val", 2, 2, group_pattern=["", "clinicdb-sequence"])
        groups = {case["case"]: case["group"] for case in cases}
        assert all(groups[case] == case for case in groups if case.startswith("stills/"))
        assert {group for case, group in groups.items() if case.startswith("frames/")} <= {
            f"frames/clinicdb-{number:02d}" for number in range(1, 30)
        }

    def test_without_groups_there_are_none(self, folders, manifests):
        assert all("group" not in case for case in split_pictures(folders, manifests, "train", 2, 2))

    def test_masks_lie_in_a_folder_for_each(self, folders, manifests):
        cases = split_pictures(folders, manifests, "test", 1, 1, mask_dir="masks")
        assert {Path(case["mask_file"]).parent for case in cases} == {Path("masks/stills"), Path("masks/frames")}

    def test_one_folder_in_a_list_is_several_too(self, folders, manifests):
        cases = split_pictures(folders[:1], manifests[:1], "test", 1, 1)
        assert [case["data_set"] for case in cases] == ["stills"]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"split_file": "one.json"}, "1 split files"),
            ({"split_file": ["one.json", "one.json"]}, "1 split files"),
            ({"test_cases": [1, 1, 1]}, "3 values"),
            ({"dataset_dir": []}, "0 folders"),
            ({"dataset_dir": ["data/a", "elsewhere/a"]}, "folders named a, a"),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, folders, manifests, change, words):
        arguments = {"dataset_dir": folders, "split_file": manifests, "test_cases": 1, "val_cases": 1, **change}
        with pytest.raises(UserError, match=f"DATA_SETS.*{words}"):
            split_pictures(part="train", **arguments)

    def test_manifests_have_the_names_of_their_data_sets(self):
        assert split_files("/data/kvasir-seg/", "80-10-10") == "data/splits/kvasir-seg_80-10-10.json"
