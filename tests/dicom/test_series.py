"""CT series in DICOM: the same voxels and places as SimpleITK reads, and a refusal where something is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_series import (
    AXIAL,
    OBLIQUE,
    ORIGIN,
    SPACING,
    stored_values,
    uid,
    write_enhanced,
    write_series,
)
from pydicom import uid as uids

from medseg3d.data.outputs import input_items
from medseg3d.dicom.series import all_series_sha256, read_series, series_sha256
from medseg3d.errors import UsageError, UserError
from medseg3d.limits import limits
from medseg3d.volumes.reading import read_volume
from medseg3d.volumes.writing import write_mask

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep")


def hounsfield(values: np.ndarray) -> np.ndarray:
    """(X, Y, Z) of stored values (slices, rows, columns)."""
    return values.T.astype(np.float32) - 1024


def by_simpleitk(folder: Path, tmp_path: Path, series_uid: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) and affine (RAS mm) of SimpleITK's reading of the same series, its affine by way of a NIfTI."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series_uid, False, True))
    image = reader.Execute()
    sitk.WriteImage(image, str(tmp_path / "by_simpleitk.nii.gz"))
    return sitk.GetArrayFromImage(image).T, nib.load(tmp_path / "by_simpleitk.nii.gz").affine


def error_of(source: Path, chosen: str = "", **options: int) -> UserError:
    with pytest.raises(UserError) as caught:
        read_series(source, chosen, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def shuffled(tags, index):
    tags.InstanceNumber = [40, 3, 17, 8, 25, 1][index]


def without_numbers(tags, index):
    del tags.InstanceNumber


def own_scale(tags, index):
    tags.RescaleSlope, tags.RescaleIntercept = index % 3 + 1, -1024 + 10 * index


def fractions(tags, index):
    tags.RescaleSlope, tags.RescaleIntercept = "0.4882813", "-1000.25"


def padded(tags, index):
    values = np.frombuffer(tags.PixelData, np.uint16).astype(np.int16)
    values[:50] = -2000
    tags.PixelRepresentation = 1
    tags.PixelData = values.tobytes()
    tags.add_new("PixelPaddingValue", "SS", -2000)


def twelve_bits(tags, index):
    tags.BitsStored, tags.HighBit = 12, 11


def big_header(tags, index):
    tags.add_new(0x00291010, "OB", bytes(5000))


class TestTheVolume:
    """The voxels and the grid, SimpleITK the judge."""

    @pytest.mark.parametrize(
        "change", [shuffled, without_numbers, own_scale, fractions, padded, twelve_bits, big_header]
    )
    @pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, (1, 0, 0, 0, 0, -1)], ids=["axial", "oblique", "coronal"])
    def test_it_is_simpleitks_to_the_hu(self, change, orientation, tmp_path):
        write_series(tmp_path / "in", orientation=orientation, change=change)
        values, affine = by_simpleitk(tmp_path / "in", tmp_path)
        array, header, _ = read_series(tmp_path / "in")
        assert np.array_equal(array, values.astype(np.float32))
        assert np.abs(header.affine - affine).max() < 1e-3
        assert header.shape == array.shape

    def test_real_jpeg_2000_is_simpleitks_to_the_hu(self, real_data, tmp_path):
        source = real_data / "totalsegmentator/example_ct_dicom"
        values, affine = by_simpleitk(source, tmp_path)
        array, header, series = read_series(source, check_hu=True)
        assert np.array_equal(array, values)
        assert np.abs(header.affine - affine).max() < 1e-3
        assert (header.warnings, series.slices) == ((), 20)

    def test_slices_come_by_place_whatever_files_and_numbers_say(self, tmp_path):
        values = stored_values()
        names = ["f", "b", "e", "a", "d", "c"]
        write_series(tmp_path, values, change=shuffled, name=lambda index: names[index])
        array, header, _ = read_series(tmp_path)
        assert np.array_equal(array, hounsfield(values))
        # LPS to RAS: the first two axes turn round
        assert header.affine.tolist() == [[-0.7, 0, 0, 120.5], [0, -0.8, 0, 33.25], [0, 0, 2.5, 410], [0, 0, 0, 1]]
        assert header.spacing == (0.7, 0.8, 2.5)

    def test_a_mask_on_it_lies_where_simpleitk_lays_the_scan(self, tmp_path):
        write_series(tmp_path / "in", orientation=OBLIQUE)
        array, header, _ = read_series(tmp_path / "in")
        write_mask(tmp_path / "mask.nii.gz", (array > 0).astype(np.uint8), geometry=header.geometry)
        values, affine = by_simpleitk(tmp_path / "in", tmp_path)
        mask = nib.load(tmp_path / "mask.nii.gz")
        assert np.abs(mask.affine - affine).max() < 1e-3
        assert np.array_equal(np.asarray(mask.dataobj), values > 0)
        assert (int(mask.header["sform_code"]), int(mask.header["qform_code"])) == (1, 1)
        assert np.abs(mask.get_sform() - mask.get_qform()).max() < 1e-3
        assert read_volume(tmp_path / "mask.nii.gz")[1].warnings == ()

    def test_an_enhanced_file_gives_its_frames_by_place_each_with_its_scale(self, tmp_path):
        values = stored_values()
        array, header, series = read_series(write_enhanced(tmp_path / "ct.dcm", values))
        assert np.array_equal(array, hounsfield(values) - np.arange(6, dtype=np.float32))
        assert header.affine[:3, 3].tolist() == [-ORIGIN[0], -ORIGIN[1], ORIGIN[2]]
        assert (series.slices, series.planes) == (6, [(0, 1), (0, 3), (0, 4), (0, 0), (0, 5), (0, 2)])

    def test_uids_emptied_by_an_anonymiser_do_no_harm(self, tmp_path):
        def emptied(tags, index):
            for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber"):
                tags[name].value = None

        write_series(tmp_path / "in")
        for path in (tmp_path / "in").iterdir():
            tags = pydicom.dcmread(path)
            emptied(tags, 0)
            tags.save_as(path, enforce_file_format=False)
        assert np.array_equal(read_series(tmp_path / "in")[0], hounsfield(stored_values(1)))

    def test_without_rescale_tags_the_values_are_as_stored_and_warned_of(self, tmp_path):
        def change(tags, index):
            del tags.RescaleSlope, tags.RescaleIntercept

        write_series(tmp_path, stored_values() + np.uint16(100), change=change)
        array, header, _ = read_series(tmp_path, check_hu=True)
        assert np.array_equal(array, stored_values().T + 100)
        assert [warning.split(":")[0] for warning in header.warnings] == ["RESCALE", "HU_RANGE"]

    def test_padding_that_is_not_air_is_warned_of(self, tmp_path):
        def change(tags, index):
            tags.add_new("PixelPaddingValue", "US", 60000)

        write_series(tmp_path, change=change)
        warnings = read_series(tmp_path)[1].warnings
        assert warnings == ("PADDING: voxels outside the field of view are 58976 HU, which is not air",)

    def test_positions_rounded_to_a_tenth_are_even_and_said(self, tmp_path):
        def change(tags, index):
            tags.ImagePositionPatient = [0, 0, round(0.625 * index, 1)]

        write_series(tmp_path, stored_values(shape=(9, 14, 16)), change=change)
        header = read_series(tmp_path)[1]
        assert header.spacing == (0.7, 0.8, 0.625)
        assert [warning.split(":")[0] for warning in header.warnings] == ["GEOMETRY"]


def compress(path: Path, syntax: str) -> None:
    """Write a file again in another transfer syntax: pydicom where it can, GDCM otherwise."""
    if syntax in (uids.RLELossless, uids.JPEGLSLossless):
        tags = pydicom.dcmread(path)
        tags.compress(syntax, generate_instance_uid=False)
        tags.save_as(path)
    elif syntax in PLAIN.values():
        tags = pydicom.dcmread(path)
        if syntax == uids.ExplicitVRBigEndian:
            tags.PixelData = np.frombuffer(tags.PixelData, "<u2").byteswap().tobytes()
        tags.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, tags, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    else:
        import gdcm

        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax


COMPRESSED = {
    "rle": uids.RLELossless,
    "jpeg-ls": uids.JPEGLSLossless,
    "jpeg 2000": uids.JPEG2000Lossless,
    "jpeg lossless": uids.JPEGLosslessSV1,
}


PLAIN = {
    "deflated": uids.DeflatedExplicitVRLittleEndian,
    "implicit": uids.ImplicitVRLittleEndian,
    "big endian": uids.ExplicitVRBigEndian,
}


class TestTransferSyntaxes:
    """Compressed pixels."""

    @pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
    @pytest.mark.parametrize(
        "syntax",
        [*COMPRESSED.values(), *PLAIN.values()],
        ids=[*COMPRESSED, *PLAIN],
    )
    def test_lossless_ones_give_the_written_values(self, syntax, signed, tmp_path):
        values = stored_values()
        if signed:
            values = values.astype(np.int16) - np.int16(1024)
        for path in write_series(tmp_path, values):
            compress(path, syntax)
        assert np.array_equal(read_series(tmp_path)[0], values.T.astype(np.float32) - 1024)

    def test_one_without_a_codec_is_named_with_the_extra(self, tmp_path):
        def change(tags, index):
            if index == 3:
                tags.file_meta.TransferSyntaxUID = uids.HTJ2KLossless
                tags.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
                tags["PixelData"].is_undefined_length = True

        write_series(tmp_path, change=change)
        error = error_of(tmp_path)
        assert (error.code, Path(error.subject).name) == ("DECODE", "IM0003")
        assert "High-Throughput JPEG 2000" in error.found
        assert "1.2.840.10008.1.2.4.201" in error.found
        assert 'pip install "medseg3d[dicom]"' in error.remedy

    @pytest.mark.parametrize("name", COMPRESSED)
    def test_a_truncated_file_is_refused(self, name, tmp_path):
        path = write_series(tmp_path, np.tile(stored_values(), (1, 8, 8)))[2]
        compress(path, COMPRESSED[name])
        path.write_bytes(path.read_bytes()[:-3000])
        error = error_of(tmp_path)
        assert (error.code, error.subject) == ("TRUNCATED", str(path))

    @pytest.mark.parametrize("name", ["jpeg-ls", "jpeg 2000", "jpeg lossless"])
    def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(self, name, tmp_path):
        path = write_series(tmp_path)[2]
        compress(path, COMPRESSED[name])
        tags = pydicom.dcmread(path)
        tags.Rows = 13
        tags.save_as(path)
        for other in sorted(tmp_path.iterdir()):
            if other != path:
                tags = pydicom.dcmread(other)
                tags.Rows, tags.PixelData = 13, tags.PixelData[: 13 * 16 * 2]
                tags.save_as(other)
        error = error_of(tmp_path)
        assert (error.code, error.found) == ("DECODE", "a compressed image of 14 x 16, 16 bits, 1 components")

    def test_a_stream_that_crashes_its_codec_is_an_error_of_its_file(self, tmp_path, monkeypatch):
        path = write_series(tmp_path)[2]
        compress(path, uids.JPEGLosslessSV1)
        monkeypatch.setattr("sys.executable", "/bin/false")  # ends without an answer, as a crash does
        error = error_of(tmp_path)
        assert (error.code, error.subject) == ("DECODE", str(path))

    def test_a_deflate_bomb_is_refused_without_being_inflated(self, tmp_path):
        path = write_series(tmp_path)[2]
        compress(path, uids.DeflatedExplicitVRLittleEndian)
        content = path.read_bytes()
        start = 144 + int.from_bytes(content[140:144], "little")
        packer = zlib.compressobj(9, wbits=-15)
        bomb = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(200)), packer.flush()])
        path.write_bytes(content[:start] + bomb)
        assert error_of(tmp_path).code == "TOO_LARGE"


class TestTheFolder:
    """Where the files are found."""

    def test_junk_and_sub_folders_do_no_harm(self, tmp_path):
        paths = write_series(tmp_path / "in")
        (tmp_path / "in/a/b").mkdir(parents=True)
        paths[0].rename(tmp_path / "in/a/b/1.2.840.113619.2")
        paths[1].rename(tmp_path / "in/a/slice.DCM")
        for name, content in {
            "in/readme.txt": b"",
            "in/a/picture.png": b"\x89PNG",
            "in/.DS_Store": b"",
            "in/x.bin": bytes(500),
        }.items():
            (tmp_path / name).write_bytes(content)
        assert np.array_equal(read_series(tmp_path / "in")[0], hounsfield(stored_values(1)))

    def test_a_zip_of_it_is_the_same_volume_with_the_same_sum(self, tmp_path):
        write_series(tmp_path / "in")
        shutil.make_archive(str(tmp_path / "study"), "zip", tmp_path / "in")
        array, header, series = read_series(tmp_path / "study.zip")
        folder = read_series(tmp_path / "in")
        assert np.array_equal(array, folder[0])
        assert header.sha256 == folder[1].sha256 == series_sha256(tmp_path / "study.zip")
        assert np.array_equal(header.affine, folder[1].affine)
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["in"]
        assert series.slices == 6

    def test_the_sum_is_over_the_sorted_sums_of_the_files(self, tmp_path):
        paths = write_series(tmp_path)
        sums = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
        expected = hashlib.sha256("\n".join(sums).encode()).hexdigest()
        paths[0].rename(tmp_path / "z")
        assert read_series(tmp_path)[1].sha256 == expected == series_sha256(tmp_path)
        assert all_series_sha256(tmp_path) == {expected}

    def test_a_flipped_byte_in_a_zip_is_refused(self, tmp_path):
        write_series(tmp_path / "in")
        shutil.make_archive(str(tmp_path / "study"), "zip", tmp_path / "in")
        content = bytearray((tmp_path / "study.zip").read_bytes())
        content[len(content) // 2] ^= 255
        (tmp_path / "study.zip").write_bytes(content)
        assert error_of(tmp_path / "study.zip").code in ("CHECKSUM", "UNREADABLE")

    def test_a_zip_bomb_is_refused_by_the_sizes_it_states(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", bytes(2 << 20))
        with limits(max_voxels=(2 << 20) // 16 - 1):
            error = error_of(tmp_path / "bomb.zip")
        assert error.code == "TOO_LARGE"
        assert "--max-voxels" in error.remedy

    def test_the_limit_of_voxels_is_that_of_the_whole_series(self, tmp_path):
        write_series(tmp_path)
        voxels = read_series(tmp_path)[0].size
        with limits(max_voxels=voxels):
            assert read_series(tmp_path)[0].size == voxels
        with limits(max_voxels=voxels - 1):
            assert error_of(tmp_path).code == "TOO_LARGE"

    def test_a_volume_beyond_the_bound_is_refused_by_its_headers(self, tmp_path):
        def change(tags, index):
            tags.Rows, tags.Columns = 60000, 60000

        write_series(tmp_path, change=change)
        error = error_of(tmp_path)
        assert (error.code, error.found.split(" = ")[0]) == ("TOO_LARGE", "60000 x 60000 x 6")

    @pytest.mark.parametrize("name", ["IM0003", "1.2.840.1", "x.dcm"])
    def test_an_empty_file_is_refused(self, name, tmp_path):
        write_series(tmp_path, name=lambda index: name if index == 3 else str(index))
        (tmp_path / name).write_bytes(b"")
        error = error_of(tmp_path)
        assert (error.code, error.subject) == ("TRUNCATED", str(tmp_path / name))

    @pytest.mark.parametrize("kept", [200, 420, 700, -1, -100])
    def test_a_truncated_file_is_refused(self, kept, tmp_path):
        path = write_series(tmp_path)[3]
        path.write_bytes(path.read_bytes()[:kept])
        error = error_of(tmp_path)
        assert (error.code, error.subject) == ("TRUNCATED", str(path))

    def test_a_name_of_dicom_with_other_content_is_refused(self, tmp_path):
        write_series(tmp_path)
        (tmp_path / "a.dcm").write_bytes(b"<html>" + bytes(500))
        assert error_of(tmp_path).code == "NOT_DICOM"

    def test_damaged_bytes_raise_nothing_but_errors(self, tmp_path):
        path = write_series(tmp_path)[2]
        whole = path.read_bytes()
        chance = random.Random(0)
        for _ in range(60):
            content = bytearray(whole)
            for _ in range(3):
                content[chance.randrange(132, len(content))] = chance.randrange(256)
            path.write_bytes(content)
            with contextlib.suppress(UserError):
                read_series(tmp_path)


class TestTheSeries:
    """Several series in one folder."""

    @pytest.fixture
    def two(self, tmp_path) -> Path:
        write_series(tmp_path / "in", number=3)
        write_series(tmp_path / "in", number=12, name="other{}".format)
        return tmp_path / "in"

    def test_two_volumes_are_listed_and_refused(self, two):
        error = error_of(two)
        assert error.code == "SERIES"
        assert error.found == (
            '2 CT volumes: 3 ("Abdomen 3", CT, 6 slices, 0.7 x 0.8 x 2.5 mm, kernel B30f), '
            '12 ("Abdomen 12", CT, 6 slices, 0.7 x 0.8 x 2.5 mm, kernel B30f)'
        )

    @pytest.mark.parametrize("chosen", ["12", uid("series", 12)], ids=["number", "uid"])
    def test_one_is_chosen(self, two, chosen, tmp_path):
        array, _, series = read_series(two, chosen)
        assert np.array_equal(array, by_simpleitk(two, tmp_path, uid("series", 12))[0])
        assert series.record() == {"series": {"number": "12", "chosen": f"--series {chosen}", "slices": 6}}

    def test_a_series_that_is_not_there_is_answered_with_those_that_are(self, two):
        error = error_of(two, "7")
        assert (error.code, error.found) == ("SERIES", "no series 7")
        assert '3 ("Abdomen 3"' in error.wanted

    def test_one_number_twice_is_told_apart_by_uid(self, tmp_path):
        def change(tags, index):
            tags.SeriesInstanceUID = uid("another")

        write_series(tmp_path)
        write_series(tmp_path, change=change, name="other{}".format)
        error = error_of(tmp_path, "1")
        assert f"1 = {uid('another')} (" in error.found
        assert f"1 = {uid('series', 1)} (" in error.found

    def test_two_patients_under_one_uid_are_two_series(self, tmp_path):
        def change(tags, index):
            tags.PatientID = "another"
            tags.ImagePositionPatient = [0, 0, 2.5 * index + 1]

        write_series(tmp_path)
        write_series(tmp_path, change=change, name="other{}".format)
        assert error_of(tmp_path).code == "SERIES"

    def test_the_only_volume_is_taken_beside_a_localizer_an_mr_and_a_report(self, tmp_path):
        def localizer(tags, index):
            tags.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            tags.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

        def mr(tags, index):
            tags.Modality, tags.SOPClassUID, tags.SeriesNumber = "MR", uids.MRImageStorage, 9
            tags.SeriesInstanceUID = uid("mr")
            tags.file_meta.MediaStorageSOPClassUID = uids.MRImageStorage

        def report(tags, index):
            tags.SOPClassUID = tags.file_meta.MediaStorageSOPClassUID = uids.BasicTextSRStorage
            tags.SeriesInstanceUID = uid("sr")
            for name in ("Rows", "Columns", "PixelData"):
                del tags[name]

        write_series(tmp_path)
        write_series(tmp_path, stored_values()[:2], change=localizer, name="scout{}".format)
        write_series(tmp_path, change=mr, name="mr{}".format)
        write_series(tmp_path, stored_values()[:1], change=report, name="sr{}".format)
        array, _, series = read_series(tmp_path)
        assert np.array_equal(array, hounsfield(stored_values(1)))
        assert series.chosen == "the only CT volume of 3 series"
        assert error_of(tmp_path, "9").code == "MODALITY"

    def test_bolus_tracking_at_one_place_is_no_volume(self, tmp_path):
        def tracking(tags, index):
            tags.ImagePositionPatient = [0, 0, 0]

        write_series(tmp_path)
        write_series(tmp_path, number=2, change=tracking, name="tracking{}".format)
        assert read_series(tmp_path)[2].number == "1"
        assert error_of(tmp_path, "2").code == "DUPLICATE_SLICE"

    def test_a_description_cannot_steer_the_terminal(self, two):
        tags = pydicom.dcmread(two / "IM0000")
        tags.SeriesDescription = "\x1b]0;planted\x07"
        tags.save_as(two / "IM0000")
        assert '3 ("?]0;planted?", CT' in error_of(two).found

    def test_an_mr_alone_is_refused(self, tmp_path):
        def change(tags, index):
            tags.Modality = "MR"
            tags.SOPClassUID = tags.file_meta.MediaStorageSOPClassUID = uids.MRImageStorage

        write_series(tmp_path, change=change)
        error = error_of(tmp_path)
        assert (error.code, error.found) == ("MODALITY", "MR")


class TestTheGrid:
    """Slices that make no volume."""

    def test_a_missing_slice_is_named_by_its_neighbours(self, tmp_path):
        write_series(tmp_path)[3].unlink()
        error = error_of(tmp_path)
        assert (error.code, error.found) == ("SLICE_GAP", "5 mm between IM0002 and IM0004")

    @pytest.mark.parametrize("missing", [1, 20, 38])
    def test_a_missing_slice_of_many_is_found_anywhere(self, missing, tmp_path):
        write_series(tmp_path, stored_values(shape=(40, 4, 4)))[missing].unlink()
        assert error_of(tmp_path).found == f"5 mm between IM{missing - 1:04} and IM{missing + 1:04}"

    def test_uneven_slices_are_refused(self, tmp_path):
        def change(tags, index):
            tags.ImagePositionPatient = [0, 0, 2.5 * index + (2.5 if index > 3 else 0)]

        write_series(tmp_path, change=change)
        assert error_of(tmp_path).found == "5 mm between IM0003 and IM0004"

    def test_a_copy_is_passed_over_with_a_warning(self, tmp_path):
        paths = write_series(tmp_path)
        (tmp_path / "copy").write_bytes(paths[2].read_bytes())
        array, header, series = read_series(tmp_path)
        assert np.array_equal(array, hounsfield(stored_values(1)))
        assert header.warnings == ("DUPLICATE_SLICE: 1 files are copies of others and were ignored",)
        assert header.sha256 == series_sha256(tmp_path)
        assert series.slices == 6

    def test_two_images_at_one_place_are_refused(self, tmp_path):
        def change(tags, index):
            tags.SOPInstanceUID = uid("second phase", index)

        write_series(tmp_path)
        write_series(tmp_path, change=change, name="second{}".format)
        error = error_of(tmp_path)
        assert (error.code, Path(error.subject).name) == ("DUPLICATE_SLICE", "second0")
        assert "IM0000" in error.found

    def test_a_tilted_gantry_is_refused_with_its_angle(self, tmp_path):
        def change(tags, index):
            tags.ImagePositionPatient = [0, -index * SPACING[0] * np.tan(np.radians(15)), index * SPACING[0]]

        write_series(tmp_path, change=change)
        error = error_of(tmp_path)
        assert error.code == "GANTRY_TILT"
        assert "3.3 mm off the normal through IM0000, a tilt of 15.0 degrees" in error.found

    @pytest.mark.parametrize(
        ("what", "change"),
        [
            ("size", lambda tags: setattr(tags, "Columns", 14) or setattr(tags, "Rows", 16)),
            ("pixel spacing", lambda tags: setattr(tags, "PixelSpacing", [0.8, 0.75])),
            ("orientation", lambda tags: setattr(tags, "ImageOrientationPatient", [0, 1, 0, 1, 0, 0])),
        ],
    )
    def test_a_slice_of_another_kind_is_refused(self, what, change, tmp_path):
        write_series(tmp_path, change=lambda tags, index: change(tags) if index == 4 else None)
        error = error_of(tmp_path)
        assert (error.code, Path(error.subject).name, error.found) == (
            "DIMENSIONS",
            "IM0004",
            f"another {what} than IM0000",
        )

    def test_a_single_slice_is_refused(self, tmp_path):
        path = write_series(tmp_path, stored_values()[:1])[0]
        assert error_of(path).code == error_of(tmp_path).code == "DIMENSIONS"

    @pytest.mark.parametrize(
        "keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "RescaleSlope"]
    )
    def test_a_tag_that_is_missing_or_no_number_is_named(self, keyword, tmp_path):
        def change(tags, index):
            if index == 2:
                tags[keyword].value = 0 if keyword == "Rows" else "nan" if keyword == "RescaleSlope" else None

        write_series(tmp_path, change=change)
        error = error_of(tmp_path)
        assert (error.code, Path(error.subject).name, error.found) == ("MISSING_TAG", "IM0002", f"no usable {keyword}")

    def test_colour_images_are_refused(self, tmp_path):
        write_series(tmp_path, change=lambda tags, index: setattr(tags, "SamplesPerPixel", 3))
        assert error_of(tmp_path).code == "DTYPE"


class TestItems:
    """What predict makes of its inputs."""

    def test_a_folder_a_zip_and_a_file_are_one_case_each(self, tmp_path):
        write_series(tmp_path / "in/patient.1")
        shutil.make_archive(str(tmp_path / "in/study"), "zip", tmp_path / "in/patient.1")
        write_enhanced(tmp_path / "in/ct.dcm")
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "in/scan.nii.gz")
        inputs = [tmp_path / "in" / name for name in ("patient.1", "study.zip", "ct.dcm", "scan.nii.gz")]
        items = input_items(inputs, tmp_path / "out", series=4)
        assert [(item["case"], item.get("series")) for item in items] == [
            ("patient.1", "4"),
            ("study", "4"),
            ("ct", "4"),
            ("scan", None),
        ]
        assert Path(items[0]["mask_file"]).name == "patient.1_seg.nii.gz"

    def test_folders_of_one_name_keep_their_way(self, tmp_path):
        inputs = [tmp_path / name / "CT.1" for name in ("a", "b")]
        for folder in inputs:
            write_series(folder)
        assert [item["case"] for item in input_items(inputs, tmp_path / "out")] == ["a/CT.1", "b/CT.1"]

    def test_what_is_dicom_is_not_warned_of_as_unread(self, tmp_path, caplog):
        write_series(tmp_path / "in")
        (tmp_path / "in/scan.mnc").write_bytes(bytes(10))
        input_items(tmp_path / "in", tmp_path / "out")
        assert [record.getMessage().split(";")[0] for record in caplog.records if record.levelname == "WARNING"] == [
            f"NOT_READ: 1 file below {tmp_path / 'in'} (scan.mnc)"
        ]

    def test_a_series_without_dicom_is_a_wrong_call(self, tmp_path):
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
        with pytest.raises(UsageError, match="BAD_VALUE --series 3: no DICOM among the inputs"):
            input_items(tmp_path / "scan.nii.gz", tmp_path / "out", series=3)

    def test_without_the_extra_the_command_that_installs_it_is_said(self, tmp_path, monkeypatch):
        write_series(tmp_path / "in")
        monkeypatch.setattr("medseg3d.dicom.sources.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r'MISSING_PACKAGE .*pip install "medseg3d\[dicom\]"'):
            input_items(tmp_path / "in", tmp_path / "out")
