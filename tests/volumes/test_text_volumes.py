"""NRRD and MetaImage, read to the last byte; SimpleITK writes them and is the judge of what they say."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medseg3d.errors import UserError
from medseg3d.limits import limits
from medseg3d.volumes.reading import read_header, read_volume, volume_files

SHAPE = (7, 6, 5)
SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
ALONE = (".nrrd", ".mha")
RAW = "NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 5\nendian: little\nencoding: raw\n"
PLACED = "space: LPS\nspace directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (1,2,3)\n"


def ct(dtype: type = np.int16) -> np.ndarray:
    values = np.random.default_rng(0).integers(-1000, 1200, SHAPE)
    values.flat[0], values.flat[-1] = -1024, 1500
    return values.astype(dtype)


def write(path: Path, array: np.ndarray, compressed: bool = False, **geometry: tuple) -> Path:
    image = sitk.GetImageFromArray(array.T)
    cosine, sine = np.cos(0.3), np.sin(0.3)
    image.SetSpacing(geometry.get("spacing", (0.8, 0.7, 2.5)))
    image.SetOrigin((-100.3, 50.1, -33.3))
    image.SetDirection(geometry.get("direction", (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1)))
    sitk.WriteImage(image, str(path), compressed)
    return path


def nrrd(path: Path, fields: str, voxels: bytes | None = None) -> Path:
    path.write_bytes(fields.encode() + b"\n" + (ct().tobytes("F") if voxels is None else voxels))
    return path


def refusal(path: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        read_volume(path)
    return caught.value


def changed(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_volume_in_another_format_is_the_same_to_the_last_bit(
    tmp_path: Path, suffix: str, compressed: bool
) -> None:
    array, header = read_volume(write(tmp_path / f"ct{suffix}", ct(), compressed))
    twin, of_twin = read_volume(write(tmp_path / "ct.nii.gz", ct()))
    assert np.array_equal(array, twin)
    assert array.dtype == twin.dtype
    assert np.abs(header.affine - of_twin.affine).max() < 1e-6
    assert header.warnings == ()


def test_axis_aligned_volumes_lie_at_one_place_to_the_last_bit(tmp_path: Path) -> None:
    straight = (1, 0, 0, 0, -1, 0, 0, 0, 1)
    nifti, nrrd, mha = (
        read_header(write(tmp_path / f"ct{suffix}", ct(), direction=straight)) for suffix in (".nii.gz", *ALONE)
    )
    assert nifti.affine.tolist() == nrrd.affine.tolist() == mha.affine.tolist()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("suffix", ALONE)
def test_voxels_keep_their_type(tmp_path: Path, suffix: str, dtype: type) -> None:
    array, _ = read_volume(write(tmp_path / f"ct{suffix}", ct(dtype)))
    assert array.dtype == dtype
    assert np.array_equal(array, ct(dtype))


def test_big_endian_equals_its_little_endian_twin(tmp_path: Path) -> None:
    swapped = ct().astype(">i2").tobytes("F")
    path = nrrd(tmp_path / "ct.nrrd", RAW.replace("little", "big") + PLACED, swapped)
    assert np.array_equal(read_volume(path)[0], ct())
    mha = write(tmp_path / "ct.mha", ct())
    head = mha.read_bytes()[: -len(swapped)].replace(b"OrderMSB = False", b"OrderMSB = True")
    mha.write_bytes(head + swapped)
    assert np.array_equal(read_volume(mha)[0], ct())


@pytest.mark.parametrize(
    "place",
    [
        PLACED,
        PLACED.replace("LPS", "RAS"),
        PLACED.replace("LPS", "left-anterior-superior"),
        PLACED.replace("space: LPS", "space dimension: 3"),
        PLACED.replace("LPS", "scanner-xyz"),
        "spacings: 2 3 4\n",
        "space: right-anterior-superior\nspace directions: (0,0,2) (-3,0,0) (0,4,0)\nspace origin: (1,2,3)\n",
    ],
)
def test_spaces_are_those_of_itk(tmp_path: Path, place: str) -> None:
    path = nrrd(tmp_path / "ct.nrrd", RAW + place)
    image = sitk.ReadImage(str(path))
    corner = np.array(image.TransformIndexToPhysicalPoint((6, 5, 4)))
    header = read_header(path)
    assert nib.affines.apply_affine(header.affine, (6, 5, 4)) == pytest.approx(corner * (-1, -1, 1))
    known = any(space in place for space in ("LPS", "RAS", "superior"))
    assert [line.partition(":")[0] for line in header.warnings] == ([] if known else ["GEOMETRY_AMBIGUOUS"])


def test_a_list_of_one_segment_is_no_axis_of_space(tmp_path: Path) -> None:
    fields = RAW.replace("dimension: 3", "dimension: 4").replace("7 6 5", "1 7 6 5")
    path = nrrd(tmp_path / "seg.nrrd", fields + PLACED.replace("directions: ", "directions: none "))
    array, header = read_volume(path)
    assert np.array_equal(array, ct())
    assert np.diag(header.affine).tolist() == [-2, -3, 4, 1]


@pytest.mark.parametrize("skip", [99, -1])
def test_voxels_behind_other_bytes_are_found(tmp_path: Path, skip: int) -> None:
    (tmp_path / "ct.bin").write_bytes(b"#" * 99 + ct().tobytes("F"))
    path = nrrd(tmp_path / "ct.nhdr", f"{RAW}{PLACED}byte skip: {skip}\ndata file: ct.bin\n", b"")
    assert np.array_equal(read_volume(path)[0], ct())


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_hash_is_of_header_and_voxels(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"ct{suffix}", ct())
    assert volume_files(path) == [path, tmp_path / "ct.raw"]
    both = path.read_bytes() + (tmp_path / "ct.raw").read_bytes()
    assert read_volume(path)[1].sha256 == hashlib.sha256(both).hexdigest()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", ALONE)
def test_truncated_file_is_refused(tmp_path: Path, suffix: str, compressed: bool) -> None:
    path = write(tmp_path / f"ct{suffix}", ct(), compressed)
    path.write_bytes(path.read_bytes()[:-9])
    assert refusal(path).code == "TRUNCATED"


@pytest.mark.parametrize("suffix", ALONE)
def test_no_flipped_byte_of_compressed_voxels_changes_them_in_silence(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"ct{suffix}", ct(), True)
    whole = path.read_bytes()
    codes = set()
    for at in range(len(whole) - 200, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        codes.add(refusal(path).code)
    assert codes <= {"CHECKSUM", "TRUNCATED", "HEADER"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_byte_of_the_header_is_read_or_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"ct{suffix}", ct())
    whole = path.read_bytes()
    for at in range(min(len(whole), 520)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 21]) + whole[at + 1 :])
        with contextlib.suppress(UserError):  # and nothing else
            read_volume(path)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_missing_and_cut_voxels_of_a_detached_header_are_refused(tmp_path: Path, suffix: str) -> None:
    path, raw = write(tmp_path / f"ct{suffix}", ct()), tmp_path / "ct.raw"
    raw.write_bytes(raw.read_bytes()[:-1])
    assert refusal(path).code == "TRUNCATED"
    raw.unlink()
    error = refusal(path)
    assert (error.code, error.subject) == ("MISSING_FILE", str(raw))
    assert f"the voxels of ct{suffix}" in error.wanted
    os.mkfifo(raw)
    assert refusal(path).code == "NOT_A_FILE"


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\ct.raw", "C:\\ct.raw", "a/../../ct.raw"])
@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_voxels_outside_the_folder_of_the_header_are_not_opened(tmp_path: Path, suffix: str, name: str) -> None:
    path = write(tmp_path / f"ct{suffix}", ct())
    assert refusal(changed(path, b"ct.raw", name.encode())).code == "PATH_ESCAPE"


@pytest.mark.parametrize("suffix", ALONE)
def test_lying_sizes_are_refused_by_the_header(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"ct{suffix}", ct(), True)
    assert refusal(changed(path, b"7 6 5", b"30000 30000 30000")).code == "TOO_LARGE"
    assert refusal(changed(path, b"30000 30000 30000", b"900 900 900")).code == "TRUNCATED"
    assert refusal(changed(path, b"900 900 900", b"7 6 4")).code == "HEADER"
    with limits(max_voxels=100):
        assert refusal(path).code == "TOO_LARGE"


def test_bomb_behind_a_modest_header_is_not_inflated(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(1 << 26))
    path = nrrd(tmp_path / "ct.nrrd", RAW.replace("raw", "gzip") + PLACED, bomb)
    assert refusal(path).code == "HEADER"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("7 6 5", "7 6", "HEADER"),
        ("7 6 5", "7 -6 5", "HEADER"),
        ("7 6 5", "7 0 5", "HEADER"),
        ("7 6 5", "1 42 5", "DIMENSIONS"),
        ("type: short", "type: block", "DTYPE"),
        ("type: short", "type: shirt", "HEADER"),
        ("endian: little\n", "", "HEADER"),
        ("raw", "bzip2", "HEADER"),
        ("raw", "ascii", "HEADER"),
        ("(2,0,0)", "(2,0)", "HEADER"),
        ("(2,0,0)", "none", "HEADER"),
        ("(1,2,3)", "(1,2)", "HEADER"),
        ("(2,0,0)", "(nan,0,0)", "GEOMETRY"),
        ("(2,0,0)", "(1e300,0,0)", "GEOMETRY"),
        ("(2,0,0)", "(0,0,0)", "GEOMETRY"),
        ("(2,0,0)", "(2,1,0)", "GEOMETRY"),
        ("(2,0,0)", "(0.002,0,0)", "SPACING_RANGE"),
        ("space: LPS", "space: LPS-time", "HEADER"),
        ("space directions: (2,0,0) (0,3,0) (0,0,4)", "spacings: 2 3 4", "HEADER"),
        ("space: LPS", "line skip: 1\nspace: LPS", "HEADER"),
        ("space: LPS", "byte skip: inf\nspace: LPS", "HEADER"),
        ("space: LPS", "data file: LIST\nspace: LPS", "HEADER"),
        ("space: LPS", "data file: ct%02d.raw 1 5 1\nspace: LPS", "HEADER"),
    ],
)
def test_bad_nrrd_field_is_refused(tmp_path: Path, old: str, new: str, code: str) -> None:
    error = refusal(nrrd(tmp_path / "ct.nrrd", (RAW + PLACED).replace(old, new)))
    assert (error.code, error.subject) == (code, str(tmp_path / "ct.nrrd"))


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("NDims = 3", "NDims = 0", "HEADER"),
        ("ObjectType = Image", "ObjectType = Tube", "HEADER"),
        ("BinaryData = True", "BinaryData = False", "HEADER"),
        ("MET_SHORT", "MET_SHORT_ARRAY", "DTYPE"),
        ("MET_SHORT", "MET_SHIRT", "HEADER"),
        ("ElementType", "ElementNumberOfChannels = 3\nElementType", "DTYPE"),
        ("ElementType", "ElementToIntensityFunctionSlope = 2\nElementType", "HEADER"),
        ("0.80000000000000004", "0", "GEOMETRY"),
        ("Offset = -100.3", "Offset = nan", "GEOMETRY"),
        ("TransformMatrix = 0.9", "TransformMatrix = 1.9", "GEOMETRY"),
        ("ElementDataFile = LOCAL", "ElementDataFile = LIST", "HEADER"),
        ("ElementDataFile = LOCAL", "ElementDataFile = ct%03d.raw 1 5 1", "HEADER"),
    ],
)
def test_bad_metaimage_field_is_refused(tmp_path: Path, old: str, new: str, code: str) -> None:
    path = changed(write(tmp_path / "ct.mha", ct()), old.encode(), new.encode())
    error = refusal(path)
    assert (error.code, error.subject) == (code, str(path))


@pytest.mark.parametrize("suffix", ALONE)
def test_two_phases_and_colours_are_refused(tmp_path: Path, suffix: str) -> None:
    phases = sitk.JoinSeries([sitk.GetImageFromArray(ct().T)] * 2)
    sitk.WriteImage(phases, str(tmp_path / f"4d{suffix}"))
    assert refusal(tmp_path / f"4d{suffix}").code == "DIMENSIONS"
    colours = sitk.Compose([sitk.GetImageFromArray(ct(np.uint8).T)] * 3)
    sitk.WriteImage(colours, str(tmp_path / f"rgb{suffix}"))
    assert refusal(tmp_path / f"rgb{suffix}").code in ("DIMENSIONS", "DTYPE")


@pytest.mark.parametrize("suffix", ALONE)
def test_non_finite_voxels_are_refused(tmp_path: Path, suffix: str) -> None:
    array = ct(np.float32)
    array[2, 3, 4] = np.nan
    assert refusal(write(tmp_path / f"ct{suffix}", array)).code == "NON_FINITE"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_geometry_holds_no_word_of_the_source(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"ct{suffix}", ct())
    first = path.read_bytes().partition(b"\n")[0]
    words = b"patient:=MUSTERMANN\ncontent: MUSTERMANN\n" if b"NRRD" in first else b"PatientName = MUSTERMANN\n"
    changed(path, first + b"\n", first + b"\n" + words)
    assert b"MUSTERMANN" not in read_header(path).geometry
