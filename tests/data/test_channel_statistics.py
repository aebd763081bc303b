from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medseg3d.cli import main
from medseg3d.data.channel_statistics import channel_statistics, training_statistics
from medseg3d.data.splits import make_split, read_split, write_split
from medseg3d.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Five images of various sizes and colours, and masks of nothing."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "set" / part).mkdir(parents=True)
    for number in range(5):
        shape = tuple(rng.integers(5, 40, 2))
        picture = rng.integers(20 * number, 256 - 30 * number, (*shape, 3))
        picture[..., 1] //= 2
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "set" / "images" / f"{number}.png")
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "set" / "masks" / f"{number}.png")
    write_split(tmp_path / "split.json", make_split([str(number) for number in range(5)], 1, 1))
    return tmp_path / "set"


def pixels_of(folder, cases) -> np.ndarray:
    """All pixels of the images, (N, 3) in [0, 1]."""
    pictures = [np.asarray(Image.open(folder / "images" / f"{case}.png")).reshape(-1, 3) for case in cases]
    return np.concatenate(pictures) / 255


def test_the_statistics_are_those_of_the_training_pixels(folder):
    split = folder.parent / "split.json"
    pixels = pixels_of(folder, read_split(split).train)
    found = training_statistics(folder, split)
    assert np.allclose(found.mean, pixels.mean(axis=0), rtol=0, atol=1e-14)
    assert np.allclose(found.std, pixels.std(axis=0), rtol=0, atol=1e-14)
    assert (found.pictures, found.pixels) == (3, len(pixels))


def test_without_a_split_every_picture_counts_and_their_order_does_not(folder):
    found = training_statistics(folder)
    paths = sorted((folder / "images").iterdir())
    assert found == channel_statistics(paths) == channel_statistics(paths[::-1])
    assert np.allclose(found.mean, pixels_of(folder, range(5)).mean(axis=0), rtol=0, atol=1e-14)


def test_pictures_of_one_colour_deviate_by_nothing(tmp_path):
    Image.new("RGB", (3, 2), (255, 0, 51)).save(tmp_path / "a.png")
    assert channel_statistics([tmp_path / "a.png"]) == ((1.0, 0.0, 0.2), (0.0, 0.0, 0.0), 1, 6)


def test_a_split_of_other_pictures_is_refused(folder, tmp_path):
    write_split(tmp_path / "other.json", make_split(["0", "x", "y"], 0, 0))
    with pytest.raises(UserError, match=r"SPLIT_MISMATCH .*2 of 3 training cases that the data set lacks \(x, y\)"):
        training_statistics(folder, tmp_path / "other.json")


def test_the_verb_prints_knobs_to_paste(folder, capsys):
    split = folder.parent / "split.json"
    assert main(["data", "statistics", str(folder), "--split_file", str(split)]) == 0
    found = training_statistics(folder, split)
    said, knobs = capsys.readouterr().out.splitlines()
    assert said == f"3 images, {found.pixels:,} pixels in [0, 1] (the training set of {split})"
    rounded = [[round(value, 6) for value in values] for values in (found.mean, found.std)]
    assert knobs == f'--channel_mean "{rounded[0]}" --channel_std "{rounded[1]}"'
