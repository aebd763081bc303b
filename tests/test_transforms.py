from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import (
    BorderPadd,
    Compose,
    CropForegroundd,
    DivisiblePadd,
    Flipd,
    Invertd,
    Orientationd,
    Resize,
    Resized,
    Rotated,
    Spacingd,
    SpatialCropd,
    SpatialPadd,
)
from PIL import Image

from medseg3d.errors import UserError, find_user_error
from medseg3d.pictures.masks import read_grey
from medseg3d.pictures.overlays import draw_overlay
from medseg3d.transforms import (
    FitPictured,
    FitSlicesd,
    InvertToOriginald,
    LoadPictured,
    LoadVolumed,
    LogitsToLabelsd,
    ResampleVolumed,
    ResizePictured,
    SaveMaskd,
    SaveOverlayd,
    SavePictureMaskd,
    SaveProbabilityd,
    SlicesToChannelsd,
    axis_maps,
    check_patch_fill,
    restore_labels,
)
from medseg3d.volumes.reading import read_header

LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
SHAPE = (19, 23, 17)
AXES = ["".join(codes) for order in itertools.permutations(["LR", "PA", "IS"]) for codes in itertools.product(*order)]


def affine_of(codes: str, spacing: tuple[float, ...], angles: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    """Voxel axes towards `codes`, turned by `angles` (radians), with an origin somewhere."""
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(*angles), [30.0, -12.0, 400.0])
    axes = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (1, 1, 1))
    return turned @ axes @ np.diag([*spacing, 1])


AFFINES = {
    "ras": affine_of("RAS", (0.9, 0.9, 2.5)),
    "lps": affine_of("LPS", (0.9, 0.9, 2.5)),
    "permuted": affine_of("SLA", (2.5, 0.8, 1.1)),
    "oblique": affine_of("LPS", (0.9, 1.0, 2.0), (0.2, -0.15, 0.3)),
    "coarse": affine_of("PIR", (3.0, 2.0, 4.0), (0.05, 0, 0)),
    "same": affine_of("RAS", (1.5, 1.5, 2.0)),
}


def image_of(affine: np.ndarray, shape: tuple[int, ...] = SHAPE) -> MetaTensor:
    """An image as LoadVolumed leaves it, brighter towards its centre."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    values = torch.from_numpy(1 - np.abs(grid).max(0)).float()[None]
    meta = {"original_affine": torch.from_numpy(affine), "spatial_shape": torch.tensor(shape), "space": "RAS"}
    return MetaTensor(values, affine=torch.from_numpy(affine), meta=meta)


def chain(*more: object, pixdim: tuple[float, ...] = (1.5, 1.5, 2.0)) -> Compose:
    orient = Orientationd("image", axcodes="RAS", labels=LABELS)
    return Compose([orient, Spacingd("image", pixdim=pixdim, dtype=torch.float64), *more])


def smooth_logits(classes: int, shape: torch.Size, seed: int = 0) -> torch.Tensor:
    """Blobs of a few voxels, background towards the border."""
    noise = torch.randn(1, classes, 4, 4, 4, generator=torch.Generator().manual_seed(seed)) * 4
    logits = torch.nn.functional.interpolate(noise, tuple(shape), mode="trilinear", align_corners=True)[0]
    inner = torch.zeros(tuple(shape))
    inner[2:-2, 2:-2, 2:-2] = 1
    logits[0] += 20 * (1 - inner)
    return logits


def monais_way(item: dict, logits: torch.Tensor, preprocessing: Compose) -> tuple[np.ndarray, np.ndarray]:
    """Labels and class probabilities by softmax, Invertd and argmax."""
    probability = MetaTensor(logits.softmax(0), meta=dict(item["image"].meta))
    invert = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)
    inverted = invert({**item, "pred": probability})["pred"].numpy()
    return inverted.argmax(0), inverted


def covered(affine: np.ndarray, image: MetaTensor) -> np.ndarray:
    """Which voxels of the original grid lie between voxel centres of the resampled image."""
    matrix = np.linalg.inv(image.affine.numpy()) @ affine
    position = np.einsum("vw,w...->v...", matrix[:3, :3], np.indices(SHAPE)) + matrix[:3, 3, None, None, None]
    last = np.array(image.shape[1:])[:, None, None, None] - 1
    return ((position >= -1e-6) & (position <= last + 1e-6)).all(0)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize(
    "more",
    [
        (),
        (CropForegroundd("image", source_key="image", select_fn=lambda x: x > 0.3, margin=1, allow_smaller=True),),
        (Flipd("image", spatial_axis=1),),
        (BorderPadd("image", spatial_border=3), DivisiblePadd("image", k=8)),
    ],
    ids=["plain", "cropped", "flipped", "padded"],
)
@pytest.mark.parametrize("name", AFFINES)
def test_labels_are_those_of_monais_inverse(name: str, more: tuple, classes: int) -> None:
    preprocessing = chain(*more)
    item = preprocessing({"image": image_of(AFFINES[name])})
    logits = smooth_logits(classes, item["image"].shape[1:])
    restored = InvertToOriginald("pred")({**item, "pred": logits})["pred"]
    expected, inverted = monais_way(item, logits, preprocessing)
    assert restored.shape == (1, *SHAPE)
    assert restored.dtype == torch.uint8
    assert 0.01 < (expected > 0).mean() < 0.9
    first, second = np.sort(inverted, axis=0)[::-1][:2]
    # the border of a padded image is the network's own prediction here, and replicated by Invertd
    judged = covered(AFFINES[name], chain()({"image": image_of(AFFINES[name])})["image"]) | (len(more) < 2)
    decided = (first - second > 1e-5) | (first < 1e-5)  # Invertd leaves nothing where it was cropped away
    assert decided.mean() > 0.99
    judged &= decided
    assert judged.mean() > 0.8
    assert np.array_equal(restored[0].numpy()[judged], expected[judged])


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", AFFINES)
def test_probability_of_foreground_is_that_of_monais_inverse(name: str, classes: int) -> None:
    preprocessing = chain()
    item = preprocessing({"image": image_of(AFFINES[name])})
    logits = smooth_logits(classes, item["image"].shape[1:])
    restored = InvertToOriginald("pred", prob_key="prob")({**item, "pred": logits})["prob"]
    _, inverted = monais_way(item, logits, preprocessing)
    assert restored.dtype == torch.float32
    assert np.abs(restored[0].numpy() - inverted[1:].sum(0)).max() < 1e-5


@pytest.mark.parametrize("codes", AXES)
def test_half_space_of_the_world_is_restored_in_every_orientation(codes: str) -> None:
    affine = affine_of(codes, (0.9, 1.2, 2.5), (0.1, 0.2, -0.1))
    image = chain()({"image": image_of(affine)})["image"]
    normal, middle = np.array([0.6, -0.5, 0.62]), affine @ [9, 11, 8, 1]

    def distance(grid_affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        world = (
            np.einsum("wv,v...->w...", grid_affine[:3, :3], np.indices(shape)) + grid_affine[:3, 3, None, None, None]
        )
        return np.einsum("w,w...->...", normal, world - middle[:3, None, None, None])

    # linear in space, so that linear interpolation is exact
    probability = torch.from_numpy(0.5 + 0.01 * distance(image.affine.numpy(), image.shape[1:]))
    assert 0 < probability.min() < 0.4
    assert 0.6 < probability.max() < 1
    logits = torch.stack([torch.zeros_like(probability), torch.logit(probability)]).float()
    labels = InvertToOriginald("pred")({"image": image, "pred": logits})["pred"][0].numpy()
    expected = distance(affine, SHAPE)
    judged = covered(affine, image) & (np.abs(expected) > 1e-3)
    assert judged.mean() > 0.8
    assert np.array_equal(labels[judged], expected[judged] > 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_any_floating_type_are_taken(dtype: torch.dtype) -> None:
    image = chain()({"image": image_of(AFFINES["oblique"])})["image"]
    logits = smooth_logits(3, image.shape[1:]).to(dtype)
    of_float32 = InvertToOriginald("pred")({"image": image, "pred": logits.float()})["pred"]
    assert torch.equal(InvertToOriginald("pred")({"image": image, "pred": logits})["pred"], of_float32)


def test_one_channel_is_the_logit_of_a_sigmoid() -> None:
    image = chain()({"image": image_of(AFFINES["lps"])})["image"]
    two = smooth_logits(2, image.shape[1:])
    restore = InvertToOriginald("pred", prob_key="prob")
    expected = restore({"image": image, "pred": two})
    got = restore({"image": image, "pred": two[1:] - two[:1]})
    assert torch.equal(got["pred"], expected["pred"])
    assert torch.equal(got["prob"], expected["prob"])


@pytest.mark.parametrize("classes", [2, 3])
def test_equal_probabilities_are_background(classes: int) -> None:
    labels, _ = restore_labels(torch.zeros(classes, 4, 4, 4), np.eye(4), np.eye(4), (4, 4, 4))
    assert labels.sum() == 0


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_foreground_is_where_its_probability_reaches_the_threshold(channels: int, threshold: float) -> None:
    image = chain()({"image": image_of(AFFINES["oblique"])})["image"]
    logits = smooth_logits(channels, image.shape[1:])
    restored = InvertToOriginald("pred", prob_key="prob", threshold=threshold)({"image": image, "pred": logits})
    assert torch.equal(restored["pred"], (restored["prob"] >= threshold).to(torch.uint8))
    assert 0 < restored["pred"].sum() < restored["pred"].numel()


def test_a_threshold_of_one_half_is_the_argmax_whose_ties_are_background() -> None:
    item = {"image": (image := chain()({"image": image_of(AFFINES["oblique"])})["image"])}
    item["pred"] = smooth_logits(2, image.shape[1:])
    restored = InvertToOriginald("pred", prob_key="prob", threshold=0.5)(item)
    assert torch.equal(restored["pred"], (restored["prob"] > 0.5).to(torch.uint8))
    item["pred"] = torch.zeros_like(item["pred"])
    assert InvertToOriginald("pred", threshold=0.5)(item)["pred"].sum() == 0
    assert InvertToOriginald("pred", threshold=0.499)(item)["pred"].sum() > 0


def test_a_threshold_cannot_choose_among_three_classes() -> None:
    image = chain()({"image": image_of(AFFINES["oblique"])})["image"]
    item = {"image": image, "pred": smooth_logits(3, image.shape[1:])}
    assert InvertToOriginald("pred")(item)["pred"].max() == 2
    with pytest.raises(ValueError, match=r"threshold must be 0\.5 for 3 classes, found 0\.4"):
        InvertToOriginald("pred", threshold=0.4)(item)
    with pytest.raises(ValueError, match=r"threshold must be a probability from 0 to 1, found 1\.5"):
        InvertToOriginald("pred", threshold=1.5)


def test_logits_meta_tensor_and_tensor_are_alike() -> None:
    image = chain()({"image": image_of(AFFINES["lps"])})["image"]
    logits = smooth_logits(2, image.shape[1:])
    plain = InvertToOriginald("pred")({"image": image, "pred": logits})["pred"]
    meta = InvertToOriginald("pred")({"image": image, "pred": MetaTensor(logits, affine=torch.eye(4))})["pred"]
    assert torch.equal(plain, meta)


@pytest.mark.parametrize("voxels", [1, 700, 10**9])
def test_slabs_do_not_show(monkeypatch: pytest.MonkeyPatch, voxels: int) -> None:
    image = chain()({"image": image_of(AFFINES["permuted"])})["image"]
    item = {"image": image, "pred": smooth_logits(3, image.shape[1:])}
    expected = InvertToOriginald("pred", prob_key="prob")(item)
    monkeypatch.setattr(axis_maps, "_SLAB_VOXELS", voxels)
    got = InvertToOriginald("pred", prob_key="prob")(item)
    assert torch.equal(got["pred"], expected["pred"])
    assert torch.allclose(got["prob"], expected["prob"], rtol=1e-5, atol=0)


def scan_of(affine: np.ndarray, dtype: torch.dtype) -> MetaTensor:
    """A CT without any smoothness, from air to bone, in the order in which NIfTI files lie in memory."""
    values = np.random.default_rng(0).integers(-1024, 3000, SHAPE[::-1], dtype=np.int16).T
    return MetaTensor(torch.from_numpy(values)[None].to(dtype), meta=image_of(affine).meta)


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
@pytest.mark.parametrize("pixdim", [(1.5, 1.5, 2.0), (-1, -1, 3.0), (0.7, 2.0, 5.0)])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_resampled_volume_is_monais_in_float64(affine: np.ndarray, pixdim: tuple, dtype: torch.dtype) -> None:
    scan = scan_of(affine, dtype)
    expected = chain(pixdim=pixdim)({"image": scan})["image"]
    got = ResampleVolumed("image", pixdim)({"image": scan})["image"]
    assert got.dtype == torch.float32
    assert got.shape == expected.shape
    assert torch.allclose(got.affine, expected.affine, rtol=0, atol=1e-12)
    assert torch.allclose(got.as_tensor(), expected.as_tensor(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("voxels", [1, 700])
def test_the_slabs_of_a_resampling_do_not_show(monkeypatch: pytest.MonkeyPatch, voxels: int) -> None:
    item = {"image": scan_of(AFFINES["permuted"], torch.int16)}
    expected = ResampleVolumed("image", (1.5, 1.5, 2.0))(item)["image"]
    monkeypatch.setattr(axis_maps, "_SLAB_VOXELS", voxels)
    assert torch.equal(ResampleVolumed("image", (1.5, 1.5, 2.0))(item)["image"], expected)


def test_a_volume_that_lies_on_the_grid_already_is_not_interpolated() -> None:
    scan = scan_of(AFFINES["same"], torch.int16)
    got = ResampleVolumed("image", (1.5, 1.5, 2.0))({"image": scan})["image"]
    assert torch.equal(got.as_tensor(), scan.as_tensor().float())


def test_labels_come_back_to_the_grid_that_a_resampled_volume_came_from() -> None:
    scan = scan_of(AFFINES["oblique"], torch.int16)
    image = ResampleVolumed("image", (1.5, 1.5, 2.0))({"image": scan})["image"]
    pred = InvertToOriginald("pred")({"image": image, "pred": smooth_logits(2, image.shape[1:])})["pred"]
    assert pred.shape == scan.shape
    assert torch.equal(pred.affine, scan.affine)


def test_voxels_cropped_away_are_background() -> None:
    image = SpatialCropd("image", roi_start=(3, 0, 0), roi_end=(9, 23, 17))({"image": image_of(np.eye(4))})["image"]
    logits = torch.stack([torch.zeros(image.shape[1:]), torch.full(image.shape[1:], 5.0)])
    item = InvertToOriginald("pred", prob_key="prob")({"image": image, "pred": logits})
    assert item["pred"][0, :, 4, 4].tolist() == [0] * 3 + [1] * 6 + [0] * 10
    assert (item["prob"][0, :, 4, 4] > 0).tolist() == [False] * 3 + [True] * 6 + [False] * 10


def test_grid_rounded_to_whole_voxels_still_covers_its_border() -> None:
    # 19 voxels of 1 mm, 18 mm between the first and the last: 13 voxels of 1.45 mm cover 17.4 mm
    image = chain(pixdim=(1.45, 1, 1))({"image": image_of(np.eye(4))})["image"]
    assert image.shape[1] == 13
    logits = torch.stack([torch.zeros(image.shape[1:]), torch.full(image.shape[1:], 5.0)])
    assert InvertToOriginald("pred")({"image": image, "pred": logits})["pred"].min() == 1


def test_volume_wholly_outside_the_image_is_background() -> None:
    far = np.eye(4)
    far[0, 3] = 100
    labels, probability = restore_labels(torch.ones(2, 4, 4, 4), far, np.eye(4), (4, 4, 4), with_probability=True)
    assert labels.sum() == 0
    assert probability is not None
    assert probability.sum() == 0


def test_result_lies_on_the_original_grid_and_remembers_it() -> None:
    image = chain()({"image": image_of(AFFINES["oblique"])})["image"]
    item = {"image": image, "pred": smooth_logits(2, image.shape[1:])}
    restored = InvertToOriginald("pred", prob_key="prob")(item)
    affines = np.stack([restored[key].affine.numpy() for key in ("pred", "prob")])
    assert np.array_equal(affines, [AFFINES["oblique"]] * 2)
    assert [restored[key].meta["space"] for key in ("pred", "prob")] == ["RAS", "RAS"]
    assert restored["image"] is image
    assert item["pred"].ndim == 4
    assert not np.array_equal(image.affine.numpy(), AFFINES["oblique"])


@pytest.mark.parametrize("more", [(Rotated("image", angle=(0, 0, 0.2)),), (Spacingd("image", 1.5, diagonal=True),)])
def test_oblique_axes_are_refused(more: tuple) -> None:
    image = Compose(more)({"image": image_of(AFFINES["oblique"])})["image"]
    with pytest.raises(ValueError, match=r"parallel axes.*without a rotation"):
        InvertToOriginald("pred")({"image": image, "pred": torch.zeros(2, *image.shape[1:])})


@pytest.mark.parametrize(
    ("image", "logits", "words"),
    [
        (
            image_of(np.eye(4)),
            torch.zeros(2, 19, 23, 16),
            r"spatial shape \(19, 23, 17\) of image, found \(19, 23, 16\)",
        ),
        (image_of(np.eye(4)), torch.zeros(1, 2, 19, 23, 17), "spatial shape"),
        (torch.zeros(1, 19, 23, 17), torch.zeros(2, 19, 23, 17), "MetaTensor that remembers original_affine"),
        (MetaTensor(torch.zeros(1, 4, 4, 4)), torch.zeros(2, 4, 4, 4), "remembers original_affine"),
    ],
)
def test_what_does_not_fit_together_is_refused(image: torch.Tensor, logits: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        InvertToOriginald("pred")({"image": image, "pred": logits})


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINES["oblique"]) -> Path:
    volume = nib.Nifti1Image(array, affine)
    volume.set_qform(affine, 2)
    nib.save(volume, path)
    return path


def case(tmp_path: Path, label: float = 1, affine: np.ndarray = AFFINES["oblique"], dtype: type = np.uint8) -> dict:
    """A CT of the values -1000 to 1000 and a label of a block."""
    values = np.linspace(-1000, 1000, np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)
    labels = np.zeros(SHAPE, dtype)
    labels[5:9, 6:12, 4:9] = label
    return {"image": write(tmp_path / "ct.nii.gz", values), "label": write(tmp_path / "seg.nii.gz", labels, affine)}


@pytest.mark.parametrize(("key", "dtype"), [("image", torch.float32), ("label", torch.uint8)])
def test_loaded_volumes_are_channel_first_in_the_types_of_training(
    tmp_path: Path, key: str, dtype: torch.dtype
) -> None:
    paths = case(tmp_path, dtype=np.float32)
    loaded = LoadVolumed(["image", "label"], labels=(0, 1))(paths)[key]
    assert (loaded.dtype, loaded.shape) == (dtype, (1, *SHAPE))
    assert np.array_equal(loaded[0].numpy(), nib.load(paths[key]).get_fdata())
    assert np.array_equal(loaded.affine.numpy(), nib.load(paths[key]).affine)
    assert isinstance(loaded.meta["spatial_shape"], np.ndarray)  # of a tensor, MONAI Label's Restored takes none
    assert loaded.meta["spatial_shape"].tolist() == list(SHAPE)
    assert loaded.meta["filename_or_obj"] == str(paths[key])


@pytest.mark.parametrize(
    ("stored", "slope", "loaded"),
    [(np.int16, 1, torch.int16), (np.int16, 2, torch.float32), (np.uint16, 1, torch.float32)],
)
def test_integers_are_kept_where_torch_has_them_and_nothing_scales(
    tmp_path: Path, stored: type, slope: int, loaded: torch.dtype
) -> None:
    image = nib.Nifti1Image(np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(stored), AFFINES["ras"])
    image.header.set_slope_inter(slope, 0)
    nib.save(image, tmp_path / "ct.nii.gz")
    volume = LoadVolumed("image", keep_integers=True)({"image": tmp_path / "ct.nii.gz"})["image"]
    assert volume.dtype == loaded
    assert np.array_equal(volume[0].float().numpy(), nib.load(tmp_path / "ct.nii.gz").get_fdata())


def test_loaded_volumes_go_through_a_loader_and_back(tmp_path: Path) -> None:
    paths = case(tmp_path)
    steps = Compose([LoadVolumed(["image", "label"]), Orientationd(["image", "label"], axcodes="RAS", labels=LABELS)])
    batch = next(iter(DataLoader(Dataset([paths, paths], steps), batch_size=2)))
    assert batch["image"].shape[:2] == (2, 1)
    meta = decollate_batch(batch)[1]["image"].meta
    assert meta["geometry"] == read_header(paths["image"]).geometry
    assert np.array_equal(meta["original_affine"], nib.load(paths["image"]).affine)


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_orientation_ignores_what_the_space_entry_says(tmp_path: Path, space: str) -> None:
    item = LoadVolumed("image")(case(tmp_path))
    item["image"].meta["space"] = space
    oriented = Orientationd("image", axcodes="RAS", labels=LABELS)(item)["image"]
    assert nib.aff2axcodes(oriented.affine.numpy()) == ("R", "A", "S")


def test_remarks_on_a_picture_travel_to_its_mask(tmp_path: Path) -> None:
    Image.new("RGBA", (30, 20), (200, 0, 0, 9)).save(tmp_path / "a.png")
    item = LoadPictured("image")({"image": tmp_path / "a.png"})
    item["pred"] = torch.zeros(1, 20, 30)
    assert InvertToOriginald("pred")(item)["pred"].meta["warnings"].startswith("TRANSPARENCY")


def test_warnings_travel_with_the_image(tmp_path: Path) -> None:
    path = write(tmp_path / "windowed.nii", np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint16))
    assert LoadVolumed("image")({"image": path})["image"].meta["warnings"].startswith("HU_RANGE")
    assert LoadVolumed("image", check_hu=False)({"image": path})["image"].meta["warnings"] == ""
    # a label is no CT
    assert LoadVolumed("label")({"label": case(tmp_path)["label"]})["label"].meta["warnings"] == ""


def test_label_off_its_image_is_refused(tmp_path: Path) -> None:
    flipped = AFFINES["oblique"] @ np.diag([-1, 1, 1, 1])
    with pytest.raises(UserError, match=r"PAIR_GEOMETRY .*seg\.nii\.gz"):
        LoadVolumed(["image", "label"])(case(tmp_path, affine=flipped))


def test_label_gets_the_affine_of_its_image_to_the_last_bit(tmp_path: Path) -> None:
    nearly = AFFINES["oblique"].copy()
    nearly[0, 3] += 0.004
    item = LoadVolumed(["image", "label"])(case(tmp_path, affine=nearly))
    assert torch.equal(item["image"].affine, item["label"].affine)


@pytest.mark.parametrize(("label", "dtype"), [(2, np.uint8), (0.5, np.float32), (-1, np.int16)])
def test_label_outside_its_set_is_refused_through_compose(tmp_path: Path, label: float, dtype: type) -> None:
    with pytest.raises(RuntimeError) as caught:
        Compose([LoadVolumed(["image", "label"], labels=[0, 1])])(case(tmp_path, label, dtype=dtype))
    error = find_user_error(caught.value)
    assert error is not None
    assert error.code == "LABEL_SET"
    assert error.subject.endswith("seg.nii.gz")


def test_missing_keys_are_passed_over_when_allowed(tmp_path: Path) -> None:
    paths = {"image": case(tmp_path)["image"]}
    assert set(LoadVolumed(["image", "label"], allow_missing_keys=True)(paths)) == {"image"}
    with pytest.raises(KeyError, match="label"):
        LoadVolumed(["image", "label"])(paths)


def test_mask_on_disk_is_the_restored_label_on_the_grid_of_the_file(tmp_path: Path) -> None:
    paths = case(tmp_path)
    item = Compose([LoadVolumed("image"), chain()])({**paths, "mask_file": tmp_path / "out" / "ct_seg.nii.gz"})
    item["pred"] = smooth_logits(3, item["image"].shape[1:])
    saved = Compose([InvertToOriginald("pred"), SaveMaskd("pred")])(item)
    mask, source = nib.load(tmp_path / "out" / "ct_seg.nii.gz"), nib.load(paths["image"])
    assert np.array_equal(np.asarray(mask.dataobj), saved["pred"][0].numpy())
    assert mask.get_data_dtype() == np.uint8
    fields = ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "pixdim")
    assert [name for name in fields if not np.array_equal(mask.header[name], source.header[name])] == []
    assert len(saved["pred"].meta["mask_sha256"]) == 64


@pytest.mark.parametrize(("shape", "name"), [(SHAPE, "prob.nii.gz"), (SHAPE[:2], "prob.png")])
def test_probabilities_on_disk_are_the_restored_ones_of_volume_and_picture(
    tmp_path: Path, shape: tuple[int, ...], name: str
) -> None:
    prob = MetaTensor(torch.rand(1, *shape), affine=torch.from_numpy(AFFINES["lps"]))
    item = SaveProbabilityd("prob")({"prob": prob, "prob_file": tmp_path / name})
    assert len(item["prob"].meta["prob_sha256"]) == 64
    if name.endswith("png"):
        found = read_grey(tmp_path / name)
    else:
        found = nib.load(tmp_path / name).get_fdata()
        assert np.allclose(nib.load(tmp_path / name).affine, AFFINES["lps"])
    assert np.abs(found - np.asarray(prob)[0]).max() <= 0.5 / 65535 + 1e-7


def test_probabilities_that_are_not_there_are_not_written() -> None:
    assert SaveProbabilityd("prob", allow_missing_keys=True)({"pred": SHAPE}) == {"pred": SHAPE}


def test_mask_of_no_nifti_source_is_saved_by_its_affine(tmp_path: Path) -> None:
    labels = MetaTensor(torch.ones(1, *SHAPE, dtype=torch.uint8), affine=torch.from_numpy(AFFINES["oblique"]))
    SaveMaskd("pred")({"pred": labels, "mask_file": tmp_path / "mask.nii.gz"})
    assert np.allclose(nib.load(tmp_path / "mask.nii.gz").affine, AFFINES["oblique"], atol=1e-4)


def test_mask_needs_an_affine_and_one_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MetaTensor that knows its affine"):
        SaveMaskd("pred")({"pred": torch.ones(1, *SHAPE, dtype=torch.uint8), "mask_file": tmp_path / "mask.nii.gz"})
    with pytest.raises(ValueError, match="one map for one mask_file"):
        SaveMaskd(["pred", "other"])


def picture_case(folder: Path, height: int = 60, width: int = 90, mask_size: tuple[int, int] | None = None) -> dict:
    """An image of noise and a mask of levels 0 and 255 with a rectangle, on disk."""
    rng = np.random.default_rng(0)
    mask = np.zeros(mask_size or (height, width), np.uint8)
    mask[5:20, 30:40] = 255
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / "image.png")
    Image.fromarray(mask).save(folder / "mask.png")
    return {"image": str(folder / "image.png"), "label": str(folder / "mask.png"), "mask_file": folder / "pred.png"}


def test_a_picture_and_its_mask_are_channel_first_in_the_grid_of_the_file(tmp_path: Path) -> None:
    paths = picture_case(tmp_path)
    item = LoadPictured(["image", "label"])(paths)
    stored = np.asarray(Image.open(paths["image"]))
    assert (item["image"].dtype, item["label"].dtype) == (torch.float32, torch.uint8)
    assert np.array_equal(np.rint(item["image"].numpy() * 255), np.moveaxis(stored, -1, 0))
    assert item["label"].shape == (1, 60, 90)
    assert item["label"][0, 5:20, 30:40].all()
    assert item["label"].sum() == 15 * 10
    assert item["image"].meta["filename_or_obj"] == paths["image"]


def test_a_mask_on_another_grid_than_its_picture_is_refused(tmp_path: Path) -> None:
    paths = picture_case(tmp_path, mask_size=(90, 60))
    with pytest.raises(RuntimeError) as raised:
        Compose(LoadPictured(["image", "label"]))(paths)
    error = find_user_error(raised.value)
    assert error is not None
    assert str(error).startswith(f"PAIR_GEOMETRY {paths['label']}: 90 rows of 60 pixels, expected 60 rows of 90")


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("size", [24, 120], ids=["from smaller", "from larger"])
def test_labels_of_a_picture_are_those_of_monais_inverse(tmp_path: Path, classes: int, size: int) -> None:
    chain = Compose(
        [
            LoadPictured("image"),
            Resized("image", size, size_mode="longest", mode="bilinear", anti_aliasing=True),
            SpatialPadd("image", (size, size)),
        ]
    )
    item = chain(picture_case(tmp_path))
    logits = torch.nn.functional.interpolate(
        torch.randn(1, classes, 6, 6, generator=torch.Generator().manual_seed(1)), (size, size), mode="bicubic"
    )[0]
    got = InvertToOriginald("pred", prob_key="prob")({**item, "pred": logits})
    probability = logits.sigmoid() if classes == 1 else logits.softmax(0)
    inverse = Invertd("pred", chain, orig_keys="image", nearest_interp=False)
    expected = inverse({**item, "pred": MetaTensor(probability, meta=item["image"].meta)})["pred"].as_tensor()
    wanted = expected > 0.5 if classes == 1 else expected.argmax(0, keepdim=True)
    # where the padding began, the network's word there is kept and the inverse drops it
    inner = (slice(None), slice(6, -6))
    assert got["pred"].shape == got["prob"].shape == (1, 60, 90)
    assert (got["pred"][inner] != wanted[inner]).float().mean() < 1e-3
    foreground = expected if classes == 1 else expected[1:].sum(0, keepdim=True)
    assert torch.allclose(got["prob"].as_tensor()[inner], foreground[inner], atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((529, 622), (128, 128)),
        ((288, 384), (352, 352)),
        ((100, 40), (32, 96)),
        ((40, 60), (40, 60)),
        ((7, 1), (3, 2)),
        ((1080, 9), (352, 11)),
    ],
    ids=str,
)
def test_a_resized_picture_and_its_mask_are_monais(shape: tuple[int, int], size: tuple[int, int]) -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    picture = MetaTensor(torch.rand(3, *shape), affine=affine, meta={"filename_or_obj": "a.png"})
    expected = Resize(size, mode="bilinear", anti_aliasing=True)(picture)
    with torch.inference_mode():  # what it keeps must serve the next one
        first = ResizePictured("image", size)({"image": picture})["image"].as_tensor().clone()
    with torch.no_grad():
        got = ResizePictured("image", size)({"image": picture})["image"]
    assert torch.equal(got.as_tensor(), first)
    assert (got.shape, got.dtype, got.meta["filename_or_obj"]) == (expected.shape, torch.float32, "a.png")
    assert (got - expected).abs().max() < 1e-6
    assert torch.allclose(got.affine, expected.affine, atol=1e-12)
    assert torch.equal(picture.affine, affine)
    mask = MetaTensor((picture[:1] > 0.5).to(torch.uint8), affine=affine)
    expected = Resize(size, mode="nearest-exact")(mask)
    got = ResizePictured(["image", "label"], size)({"image": picture, "label": mask})["label"]
    assert torch.equal(got.as_tensor(), expected.as_tensor())
    assert torch.allclose(got.affine, expected.affine, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "fitted"), [((40, 60), (32, 48)), ((60, 40), (32, 21)), ((10, 60), (11, 64)), ((16, 32), (32, 64))]
)
def test_a_fitted_picture_keeps_its_proportion_and_finds_its_way_back(
    shape: tuple[int, int], fitted: tuple[int, int]
) -> None:
    mask = torch.zeros(1, *shape, dtype=torch.uint8)
    mask[:, : shape[0] // 2] = 1
    meta = {"original_affine": torch.eye(4), "spatial_shape": torch.tensor(shape)}
    item = {key: MetaTensor(mask.clone(), affine=torch.eye(4), meta=dict(meta)) for key in ("image", "label")}
    item["image"] = item["image"].float()
    small = FitPictured(["image", "label"], (32, 64))(item)
    assert small["image"].shape[1:] == small["label"].shape[1:] == fitted
    assert set(np.unique(small["label"])) == {0, 1}
    small["pred"] = 20 * (small["label"].as_tensor().float() - 0.5)
    restored = InvertToOriginald("pred")(small)["pred"]
    assert restored.shape == mask.shape
    assert (restored.as_tensor() != mask).sum() <= 2 * shape[1]  # at most the two rows beside the edge


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (48, 48)], ids=str)
def test_slices_are_fitted_as_pictures_are(shape: tuple[int, int]) -> None:
    volume = MetaTensor(torch.rand(1, *shape, 3), affine=torch.diag(torch.tensor([7.0, 7.0, 2.0, 1.0])))
    fitted = FitSlicesd("image", 32, (200, 500))({"image": volume})["image"]
    pictures = [MetaTensor(volume[..., z].as_tensor(), affine=torch.eye(4, dtype=torch.float64)) for z in range(3)]
    expected = [FitPictured("image", (32, 32))({"image": picture})["image"] for picture in pictures]
    assert (fitted.as_tensor() - torch.stack([each.as_tensor() for each in expected], -1)).abs().max() < 1e-6
    steps = torch.stack([each.affine.diag()[:2] for each in expected]) * 7
    assert torch.allclose(fitted.affine.diag()[:2].expand(3, 2), steps)
    assert fitted.affine[2, 2] == 2


@pytest.mark.parametrize(
    ("pixels", "pixel_mm", "fitted"),
    [
        ((100, 100), (4.0, 4.0), (50, 50)),  # 400 mm: the whole image
        ((100, 50), (4.0, 4.0), (50, 25)),
        ((100, 100), (4.0, 2.0), (50, 25)),  # pixels that are no squares become such
        ((100, 100), (3.0, 3.0), (50, 50)),  # 300 mm, the shortest
        ((100, 80), (1.5, 1.5), (25, 20)),  # 150 mm: half of 300 mm, and half as many pixels
        ((100, 100), (10.0, 10.0), (100, 100)),  # 1000 mm: twice 500 mm
    ],
)
def test_a_field_of_view_unlike_the_trainings_keeps_the_size_of_a_pixel(
    pixels: tuple[int, int], pixel_mm: tuple[float, float], fitted: tuple[int, int]
) -> None:
    affine = torch.diag(torch.tensor([*pixel_mm, 5.0, 1.0], dtype=torch.float64))
    volume = MetaTensor(torch.zeros(1, *pixels, 2), affine=affine)
    got = FitSlicesd("image", 50, (300, 500))({"image": volume})["image"]
    assert got.shape == (1, *fitted, 2)
    # the corners of the image stay where they were
    steps, origin = got.affine.numpy().diagonal()[:2], got.affine.numpy()[:2, 3]
    assert steps * fitted == pytest.approx(np.multiply(pixel_mm, pixels))
    assert origin - steps / 2 == pytest.approx(-np.array(pixel_mm) / 2)


@pytest.mark.parametrize("bounds", [(0, 500), (500, 300)])
def test_bounds_of_the_field_of_view_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="BAD_VALUE --field_of_view_mm"):
        FitSlicesd("image", 192, bounds)


def test_a_mask_of_a_picture_is_written_as_it_is(tmp_path: Path) -> None:
    item = LoadPictured(["image", "label"])(picture_case(tmp_path))
    saved = SavePictureMaskd("pred")({**item, "pred": item["label"]})
    written = np.asarray(Image.open(item["mask_file"]))
    assert np.array_equal(written, item["label"].numpy()[0] * 255)
    assert saved["pred"].meta["mask_sha256"]
    with pytest.raises(ValueError, match="0 and 1"):
        SavePictureMaskd("pred")({**item, "pred": item["label"] * 2})


def test_an_overlay_is_drawn_on_the_stored_picture_where_one_is_wanted(tmp_path: Path) -> None:
    paths, file = picture_case(tmp_path), tmp_path / "a_overlay.png"
    item = Compose([LoadPictured("image"), ResizePictured("image", (32, 32))])(paths)
    item = InvertToOriginald("pred")({**item, "pred": 20 * (torch.rand(1, 32, 32) - 0.5)})
    SaveOverlayd("pred")(item)
    assert not file.exists()
    saved = SaveOverlayd("pred")({**item, "overlay_file": str(file)})
    expected = draw_overlay(np.asarray(Image.open(paths["image"])), item["pred"].numpy()[0] > 0)
    assert np.array_equal(np.asarray(Image.open(file)), expected)
    assert saved["pred"].meta["overlay_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_logits_and_grid_must_have_as_many_axes() -> None:
    with pytest.raises(ValueError, match=r"found shape \(2, 4, 4\) and 3"):
        restore_labels(torch.zeros(2, 4, 4), np.eye(4), np.eye(4), (4, 4, 1))


def test_a_slab_becomes_channels_and_its_middle_slice_the_truth() -> None:
    slab = torch.arange(2 * 4 * 5).reshape(1, 2, 4, 5)
    item = SlicesToChannelsd(["image", "label"])({"image": MetaTensor(slab), "label": slab})
    assert item["image"].shape == (5, 2, 4)
    assert [item["image"][k].tolist() for k in (0, 4)] == [slab[0, ..., k].tolist() for k in (0, 4)]
    assert item["label"].tolist() == slab[..., 2].tolist()
    assert type(item["image"]) is torch.Tensor


@pytest.mark.parametrize("shape", [(1, 4, 4, 2), (3, 4, 4, 3), (1, 4, 4)])
def test_a_slab_without_a_middle_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="odd D"):
        SlicesToChannelsd("image")({"image": torch.zeros(shape)})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_mask_comes_of_logits_that_are_not_finite(bad: float, channels: int, dtype: torch.dtype) -> None:
    image = image_of(AFFINES["oblique"])
    image.meta["filename_or_obj"] = "scans/ct.nii.gz"
    logits = torch.zeros(channels, *SHAPE, dtype=dtype)
    logits[0, 3, 4, 5] = logits[-1, 6, 7, 8] = bad
    words = (
        rf"NON_FINITE scans/ct\.nii\.gz: 2 of {logits.numel()} logits .*. Hint: use --precision float32; .*model\.pt"
    )
    for transform in (InvertToOriginald("pred"), LogitsToLabelsd("pred")):
        with pytest.raises(UserError, match=words):
            transform({"image": image, "pred": logits})


def test_a_validation_has_the_error_beside_labels_of_background() -> None:
    item = {"case": "b", "pred": torch.tensor([[1.0, float("nan"), 1.0]])}
    got = LogitsToLabelsd("pred", error_key="error")(item)
    assert got["pred"].tolist() == [[0, 0, 0]]
    assert str(got["error"]).startswith("NON_FINITE b: 1 of 3 logits")
    assert "error" not in LogitsToLabelsd("pred", error_key="error")({"pred": torch.ones(1, 3)})


@pytest.mark.parametrize(("size", "refused"), [(240, False), (239, True)])
def test_a_volume_must_fill_a_quarter_of_the_patch(size, refused):
    if refused:
        with pytest.raises(UserError, match=f"PATCH_SIZE ct.nii.gz: 960x960x{size} voxels"):
            check_patch_fill((960, 960, size), (960, 960, 960), "ct.nii.gz")
    else:
        check_patch_fill((960, 960, size), (960, 960, 960), "ct.nii.gz")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_finite_logits_on_their_way_to_overflow_give_no_mask(channels: int) -> None:
    logits = torch.zeros(channels, 2, 2, 2)
    logits[-1, 0, 0, 0], logits[0, 1, 1, 1] = 3e38, -3e38
    assert torch.isfinite(logits).all()
    with pytest.raises(UserError, match=rf"NON_FINITE a: 2 of {logits.numel()} logits that are NaN, infinite or over"):
        LogitsToLabelsd("pred")({"pred": logits, "case": "a"})
    assert LogitsToLabelsd("pred")({"pred": logits.clamp(-1e6, 1e6), "case": "a"})["pred"].shape == (1, 2, 2, 2)
