from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg3d.data.loaded_pairs import prediction_kind, read_pair
from medseg3d.data.mask_folders import MaskPair, paired_masks
from medseg3d.errors import UserError
from medseg3d.pictures.writing import write_grey, write_picture_mask

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-0.8, 0.7, 2.5]), [12.5, -40.0, 900.0]
)
SPACING_ONLY = np.diag([0.8, 0.7, 2.5, 1])


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def cases(pred: Path, truth: Path, **options: object) -> dict[str, tuple[str | None, str]]:
    """(prediction, truth) by case, as paths below their folders."""
    return {
        pair.case: (pair.pred and pair.pred.relative_to(pred).as_posix(), pair.truth.relative_to(truth).as_posix())
        for pair in paired_masks(pred, truth, **options)
    }


def refusal(pred: Path, truth: Path, **options: object) -> UserError:
    with pytest.raises(UserError) as caught:
        paired_masks(pred, truth, **options)
    return caught.value


def labels(shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)


def volume(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def picture(path: Path, levels: np.ndarray) -> Path:
    Image.fromarray(levels).save(path)
    return path


def drawn(shape: tuple[int, int] = (30, 40)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[5:20, 8:30] = True
    return mask


def soft(shape: tuple[int, int] = (30, 40)) -> np.ndarray:
    """Probabilities of many levels, some of them 0 and 1."""
    return np.clip(np.random.default_rng(1).normal(0.5, 0.4, shape), 0, 1)


def pair_of(pred: Path | None, truth: Path) -> MaskPair:
    return MaskPair("case", pred, truth, None)


def reading(pred: Path | None, truth: Path, *args: object) -> UserError:
    with pytest.raises(UserError) as caught:
        read_pair(pair_of(pred, truth), *args)
    return caught.value


# pairing


def test_equal_names_are_pairs_whatever_their_suffixes(tmp_path: Path) -> None:
    pred = fill(tmp_path / "pred", "b.png", "sub/a.PNG", "c.v2.tif", "sub/deep/d.bmp")
    truth = fill(tmp_path / "truth", "sub/a.jpg", "b.jpeg", "c.v2.png", "sub/deep/d.png")
    assert cases(pred, truth) == {
        "b": ("b.png", "b.jpeg"),
        "c.v2": ("c.v2.tif", "c.v2.png"),
        "sub/a": ("sub/a.PNG", "sub/a.jpg"),
        "sub/deep/d": ("sub/deep/d.bmp", "sub/deep/d.png"),
    }


def test_gz_belongs_to_the_suffix(tmp_path: Path) -> None:
    pred = fill(tmp_path / "pred", "ct.nii", "x.NII.GZ")
    truth = fill(tmp_path / "truth", "ct.nii.gz", "x.nii.gz")
    assert list(cases(pred, truth)) == ["ct", "x"]


def test_pairs_come_in_the_order_of_their_cases(tmp_path: Path) -> None:
    names = ["b.png", "a/z.png", "c_seg.png", "bb.png"]
    pred, truth = fill(tmp_path / "pred", *names), fill(tmp_path / "truth", "a/z.png", "bb.png", "c.png", "b.png")
    assert list(cases(pred, truth)) == ["a/z", "b", "bb", "c"]


def test_equal_names_in_other_folders_are_no_pair(tmp_path: Path) -> None:
    pred, truth = fill(tmp_path / "pred", "a/x.png"), fill(tmp_path / "truth", "b/x.png")
    assert refusal(pred, truth).code == "UNPAIRED"


def test_hidden_files_records_and_tables_are_left_alone(tmp_path: Path) -> None:
    pred = fill(tmp_path / "pred", "ct.nii.gz", "ct.json", "._ct.nii.gz", ".medseg3d-tmp-1.nii.gz", "scores.csv")
    truth = fill(tmp_path / "truth", "ct.nii.gz", ".cache/old.nii.gz", "README.md")
    assert list(cases(pred, truth)) == ["ct"]


def test_linked_folder_of_predictions_is_scored(tmp_path: Path) -> None:
    fill(tmp_path, "pred/a.nii.gz", "elsewhere/b.nii.gz")
    truth = fill(tmp_path / "truth", "a.nii.gz", "siteB/b.nii.gz")
    (tmp_path / "pred/siteB").symlink_to(tmp_path / "elsewhere")
    assert list(cases(tmp_path / "pred", truth)) == ["a", "siteB/b"]


def test_truth_that_is_linked_as_its_own_prediction_is_refused(tmp_path: Path) -> None:
    pred, truth = fill(tmp_path / "pred", "b.nii"), fill(tmp_path / "truth", "b.nii", "site/a.nii")
    (pred / "site").symlink_to(truth / "site")
    assert refusal(pred, truth).code == "SAME_FOLDER"


def test_files_that_are_not_read_are_named_in_warnings(tmp_path: Path) -> None:
    pred = fill(tmp_path / "pred", "a.nii.gz", "b.mnc", "c_seg.hdr")
    truth = fill(tmp_path / "truth", "a.nii.gz", "b.mnc", "c.nii.gz")
    of_pred, of_truth = paired_masks(pred, truth, missing="empty").warnings
    assert of_pred.startswith(f"NOT_READ: 2 files below {pred} (b.mnc, c_seg.hdr)")
    assert of_pred.endswith("the name of a ground truth without prediction have 1 (c_seg.hdr)")
    assert of_truth.startswith(f"NOT_READ: 1 file below {truth} (b.mnc)")
    assert "c_seg.hdr" in refusal(pred, truth).found


def test_every_suffix_of_a_jpeg_is_read(tmp_path: Path) -> None:
    pred, truth = fill(tmp_path / "pred", "a.jpe", "b.JFIF"), fill(tmp_path / "truth", "a.jpg", "b.jpeg")
    assert list(cases(pred, truth)) == ["a", "b"]


def test_name_in_another_encoding_is_a_case_that_can_be_printed(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xb8\xce.png")
    (pair,) = paired_masks(fill(tmp_path / "pred", name), fill(tmp_path / "truth", name))
    assert (pair.case, pair.pred.name) == (r"\udcb8\udcce", name)


def test_two_spellings_of_an_umlaut_are_one_name(tmp_path: Path) -> None:
    pred, truth = fill(tmp_path / "pred", "u\u0308ber.png"), fill(tmp_path / "truth", "\u00fcber.png")
    if len(list(tmp_path.rglob("*.png"))) == 2:
        assert list(cases(pred, truth)) == ["\u00fcber"]


@pytest.mark.parametrize("ending", ["_seg", "_mask", "_prob", "_pred", "_label", "_labels", "_gt", "_SEG"])
@pytest.mark.parametrize("side", ["pred", "truth"])
def test_ending_of_one_side_is_dropped(tmp_path: Path, ending: str, side: str) -> None:
    names = {"pred": "a/ct_1.nii.gz", "truth": "a/ct_1.nii.gz"}
    names[side] = f"a/ct_1{ending}.nii.gz"
    pred, truth = fill(tmp_path / "pred", names["pred"]), fill(tmp_path / "truth", names["truth"])
    assert cases(pred, truth) == {"a/ct_1": (names["pred"], names["truth"])}


def test_endings_of_both_sides_are_dropped(tmp_path: Path) -> None:
    pred, truth = fill(tmp_path / "pred", "ct_prob.nii.gz"), fill(tmp_path / "truth", "ct_label.nii.gz")
    assert cases(pred, truth) == {"ct": ("ct_prob.nii.gz", "ct_label.nii.gz")}


def test_name_that_is_nothing_but_an_ending_is_kept(tmp_path: Path) -> None:
    pred, truth = fill(tmp_path / "pred", "a/_pred.png"), fill(tmp_path / "truth", "a/_gt.png")
    assert refusal(pred, truth).found == "no prediction for 1 (a/_gt) and no ground truth for 1 (a/_pred)"


def test_ending_that_both_sides_have_is_kept(tmp_path: Path) -> None:
    pred, truth = fill(tmp_path / "pred", "a_mask.png", "a.png"), fill(tmp_path / "truth", "a_mask.png", "a.png")
    assert cases(pred, truth) == {"a": ("a.png", "a.png"), "a_mask": ("a_mask.png", "a_mask.png")}


@pytest.mark.parametrize(
    ("preds", "truths"),
    [
        (["a_seg.png", "a_prob.png"], ["a.png"]),
        (["a.png"], ["a_mask.png", "a_gt.png"]),
        (["a.png", "a_seg.png"], ["a.png", "a_mask.png"]),
    ],
)
def test_ambiguous_ending_is_refused(tmp_path: Path, preds: list[str], truths: list[str]) -> None:
    error = refusal(fill(tmp_path / "pred", *preds), fill(tmp_path / "truth", *truths))
    assert error.code == "NAME_COLLISION"
    assert "a_" in error.found


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    error = refusal(fill(tmp_path / "pred", "a.png", "a.jpg"), fill(tmp_path / "truth", "a.png"))
    assert error.code == "NAME_COLLISION"
    assert {Path(error.subject).name, Path(error.found.split()[-1]).name} == {"a.png", "a.jpg"}


def test_unpaired_names_of_both_sides_are_listed_up_to_five(tmp_path: Path) -> None:
    pred = fill(tmp_path / "pred", "both.png", "extra.png")
    truth = fill(tmp_path / "truth", "both.png", *(f"t{number}.png" for number in range(7)))
    error = refusal(pred, truth)
    assert error.code == "UNPAIRED"
    assert error.found == "no prediction for 7 (t0, t1, t2, t3, t4, ...) and no ground truth for 1 (extra)"
    assert error.remedy


def test_missing_prediction_is_an_error_unless_said_to_be_empty(tmp_path: Path, caplog) -> None:
    pred, truth = fill(tmp_path / "pred", "a.png"), fill(tmp_path / "truth", "a.png", "b.png")
    error = refusal(pred, truth)
    assert (error.code, "--missing empty" in error.remedy) == ("UNPAIRED", True)
    assert cases(pred, truth, missing="empty") == {"a": ("a.png", "a.png"), "b": (None, "b.png")}
    assert "1 (b) of 2 count as empty masks" in caplog.text


def test_truths_without_prediction_are_left_out_on_request_and_named(tmp_path: Path, caplog) -> None:
    pred, truth = fill(tmp_path / "pred", "a_seg.png"), fill(tmp_path / "truth", "a.png", "b.png")
    images = fill(tmp_path / "images", "a.png")
    pairs = paired_masks(pred, truth, images, missing="leave-out")
    assert [pair.case for pair in pairs] == ["a"]
    assert pairs.left_out == ["b"]
    assert "1 (b) of 2 are left out" in caplog.text


def test_leaving_out_every_truth_is_refused(tmp_path: Path) -> None:
    pred, truth = fill(tmp_path / "pred", "a.png"), fill(tmp_path / "truth", "b.png")
    with pytest.raises(UserError, match="UNPAIRED"):
        paired_masks(pred, truth, missing="leave-out")


def test_prediction_without_truth_is_always_refused(tmp_path: Path) -> None:
    pred, truth = fill(tmp_path / "pred", "a.png", "b.png"), fill(tmp_path / "truth", "a.png")
    error = refusal(pred, truth, missing="empty")
    assert (error.code, "no ground truth for 1 (b)" in error.found) == ("UNPAIRED", True)


def test_images_are_found_by_the_name_of_the_truth(tmp_path: Path) -> None:
    pred = fill(tmp_path / "pred", "a_seg.nii.gz", "b.nii.gz")
    truth = fill(tmp_path / "truth", "a_label.nii.gz", "b.nii.gz")
    image = fill(tmp_path / "image", "a.nii.gz", "b_0000.nii.gz", "c_0000.nii.gz", "a.png")
    pairs = paired_masks(pred, truth, image)
    assert [(pair.case, pair.image.name) for pair in pairs] == [("a", "a.nii.gz"), ("b", "b_0000.nii.gz")]
    (image / "a.nii.gz").unlink()
    error = refusal(pred, truth, image_dir=image)
    assert (error.code, error.found) == ("UNPAIRED", "no image for 1 (a_label)")


@pytest.mark.parametrize("name", ["truth", "truth/pred", "link"])
def test_folders_that_hold_each_other_are_refused(tmp_path: Path, name: str) -> None:
    truth = fill(tmp_path / "truth", "a.png", "pred/a.png")
    (tmp_path / "link").symlink_to(truth)
    assert refusal(tmp_path / name, truth).code == "SAME_FOLDER"
    assert refusal(truth, tmp_path / name, missing="empty").code == "SAME_FOLDER"


@pytest.mark.parametrize(
    ("preds", "truths", "code"),
    [
        ([], ["a.png"], "NO_INPUT"),
        (["a.json", "a.mnc"], ["a.png"], "NO_INPUT"),
        (["a.nii.gz"], ["a.png"], "MIXED_KINDS"),
        (["a.png", "b.nii.gz"], ["a.png", "b.nii.gz"], "MIXED_KINDS"),
    ],
)
def test_folder_of_nothing_or_of_both_kinds_is_refused(
    tmp_path: Path, preds: list[str], truths: list[str], code: str
) -> None:
    for folder in ("pred", "truth"):
        (tmp_path / folder).mkdir()
    pred, truth = fill(tmp_path / "pred", *preds), fill(tmp_path / "truth", *truths)
    assert refusal(pred, truth).code == code
    assert refusal(truth, pred).code == code


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    truth = fill(tmp_path / "truth", "a.png")
    assert refusal(tmp_path / "no", truth).code == "MISSING_FILE"
    assert refusal(truth / "a.png", truth).found == "a file"


def test_misspelt_option_is_an_error_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing must be"):
        paired_masks(tmp_path, tmp_path, missing="zero")
    pair = pair_of(None, tmp_path / "a.png")
    with pytest.raises(ValueError, match="pred_kind must be"):
        read_pair(pair, "prob")
    with pytest.raises(ValueError, match="threshold must be"):
        read_pair(pair, threshold=50)


# volumes


def test_labels_of_volumes_come_as_uint8_with_the_affine_of_the_truth(tmp_path: Path) -> None:
    truth, pred = labels(), labels()[::-1]
    loaded = read_pair(
        pair_of(volume(tmp_path / "p.nii.gz", pred.astype(np.float64)), volume(tmp_path / "t.nii", truth))
    )
    assert (loaded.pred.dtype, loaded.truth.dtype, loaded.kind) == (np.uint8, np.uint8, "mask")
    assert np.array_equal(loaded.pred, pred)
    assert np.array_equal(loaded.truth, truth)
    assert loaded.prob is None
    assert np.allclose(loaded.affine, OBLIQUE, atol=1e-5)
    assert loaded.affine.dtype == np.float64
    assert loaded.warnings == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fractions_are_probabilities(tmp_path: Path, dtype: type) -> None:
    prob = np.random.default_rng(0).random((5, 6, 7)).astype(dtype)
    prob[0, 0, :3] = 0, 0.5, 1
    pair = pair_of(volume(tmp_path / "p.nii.gz", prob), volume(tmp_path / "t.nii.gz", labels()))
    loaded = read_pair(pair)
    assert (loaded.kind, loaded.prob.dtype) == ("probability", np.float32)
    assert np.array_equal(loaded.prob, prob.astype(np.float32))
    assert np.array_equal(loaded.pred, prob.astype(np.float32) >= 0.5)
    assert loaded.pred[0, 0, :3].tolist() == [0, 1, 1]
    assert read_pair(pair, threshold=0.9).pred.sum() == (prob >= 0.9).sum()


def test_scaled_integers_are_probabilities(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 6, 7)).astype(np.uint8)
    image = nib.Nifti1Image(levels, OBLIQUE)
    image.header.set_slope_inter(1 / 255, 0)
    nib.save(image, tmp_path / "p.nii.gz")
    raw = tmp_path / "p.nii.gz"
    loaded = read_pair(pair_of(raw, volume(tmp_path / "t.nii.gz", labels())))
    assert loaded.kind == "probability"
    assert prediction_kind([pair_of(raw, raw)]) == "probability"
    assert np.allclose(loaded.prob, nib.load(raw).get_fdata(), atol=1e-6)


def scaled(path: Path, stored: np.ndarray, slope: float, intercept: float = 0) -> Path:
    image = nib.Nifti1Image(stored, OBLIQUE)
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("swapped", [False, True])
def test_labels_stored_as_sixteen_bits_with_a_slope_are_the_integers_they_were(tmp_path: Path, swapped: bool) -> None:
    # nibabel's own scaling of float labels 0, 1 and 2 to int16: the middle comes back as 1.0000153
    stored = np.array([-32768, 0, 32767], np.int16)[labels()]
    path = scaled(tmp_path / "s.nii.gz", stored, 2 / 65535, 1 + 1 / 65535)
    plain = volume(tmp_path / "p.nii.gz", labels())
    assert np.abs(nib.load(path).get_fdata() - labels()).max() > 1e-5
    pair = pair_of(plain, path) if swapped else pair_of(path, plain)
    loaded = read_pair(pair, prediction_kind([pair]))
    assert loaded.kind == "mask"
    assert np.array_equal(loaded.pred, labels())
    assert np.array_equal(loaded.truth, labels())


@pytest.mark.parametrize("swapped", [False, True])
def test_labels_that_a_slope_has_rounded_are_refused_by_naming_it(tmp_path: Path, swapped: bool) -> None:
    path = scaled(tmp_path / "s.nii.gz", np.array([0, 127, 255], np.uint8)[labels()], 2 / 255)
    plain = volume(tmp_path / "p.nii.gz", labels())
    error = reading(plain, path) if swapped else reading(path, plain)
    assert (error.code, error.subject) == ("LABEL_SET", str(path))
    assert "stored with slope 0.007843138" in error.found


def test_whole_probabilities_are_a_map_when_told_so(tmp_path: Path) -> None:
    pair = pair_of(volume(tmp_path / "p.nii", np.zeros((5, 6, 7), np.float32)), volume(tmp_path / "t.nii.gz", labels()))
    assert (read_pair(pair).kind, read_pair(pair).prob) == ("mask", None)
    assert read_pair(pair, "probability").prob.max() == 0


def test_rounding_of_a_softmax_is_clipped(tmp_path: Path) -> None:
    prob = np.full((5, 6, 7), 0.25, np.float32)
    prob[0, 0, 0] = np.nextafter(np.float32(1), np.float32(2))
    pair = pair_of(volume(tmp_path / "p.nii", prob), volume(tmp_path / "t.nii.gz", labels()))
    assert read_pair(pair).prob.max() == 1


@pytest.mark.parametrize("bad", [-0.02, 1.03])
@pytest.mark.parametrize("kind", ["auto", "probability", "mask"])
def test_logits_are_no_probabilities(tmp_path: Path, bad: float, kind: str) -> None:
    prob = np.full((5, 6, 7), 0.25, np.float32)
    prob[1, 2, 3] = bad
    pred, truth = volume(tmp_path / "p.nii.gz", prob), volume(tmp_path / "t.nii.gz", labels())
    error = reading(pred, truth, kind)
    assert (error.code, error.subject) == ("LABEL_SET", str(pred))


def test_soft_truth_is_refused(tmp_path: Path) -> None:
    truth = volume(tmp_path / "t.nii.gz", np.full((5, 6, 7), 0.9999))
    error = reading(volume(tmp_path / "p.nii.gz", labels()), truth)
    assert (error.code, error.subject) == ("LABEL_SET", str(truth))


def test_other_shape_of_a_volume_names_both(tmp_path: Path) -> None:
    pred, truth = volume(tmp_path / "p.nii", labels((5, 6, 8))), volume(tmp_path / "t.nii", labels())
    error = reading(pred, truth)
    assert (error.code, error.subject, error.found) == ("PAIR_GEOMETRY", str(pred), "shape (5, 6, 8)")
    assert error.wanted == f"that of its ground truth {truth}: shape (5, 6, 7)"
    assert "nothing is resized" in error.remedy


@pytest.mark.parametrize(("voxels", "warned"), [(0.005, 0), (0.2, 1)])
def test_grid_may_differ_by_less_than_a_quarter_of_a_voxel(tmp_path: Path, voxels: float, warned: int) -> None:
    moved = OBLIQUE @ nib.affines.from_matvec(np.eye(3), [0, 0, voxels])
    pred, truth = volume(tmp_path / "p.nii", labels(), moved), volume(tmp_path / "t.nii", labels())
    loaded = read_pair(pair_of(pred, truth))
    assert np.array_equal(loaded.pred, labels())
    assert [warning.partition(":")[0] for warning in loaded.warnings] == ["PAIR_GEOMETRY"] * warned


def test_grid_further_off_is_refused_unless_asked_for(tmp_path: Path) -> None:
    moved = OBLIQUE @ nib.affines.from_matvec(np.eye(3), [0, 0, 0.4])
    pred, truth = volume(tmp_path / "p.nii", labels(), moved), volume(tmp_path / "t.nii", labels())
    error = reading(pred, truth)
    assert (error.code, "0.4 voxels (1 mm) off" in error.found) == ("PAIR_GEOMETRY", True)
    assert error.wanted.startswith(f"that of its ground truth {truth}")
    assert "--grid_tolerance" in error.remedy
    assert np.array_equal(read_pair(pair_of(pred, truth), grid_tolerance=0.5).pred, labels())
    with pytest.raises(UserError, match="BAD_VALUE --grid_tolerance"):
        read_pair(pair_of(pred, truth), grid_tolerance=-1)


def test_spacing_alone_is_enough_when_both_agree(tmp_path: Path) -> None:
    for name in ("p.nii", "t.nii"):
        image = nib.Nifti1Image(labels(), SPACING_ONLY)
        image.set_sform(None, 0)
        image.set_qform(None, 0)
        image.header.set_zooms((0.8, 0.7, 2.5))
        nib.save(image, tmp_path / name)
    loaded = read_pair(pair_of(tmp_path / "p.nii", tmp_path / "t.nii"))
    assert np.array_equal(loaded.affine, nib.load(tmp_path / "t.nii").affine)
    assert [warning.rsplit(" ", 1)[1] for warning in loaded.warnings] == ["(truth)", "(prediction)"]
    assert all(warning.startswith("GEOMETRY_AMBIGUOUS: ") for warning in loaded.warnings)
    oblique = volume(tmp_path / "o.nii", labels())
    assert reading(tmp_path / "p.nii", oblique).code == "PAIR_GEOMETRY"


@pytest.mark.parametrize("kind", ["auto", "probability"])
def test_missing_volume_is_empty_on_the_grid_of_its_truth(tmp_path: Path, kind: str) -> None:
    loaded = read_pair(pair_of(None, volume(tmp_path / "t.nii.gz", labels())), kind)
    assert (loaded.kind, loaded.pred.shape, loaded.pred.any()) == ("missing", (5, 6, 7), False)
    assert loaded.pred.dtype == np.uint8
    assert np.array_equal(loaded.truth, labels())
    assert loaded.warnings == ["MISSING_PREDICTION: counted as an empty mask"]
    assert (loaded.prob is None) == (kind == "auto")


def test_damaged_prediction_is_named(tmp_path: Path) -> None:
    pred = volume(tmp_path / "p.nii.gz", labels())
    pred.write_bytes(pred.read_bytes()[:-20])
    error = reading(pred, volume(tmp_path / "t.nii.gz", labels()))
    assert (error.code, error.subject) == ("TRUNCATED", str(pred))


# images


def test_png_prediction_is_compared_with_a_jpeg_truth(tmp_path: Path) -> None:
    write_picture_mask(tmp_path / "p.png", ~drawn())
    picture(tmp_path / "t.jpg", drawn() * np.uint8(255))
    loaded = read_pair(pair_of(tmp_path / "p.png", tmp_path / "t.jpg"))
    assert (loaded.kind, loaded.pred.dtype, loaded.truth.dtype) == ("mask", np.uint8, np.uint8)
    assert np.array_equal(loaded.truth, drawn())
    assert np.array_equal(loaded.pred, ~drawn())
    assert (loaded.prob, loaded.affine) == (None, None)
    assert [warning.partition(":")[0] for warning in loaded.warnings] == ["FOREGROUND"]
    assert loaded.warnings[0].endswith("(prediction)")


@pytest.mark.parametrize("bits", [8, 16])
def test_lossless_picture_of_many_levels_is_a_map(tmp_path: Path, bits: int) -> None:
    if bits == 16:
        write_grey(tmp_path / "p.png", soft())
    else:
        picture(tmp_path / "p.png", np.rint(soft() * 255).astype(np.uint8))
    write_picture_mask(tmp_path / "t.png", drawn())
    loaded = read_pair(pair_of(tmp_path / "p.png", tmp_path / "t.png"))
    assert (loaded.kind, loaded.prob.dtype) == ("probability", np.float32)
    assert np.abs(loaded.prob - soft()).max() <= 0.5 / (2**bits - 1) + 1e-6
    assert np.array_equal(loaded.pred, loaded.prob >= 0.5)
    write_grey(tmp_path / "p.png", np.where(drawn(), soft(), 0))
    forced = read_pair(pair_of(tmp_path / "p.png", tmp_path / "t.png"), "auto", 0.25)
    assert forced.pred.sum() == (forced.prob >= 0.25).sum()


def test_jpeg_prediction_is_a_mask_unless_forced(tmp_path: Path) -> None:
    pred = picture(tmp_path / "p.jpg", drawn() * np.uint8(255))
    write_picture_mask(tmp_path / "t.png", drawn())
    pair = pair_of(pred, tmp_path / "t.png")
    assert len(np.unique(np.asarray(Image.open(pred)))) > 8
    assert read_pair(pair).kind == "mask"
    assert np.array_equal(read_pair(pair).pred, drawn())
    assert read_pair(pair, "probability").prob.max() == 1


def test_map_forced_to_be_a_mask_is_refused_for_its_grey(tmp_path: Path) -> None:
    write_grey(tmp_path / "p.png", soft())
    write_picture_mask(tmp_path / "t.png", drawn())
    error = reading(tmp_path / "p.png", tmp_path / "t.png", "mask")
    assert (error.code, error.subject) == ("LABEL_SET", str(tmp_path / "p.png"))


@pytest.mark.parametrize("levels", [[0, 1, 2], [0, 128, 255], [0, 85, 170, 255]])
def test_labels_of_several_classes_are_not_guessed_at(tmp_path: Path, levels: list[int]) -> None:
    array = np.random.default_rng(0).choice(levels, drawn().shape).astype(np.uint8)
    write_picture_mask(tmp_path / "t.png", drawn())
    pred = picture(tmp_path / "p.png", array)
    error = reading(pred, tmp_path / "t.png")
    assert (error.code, str(levels)[1:-1] in error.found) == ("LABEL_SET", True)
    assert reading(pred, tmp_path / "t.png", "mask").code == "LABEL_SET"
    assert reading(tmp_path / "t.png", pred).code == "LABEL_SET"  # nor in a ground truth
    assert read_pair(pair_of(pred, tmp_path / "t.png"), "probability").kind == "probability"


def test_other_shape_of_a_picture_names_both(tmp_path: Path) -> None:
    write_picture_mask(tmp_path / "p.png", drawn((40, 30)))
    write_picture_mask(tmp_path / "t.png", drawn())
    error = reading(tmp_path / "p.png", tmp_path / "t.png")
    assert (error.code, error.found) == ("PAIR_GEOMETRY", "shape (40, 30)")
    assert error.wanted.endswith("shape (30, 40)")
    assert "nothing is resized" in error.remedy


def test_missing_picture_is_empty(tmp_path: Path) -> None:
    write_picture_mask(tmp_path / "t.png", drawn())
    loaded = read_pair(pair_of(None, tmp_path / "t.png"))
    assert (loaded.kind, loaded.pred.shape, loaded.pred.sum()) == ("missing", (30, 40), 0)


# the kind of a folder


def test_one_map_makes_a_folder_of_maps(tmp_path: Path) -> None:
    write_picture_mask(tmp_path / "a.png", drawn())
    write_grey(tmp_path / "b.png", np.zeros(drawn().shape))  # nothing found: two levels at most
    write_grey(tmp_path / "c.png", soft())
    pairs = [pair_of(tmp_path / name, tmp_path / "a.png") for name in ("a.png", "b.png", "c.png")]
    assert prediction_kind(pairs) == "probability"
    assert prediction_kind([*pairs[:2], pair_of(None, tmp_path / "a.png")]) == "mask"
    assert read_pair(pairs[1], prediction_kind(pairs)).prob.max() == 0


def test_coarse_map_is_settled_by_a_finer_one(tmp_path: Path) -> None:
    picture(tmp_path / "coarse.png", np.array([[0, 3, 9]], np.uint8))
    write_grey(tmp_path / "fine.png", soft())
    pairs = [pair_of(tmp_path / name, tmp_path / name) for name in ("coarse.png", "fine.png")]
    assert prediction_kind(pairs) == "probability"
    with pytest.raises(UserError, match="3 levels, 0, 3, 9"):
        prediction_kind(pairs[:1])


def test_one_fractional_volume_makes_a_folder_of_maps(tmp_path: Path) -> None:
    whole = volume(tmp_path / "a.nii.gz", np.zeros((5, 6, 7), np.float32))
    integer = volume(tmp_path / "b.nii.gz", labels())
    fraction = volume(tmp_path / "c.nii.gz", np.full((5, 6, 7), 0.5, np.float32))
    assert prediction_kind([pair_of(whole, whole), pair_of(integer, whole)]) == "mask"
    assert prediction_kind([pair_of(whole, whole), pair_of(fraction, whole)]) == "probability"


def test_voxels_of_integer_volumes_are_not_read_for_the_kind(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.nii.gz", labels())
    path.write_bytes(path.read_bytes()[:-20])
    assert prediction_kind([pair_of(path, path)]) == "mask"


# real masks


def dice(pred: np.ndarray, truth: np.ndarray) -> float:
    return 2 * np.count_nonzero(pred & truth) / (np.count_nonzero(pred) + np.count_nonzero(truth))


def check_published(pred_dir: Path, truth_dir: Path, step: int) -> None:
    pairs = paired_masks(pred_dir, truth_dir)
    assert len(pairs) == 21
    assert prediction_kind(pairs) == "mask"
    for pair in pairs[::step]:
        loaded = read_pair(pair)
        judge = {name: np.asarray(nib.load(path).dataobj) for name, path in (("p", pair.pred), ("t", pair.truth))}
        assert np.array_equal(loaded.pred, judge["p"]), pair.case
        assert np.array_equal(loaded.truth, judge["t"]), pair.case
        assert loaded.warnings == []
        assert 0.3 < dice(loaded.pred, loaded.truth) < 1, pair.case


def test_a_published_prediction_pairs_and_reads(real_data: Path) -> None:
    check_published(real_data / "pancreas-masks" / "pred_CE", real_data / "pancreas-masks" / "gt", step=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pred_CE", "pred_DiceCE"])
def test_all_published_predictions_pair_and_read(real_data: Path, name: str) -> None:
    check_published(real_data / "pancreas-masks" / name, real_data / "pancreas-masks" / "gt", step=1)


@pytest.mark.parametrize("name", ["kvasir-seg", "cvc-clinicdb", "nih-pancreas-2d"])
def test_masks_of_a_real_folder_pair_with_png_copies(real_data: Path, tmp_path: Path, name: str) -> None:
    truths = sorted((real_data / name / "masks").iterdir())[::110]
    for truth in truths:
        (tmp_path / "truth").mkdir(exist_ok=True)
        (tmp_path / "truth" / truth.name).symlink_to(truth)
        levels = np.asarray(Image.open(truth).convert("L"))
        write_picture_mask(tmp_path / "pred" / f"{truth.stem}_pred.png", levels > 127)
    pairs = paired_masks(tmp_path / "pred", tmp_path / "truth", real_data / name / "images")
    assert [pair.case for pair in pairs] == [truth.stem for truth in truths] != []
    assert [pair.image.stem for pair in pairs] == [pair.case for pair in pairs]
    loaded = list(map(read_pair, pairs))
    assert {each.kind for each in loaded} == {"mask"}
    assert all(np.array_equal(each.pred, each.truth) for each in loaded)
