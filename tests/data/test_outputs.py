from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg3d.data.outputs import input_items, record_file
from medseg3d.errors import UserError
from medseg3d.pictures.writing import write_picture_mask, write_png
from medseg3d.volumes.reading import read_header
from medseg3d.volumes.writing import write_mask, write_probabilities

AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-0.8, 0.7, 2.5]), [12.5, -40.0, 900.0]
)


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return [folder / name for name in names]


def masks(items: list[dict[str, str]], output_dir: Path) -> list[str]:
    return [Path(item["mask_file"]).relative_to(output_dir).as_posix() for item in items]


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("ct.nii.gz", "ct_seg.nii.gz"),
        ("ct.nii", "ct_seg.nii.gz"),
        ("CT.NII.GZ", "CT_seg.nii.gz"),
        ("a.b c.nii.gz", "a.b c_seg.nii.gz"),
        ("über.nii", "über_seg.nii.gz"),
    ],
)
def test_mask_is_named_after_its_image(tmp_path: Path, name: str, mask: str) -> None:
    (image,) = touch(tmp_path, name)
    items = input_items(image, tmp_path / "out")
    assert items == [{"image": str(image), "mask_file": str(tmp_path / "out" / mask), "case": mask[:-11]}]


def test_folder_stands_for_all_images_below_it(tmp_path: Path) -> None:
    touch(tmp_path / "in", "b.nii", "a/ct.nii.gz", "a/CT2.NII.GZ", "note.txt", "._b.nii", ".cache/x.nii", "a/.x.nii.gz")
    items = input_items([tmp_path / "in"], tmp_path / "out")
    assert masks(items, tmp_path / "out") == ["b_seg.nii.gz", "a/CT2_seg.nii.gz", "a/ct_seg.nii.gz"]


def test_linked_folder_of_scans_is_segmented_but_not_its_results(tmp_path: Path, caplog) -> None:
    touch(tmp_path, "in/a.nii", "elsewhere/b.nii", "out/c_seg.nii.gz", "out/c_overlay.gif", "in/d.mnc")
    for name in ("elsewhere", "out"):
        (tmp_path / "in" / name).symlink_to(tmp_path / name)
    items = input_items(tmp_path / "in", tmp_path / "out")
    assert masks(items, tmp_path / "out") == ["a_seg.nii.gz", "elsewhere/b_seg.nii.gz"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"NOT_READ: 1 file below {tmp_path / 'in'} (d.mnc)")


def test_name_in_another_encoding_is_a_case_that_can_be_printed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xb8\xce.png")).touch()  # GBK, as a ZIP from China leaves it on Linux
    (item,) = input_items(tmp_path, tmp_path / "out", image_suffixes=[".png"], mask_suffix=".png")
    assert item["case"] == r"\udcb8\udcce"
    assert os.fsencode(item["mask_file"]).endswith(b"/\xb8\xce_seg.png")


def test_pictures_get_masks_of_their_own_kind(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "sub/B.PNG", "ct.nii.gz")
    items = input_items(tmp_path / "in", tmp_path / "out", image_suffixes=[".jpg", ".png"], mask_suffix=".png")
    assert masks(items, tmp_path / "out") == ["a_seg.png", "sub/B_seg.png"]
    assert [item["case"] for item in items] == ["a", "sub/B"]


def test_a_jpeg_and_a_png_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "a.png")
    with pytest.raises(UserError, match="NAME_COLLISION"):
        input_items(tmp_path / "in", tmp_path / "out", image_suffixes=[".jpg", ".png"], mask_suffix=".png")


def test_a_file_named_twice_is_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in", "ct.nii")
    monkeypatch.chdir(tmp_path)
    assert len(input_items(["in/ct.nii", tmp_path / "in", "in/../in/ct.nii"], "out")) == 1


def test_files_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    files = touch(tmp_path, "x/p1/ct.nii.gz", "x/p2/s/ct.nii.gz", "x/other.nii")
    items = input_items(files, tmp_path / "out")
    assert masks(items, tmp_path / "out") == ["p1/ct_seg.nii.gz", "p2/s/ct_seg.nii.gz", "other_seg.nii.gz"]
    assert [item["case"] for item in items] == ["p1/ct", "p2/s/ct", "other"]


@pytest.mark.parametrize("as_folder", [True, False])
def test_two_images_for_one_mask_are_refused_and_named(tmp_path: Path, as_folder: bool) -> None:
    files = touch(tmp_path, "ct.nii", "ct.nii.gz")
    with pytest.raises(UserError, match=r"NAME_COLLISION .*/ct\.nii(\.gz)?: the same name as .*/ct\.nii"):
        input_items([tmp_path] if as_folder else files, tmp_path / "out")


def test_keeping_folders_never_makes_a_new_collision(tmp_path: Path) -> None:
    # the two ct become a/ct and b/ct, which is what the third one is called already
    files = touch(tmp_path, "in/a/ct.nii", "in/b/ct.nii", "more/a/ct.nii")
    with pytest.raises(UserError, match="NAME_COLLISION"):
        input_items([*files[:2], tmp_path / "more"], tmp_path / "out")


@pytest.mark.parametrize("inputs", [[], ["empty"], ["text"]])
def test_nothing_to_do_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "text/readme.md")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="NO_INPUT"):
        input_items(inputs, "out")


def test_missing_input_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MISSING_FILE .*nowhere\.nii"):
        input_items([*touch(tmp_path, "ct.nii"), tmp_path / "nowhere.nii"], tmp_path / "out")


def test_control_characters_are_refused_on_one_line(tmp_path: Path) -> None:
    touch(tmp_path, "in/a\nb.nii")
    with pytest.raises(UserError, match="FILE_NAME") as caught:
        input_items(tmp_path / "in", tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_masks_are_results_and_not_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "ct.nii.gz", "ct_seg.nii.gz", "out/old_seg.nii.gz", "out/new.nii.gz")
    items = input_items([tmp_path], tmp_path)
    assert masks(items, tmp_path) == ["ct_seg.nii.gz", "out/new_seg.nii.gz"]
    # a mask elsewhere is an image like any other
    assert len(input_items([tmp_path / "ct_seg.nii.gz"], tmp_path / "out")) == 1


def test_shell_glob_over_images_and_their_masks_is_harmless(tmp_path: Path) -> None:
    files = touch(tmp_path, "ct.nii.gz", "ct_seg.nii.gz")
    items = input_items(files, tmp_path, overwrite=True)
    assert [item["image"] for item in items] == [str(files[0])]


def test_mask_never_replaces_an_input(tmp_path: Path) -> None:
    (image,) = touch(tmp_path, "ct.nii.gz")
    with pytest.raises(UserError, match=r"NAME_COLLISION .* would replace the input"):
        input_items(image, tmp_path, suffix="", overwrite=True)
    (image,) = touch(tmp_path, "mr.nii")
    assert len(input_items(image, tmp_path, suffix="")) == 1


@pytest.mark.parametrize("suffix", ["/../x", "a/b"])
def test_suffix_is_no_path(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match="suffix must be part of a file name"):
        input_items(touch(tmp_path, "ct.nii"), tmp_path, suffix=suffix)


def test_link_that_leads_out_of_the_output_folder_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/sub/ct.nii")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="OUTSIDE_OUTPUT"):
        input_items(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("by", ["another program", "nobody"])
def test_foreign_mask_is_never_replaced_unasked(tmp_path: Path, by: str) -> None:
    (image,) = touch(tmp_path, "ct.nii")
    mask = tmp_path / "out" / "ct_seg.nii.gz"
    mask.parent.mkdir()
    if by == "nobody":
        mask.write_bytes(b"no NIfTI")
    else:
        nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), AFFINE), mask)
    (skipped,) = input_items(image, tmp_path / "out")
    assert skipped["reason"] == "a mask that was not written by medseg3d exists"


def test_our_png_without_its_record_is_made_again_and_anybody_elses_is_not(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "b.jpg")
    write_picture_mask(tmp_path / "out" / "a_seg.png", np.eye(2))
    Image.new("L", (2, 2)).save(tmp_path / "out" / "b_seg.png")
    items = input_items(tmp_path / "in", tmp_path / "out", image_suffixes=[".jpg"], mask_suffix=".png")
    reasons = {item["case"]: item.get("reason") for item in items}
    assert reasons == {"a": None, "b": "a mask that was not written by medseg3d exists"}


def test_probabilities_lie_in_their_own_folder(tmp_path: Path) -> None:
    touch(tmp_path / "in", "sub/a.jpg")
    kinds = {"image_suffixes": [".jpg"], "mask_suffix": ".png", "prob_dir": tmp_path / "probs"}
    (item,) = input_items(tmp_path / "in", tmp_path / "out", **kinds)
    assert item["prob_file"] == str(tmp_path / "probs" / "sub" / "a_prob.png")


def test_foreign_probabilities_are_never_replaced_unasked(tmp_path: Path) -> None:
    (image,) = touch(tmp_path, "ct.nii")
    touch(tmp_path / "probs", "ct_prob.nii.gz")
    (skipped,) = input_items(image, tmp_path / "out", prob_dir=tmp_path / "probs")
    assert skipped["reason"] == "a probability map that was not written by medseg3d exists"


def test_probabilities_found_below_their_folder_are_no_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "ct.nii", "other_prob.nii.gz")
    assert len(input_items(tmp_path, tmp_path / "out", prob_dir=tmp_path)) == 1


PICTURES = {"image_suffixes": [".jpg", ".png"], "mask_suffix": ".png"}


def test_overlays_lie_in_their_own_folder_and_are_no_inputs(tmp_path: Path) -> None:
    touch(tmp_path / "in", "sub/a.jpg", "b_overlay.png")
    (item,) = input_items(tmp_path / "in", tmp_path / "out", overlay_dir=tmp_path / "in", **PICTURES)
    assert item["overlay_file"] == str(tmp_path / "in" / "sub" / "a_overlay.png")


def test_an_overlay_of_ours_is_worked_on_and_a_foreign_one_left_alone(tmp_path: Path) -> None:
    (image,) = touch(tmp_path, "a.jpg")
    kinds = {"overlay_dir": tmp_path / "drawn", **PICTURES}
    assert len(input_items(image, tmp_path / "out", **kinds)) == 1
    write_png(tmp_path / "drawn" / "a_overlay.png", np.zeros((2, 2, 3), np.uint8))
    assert len(input_items(image, tmp_path / "out", **kinds)) == 1
    Image.new("L", (2, 2)).save(tmp_path / "drawn" / "a_overlay.png")
    (skipped,) = input_items(image, tmp_path / "out", **kinds)
    assert skipped["reason"] == "an overlay that was not written by medseg3d exists"


def test_overlays_of_volumes_are_refused(tmp_path: Path) -> None:
    (image,) = touch(tmp_path, "ct.nii")
    with pytest.raises(
        UserError, match=r"^BAD_VALUE --save-overlays: a bundle for volumes, expected a bundle for 2-D images"
    ):
        input_items(image, tmp_path / "out", overlay_dir=tmp_path / "drawn")


@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
def test_probabilities_have_the_geometry_of_their_source(tmp_path: Path, image: type) -> None:
    ct = source(tmp_path / "ct.nii.gz", (1, 2), image)
    prob = np.random.default_rng(0).random((4, 5, 6), np.float32)
    write_probabilities(tmp_path / "prob.nii.gz", prob, read_header(ct).geometry)
    written = nib.load(tmp_path / "prob.nii.gz")
    assert np.array_equal(written.affine, nib.load(ct).affine)
    assert np.array_equal(np.asarray(written.dataobj), prob)
    assert written.get_data_dtype() == np.float32


@pytest.mark.parametrize(
    "prob", [np.ones((2, 2, 2)), np.full((2, 2, 2), 1.1, np.float32), np.full((2, 2, 2), np.nan, np.float32)]
)
def test_what_are_no_probabilities_is_refused(tmp_path: Path, prob: np.ndarray) -> None:
    with pytest.raises(ValueError, match="prob must be a float32 array"):
        write_probabilities(tmp_path / "prob.nii.gz", prob, affine=AFFINE)


def test_record_stands_beside_its_mask() -> None:
    assert record_file("out/a.b_seg.nii.gz") == Path("out/a.b_seg.json")
    assert record_file("out/a.b_seg.nii") == Path("out/a.b_seg.json")


def source(path: Path, codes: tuple[int, int], image: type = nib.Nifti1Image, unit: str = "mm") -> Path:
    volume = image(np.zeros((4, 5, 6), np.int16), AFFINE)
    other = AFFINE.copy()
    other[0, 3] += 0.01
    volume.set_qform(other, codes[0])
    volume.set_sform(AFFINE, codes[1])
    volume.header.set_xyzt_units(unit)
    volume.header["descrip"] = b"Doe^John"
    nib.save(volume, path)
    return path


@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (1, 0), (0, 0), (3, 4)])
@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
def test_mask_has_the_geometry_of_its_source_to_the_letter(tmp_path: Path, codes: tuple[int, int], image: type) -> None:
    ct = source(tmp_path / "ct.nii.gz", codes, image, unit="unknown")
    write_mask(tmp_path / "mask.nii.gz", np.ones((4, 5, 6), np.uint8), read_header(ct).geometry)
    before, after = nib.load(ct), nib.load(tmp_path / "mask.nii.gz")
    assert type(before) is type(after)
    fields = ("sform_code", "qform_code", "srow_x", "quatern_b", "qoffset_x", "pixdim", "xyzt_units", "dim")
    assert [name for name in fields if not np.array_equal(before.header[name], after.header[name])] == []
    assert np.array_equal(before.affine, after.affine)
    assert after.get_data_dtype() == np.uint8
    assert b"Doe" not in bytes(after.header["descrip"])


def test_simpleitk_lays_the_mask_on_its_source(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    ct = source(tmp_path / "ct.nii.gz", (1, 1))
    array = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    write_mask(tmp_path / "mask.nii.gz", array, read_header(ct).geometry)
    image, mask = sitk.ReadImage(str(ct)), sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    reads = ("GetOrigin", "GetSpacing", "GetDirection", "GetSize")
    assert [getattr(image, read)() for read in reads] == [getattr(mask, read)() for read in reads]
    assert np.array_equal(sitk.GetArrayFromImage(mask).T, array)


def test_mask_of_an_affine_carries_it_in_both_forms(tmp_path: Path) -> None:
    write_mask(tmp_path / "mask.nii.gz", np.ones((4, 5, 6), np.uint8), affine=AFFINE)
    header = nib.load(tmp_path / "mask.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert np.allclose(header.get_sform(), AFFINE, atol=1e-4)
    assert np.allclose(header.get_qform(), AFFINE, atol=1e-3)
    assert header.get_xyzt_units()[0] == "mm"


def test_equal_masks_are_equal_files(tmp_path: Path) -> None:
    digests = {write_mask(tmp_path / f"{name}.nii.gz", np.ones((4, 5, 6), np.uint8), affine=AFFINE) for name in "ab"}
    assert len(digests) == 1
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_order_in_memory_does_not_matter(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 2, (4, 5, 6)).astype(np.uint8)
    for order in "CF":
        write_mask(tmp_path / f"{order}.nii.gz", np.array(mask, order=order), affine=AFFINE)  # type: ignore[call-overload]
    assert (tmp_path / "C.nii.gz").read_bytes() == (tmp_path / "F.nii.gz").read_bytes()
    assert np.array_equal(nib.load(tmp_path / "C.nii.gz").get_fdata(), mask)


@pytest.mark.parametrize("lost", ["voxels", "geometry"])
def test_disk_that_gives_back_something_else_leaves_no_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    def lossy(image: nib.Nifti1Image, path: Path) -> None:
        if lost == "voxels":
            image = nib.Nifti1Image(np.asarray(image.dataobj) * 0, None, image.header)
        else:
            image.header["qform_code"] = 4
        save(image, path)

    geometry = read_header(source(tmp_path / "ct.nii", (1, 1))).geometry
    save = nib.Nifti1Image.to_filename
    monkeypatch.setattr(nib.Nifti1Image, "to_filename", lossy)
    with pytest.raises(OSError, match="the volume read back is not the one written"):
        write_mask(tmp_path / "mask.nii.gz", np.ones((4, 5, 6), np.uint8), geometry)
    assert os.listdir(tmp_path) == ["ct.nii"]


@pytest.mark.parametrize(
    ("mask", "options", "words"),
    [
        (np.ones((4, 5, 6)), {"affine": AFFINE}, "uint8 array of 3 axes, found float64 of 3"),
        (np.ones((1, 4, 5, 6), np.uint8), {"affine": AFFINE}, "found uint8 of 4"),
        (np.ones((4, 5, 6), np.uint8), {}, "an affine must say"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, mask: np.ndarray, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write_mask(tmp_path / "mask.nii.gz", mask, **options)


def test_mask_of_another_shape_than_its_source_is_refused(tmp_path: Path) -> None:
    geometry = read_header(source(tmp_path / "ct.nii", (1, 1))).geometry
    with pytest.raises(ValueError, match=r"shape \(4, 5, 6\) of its image, found \(4, 6, 5\)"):
        write_mask(tmp_path / "mask.nii.gz", np.ones((4, 6, 5), np.uint8), geometry)
