"""Masks that stand: what their records say, and what becomes of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d.cli import main
from medseg3d.data.outputs import record_file
from medseg3d.data.records import Standing, read_record, standing
from medseg3d.errors import UserError
from medseg3d.files.stream import file_sha256
from medseg3d.volumes.writing import write_mask

MADE_WITH = {
    "model": {"class": "SegResNet", "sha256": "ab"},
    "preprocessing": ["LoadVolumed"],
    "inference": {"roi_size": (8, 8, 8)},
    "settings": {"spacing": [1.5, 1.5, 2.0], "threshold": 0.5},
}
STANDS = Standing(True, "the mask exists: same image, weights and settings")


@pytest.fixture
def item(tmp_path: Path) -> dict[str, str]:
    """A case that was segmented: image, mask and record."""
    image, mask = tmp_path / "in/ct.nii.gz", tmp_path / "out/ct_seg.nii.gz"
    image.parent.mkdir()
    nib.save(nib.Nifti1Image(np.full((4, 5, 6), 40, np.int16), np.eye(4)), image)
    record = {
        "mask": {"file": mask.name, "sha256": write_mask(mask, np.ones((4, 5, 6), np.uint8), affine=np.eye(4))},
        "input": {"file": image.name, "sha256": file_sha256(image)},
        **MADE_WITH,
    }
    record["inference"] = {**MADE_WITH["inference"], "device": "cpu"}
    record_file(mask).write_text(json.dumps(record))
    return {"image": str(image), "mask_file": str(mask), "case": "ct"}


def test_a_mask_of_the_same_image_weights_and_settings_stands(item):
    assert standing(item, MADE_WITH) == STANDS


@pytest.mark.parametrize(
    ("part", "now", "reason"),
    [
        ("model", {"class": "SegResNet", "sha256": "cd"}, "other weights"),
        ("settings", {"spacing": [1.5, 1.5, 3.0]}, "made with spacing [1.5, 1.5, 2.0], now [1.5, 1.5, 3.0]"),
        ("settings", {"overlap": 0.25}, "made with overlap None, now 0.25"),
        ("preprocessing", ["LoadVolumed", "FitSlicesd"], "another preprocessing"),
    ],
)
def test_other_weights_and_settings_make_it_again(item, part, now, reason):
    assert standing(item, {**MADE_WITH, part: now}) == Standing(False, reason)


def test_another_image_of_the_same_size_makes_it_again(item):
    content = bytearray(Path(item["image"]).read_bytes())
    content[-1] ^= 1
    Path(item["image"]).write_bytes(content)
    assert standing(item, MADE_WITH) == Standing(False, "another image")


@pytest.mark.parametrize("damage", ["truncated", "emptied", "a text"])
def test_a_damaged_mask_is_made_again(item, damage):
    mask = Path(item["mask_file"])
    mask.write_bytes({"truncated": mask.read_bytes()[:-9], "emptied": b"", "a text": b"to do"}[damage])
    assert standing(item, MADE_WITH) == Standing(False, "its mask is damaged")


def test_a_mask_corrected_by_hand_is_kept_and_said(item):
    write_mask(item["mask_file"], np.zeros((4, 5, 6), np.uint8), affine=np.eye(4))
    found = standing(item, {**MADE_WITH, "settings": {}})
    assert (found.kept, found.warning) == (True, True)
    assert "--overwrite replaces it" in found.reason


def test_a_mask_without_a_record_is_made_again(item):
    record_file(item["mask_file"]).unlink()
    assert standing(item, MADE_WITH) == Standing(False, "its mask has no record")


@pytest.mark.parametrize("content", ['{"Modality": "CT"}', "no json", "[]"])
def test_somebody_elses_json_beside_a_mask_is_not_replaced(item, content):
    record_file(item["mask_file"]).write_text(content)
    found = standing(item, MADE_WITH)
    assert (found.kept, found.warning) == (True, True)


@pytest.mark.parametrize(
    "change",
    [
        {"mask": {"file": "../../x", "sha256": "0"}},
        {"mask": {"file": 7, "sha256": "0"}},
        {"mask": {"sha256": "0"}},
        {"input": []},
        {"input": {"file": None, "sha256": "0"}},
        {"input": {"file": "ct.nii.gz"}},
        {"probability": []},
        {"probability": {"file": 3}},
    ],
)
def test_a_record_of_another_form_is_none(item, change):
    path = record_file(item["mask_file"])
    assert read_record(path) is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert read_record(path) is None


def test_a_map_that_is_missing_or_another_makes_it_again(item, tmp_path):
    with_map = {**item, "prob_file": str(tmp_path / "probs/ct_prob.nii.gz")}
    assert standing(with_map, MADE_WITH) == Standing(False, "no probability yet")
    Path(with_map["prob_file"]).parent.mkdir()
    Path(with_map["prob_file"]).write_bytes(b"map")
    assert standing(with_map, MADE_WITH) == Standing(False, "another probability")


class TestVerify:
    """`medseg3d verify`."""

    def test_nothing_differs(self, item, tmp_path, capsys):
        assert main(["verify", str(tmp_path / "out"), "--images", str(tmp_path / "in")]) == 0
        assert capsys.readouterr().out == "1 records, 0 differences\n"

    def test_everything_that_differs_is_in_the_table(self, item, tmp_path, capsys):
        record = record_file(item["mask_file"])
        content = json.loads(record.read_text())
        record.write_text(json.dumps({**content, "probability": {"file": "ct_prob.nii.gz", "sha256": "ab"}}))
        Path(item["image"]).write_bytes(b"another")
        write_mask(item["mask_file"], np.zeros((4, 5, 6), np.uint8), affine=np.eye(4))
        write_mask(tmp_path / "out/mr_seg.nii.gz", np.zeros((4, 5, 6), np.uint8), affine=np.eye(4))
        assert main(["verify", str(tmp_path / "out"), "--images", str(tmp_path / "in")]) == 1
        table = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
        assert table == [
            ["CHECKSUM", item["mask_file"]],
            ["MISSING_FILE", "ct_prob.nii.gz"],
            ["CHECKSUM", item["image"]],
            ["NO_RECORD", str(tmp_path / "out/mr_seg.nii.gz")],
            ["1", "records,"],
        ]

    @pytest.mark.parametrize(("folder", "code"), [("in", "NO_INPUT"), ("nowhere", "MISSING_FILE")])
    def test_a_folder_without_results_is_a_wrong_call(self, item, tmp_path, folder, code, capsys):
        assert main(["verify", str(tmp_path / folder)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {code} ")


def test_results_in_a_linked_folder_are_verified(item, tmp_path, capsys):
    (tmp_path / "all").mkdir()
    (tmp_path / "all/site").symlink_to(tmp_path / "out")
    assert main(["verify", str(tmp_path / "all")]) == 0
    Path(item["mask_file"]).write_bytes(b"")
    assert main(["verify", str(tmp_path / "all")]) == 1
    assert "CHECKSUM" in capsys.readouterr().out


def test_pipes_among_results_are_no_masks_and_no_records(item, tmp_path):
    for name in ("a_seg.png", "b_seg.json"):
        os.mkfifo(tmp_path / "out" / name)
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_pipe_in_the_place_of_an_image_is_left_to_its_reader(item):
    Path(item["image"]).unlink()
    os.mkfifo(item["image"])
    assert standing(item, MADE_WITH) == Standing(False, "its image is not a file")
    with pytest.raises(UserError, match="NOT_A_FILE"):
        file_sha256(item["image"])
