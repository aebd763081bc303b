from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from medseg3d.data.picture_folders import read_picture_folder
from medseg3d.data.verify import verify_pictures
from medseg3d.errors import UserError
from medseg3d.phantoms.ct import case_seed
from medseg3d.phantoms.polyps import PolypPhantom, make_polyp_phantom, write_polyp_phantoms
from medseg3d.pictures.masks import read_picture_mask
from medseg3d.pictures.reading import read_picture

SMALL = (64, 80)


@pytest.fixture(scope="module")
def phantoms() -> list[PolypPhantom]:
    return [make_polyp_phantom(seed, size=SMALL, polyps=1) for seed in range(40)]


def channels(picture: np.ndarray) -> list[np.ndarray]:
    """Red, green, blue and saturation."""
    return [*np.moveaxis(picture, -1, 0), np.ptp(picture, axis=-1)]


def best_interval_dice(levels: np.ndarray, mask: np.ndarray) -> float:
    """The best Dice that "from a to b" of a channel reaches, a and b chosen with the mask at hand."""
    polyp, other = (np.concatenate([[0], np.bincount(levels[part], minlength=256).cumsum()]) for part in (mask, ~mask))
    found, wrong = (counts[None] - counts[:, None] for counts in (polyp, other))
    low, high = np.indices(found.shape)
    dice = 2 * found / np.maximum(found + wrong + polyp[-1], 1)
    return float(dice[high > low].max())


def test_same_seed_same_frame_and_another_seed_another():
    first, again, other = (make_polyp_phantom(seed, size=SMALL) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.picture, other.picture)


def test_polyps_change_nothing_but_themselves_and_their_light():
    without, with_one = (make_polyp_phantom(5, size=SMALL, polyps=count).picture.astype(int) for count in (0, 1))
    same = np.abs(without - with_one).max(-1) <= 2
    assert 0.4 < same.mean() < 1


def test_size_and_number_are_drawn_where_they_are_not_given():
    shapes = {make_polyp_phantom(seed).mask.shape for seed in range(3)}
    assert len(shapes) == 3
    assert all(256 <= height <= 320 and 288 <= width <= 384 for height, width in shapes)
    empty = sum(not make_polyp_phantom(seed, size=(32, 40)).mask.any() for seed in range(100))
    assert 3 <= empty <= 20


def test_polyps_are_seen_and_vary_in_size(phantoms):
    shares = [mask.mean() for _, mask in phantoms]
    assert min(shares) > 0.003
    assert max(shares) > 10 * min(shares)
    assert 0.04 < np.mean(shares) < 0.2
    # never behind the black mask of the endoscope: the rim of a dome may be dark, its inside is not
    assert all(picture[mask].max(-1).mean() > 30 for picture, mask in phantoms)


def test_a_polyp_is_one_piece(phantoms):
    sizes = [np.bincount(ndimage.label(mask)[0].ravel())[1:] for _, mask in phantoms]
    assert np.mean([size.max() / size.sum() for size in sizes]) > 0.98


def test_no_interval_of_a_colour_channel_finds_the_polyps(phantoms):
    """All pixels of all frames at once: one interval has to do for all."""
    mask = np.stack([mask for _, mask in phantoms])
    of_frames = zip(*(channels(picture) for picture, _ in phantoms), strict=True)
    assert max(best_interval_dice(np.stack(channel), mask) for channel in of_frames) < 0.35


def test_not_even_an_interval_for_each_frame_does(phantoms):
    scores = [max(best_interval_dice(levels, mask) for levels in channels(picture)) for picture, mask in phantoms]
    assert np.mean(scores) < 0.6


def test_highlights_are_white_and_few(phantoms):
    white = [(picture.min(-1) > 225).mean() for picture, _ in phantoms]
    assert 0.001 < np.mean(white) < 0.05


def test_frames_are_written_in_the_layout_of_kvasir_and_read_back_as_drawn(tmp_path):
    folder = write_polyp_phantoms(tmp_path / "polyps", cases=10, seed=1, size=SMALL)
    cases = read_picture_folder(folder)
    assert [case["case"] for case in cases] == [f"phantom_{number:03d}" for number in range(1, 11)]
    report = verify_pictures(folder)
    assert report.errors == []
    assert report.label_values[0] == 10
    assert not read_picture_mask(cases[9]["label"]).any()
    assert read_picture(cases[0]["image"]).shape == (*SMALL, 3)
    again = write_polyp_phantoms(tmp_path / "again", cases=10, seed=1, size=SMALL)
    files = [f"{part}/{case['case']}.jpg" for case in cases for part in ("images", "masks")]
    assert [name for name in files if (folder / name).read_bytes() != (again / name).read_bytes()] == []


def test_the_rims_of_a_jpeg_mask_do_not_move_its_border(tmp_path):
    folder = write_polyp_phantoms(tmp_path / "polyps", cases=3, seed=2, size=SMALL)
    drawn = [make_polyp_phantom(case_seed(2, number), size=SMALL).mask for number in (1, 2, 3)]
    read = [read_picture_mask(folder / "masks" / f"phantom_{number:03d}.jpg") for number in (1, 2, 3)]
    assert np.array_equal(read, drawn)


def test_only_phantoms_are_overwritten_and_only_on_request(tmp_path):
    folder = write_polyp_phantoms(tmp_path / "polyps", cases=2, size=SMALL)
    assert json.loads((folder / "phantoms.json").read_text())["name"] == "PhantomPolyps"
    with pytest.raises(UserError, match=r"NOT_EMPTY .*--overwrite"):
        write_polyp_phantoms(folder, cases=1, size=SMALL)
    write_polyp_phantoms(folder, cases=1, size=SMALL, overwrite=True)
    assert len(list((folder / "images").iterdir())) == 1
    (folder / "phantoms.json").write_text("{}")
    with pytest.raises(UserError, match=r"NOT_EMPTY .*something other than phantoms"):
        write_polyp_phantoms(folder, cases=1, size=SMALL, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["polyps"]


@pytest.mark.parametrize("arguments", [{"size": (16, 64)}, {"polyps": -1}])
def test_programming_errors_are_value_errors(arguments):
    with pytest.raises(ValueError, match="at least 32 by 32 and polyps >= 0"):
        make_polyp_phantom(0, **arguments)
    with pytest.raises(ValueError, match="cases must be >= 1"):
        write_polyp_phantoms("never", cases=0)
