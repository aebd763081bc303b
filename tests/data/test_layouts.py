"""nnU-Net's raw folders and MONAI's datalists, read as the data set itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg3d.data.msd import read_msd
from medseg3d.data.outputs import input_items
from medseg3d.data.picture_folders import holds_pictures, read_picture_folder
from medseg3d.data.splits import read_split
from medseg3d.data.verify import verify_msd
from medseg3d.data.volume_splits import split_cases
from medseg3d.errors import UserError
from medseg3d.pictures.masks import read_picture_mask
from medseg3d.volumes.writing import write_mask


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(folder: Path, content: dict, name: str = "dataset.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


def nnunet(folder: Path, ending: str = ".nrrd", **changes: object) -> Path:
    touch(folder, *(f"{name}{ending}" for name in ("imagesTr/p_1_0000", "labelsTr/p_1", "imagesTs/p_2_0000")))
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "pancreas": 1}, "file_ending": ending}
    return write(folder, {**content, "numTraining": 1, **changes})


def entry(name: str, **more: object) -> dict:
    return {"image": f"ct/{name}.nii.gz", "label": f"seg/{name}.nii.gz", **more}


def datalist(folder: Path, touched: bool = True, **content: object) -> Path:
    for listed in content.values() if touched else ():
        for each in listed if isinstance(listed, list) else ():
            touch(
                folder, *([each] if isinstance(each, str) else [each[key] for key in ("image", "label") if key in each])
            )
    return write(folder, content, "list.json") / "list.json"


def error_of(path: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        read_msd(path)
    return caught.value


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii.gz"])
def test_nnunets_folders_of_any_volumes_are_read(tmp_path: Path, ending: str) -> None:
    dataset = read_msd(nnunet(tmp_path, ending))
    paths = {"image": str(tmp_path / f"imagesTr/p_1_0000{ending}"), "label": str(tmp_path / f"labelsTr/p_1{ending}")}
    assert dataset.cases == [{"case": "p_1", **paths}]
    assert dataset.test == [{"case": "p_2", "image": str(tmp_path / f"imagesTs/p_2_0000{ending}")}]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"channel_names": {"0": "T1", "1": "T2"}}, "T2"),
        ({"file_ending": ".png"}, ".png"),
        ({"numTraining": 2}, "numTraining 2 and 1 labels"),
    ],
)
def test_what_of_nnunets_layout_is_no_ct_is_named(tmp_path: Path, changes: dict, found: str) -> None:
    error = error_of(nnunet(tmp_path, **changes))
    assert error.code == "DATASET_JSON"
    assert found in error.found


def test_label_without_its_image_is_named(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    (folder / "imagesTr/p_1_0000.nrrd").unlink()
    error = error_of(folder)
    assert (error.code, error.subject) == ("MISSING_FILE", str(folder / "imagesTr/p_1_0000.nrrd"))


def test_list_of_nnunets_first_version_leaves_the_channel_out(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/p_1_0000.nii.gz", "labelsTr/p_1.nii.gz")
    listed = {"image": "./imagesTr/p_1.nii.gz", "label": "./labelsTr/p_1.nii.gz"}
    write(tmp_path, {"labels": {"0": "background"}, "training": [listed], "test": []})
    (case,) = read_msd(tmp_path).cases
    assert (case["case"], Path(case["image"]).name) == ("p_1", "p_1_0000.nii.gz")
    touch(tmp_path, "imagesTr/p_1_0001.nii.gz")
    assert error_of(tmp_path).code == "DIMENSIONS"


def test_masks_of_nnunets_test_images_have_the_names_of_the_cases(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTs/p_2_0000.nii.gz", "imagesTs/p_3_0000.nii.gz", "ct/p_4_0000.nii.gz")
    items = input_items([tmp_path / "imagesTs", tmp_path / "ct"], tmp_path / "out", suffix="")
    assert [Path(item["mask_file"]).name for item in items] == ["p_2.nii.gz", "p_3.nii.gz", "p_4_0000.nii.gz"]
    assert [item["case"] for item in items] == ["p_2", "p_3", "p_4_0000"]


def test_further_channels_of_nnunet_are_no_images_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTs/p_2_0000.nii.gz", "imagesTs/p_2_0001.nii.gz")
    with pytest.raises(UserError, match=r"DIMENSIONS .*p_2_0001.nii.gz: another channel of the case p_2"):
        input_items(tmp_path / "imagesTs", tmp_path / "out")


def test_frames_that_are_numbered_are_no_channels(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "imagesTs/frame_0001.nii.gz",
        "imagesTs/frame_0002.nii.gz",
        "video/a_0000.nii.gz",
        "video/a_0001.nii.gz",
    )
    items = input_items([tmp_path / "imagesTs", tmp_path / "video"], tmp_path / "out")
    assert [item["case"] for item in items] == ["frame_0001", "frame_0002", "a_0000", "a_0001"]


def test_volumes_in_folders_of_any_name_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    (tmp_path / "dataset.json").write_text("{}")
    assert not holds_pictures(tmp_path)


def test_nnunets_pictures_are_a_data_set_of_pictures(tmp_path: Path) -> None:
    folder = nnunet(tmp_path, ".png", channel_names={"0": "R", "1": "G", "2": "B"})
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(folder / "imagesTr/p_1_0000.png")
    Image.fromarray(np.eye(4, 5, dtype=np.uint8)).save(folder / "labelsTr/p_1.png")
    assert holds_pictures(folder)
    (case,) = read_picture_folder(folder)
    assert (case["case"], Path(case["image"]).name) == ("p_1", "p_1_0000.png")
    assert read_picture_mask(case["label"]).sum() == 4
    assert not holds_pictures(nnunet(tmp_path / "ct"))


def test_a_datalist_is_a_data_set_with_a_split_of_its_own(tmp_path: Path) -> None:
    listed = {
        "training": [entry("a"), entry("b")],
        "validation": [entry("c")],
        "test": [entry("d"), "ct/e.nii.gz", {"image": "ct/f.nii.gz"}],
    }
    path = datalist(tmp_path, **listed)
    dataset = read_msd(path)
    assert dataset.ids == ["a", "b", "c", "d"]
    assert [case["case"] for case in dataset.test] == ["e", "f"]
    parts = {part: split_cases(path, tmp_path / "split.json", part) for part in ("train", "val", "test")}
    assert {part: [case["case"] for case in cases] for part, cases in parts.items()} == {
        "train": ["a", "b"],
        "val": ["c"],
        "test": ["d"],
    }
    assert parts["val"][0]["image"] == str(tmp_path / "ct/c.nii.gz")
    assert read_split(tmp_path / "split.json").rule == "train, val and test are listed"


def test_listed_test_cases_stay_out_of_a_split_that_is_drawn(tmp_path: Path) -> None:
    path = datalist(tmp_path, training=[entry(name) for name in "abcd"], test=[entry("e")])
    split_cases(path, tmp_path / "split.json", "train", test_cases=2, val_cases=1)
    split = read_split(tmp_path / "split.json")
    assert (split.test, len(split.val), len(split.train)) == (["e"], 1, 3)


def test_without_such_lists_a_datalist_is_split_by_the_rule(tmp_path: Path) -> None:
    path = datalist(tmp_path, training=[entry(name) for name in "abcd"])
    assert len(split_cases(path, tmp_path / "split.json", "train", test_cases=1, val_cases=1)) == 2


def test_folds_are_chosen_by_their_reader(tmp_path: Path) -> None:
    path = datalist(tmp_path, training=[entry("a", fold=0), entry("b", fold=1)])
    with pytest.raises(UserError, match=r"BAD_VALUE .*the folds 0, 1.*data split .* --fold 0"):
        split_cases(path, tmp_path / "split.json", "train")


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    listed = [{"image": f"{name}/ct.nii.gz", "label": f"{name}/seg.nii.gz"} for name in ("john", "jane")]
    assert read_msd(datalist(tmp_path, training=listed)).ids == ["jane_ct", "john_ct"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"training": {"image": "a"}}, "DATASET_JSON"),
        ({"training": [{"image": "ct/a.nii.gz"}]}, "DATASET_JSON"),
        ({"training": [{"image": ["ct/a.nii.gz", "ct/b.nii.gz"], "label": "seg/a.nii.gz"}]}, "DATASET_JSON"),
        ({"training": [entry("../../a")]}, "PATH_ESCAPE"),
        ({"training": [{"image": "/ct/a.nii.gz", "label": "seg/a.nii.gz"}]}, "PATH_ESCAPE"),
        ({"training": [entry("a")], "validation": [entry("a")]}, "DUPLICATE_CASE"),
        ({"training": [entry("a")]}, "MISSING_FILE"),
        ({"training": []}, "DATASET_JSON"),
    ],
)
def test_a_datalist_that_cannot_be_used_is_refused(tmp_path: Path, content: dict, code: str) -> None:
    error = error_of(datalist(tmp_path, touched=False, **content))
    assert error.code == code
    assert "list.json" in str(error)


def test_a_datalist_is_verified_to_the_last_voxel(tmp_path: Path) -> None:
    path = datalist(tmp_path, training=[entry("a"), entry("b")])
    for name, shift in (("a", 0), ("b", 7)):
        affine = np.diag([1.0, 1, 1, 1])
        write_mask(tmp_path / f"ct/{name}.nii.gz", np.ones((4, 5, 6), np.uint8), affine=affine)
        affine[0, 3] = shift
        write_mask(tmp_path / f"seg/{name}.nii.gz", np.ones((4, 5, 6), np.uint8), affine=affine)
    report = verify_msd(path)
    assert [error.code for error in report.errors] == ["PAIR_GEOMETRY"]
    assert (report.n_cases, report.label_values) == (2, {1: 2})
