from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg3d.data.msd import case_id, missing_files, read_msd
from medseg3d.errors import UserError


def entry(name: str) -> dict[str, str]:
    return {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}


def write_dataset(folder: Path, training: object = None, touch: bool = True, **changes: object) -> Path:
    """A data set whose volumes are empty files: reading `dataset.json` does not open them."""
    training = [entry("p_10"), entry("p_02")] if training is None else training
    content = {
        "name": "Pancreas",
        "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
        "training": training,
        "test": ["./imagesTs/p_99.nii.gz", "./imagesTs/p_03.nii.gz"],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    if touch:
        for sub in ("imagesTr", "labelsTr", "imagesTs"):
            (folder / sub).mkdir(exist_ok=True)
        for name in ("p_02", "p_10"):
            (folder / "imagesTr" / f"{name}.nii.gz").touch()
            (folder / "labelsTr" / f"{name}.nii.gz").touch()
        for name in ("p_03", "p_99"):
            (folder / "imagesTs" / f"{name}.nii.gz").touch()
    return folder


def test_cases_come_sorted_by_id_with_absolute_paths(tmp_path, monkeypatch):
    write_dataset(tmp_path / "task")
    monkeypatch.chdir(tmp_path)
    dataset = read_msd("task")
    root = tmp_path / "task"
    assert dataset.cases == [
        {"case": name, "image": str(root / f"imagesTr/{name}.nii.gz"), "label": str(root / f"labelsTr/{name}.nii.gz")}
        for name in ("p_02", "p_10")
    ]
    assert [case["case"] for case in dataset.test] == ["p_03", "p_99"]
    assert dataset.ids == ["p_02", "p_10"]
    assert (dataset.name, dataset.labels) == ("Pancreas", {0: "background", 1: "pancreas", 2: "cancer"})


@pytest.mark.parametrize("changed", [(0,), (0, 1)])
def test_paths_of_windows_are_those_of_their_twin(tmp_path, changed):
    training = [entry("p_10"), entry("p_02")]
    plain = read_msd(write_dataset(tmp_path, training))
    for index in changed:
        training[index] = {key: path.replace("/", "\\") for key, path in training[index].items()}
    assert read_msd(write_dataset(tmp_path, training)) == plain


def nnunet(folder: Path, **changes: object) -> Path:
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "pancreas": 1}, "file_ending": ".nii.gz"}
    for name in ("imagesTr/p_1_0000", "labelsTr/p_1", "labelsTr/._p_1", "imagesTs/p_2_0000"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.nii.gz").touch()
    (folder / "dataset.json").write_text(json.dumps(content | changes))
    return folder


def test_nnunets_layout_is_read(tmp_path):
    dataset = read_msd(nnunet(tmp_path))
    paths = {"image": str(tmp_path / "imagesTr/p_1_0000.nii.gz"), "label": str(tmp_path / "labelsTr/p_1.nii.gz")}
    assert dataset.cases == [{"case": "p_1", **paths}]
    assert [case["image"] for case in dataset.test] == [str(tmp_path / "imagesTs/p_2_0000.nii.gz")]
    assert dataset.labels == {0: "background", 1: "pancreas"}


@pytest.mark.parametrize(
    "changes",
    [{"channel_names": {"0": "T1", "1": "T2"}}, {"file_ending": ".png"}, {"labels": {"background": 0, "all": [1, 2]}}],
)
def test_what_of_nnunets_layout_cannot_be_read_is_named(tmp_path, changes):
    with pytest.raises(UserError, match=r"DATASET_JSON .*nnU-Net v2"):
        read_msd(nnunet(tmp_path, **changes))


def test_appledouble_entries_are_left_out(tmp_path):
    write_dataset(tmp_path, [entry("._p_02"), entry("p_02")], test=["./imagesTs/._p_99.nii.gz"])
    dataset = read_msd(tmp_path)
    assert dataset.ids == ["p_02"]
    assert dataset.test == []


def test_test_entries_may_be_objects(tmp_path):
    write_dataset(tmp_path, test=[{"image": "./imagesTs/p_99.nii.gz"}])
    assert [case["case"] for case in read_msd(tmp_path).test] == ["p_99"]


@pytest.mark.parametrize("exists", [False, True])
def test_missing_data_says_where_and_how_to_get_or_do_without(tmp_path, monkeypatch, exists):
    monkeypatch.chdir(tmp_path)
    if exists:
        (tmp_path / "Task07_Pancreas").mkdir()
    with pytest.raises(UserError, match="MISSING_DATA") as caught:
        read_msd("Task07_Pancreas")
    text = str(caught.value)
    assert str(tmp_path / "Task07_Pancreas") in text
    said = ("medseg3d data fetch pancreas", "11.4 GB", "CC BY-SA 4.0", "medseg3d phantom data/phantom_pancreas")
    assert [part for part in said if part not in text] == []
    assert "['bundles/pancreas_nl/train.json','bundles/pancreas_nl/phantom.json']" in text


@pytest.mark.parametrize(
    "path",
    ["../x.nii.gz", "imagesTr/../../x.nii.gz", "/etc/x.nii.gz", "..\\x.nii.gz", "C:\\x.nii.gz", "\\\\host\\x.nii.gz"],
)
@pytest.mark.parametrize("place", ["image", "label", "test"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, path, place):
    if place == "test":
        write_dataset(tmp_path, test=[path])
    else:
        write_dataset(tmp_path, [{**entry("p_02"), place: path}])
    with pytest.raises(UserError, match="PATH_ESCAPE"):
        read_msd(tmp_path)


def test_a_linked_folder_of_images_is_followed(tmp_path):
    write_dataset(tmp_path / "task")
    (tmp_path / "task" / "imagesTr").rename(tmp_path / "elsewhere")
    (tmp_path / "task" / "imagesTr").symlink_to(tmp_path / "elsewhere")
    assert read_msd(tmp_path / "task").ids == ["p_02", "p_10"]


@pytest.mark.parametrize("missing", ["imagesTr/p_02.nii.gz", "labelsTr/p_10.nii.gz", "imagesTs/p_03.nii.gz"])
def test_a_missing_file_is_named(tmp_path, missing):
    write_dataset(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match="MISSING_FILE") as caught:
        read_msd(tmp_path)
    assert caught.value.subject == str(tmp_path / missing)


def test_all_missing_files_can_be_listed(tmp_path):
    write_dataset(tmp_path, touch=False)
    errors = missing_files(read_msd(tmp_path, require_files=False))
    assert len(errors) == 6  # two images, two labels, two test images
    assert "6 of 6 files are missing" in str(errors[0])


def test_a_case_named_twice_is_refused(tmp_path):
    write_dataset(tmp_path, [entry("p_02"), entry("p_10"), entry("p_02")])
    with pytest.raises(UserError, match=r"DUPLICATE_CASE.*p_02 more than once"):
        read_msd(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": []},
        {"training": "imagesTr"},
        {"training": ["imagesTr/p_02.nii.gz"]},
        {"training": [{"image": "imagesTr/p_02.nii.gz"}]},
        {"training": [{"image": 3, "label": "labelsTr/p_02.nii.gz"}]},
        {"test": [7]},
        {"labels": None},
        {"labels": {"background": 0}},
        {"labels": ["background", "pancreas"]},
    ],
)
def test_a_malformed_dataset_json_is_refused(tmp_path, changes):
    write_dataset(tmp_path, **changes)
    with pytest.raises(UserError, match=r"DATASET_JSON .*dataset\.json: "):
        read_msd(tmp_path)


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"training": ', "<html>not found</html>", "\xff\xfe"])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="DATASET_JSON"):
        read_msd(tmp_path)


def test_id_of_a_path_without_a_volume_suffix_is_its_name():
    assert case_id("imagesTr/readme.txt") == "readme.txt"
