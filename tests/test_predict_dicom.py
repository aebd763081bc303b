"""`medseg3d predict` on DICOM: whole commands on a bundle for CT with tiny random weights."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_series import PLANTED, stored_values, write_series

from medseg3d.cli import main
from medseg3d.dicom.segmentation import read_segmentation
from medseg3d.dicom.series import read_series


def mask_of(path: str) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def record_of(path: str) -> dict:
    return json.loads(Path(path).read_text())


def test_a_series_gets_the_mask_of_its_nifti_and_a_record_of_its_own(predict, capsys):
    write_series(Path("scans/ct"), number=4)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames("scans/ct"))
    sitk.WriteImage(reader.Execute(), "scans/nifti.nii.gz")
    assert predict("scans/ct", "scans/nifti.nii.gz") == 0
    ct, nifti = mask_of("masks/ct_seg.nii.gz"), mask_of("masks/nifti_seg.nii.gz")
    assert 0 < ct.astype(bool).mean() < 1
    assert (ct != nifti).mean() < 1e-3  # the affine of a NIfTI is float32
    record = record_of("masks/ct_seg.json")
    assert record["input"]["file"] == "ct"
    assert record["input"]["series"] == {"number": "4", "chosen": "the only CT volume of 1 series", "slices": 6}
    assert "ct: 6 slices of DICOM series 4, the only CT volume of 1 series" in capsys.readouterr().out


def test_the_same_command_keeps_what_stands_and_redoes_a_changed_series(predict, capsys):
    paths = write_series(Path("scans/ct"))
    assert predict("scans/ct") == 0
    paths[0].rename("scans/ct/renamed")
    assert predict("scans/ct") == 0
    assert "0 segmented, 1 skipped" in capsys.readouterr().out
    Path("scans/ct/renamed").rename(paths[0])
    write_series(Path("scans/ct"), stored_values(seed=9))
    assert predict("scans/ct") == 0
    out = capsys.readouterr().out
    assert "1 segmented again: another image" in out
    assert main(["verify", "masks", "--images", "scans"]) == 0
    paths[3].write_bytes(paths[3].read_bytes()[:-2] + b"\x01\x02")
    assert main(["verify", "masks", "--images", "scans"]) == 1


def test_one_bad_series_does_not_stop_the_others(predict, capsys):
    for name in "abc":
        write_series(Path("scans") / name)
    Path("scans/b/IM0003").unlink()
    write_series(Path("scans/c"), number=2, name="other{}".format)
    shutil.make_archive("scans/d", "zip", "scans/a")
    assert predict("scans/a", "scans/b", "scans/c", "scans/d.zip") == 3
    captured = capsys.readouterr()
    assert [line.split(":")[1].split()[0] for line in captured.err.splitlines() if line.startswith("error")] == [
        "SLICE_GAP",
        "SERIES",
    ]
    assert sorted(path.name for path in Path("masks").glob("*.nii.gz")) == ["a_seg.nii.gz", "d_seg.nii.gz"]
    assert np.array_equal(mask_of("masks/a_seg.nii.gz"), mask_of("masks/d_seg.nii.gz"))
    assert predict("scans/c", "--series", "2") == 0


@pytest.mark.parametrize("series", ["$print('planted')", "@bundle_root", "portal"])
def test_a_series_is_a_number_or_a_uid_and_never_an_expression(predict, series, capsys):
    write_series(Path("ct"))
    assert predict("ct", "--series", series) == 2
    assert "BAD_VALUE --series: " in capsys.readouterr().err


def test_no_output_names_the_patient(predict, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    write_series(Path("scans/ct"))
    write_series(Path("scans/bad"))[3].unlink()
    assert predict("scans/ct", "scans/bad", "--probabilities", "probs") == 3
    captured = capsys.readouterr()
    said = [captured.out, captured.err, caplog.text]
    said += [nib.load(path).header.binaryblock.decode("latin-1") for path in Path().rglob("*_seg.nii.gz")]
    said += [nib.load(path).header.binaryblock.decode("latin-1") for path in Path().rglob("*_prob.nii.gz")]
    said += [path.read_text() for path in Path("masks").glob("*.json")]
    assert len(said) == 6
    whole = "\n".join(said)
    assert [value for value in PLANTED.values() if value in whole or value.split("^")[0] in whole] == []


class TestSegmentations:
    """`--format dicom-seg`."""

    def test_one_lies_over_its_source_as_the_nifti_mask_of_the_run(self, predict):
        write_series(Path("scans/ct"), name=lambda index: "fbeadc"[index])
        assert predict("scans/ct", "--format", "dicom-seg") == 0
        series = read_series("scans/ct")[2]
        mask = mask_of("masks/ct_seg.nii.gz")
        assert np.array_equal(read_segmentation("masks/ct_seg.dcm", series), mask)
        assert 0 < mask.mean() < 1
        record = record_of("masks/ct_seg.json")
        digest = hashlib.sha256(Path("masks/ct_seg.dcm").read_bytes()).hexdigest()
        assert record["segmentation"] == {"file": "ct_seg.dcm", "sha256": digest}
        tags = pydicom.dcmread("masks/ct_seg.dcm")
        assert [segment.SegmentLabel for segment in tags.SegmentSequence] == ["pancreas"]
        assert tags.PatientName == PLANTED["PatientName"]  # the standard asks for the patient there, and only there
        assert PLANTED["PatientID"] not in Path("masks/ct_seg.json").read_text()

    @pytest.mark.parametrize("reason", ["no segmentation yet", "another segmentation"])
    def test_one_that_is_missing_or_changed_is_made_again(self, predict, capsys, reason):
        write_series(Path("scans/ct"))
        segment = partial(predict, "scans/ct", "--format", "dicom-seg")
        if reason == "no segmentation yet":
            assert predict("scans/ct") == 0
        else:
            assert segment() == 0
            with open("masks/ct_seg.dcm", "r+b") as file:
                file.seek(-1, 2)
                file.write(b"\x7f")
            assert main(["verify", "masks"]) == 1
        assert segment() == 0
        assert f"1 segmented again: {reason}" in capsys.readouterr().out
        assert segment() == 0
        assert "1 skipped" in capsys.readouterr().out
        assert main(["verify", "masks"]) == 0

    def test_a_nifti_has_nothing_to_refer_to(self, predict, capsys):
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), "scan.nii.gz")
        assert predict("scan.nii.gz", "--format", "dicom-seg") == 2
        err = capsys.readouterr().err
        assert err.startswith("error: BAD_VALUE --format dicom-seg: ")
        assert len(err.splitlines()) == 1
        assert not Path("masks").exists()

    def test_images_without_uids_are_refused_before_the_inference(self, predict, capsys):
        write_series(Path("ct"), change=lambda tags, index: setattr(tags, "StudyInstanceUID", ""))
        assert predict("ct", "--format", "dicom-seg") == 1
        assert "MISSING_TAG" in capsys.readouterr().err
        assert not Path("masks").exists()
