from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d.errors import UserError
from medseg3d.limits import limits
from medseg3d.volumes.geometry import GridShift, check_pair, grid_shift
from medseg3d.volumes.label_maps import check_labels
from medseg3d.volumes.reading import read_header, read_volume
from medseg3d.volumes.writing import write_mask

SHAPE = (7, 6, 5)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-0.8, 0.7, 2.5]), [12.5, -40.0, 900.0]
)


def ct(shape: tuple[int, ...] = SHAPE, dtype: type = np.int16) -> np.ndarray:
    """Air, fat and bone in every volume, every voxel different from its neighbours."""
    values = np.random.default_rng(0).integers(-1000, 1200, shape)
    values.flat[0], values.flat[-1] = -1024, 1500
    return values.astype(dtype)


def write(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE, image: type = nib.Nifti1Image) -> Path:
    volume = image(array, affine)
    volume.set_qform(affine, 1)
    volume.set_sform(affine, 1)
    nib.save(volume, path)
    return path


def patch(path: Path, name: str, value: object, index: int | None = None) -> Path:
    """Overwrite one field of the header of a file in place, past all checks of nibabel."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    header = nib.Nifti1Header(raw[:348], check=False)
    if index is None:
        header[name] = value
    else:
        header[name][index] = value
    raw = header.binaryblock + raw[348:]
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def refusal(path: Path, **options: object) -> UserError:
    with pytest.raises(UserError) as caught:
        read_volume(path, **options)
    assert caught.value.subject == str(path)
    return caught.value


def code_of_reading(path: Path) -> str:
    """The error's code, or "changed" or "same" compared with the volume of ct()."""
    try:
        array, _ = read_volume(path)
    except UserError as error:
        return error.code
    return "same" if np.array_equal(array, ct()) else "changed"


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz", "CT.NII.GZ", "a b.c.nii.gz", "über.nii"])
@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
def test_array_and_affine_equal_nibabels(tmp_path: Path, name: str, image: type) -> None:
    path = write(tmp_path / name.lower(), ct(), image=image).rename(tmp_path / name)
    array, header = read_volume(path)
    assert np.array_equal(array, nib.load(path).get_fdata())
    assert np.array_equal(header.affine, nib.load(path).affine)
    assert header.shape == SHAPE
    assert header.spacing == (0.8, 0.7, 2.5)
    assert header.warnings == ()


def test_hash_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = write(tmp_path / "ct.nii.gz", ct())
    assert read_volume(path)[1].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_unscaled_voxels_keep_their_type(tmp_path: Path, dtype: type) -> None:
    values = np.abs(ct()).astype(dtype)
    volume = nib.Nifti1Image(values, OBLIQUE, dtype=dtype)
    nib.save(volume, tmp_path / "ct.nii.gz")
    array, _ = read_volume(tmp_path / "ct.nii.gz")
    assert array.dtype == dtype
    assert np.array_equal(array, values)


def test_big_endian_equals_its_little_endian_twin(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    volume = nib.Nifti1Image(ct(), None, header)
    volume.set_sform(OBLIQUE, 1)
    volume.set_qform(OBLIQUE, 1)
    nib.save(volume, tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == struct.pack(">i", 348)
    array, header = read_volume(tmp_path / "big.nii")
    _, twin = read_volume(write(tmp_path / "little.nii", ct()))
    assert np.array_equal(array, ct())
    assert array.dtype.isnative
    assert np.array_equal(header.affine, twin.affine)
    assert header.geometry == twin.geometry


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.nii", (ct() + 1024).astype(np.uint16))
    patch(patch(path, "scl_slope", 1.0), "scl_inter", -1024.0)
    array, _ = read_volume(path)
    assert array.dtype == np.float32
    assert np.array_equal(array, ct())


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_slope_that_asks_for_nothing_changes_nothing(tmp_path: Path, slope: float) -> None:
    assert code_of_reading(patch(write(tmp_path / "ct.nii", ct()), "scl_slope", slope)) == "same"


def test_fourth_axis_of_one_is_dropped(tmp_path: Path) -> None:
    write(tmp_path / "ct.nii", ct()[..., None])
    array, header = read_volume(tmp_path / "ct.nii")
    assert array.shape == header.shape == SHAPE


def test_header_extension_is_passed_over(tmp_path: Path) -> None:
    volume = nib.Nifti1Image(ct(), OBLIQUE)
    volume.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nib.save(volume, tmp_path / "ct.nii.gz")
    assert code_of_reading(tmp_path / "ct.nii.gz") == "same"


def test_several_gzip_members_and_padding_are_one_file(tmp_path: Path) -> None:
    raw = write(tmp_path / "ct.nii", ct()).read_bytes()
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]) + b"\0" * 100)
    assert code_of_reading(path) == "same"


def test_no_flipped_byte_of_a_gzip_changes_voxels_in_silence(tmp_path: Path) -> None:
    good = write(tmp_path / "ct.nii.gz", ct()).read_bytes()
    path = tmp_path / "flipped.nii.gz"
    outcomes = set()
    for position in range(0, len(good), 3):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        outcomes.add(code_of_reading(path))
    assert "CHECKSUM" in outcomes
    assert "changed" not in outcomes


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.97])
def test_truncated_file_tells_both_lengths(tmp_path: Path, suffix: str, share: float) -> None:
    path = write(tmp_path / f"ct{suffix}", ct((20, 20, 20)))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    error = refusal(path)
    assert error.code == "TRUNCATED"
    if share > 0.1:
        assert str(352 + 2 * 20**3) in error.wanted


def test_gzip_that_misses_its_last_bytes_is_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.nii.gz", ct())
    path.write_bytes(path.read_bytes()[:-3])
    assert refusal(path).code == "TRUNCATED"


def test_garbage_after_the_gzip_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.nii.gz", ct())
    path.write_bytes(path.read_bytes() + b"garbage")
    assert refusal(path).code == "CHECKSUM"


@pytest.mark.parametrize(
    ("content", "code", "found"),
    [
        (b"", "EMPTY", "0 bytes"),
        (b"<!DOCTYPE html><html>404</html>", "NOT_NIFTI", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "NOT_NIFTI", "git-lfs pointer"),
        (b"\0" * 128 + b"DICM" + b"\0" * 400, "NOT_NIFTI", "DICOM"),
        (b"\0" * 1000, "NOT_NIFTI", "not a NIfTI header"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: bytes, code: str, found: str) -> None:
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(content)
    error = refusal(path)
    assert error.code == code
    assert found in error.found


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.nii.gz").code == "MISSING_FILE"
    assert refusal(tmp_path).code == "NOT_NIFTI"


def test_pipe_and_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ct.nii")
    assert refusal(tmp_path / "ct.nii").code == "NOT_A_FILE"
    assert refusal(Path("/dev/zero")).code == "NOT_A_FILE"


def test_two_file_header_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(ct(), OBLIQUE), tmp_path / "ct.hdr")
    assert "two-file" in refusal(tmp_path / "ct.hdr").found


@pytest.mark.parametrize(
    ("field", "value", "index", "code"),
    [
        ("dim", -5, 1, "HEADER"),
        ("dim", 0, 3, "HEADER"),
        ("dim", 9, 0, "HEADER"),
        ("datatype", 777, None, "HEADER"),
        ("vox_offset", 1e6, None, "HEADER"),
        ("vox_offset", 100, None, "HEADER"),
        ("vox_offset", np.nan, None, "HEADER"),
        ("dim", 3, 3, "HEADER"),  # fewer slices than the file holds
        ("dim", 6, 3, "TRUNCATED"),
        ("datatype", 32, None, "DTYPE"),
        ("datatype", 128, None, "DTYPE"),
        ("dim", 1, 3, "DIMENSIONS"),
        ("dim", 2, 0, "DIMENSIONS"),
        ("srow_x", np.nan, 1, "GEOMETRY"),
        ("srow_x", 0.3, 2, "GEOMETRY"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_bad_header_field_is_refused(
    tmp_path: Path, field: str, value: float, index: int | None, code: str, suffix: str
) -> None:
    path = write(tmp_path / f"ct{suffix}", ct())
    assert code_of_reading(path) == "same"
    assert refusal(patch(path, field, value, index)).code == code


@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
def test_any_byte_of_the_header_is_read_or_refused(tmp_path: Path, image: type) -> None:
    good = write(tmp_path / "ct.nii", ct(), image=image).read_bytes()
    path = tmp_path / "flipped.nii"
    read = 0
    for position in range(548):
        for mask in (0x80, 0xFF):
            path.write_bytes(good[:position] + bytes([good[position] ^ mask]) + good[position + 1 :])
            read += code_of_reading(path) in ("same", "changed")  # everything but a UserError escapes
    assert 0 < read < 2 * 548


def test_two_phases_are_refused(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "ct.nii.gz", ct((*SHAPE, 2))))
    assert error.code == "DIMENSIONS"
    assert "7 x 6 x 5 x 2" in error.found


@pytest.mark.parametrize(("voxels", "code"), [(7 * 6 * 5, None), (7 * 6 * 5 - 1, "TOO_LARGE")])
def test_limit_of_voxels_is_inclusive(tmp_path: Path, voxels: int, code: str | None) -> None:
    path = write(tmp_path / "ct.nii.gz", ct())
    with limits(max_voxels=voxels):
        if code is None:
            read_volume(path)
        else:
            assert refusal(path).code == code


def test_lying_header_costs_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = write(tmp_path / "ct.nii.gz", ct())
    for axis in (1, 2, 3):
        patch(path, "dim", 900, axis)
    tracemalloc.start()
    assert refusal(path).code == "TRUNCATED"  # below the limit of voxels, but no deflate stream is that short
    for axis in (1, 2, 3):
        patch(path, "dim", 30000, axis)
    assert refusal(path).code == "TOO_LARGE"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


def test_bomb_behind_a_modest_header_is_not_inflated(tmp_path: Path) -> None:
    raw = write(tmp_path / "ct.nii", ct()).read_bytes()
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(gzip.compress(raw + bytes(50_000_000)))
    error = refusal(path)
    assert error.code == "HEADER"
    assert int(error.found.split()[2]) < 5_000_000


def test_few_trailing_bytes_are_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.nii", ct())
    path.write_bytes(path.read_bytes() + b"\0" * 10)
    array, header = read_volume(path)
    assert np.array_equal(array, ct())
    assert header.warnings == ("HEADER: 10 bytes after the last voxel are ignored",)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_voxels_are_counted(tmp_path: Path, bad: float) -> None:
    values = ct(dtype=np.float32)
    values[1, 2, 3] = values[3, 2, 1] = bad
    error = refusal(write(tmp_path / "ct.nii.gz", values))
    assert error.code == "NON_FINITE"
    assert error.found.startswith("2 of 210 voxels")


def test_value_beyond_float32_counts_as_infinite(tmp_path: Path) -> None:
    values = ct(dtype=np.float64)
    values[0, 0, 0] = 1e300
    assert refusal(write(tmp_path / "ct.nii", values)).code == "NON_FINITE"


@pytest.mark.parametrize(
    ("scale", "unit", "code", "word"),
    [(1e-3, 1, "SPACING_RANGE", "metre"), (1e3, 3, "SPACING_RANGE", "micron"), (0.05, 2, "SPACING_RANGE", "mm")],
)
def test_other_units_are_refused(tmp_path: Path, scale: float, unit: int, code: str, word: str) -> None:
    path = write(tmp_path / "ct.nii", ct(), OBLIQUE * scale + np.diag([0, 0, 0, 1 - scale]))
    error = refusal(patch(path, "xyzt_units", unit))
    assert error.code == code
    assert word in str(error)


def test_singular_affine_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.nii", ct())
    for name in ("srow_x", "srow_y", "srow_z"):
        patch(path, name, 0.0, 1)
    error = refusal(path)
    assert error.code == "GEOMETRY"
    assert "singular" in error.found


def test_slightly_sheared_axes_are_straightened_about_the_centre(tmp_path: Path) -> None:
    sheared = OBLIQUE.copy()
    sheared[:3, 0] += 4e-4 * 0.8 * OBLIQUE[:3, 1] / 0.7
    volume = nib.Nifti1Image(ct(), sheared)
    nib.save(volume, tmp_path / "ct.nii")
    header = read_header(tmp_path / "ct.nii")
    axes = header.affine[:3, :3]
    assert (header.warnings[0][:9], "straightened" in header.warnings[0]) == ("GEOMETRY:", True)
    assert np.allclose(axes.T @ axes, np.diag(np.square(header.spacing)), atol=1e-6)
    centre = np.array([3, 2.5, 2, 1])
    assert np.allclose(header.affine @ centre, nib.load(tmp_path / "ct.nii").affine @ centre, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "index", "words"),
    [
        ("qoffset_z", 905.0, None, " voxels (5 mm) apart at a corner"),
        ("quatern_b", 2.0, None, "lie inf voxels (inf mm) apart"),
        ("pixdim", 1.3, 1, "pixdim says 1.3 x 0.7 x 2.5 mm, the sform 0.8 x 0.7 x 2.5 mm"),
        ("xyzt_units", 1, None, "the unit is metre"),
    ],
)
def test_ambiguous_geometry_is_a_warning(
    tmp_path: Path, field: str, value: float, index: int | None, words: str
) -> None:
    path = patch(write(tmp_path / "ct.nii", ct()), field, value, index)
    header = read_volume(path)[1]
    assert np.allclose(header.affine, OBLIQUE, atol=1e-6)  # the sform, as nibabel decides
    assert any(warning.startswith("GEOMETRY_AMBIGUOUS") and words in warning for warning in header.warnings)


def test_unset_forms_are_a_warning_and_read_as_nibabel_does(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.nii", ct())
    patch(patch(path, "sform_code", 0), "qform_code", 0)
    _, header = read_volume(path)
    assert np.array_equal(header.affine, nib.load(path).affine)
    assert header.warnings[0].startswith("GEOMETRY_AMBIGUOUS: neither sform nor qform")


def test_geometry_header_holds_no_word_of_the_source(tmp_path: Path) -> None:
    volume = nib.Nifti1Image(ct(), OBLIQUE)
    for field, text in {"descrip": b"MUSTERMANN", "db_name": b"MUSTERMANN", "aux_file": b"MUSTERMANN"}.items():
        volume.header[field] = text
    nib.save(volume, tmp_path / "ct.nii")
    assert b"MUSTERMANN" in (tmp_path / "ct.nii").read_bytes()
    assert b"MUSTERMANN" not in read_header(tmp_path / "ct.nii").geometry


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((ct() + 1024).astype(np.int16), "HU + 1024"),
        (np.clip((ct() + 160) / 400, 0, 1).astype(np.float32), "windowed"),
        (np.clip(ct(), -160, 240).astype(np.int16), "windowed"),
        (np.clip(ct(), -1000, 50).astype(np.int16), "no bone"),
        (np.full(SHAPE, 7, np.int16), "every voxel is 7"),
        (ct(dtype=np.float32) * 1e18, "brighter than any metal"),
        (ct(dtype=np.int32) * 100, "brighter than any metal"),
        (ct(dtype=np.int16) * 10, "darker than air"),
    ],
)
def test_values_that_are_no_hounsfield_units_are_a_warning(tmp_path: Path, values: np.ndarray, words: str) -> None:
    path = write(tmp_path / "ct.nii", values)
    assert read_volume(path)[1].warnings == ()
    (warning,) = read_volume(path, check_hu=True)[1].warnings
    assert warning.startswith("HU_RANGE")
    assert words in warning


def test_infinite_slope_is_a_warning(tmp_path: Path) -> None:
    array, header = read_volume(patch(write(tmp_path / "ct.nii", ct()), "scl_slope", np.inf))
    assert np.array_equal(array, ct())
    assert header.warnings == ("HEADER: a slope of inf means no scaling; the voxels are as stored",)


@pytest.mark.parametrize(("thickness", "codes"), [(9.9, []), (10, ["SLICE_GAP"]), (15, ["SLICE_GAP"])])
def test_slices_far_apart_are_a_warning_of_a_scan(tmp_path: Path, thickness: float, codes: list[str]) -> None:
    path = write(tmp_path / "ct.nii", ct(), np.diag([0.8, 0.8, thickness, 1]))
    assert [warning.partition(":")[0] for warning in read_volume(path, check_hu=True)[1].warnings] == codes
    assert read_volume(path)[1].warnings == ()  # a mask


def test_padding_outside_the_field_of_view_is_no_warning(tmp_path: Path) -> None:
    values = ct()
    values[0] = -32768
    assert read_volume(write(tmp_path / "ct.nii", values), check_hu=True)[1].warnings == ()


def pair(tmp_path: Path, shape: tuple[int, ...] = SHAPE, affine: np.ndarray = OBLIQUE) -> tuple:
    image = read_header(write(tmp_path / "image.nii", ct()))
    return image, read_header(write(tmp_path / "label.nii", ct(shape), affine))


def test_label_on_the_grid_of_its_image_passes(tmp_path: Path) -> None:
    nearly = OBLIQUE.copy()
    nearly[0, 3] += 0.005
    assert check_pair(*pair(tmp_path, affine=nearly)) == ()


def test_label_a_fifth_of_a_voxel_off_is_a_warning_and_can_be_refused(tmp_path: Path) -> None:
    image, label = pair(tmp_path, affine=OBLIQUE @ nib.affines.from_matvec(np.eye(3), [0, 0, 0.2]))
    assert check_pair(image, label) == (
        "PAIR_GEOMETRY: a corner lies 0.2 voxels (0.5 mm) off; taken for the same grid",
    )
    with pytest.raises(UserError, match="PAIR_GEOMETRY"):
        check_pair(image, label, tolerance=0.19)


def test_label_far_off_passes_where_it_is_asked_for(tmp_path: Path) -> None:
    assert check_pair(*pair(tmp_path, affine=OBLIQUE @ np.diag([-1, 1, 1, 1.0])), tolerance=100)


@pytest.mark.parametrize("degrees", [179.9, 179.95, 179.97, 179.99])
def test_nearly_half_a_turn_is_one_grid_for_two_writers(tmp_path: Path, degrees: float) -> None:
    sitk = pytest.importorskip("SimpleITK")
    shape, spacing = (512, 512, 3), np.array([0.78125, 0.78125, 2.5])
    turned = nib.eulerangles.euler2mat(z=np.radians(degrees)) * spacing
    truth = nib.Nifti1Image(np.zeros(shape, np.uint8), nib.affines.from_matvec(turned, [187.3, 201.77, -143.25]))
    truth.set_qform(truth.affine, 1)
    truth.set_sform(None, 0)
    nib.save(truth, tmp_path / "truth.nii")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "truth.nii")), str(tmp_path / "copy.nii"))
    assert check_pair(read_header(tmp_path / "truth.nii"), read_header(tmp_path / "copy.nii")) == ()


def test_label_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"PAIR_GEOMETRY .*label.nii: shape \(7, 6, 4\), .*image.nii: shape \(7, 6, 5\)"
    ):
        check_pair(*pair(tmp_path, shape=(7, 6, 4)))


@pytest.mark.parametrize(
    "change",
    [
        nib.affines.from_matvec(np.eye(3), [0, 0, 0.5]),
        np.diag([-1, 1, 1, 1.0]),
        np.diag([1, 1, 1.1, 1]),
    ],
)
def test_label_of_another_geometry_is_refused(tmp_path: Path, change: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"PAIR_GEOMETRY .* mm\) off: .* origin"):
        check_pair(*pair(tmp_path, affine=OBLIQUE @ change))


def test_shift_of_a_rotated_grid_by_hand() -> None:
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=np.pi / 2), [0, 0, 0])
    # (3, 4, z) goes to (-4, 3, z): 7 and 1 apart
    assert grid_shift((4, 5, 6), np.eye(4), turned) == GridShift(
        pytest.approx(np.hypot(7, 1)), pytest.approx(np.hypot(7, 1)), (3, 4, 0)
    )


def test_refused_pair_is_told_by_numbers_that_differ(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        check_pair(*pair(tmp_path, affine=OBLIQUE @ nib.affines.from_matvec(np.eye(3), [0, 0, 0.3])))
    found, wanted = caught.value.found.split(" mm,")[0].partition(" at ")[2], caught.value.wanted.partition("(")[2]
    assert found.strip("()").split(", ") != wanted.split(")")[0].split(", ")


# what other writers put into the fields of the geometry


UNTURNED = np.diag([-1.5, -1.5, 2.5, 1])


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("both", {("pixdim", 0): 0}),
        ("both", {("pixdim", 0): np.nan}),
        ("both", {("pixdim", 0): 2}),
        ("both", {("qform_code", None): 7}),
        ("both", {("sform_code", None): -1}),
        ("sform", {("pixdim", 0): 0}),
        ("sform", {("pixdim", 1): -1.5, ("pixdim", 2): -1.5}),
        ("sform", {("pixdim", 1): 0, ("pixdim", 2): 0, ("pixdim", 3): 0}),
        ("sform", {("pixdim", 3): np.nan}),
        ("qform", {("pixdim", 0): 0}),
        ("qform", {("pixdim", 3): -2.5}),
    ],
)
def test_header_that_nibabel_repairs_gets_the_mask_of_the_good_one(tmp_path: Path, form: str, changes: dict) -> None:
    path = write(tmp_path / "ct.nii", ct(), UNTURNED)
    for name in {"sform": ["qform"], "qform": ["sform"]}.get(form, []):
        patch(path, f"{name}_code", 0)
    good = read_header(path)
    for (field, index), value in changes.items():
        patch(path, field, value, index)
    header = read_header(path)
    assert np.allclose(header.affine, UNTURNED)
    assert [warning.partition(":")[0] for warning in header.warnings] == ["HEADER"]
    write_mask(tmp_path / "mask.nii", np.ones(SHAPE, np.uint8), header.geometry)
    assert np.allclose(nib.load(tmp_path / "mask.nii").affine, UNTURNED)
    assert nib.Nifti1Header(header.geometry)["pixdim"].tolist() == nib.Nifti1Header(good.geometry)["pixdim"].tolist()


@pytest.mark.parametrize("changes", [{"sform_code": 7, "qform_code": 0}, {"sform_code": 7, "qoffset_x": 50.0}])
def test_code_that_says_nothing_is_refused_where_the_place_depends_on_it(tmp_path: Path, changes: dict) -> None:
    path = write(tmp_path / "ct.nii", ct())
    for field, value in changes.items():
        patch(path, field, value)
    assert refusal(path).code == "HEADER"


def test_mask_can_be_written_for_every_header_that_is_read(tmp_path: Path) -> None:
    good = write(tmp_path / "ct.nii", ct()).read_bytes()
    path = tmp_path / "flipped.nii"
    written = 0
    for position in (*range(76, 108), 123, *range(252, 328)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0xC1]) + good[position + 1 :])
        try:
            header = read_header(path)
        except UserError:
            continue
        write_mask(tmp_path / "mask.nii", np.ones(SHAPE, np.uint8), header.geometry)
        written += 1
    assert written > 40


@pytest.mark.parametrize("sform_code", [0, 1])
@pytest.mark.parametrize("steps", [0, 1, 2, 40])
def test_quaternion_longer_than_one_by_rounding_is_half_a_turn(tmp_path: Path, steps: int, sform_code: int) -> None:
    path = patch(write(tmp_path / "ct.nii", ct(), UNTURNED), "sform_code", sform_code)
    header = read_header(patch(path, "quatern_d", 1 + steps * 2.0**-23))
    assert np.allclose(header.affine, UNTURNED, atol=1e-6)
    assert header.warnings == ()


def test_quaternion_that_is_none_is_refused(tmp_path: Path) -> None:
    path = patch(write(tmp_path / "ct.nii", ct()), "sform_code", 0)
    assert refusal(patch(path, "quatern_d", 1.5)).code == "GEOMETRY"


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_legal_labels_come_back_as_uint8(dtype: type) -> None:
    labels = np.array([[0, 1], [2, 1]], dtype, order="F")
    checked = check_labels(labels, (0, 1, 2), "label.nii")
    assert checked.dtype == np.uint8
    assert np.array_equal(checked, labels)


@pytest.mark.parametrize(
    ("value", "labels", "words"),
    [
        (3, (0, 1, 2), r"the values 3, expected only the labels \[0, 1, 2\]"),
        (255, (0, 1, 2), "the values 255"),
        (-1, None, "the values -1, expected integers from 0 to 255"),
        (256, None, "the values 256"),
        (257, (0, 1), "the values 257"),
        (0.9999, None, "0.9999.*integer values"),
        (1 / 255, (0, 1), "0.00392"),
        (np.nan, None, "nan"),
        (np.inf, None, "inf"),
    ],
)
def test_illegal_labels_are_named(value: float, labels: tuple | None, words: str) -> None:
    with pytest.raises(UserError, match=rf"LABEL_SET label.nii: .*{words}"):
        check_labels(np.array([0, 1, value]), labels, "label.nii")


def test_illegal_labels_beside_legal_ones_are_named_alone() -> None:
    with pytest.raises(UserError) as caught:
        check_labels(np.array([0, 1, 2, 7, 9]), (0, 1), "label.nii")
    assert caught.value.found == "the values 2, 7, 9"


def test_real_ct_equals_nibabels(real_data: Path) -> None:
    path = real_data / "totalsegmentator/example_ct_sm.nii.gz"
    array, header = read_volume(path, check_hu=True)
    assert np.array_equal(array, nib.load(path).get_fdata())
    assert header.warnings == ()
