from __future__ import annotations

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medseg3d.data.msd import read_msd
from medseg3d.errors import UserError
from medseg3d.phantoms.ct import ORIENTATIONS, Phantom, make_phantom, write_phantom_dataset
from medseg3d.volumes.geometry import check_pair
from medseg3d.volumes.label_maps import check_labels
from medseg3d.volumes.reading import read_volume

COARSE = (5, 5, 8)  # mm; 68 x 68 x 30 voxels, a tenth of a second
COARSEST = (8, 8, 9)


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    """Six phantoms, every second with a tumour."""
    return [make_phantom(seed, spacing_mm=(4, 4, 6), tumour=seed % 2 == 1) for seed in range(6)]


@pytest.fixture(params=range(6))
def phantom(phantoms, request) -> Phantom:
    return phantoms[request.param]


def best_threshold_dice(ct: np.ndarray, mask: np.ndarray) -> float:
    """Dice of the best interval of HU, chosen with the ground truth at hand: what no threshold can beat."""
    values = np.clip(ct, -200, 400) + 200
    everywhere = np.bincount(values.ravel(), minlength=601)
    inside = np.bincount(values[mask], minlength=601)
    best = 0.0
    for low in range(1, 600, 3):
        chosen, hit = np.cumsum(everywhere[low:600]), np.cumsum(inside[low:600])
        best = max(best, float((2 * hit / (chosen + mask.sum())).max()))
    return best


def centred_box(phantom: Phantom, half_mm: tuple[float, float, float]) -> np.ndarray:
    """Mask of a box around the middle of the volume; half sides along x, y, z of the body."""
    shape = np.array(phantom.ct.shape)
    index = np.indices(phantom.ct.shape).reshape(3, -1) - ((shape - 1) / 2)[:, None]
    offset = np.abs(phantom.affine[:3, :3] @ index)
    return (offset <= np.array(half_mm)[:, None]).all(axis=0).reshape(phantom.ct.shape)


def test_same_seed_same_voxels_and_another_seed_others():
    first, again, other = (make_phantom(seed, spacing_mm=COARSE) for seed in (3, 3, 4))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.ct, other.ct)


def test_voxels_are_hu_of_an_abdomen(phantom):
    ct, label, affine = phantom
    assert (ct.dtype, label.dtype) == (np.int16, np.uint8)
    assert -1024 <= ct.min() < -980  # air around the body
    assert 350 < ct.max() < 1500  # bone
    litres = np.abs(np.linalg.det(affine[:3, :3])) / 1e6
    soft = ((ct > 0) & (ct < 250)).sum() * litres
    fat = ((ct > -140) & (ct < -60)).sum() * litres
    assert 4 < soft < 10
    assert 1.5 < fat < 9


def test_pancreas_is_one_piece_of_plausible_size_and_density(phantom):
    ct, label, affine = phantom
    pieces, count = ndimage.label(label > 0, np.ones((3, 3, 3)))
    largest = np.bincount(pieces.ravel())[1:].max()
    assert largest / (label > 0).sum() > 0.93, count  # a vein may cut off a sliver
    millilitres = (label > 0).sum() * np.abs(np.linalg.det(affine[:3, :3])) / 1e3
    assert 35 < millilitres < 160
    assert 60 < np.median(ct[label == 1]) < 120


def test_tumour_is_there_when_asked_for_and_darker(phantoms):
    assert {tuple(np.unique(label)) for _, label, _ in phantoms[::2]} == {(0, 1)}
    assert {tuple(np.unique(label)) for _, label, _ in phantoms[1::2]} == {(0, 1, 2)}
    assert max(ct[label == 2].mean() - np.median(ct[label == 1]) for ct, label, _ in phantoms[1::2]) < -10


@pytest.mark.slow
def test_about_half_of_the_seeds_have_a_tumour():
    found = [bool((make_phantom(seed, spacing_mm=(8, 8, 10)).label == 2).any()) for seed in range(100, 112)]
    assert 3 <= sum(found) <= 9


def test_no_hu_threshold_finds_the_pancreas(phantoms):
    assert max(best_threshold_dice(ct, label > 0) for ct, label, _ in phantoms) < 0.2


@pytest.mark.parametrize("half_mm", [(110, 60, 70), (80, 40, 50), (60, 30, 35), (45, 25, 25)])
def test_no_hu_threshold_in_a_centred_box_finds_the_pancreas(phantoms, half_mm):
    scores = []
    for phantom in phantoms:
        ct = np.where(centred_box(phantom, half_mm), phantom.ct, -200)  # nothing outside is chosen
        scores.append(best_threshold_dice(ct, phantom.label > 0))
    assert np.mean(scores) < 0.35


def test_place_of_the_pancreas_varies(phantoms):
    centroids = []
    for _, label, affine in phantoms:
        middle = affine[:3, :3] @ ((np.array(label.shape) - 1) / 2)
        centroids.append(affine[:3, :3] @ np.argwhere(label > 0).mean(axis=0) - middle)
    assert (np.std(centroids, axis=0) > 4).all()  # mm along x, y, z


@pytest.fixture(scope="module")
def plain() -> Phantom:
    return make_phantom(5, spacing_mm=COARSE, orientation="RAS")


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_orientation_changes_the_storage_and_not_the_world(plain, codes):
    turned = make_phantom(5, spacing_mm=COARSE, orientation=codes)
    assert "".join(nib.aff2axcodes(turned.affine)) == codes
    # nibabel brings it back: voxels and affine must be those of the plain one
    back = nib.as_closest_canonical(nib.Nifti1Image(turned.ct, turned.affine))
    np.testing.assert_array_equal(np.asarray(back.dataobj), plain.ct)
    np.testing.assert_allclose(back.affine, plain.affine, atol=1e-9)
    where = [
        phantom.affine[:3, :3] @ np.argwhere(phantom.label).mean(axis=0) + phantom.affine[:3, 3]
        for phantom in (plain, turned)
    ]
    np.testing.assert_allclose(*where, atol=1e-6)


def test_liver_lies_right_and_lungs_lie_above():
    ct, _, affine = make_phantom(2, spacing_mm=COARSE, orientation="RAS")
    x = affine[0, 0] * np.arange(ct.shape[0]) + affine[0, 3]
    middle = x.mean()
    upper = ct[:, :, 2 * ct.shape[2] // 3]
    right, left = upper[x > middle], upper[x < middle]
    assert ((right > 90) & (right < 140)).sum() > 2 * ((left > 90) & (left < 140)).sum()
    inside_body = ct[20:48, 24:44]
    assert (inside_body[:, :, -4:] < -700).mean() > 0.1 > (inside_body[:, :, :10] < -700).mean()


def test_spacing_is_anisotropic_and_varies():
    affines = [make_phantom(seed, size_mm=(60, 60, 60)).affine for seed in range(8)]
    spacings = np.sort([np.linalg.norm(affine[:3, :3], axis=0).round(6) for affine in affines], axis=1)
    in_plane, between = spacings[:, 0], spacings[:, 2]
    assert ((in_plane >= 2.3) & (in_plane <= 2.9)).all()
    assert ((between >= 4) & (between <= 6)).all()
    assert len(np.unique(in_plane)) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spacing_mm": (3, 3, 0)}, "three positive numbers"),
        ({"size_mm": (100, 100)}, "three positive numbers"),
        ({"orientation": "RAL"}, "'LPS', got 'RAL'"),
        ({"orientation": "RASI"}, "got 'RASI'"),
        ({"orientation": "xyz"}, "got 'xyz'"),
        ({"orientation": ""}, "got ''"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_phantom(0, **arguments)


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("phantoms") / "set", 4, seed=1, spacing_mm=COARSEST)


def test_data_set_has_the_msd_layout(dataset_dir):
    dataset = read_msd(dataset_dir)
    assert dataset.ids == ["phantom_001", "phantom_002", "phantom_003", "phantom_004"]
    assert [case["case"] for case in dataset.test] == ["phantom_005", "phantom_006"]
    assert dataset.labels == {0: "background", 1: "pancreas", 2: "cancer"}
    content = json.loads((dataset_dir / "dataset.json").read_text())
    assert (content["numTraining"], content["numTest"], content["modality"]) == (4, 2, {"0": "CT"})


def test_files_pass_every_check_without_a_warning(dataset_dir):
    dataset = read_msd(dataset_dir)
    found = []
    for case in dataset.cases:
        _, image = read_volume(case["image"], check_hu=True)
        array, label = read_volume(case["label"])
        check_pair(image, label)
        check_labels(array, list(dataset.labels), case["label"])
        header = nib.load(case["image"]).header
        forms = (int(header["sform_code"]), int(header["qform_code"]))
        codes = "".join(nib.aff2axcodes(image.affine))
        found.append((codes, forms, header.get_xyzt_units()[0], image.warnings, label.warnings))
    assert sorted(found) == [(codes, (1, 1), "mm", (), ()) for codes in sorted(ORIENTATIONS[:4])]


def test_every_second_case_has_a_tumour(dataset_dir):
    found = [2 in np.unique(nib.load(case["label"]).dataobj) for case in read_msd(dataset_dir).cases]
    assert found == [False, True, False, True]


def test_same_seed_writes_the_same_bytes(dataset_dir, tmp_path):
    def digests(folder):
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    again = write_phantom_dataset(tmp_path / "again", 4, seed=1, spacing_mm=COARSEST)
    other = write_phantom_dataset(tmp_path / "other", 1, seed=2, test_images=0, spacing_mm=COARSEST)
    assert digests(again) == digests(dataset_dir)
    image = "imagesTr/phantom_001.nii.gz"
    assert digests(other)[image] != digests(dataset_dir)[image]


def test_only_phantoms_are_overwritten_and_only_on_request(tmp_path):
    folder = write_phantom_dataset(tmp_path / "set", 1, test_images=0, spacing_mm=COARSEST)
    with pytest.raises(UserError, match=r"NOT_EMPTY.*--overwrite"):
        write_phantom_dataset(folder, 1, spacing_mm=COARSEST)
    write_phantom_dataset(folder, 2, test_images=0, spacing_mm=COARSEST, overwrite=True)
    assert read_msd(folder).ids == ["phantom_001", "phantom_002"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"NOT_EMPTY.*something other than phantoms"):
        write_phantom_dataset(precious, 1, spacing_mm=COARSEST, overwrite=True)
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg3d.phantoms.ct.nib.save", fail)
    with pytest.raises(OSError, match="No space"):
        write_phantom_dataset(tmp_path / "set", 1, spacing_mm=COARSEST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [{"cases": 0}, {"test_images": -1}])
def test_impossible_counts_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="cases must be >= 1 and test_images >= 0"):
        write_phantom_dataset(tmp_path / "set", **arguments)
