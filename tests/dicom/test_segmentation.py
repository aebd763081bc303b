"""A mask as a DICOM segmentation: the same voxels, references to its images, codes, and who made it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import OBLIQUE, PLANTED, stored_values, write_enhanced, write_series

from medseg3d import __version__
from medseg3d.dicom.segmentation import check_referable, read_segmentation, write_segmentation
from medseg3d.dicom.series import LoadedSeries, read_series
from medseg3d.errors import UserError
from medseg3d.files.signature import is_ours

NAMES = ["pancreas", "tumour"]
MODEL = {"class": "SegResNetNL", "sha256": "ab" * 32}


def labels(shape: tuple[int, ...], highest: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, highest + 1, shape).astype(np.uint8)


def written(source: Path, path: Path, mask: np.ndarray | None = None) -> tuple[pydicom.Dataset, LoadedSeries]:
    """The segmentation as pydicom alone reads it, and the series it is of."""
    series = read_series(source)[2]
    mask = labels((16, 14, 6)) if mask is None else mask
    digest = write_segmentation(path, mask, series, NAMES, MODEL)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    return pydicom.dcmread(path), series


def voxels_by_position(segmentation: pydicom.Dataset, source: Path) -> np.ndarray:
    """Labels (X, Y, Z) laid over the source by nothing but the positions that frames and images state."""
    files = [source] if source.is_file() else sorted(source.iterdir())
    places = set()
    for tags in map(pydicom.dcmread, files):
        groups = tags.get("PerFrameFunctionalGroupsSequence")
        images = [group.PlanePositionSequence[0] for group in groups] if groups else [tags]
        places |= {tuple(map(float, image.ImagePositionPatient)) for image in images}
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    ordered = sorted(places, key=lambda place: float(np.dot(place, np.cross(*axes))))
    volume = np.zeros((segmentation.Columns, segmentation.Rows, len(ordered)), np.uint8)
    for groups, frame in zip(segmentation.PerFrameFunctionalGroupsSequence, segmentation.pixel_array, strict=True):
        place = tuple(map(float, groups.PlanePositionSequence[0].ImagePositionPatient))
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        volume[:, :, ordered.index(place)][frame.T > 0] = segment
    return volume


class TestTheVoxels:
    """Laid over the source."""

    @pytest.mark.parametrize("kind", ["axial", "oblique", "enhanced"])
    def test_they_are_those_of_the_mask(self, kind, tmp_path):
        source = tmp_path / "in"
        if kind == "enhanced":
            source = write_enhanced(tmp_path / "ct.dcm")
        else:
            names = "fbeadc"
            orientation = {"orientation": OBLIQUE} if kind == "oblique" else {}
            write_series(source, name=lambda index: names[index], **orientation)
        segmentation, series = written(source, tmp_path / "seg.dcm")
        assert np.array_equal(voxels_by_position(segmentation, source), labels((16, 14, 6)))
        assert np.array_equal(read_segmentation(tmp_path / "seg.dcm", series), labels((16, 14, 6)))

    @pytest.mark.parametrize("where", [None, (3, 4, 2)], ids=["empty", "one voxel"])
    def test_masks_of_little_come_back(self, where, tmp_path):
        write_series(tmp_path / "in")
        mask = np.zeros((16, 14, 6), np.uint8)
        if where:
            mask[where] = 2
        _, series = written(tmp_path / "in", tmp_path / "seg.dcm", mask)
        assert np.array_equal(read_segmentation(tmp_path / "seg.dcm", series), mask)

    def test_a_label_without_a_name_is_refused(self, tmp_path):
        write_series(tmp_path / "in")
        with pytest.raises(ValueError, match="labels up to 2, found 3"):
            written(tmp_path / "in", tmp_path / "seg.dcm", labels((16, 14, 6), highest=3))

    def test_a_slice_thickness_that_is_not_said_does_no_harm(self, tmp_path):
        write_series(tmp_path / "in", change=lambda tags, index: setattr(tags, "SliceThickness", None))
        segmentation, _ = written(tmp_path / "in", tmp_path / "seg.dcm")
        assert np.array_equal(voxels_by_position(segmentation, tmp_path / "in"), labels((16, 14, 6)))


class TestWhatItSays:
    """The tags."""

    @pytest.fixture
    def segmentation(self, tmp_path) -> pydicom.Dataset:
        write_series(tmp_path / "in")
        return written(tmp_path / "in", tmp_path / "seg.dcm")[0]

    def test_patient_study_and_frame_of_reference_are_the_sources(self, segmentation, tmp_path):
        source = pydicom.dcmread(tmp_path / "in/IM0000")
        same = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate")
        assert {name: segmentation[name].value for name in same} == {name: source[name].value for name in same}
        assert segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert segmentation.SeriesInstanceUID != source.SeriesInstanceUID
        assert segmentation.PatientName == PLANTED["PatientName"]

    def test_it_refers_to_every_image_and_each_frame_to_its_own(self, segmentation, tmp_path):
        sources = {str(tags.SOPInstanceUID): tags for tags in map(pydicom.dcmread, (tmp_path / "in").iterdir())}
        referred = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert {item.ReferencedSOPInstanceUID for item in referred} == set(sources)
        frames = segmentation.PerFrameFunctionalGroupsSequence
        images = [each.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID for each in frames]
        places = [list(each.PlanePositionSequence[0].ImagePositionPatient) for each in frames]
        assert places == [list(sources[image].ImagePositionPatient) for image in images] != []

    def test_segments_are_coded_and_name_their_algorithm(self, segmentation):
        said = [
            (segment.SegmentLabel, code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning)
            for segment in segmentation.SegmentSequence
            for code in segment.SegmentedPropertyTypeCodeSequence
        ]
        assert said == [
            ("pancreas", "15776009", "SCT", "Pancreas"),
            ("tumour", "126859007", "SCT", "Neoplasm of pancreas"),
        ]
        algorithm = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("medseg3d SegResNetNL", __version__)
        assert MODEL["sha256"] in algorithm.AlgorithmParameters
        assert segmentation.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
        assert segmentation.ContentQualification == "RESEARCH"

    def test_the_same_mask_has_the_same_uids_and_another_one_others(self, segmentation, tmp_path):
        again = written(tmp_path / "in", tmp_path / "again.dcm")[0]
        other = written(tmp_path / "in", tmp_path / "other.dcm", np.ones((16, 14, 6), np.uint8))[0]
        assert segmentation.SOPInstanceUID == again.SOPInstanceUID != other.SOPInstanceUID

    def test_its_voxels_have_the_size_of_the_sources(self, segmentation):
        measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert list(measures.PixelSpacing) == [0.8, 0.7]
        assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (2.5, 2.5)

    def test_it_is_known_as_ours(self, segmentation, tmp_path):
        assert is_ours(tmp_path / "seg.dcm")
        assert not is_ours(tmp_path / "in/IM0000")


def test_images_without_their_uids_are_refused(tmp_path):
    write_series(tmp_path, change=lambda tags, index: setattr(tags, "StudyInstanceUID", ""))
    with pytest.raises(UserError, match=r"MISSING_TAG .* no usable StudyInstanceUID"):
        check_referable(tmp_path, read_series(tmp_path)[2])


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientBirthDate", "1947"), ("PatientSex", "planted"), ("StudyTime", "25"), ("StudyDate", "2026?")],
)
def test_a_value_that_cannot_be_repeated_is_refused_without_being_quoted(keyword, value, tmp_path):
    def change(tags, index):
        tags[keyword].value = value

    write_series(tmp_path, change=change)
    with pytest.raises(UserError) as caught:
        check_referable("scan", read_series(tmp_path)[2])
    assert caught.value.found == f"no usable {keyword} for a segmentation"
    assert value not in str(caught.value)


@pytest.mark.parametrize("kind", ["slices", "enhanced"])
def test_what_an_anonymiser_removed_is_empty_and_no_hindrance(kind, tmp_path):
    removed = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
    source = tmp_path / "in"
    paths = [write_enhanced(source / "ct.dcm")] if kind == "enhanced" else write_series(source)
    for path in paths:
        tags = pydicom.dcmread(path)
        for keyword in (*removed, "AccessionNumber", "ReferringPhysicianName"):
            del tags[keyword]
        if kind == "enhanced":
            del tags.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness
        tags.save_as(path)
    segmentation, series = written(source, tmp_path / "seg.dcm")
    check_referable(source, series)
    assert [keyword for keyword in removed if segmentation[keyword].value] == []


def test_a_uid_that_only_the_files_own_header_has_is_referred_to(tmp_path):
    for path in write_series(tmp_path / "in", stored_values()):
        tags = pydicom.dcmread(path)
        tags.SOPInstanceUID = tags.SOPClassUID = ""
        tags.save_as(path, enforce_file_format=False)
    check_referable(tmp_path / "in", read_series(tmp_path / "in")[2])
    segmentation, _ = written(tmp_path / "in", tmp_path / "seg.dcm")
    first = pydicom.dcmread(tmp_path / "in/IM0000").file_meta.MediaStorageSOPInstanceUID
    referred = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert first in {item.ReferencedSOPInstanceUID for item in referred}


def test_a_series_of_several_multi_frame_files_makes_none(tmp_path):
    for part in ((0, 1, 2), (3, 4, 5)):
        path = write_enhanced(tmp_path / "in" / f"{part[0]}.dcm", order=part)
        tags = pydicom.dcmread(path)
        tags.SOPInstanceUID = f"{tags.SOPInstanceUID[:-2]}.{part[0]}"
        tags.save_as(path)
    with pytest.raises(UserError, match="DICOM_SEG"):
        written(tmp_path / "in", tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
@pytest.mark.parametrize("kind", ["axial", "enhanced"])
def test_dciodvfy_has_nothing_to_say(kind, tmp_path):
    source = tmp_path / "in.dcm" if kind == "enhanced" else tmp_path / "in"
    (write_enhanced if kind == "enhanced" else write_series)(source)
    written(source, tmp_path / "seg.dcm")
    done = subprocess.run(["dciodvfy", "-new", str(tmp_path / "seg.dcm")], capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if line.startswith(("Error", "Warning"))] == []
