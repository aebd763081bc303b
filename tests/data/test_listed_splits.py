from __future__ import annotations

import json

import pytest

from medseg3d.cli import main
from medseg3d.data.listed_splits import listed_split
from medseg3d.data.splits import read_split
from medseg3d.errors import UserError

SIZES = {"p_1": 11, "p_2": 12, "p_3": 13, "p_4": 14, "p_5": 15}
PARTS = {"train": ["p_1", "p_2"], "val": ["p_3"], "test": ["p_4", "p_5"]}


@pytest.fixture
def cases(tmp_path):
    """Five cases whose images have different content and size."""
    folder = tmp_path / "imagesTr"
    folder.mkdir()
    for case, size in SIZES.items():
        (folder / f"{case}.nii.gz").write_bytes(case[-1:].encode() * size)
    return [{"case": case, "image": str(folder / f"{case}.nii.gz")} for case in SIZES]


def split_of(tmp_path, cases, content, **options):
    path = tmp_path / "lists.json"
    path.write_text(json.dumps(content))
    split = listed_split([path], cases, **options)
    return {"train": split.train, "val": split.val, "test": split.test}


def entries(*cases, **more):
    return [{"image": f"./imagesTr/{case}_0000.nii.gz", "label": f"labelsTr/{case}.nii.gz", **more} for case in cases]


@pytest.mark.parametrize(
    "content",
    [
        PARTS,
        {"training": PARTS["train"], "validation": ["imagesTr/p_3.nii.gz"], "testing": PARTS["test"]},
        {
            "training": entries("p_1", "p_2"),
            "validation": entries("p_3"),
            "test": [*entries("p_4", "p_5"), {"image": "imagesTs/p_9.nii.gz"}],
        },
        {**PARTS, "val": ["C:\\data\\imagesTr\\p_3.nii.gz"]},
    ],
    ids=["three lists", "paths", "datalist", "paths of Windows"],
)
def test_three_lists_are_the_split(tmp_path, cases, content):
    assert split_of(tmp_path, cases, content) == PARTS


FOLDS = [
    {"train": ["p_1", "p_2", "p_3"], "val": ["p_4", "p_5"]},
    {"train": ["p_4", "p_5", "p_1"], "val": ["p_2", "p_3"]},
]


def test_a_fold_of_nnunet_trains_and_validates_and_has_no_test_part(tmp_path, cases):
    assert split_of(tmp_path, cases, FOLDS, fold=1) == {
        "train": ["p_1", "p_4", "p_5"],
        "val": ["p_2", "p_3"],
        "test": [],
    }


def test_a_fold_of_a_datalist_validates_and_the_others_train(tmp_path, cases):
    content = {"training": entries("p_1", "p_2", fold=0) + entries("p_3", fold=1), "testing": entries("p_4", "p_5")}
    assert split_of(tmp_path, cases, content, fold=1) == PARTS


@pytest.mark.parametrize(("fold", "found"), [(None, "no --fold"), (2, "--fold 2"), (-1, "--fold -1")])
def test_one_of_several_folds_must_be_named(tmp_path, cases, fold, found):
    with pytest.raises(
        UserError, match=rf"BAD_VALUE {found} of .*lists.json: a file with several folds, expected one of \[0, 1\]"
    ):
        split_of(tmp_path, cases, FOLDS, fold=fold)


def test_text_files_name_a_case_in_each_line(tmp_path, cases):
    files = [tmp_path / f"{part}.txt" for part in PARTS]
    for file, names in zip(files, PARTS.values(), strict=True):
        file.write_text("\n".join(names) + "\n\n")
    split = listed_split(files, cases)
    assert {"train": split.train, "val": split.val, "test": split.test} == PARTS


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"val": ["p_3", "p_4"]}, r"LEAKAGE .*1 cases in val and in test \(p_4\)"),
        ({"val": ["p_3", "p_3"]}, r"CASE_LIST .*p_3 more than once"),
        ({"val": ["p_8"]}, r"1 names that the data set lacks \(p_8\) and 1 of its cases in no list \(p_3\)"),
        ({"train": []}, r"TOO_FEW_CASES"),
        ({"train": 7}, r"CASE_LIST .*without lists of cases"),
        ({"train": [7]}, r"CASE_LIST .*7 names no case"),
    ],
)
def test_lists_that_are_no_split_are_refused(tmp_path, cases, changed, message):
    with pytest.raises(UserError, match=message):
        split_of(tmp_path, cases, PARTS | changed)


def test_a_patient_in_two_parts_is_refused(tmp_path, cases):
    patients = {"p_1": "a", "p_2": "b", "p_3": "b", "p_4": "c", "p_5": "d"}
    with pytest.raises(UserError, match=r"LEAKAGE .*1 patients in train and in val \(b\)"):
        split_of(tmp_path, cases, PARTS, groups=patients)


def test_an_image_in_two_parts_under_two_names_is_refused(tmp_path, cases):
    (tmp_path / "imagesTr" / "p_5.nii.gz").write_bytes(b"1" * SIZES["p_1"])
    with pytest.raises(UserError, match=r"LEAKAGE .*the same image as p_1 in train and p_5 in test"):
        split_of(tmp_path, cases, PARTS)


def test_a_file_that_is_not_there_is_named(tmp_path, cases):
    with pytest.raises(UserError, match=r"MISSING_FILE .*absent.json"):
        listed_split([tmp_path / "absent.json"], cases)


@pytest.fixture
def pictures(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for case in SIZES:
            (tmp_path / "set" / folder / f"{case}.png").write_bytes(case.encode())
    (tmp_path / "lists.json").write_text(json.dumps(PARTS))
    return ["data", "split", str(tmp_path / "set"), "--from", str(tmp_path / "lists.json")]


def test_the_verb_writes_the_split_once(tmp_path, pictures, capsys):
    output = tmp_path / "split.json"
    assert [main([*pictures, "--output", str(output)]) for _ in range(2)] == [0, 0]
    assert capsys.readouterr().out.count("2 train, 1 val, 2 test") == 2
    assert read_split(output).rule == "train, val and test are listed"


def test_the_verb_does_not_overwrite_another_split(tmp_path, pictures, capsys):
    output = tmp_path / "split.json"
    assert main(["data", "split", str(tmp_path / "set"), "--output", str(output), "--val-cases", "1"]) == 0
    before = output.read_bytes()
    assert main([*pictures, "--output", str(output)]) == 1
    assert "SPLIT_MISMATCH" in capsys.readouterr().err
    assert output.read_bytes() == before


def test_the_verb_refuses_to_draw_and_to_list(pictures, capsys):
    assert main([*pictures, "--test-cases", "1"]) == 2
    assert "BAD_VALUE --test-cases" in capsys.readouterr().err
