from __future__ import annotations

import io
import logging
import os
import struct
import threading
import time
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from medseg3d.errors import UserError
from medseg3d.limits import PIXELS
from medseg3d.pictures.masks import read_grey, read_levels, read_picture_mask
from medseg3d.pictures.reading import read_picture, read_with_remarks
from medseg3d.pictures.writing import write_grey, write_picture_mask

SHAPE = (6, 9)
TURNED = {  # what a viewer shows for each orientation of the EXIF standard, in numpy's words
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


def photograph() -> np.ndarray:
    """Every pixel and channel different from its neighbours, no axis like another."""
    return np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)


def disc(shape: tuple[int, int] = (60, 90), radius: float = 21) -> np.ndarray:
    row, column = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(row - shape[0] * 0.45, column - shape[1] * 0.6) < radius


def write(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def refusal(path: Path, read: object = read_picture) -> UserError:
    with pytest.raises(UserError) as caught:
        read(path)
    assert caught.value.subject == str(path)
    return caught.value


# images


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "A.PNG", "picture.of.2024"])
def test_lossless_picture_comes_back_row_by_row(tmp_path: Path, name: str) -> None:
    kind = {".tif": "TIFF", ".bmp": "BMP"}.get(Path(name).suffix, "PNG")
    array = read_picture(write(tmp_path / name, photograph(), format=kind))
    assert np.array_equal(array, photograph())
    assert array.dtype == np.uint8
    assert array.flags.writeable


def test_jpeg_equals_what_pillow_decodes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", photograph(), quality=60)
    assert np.array_equal(read_picture(path), np.asarray(Image.open(path)))


def test_picture_of_matplotlib_is_read_without_its_opaque_alpha(tmp_path: Path, caplog) -> None:
    matplotlib.image.imsave(tmp_path / "a.png", photograph())
    assert Image.open(tmp_path / "a.png").mode == "RGBA"
    assert np.array_equal(read_picture(tmp_path / "a.png"), photograph())
    assert "TRANSPARENCY" not in caplog.text


@pytest.mark.parametrize(
    ("mode", "pixel", "rgb", "code"),
    [
        ("1", 1, (255, 255, 255), "BILEVEL"),
        ("L", 77, (77, 77, 77), ""),
        ("LA", (77, 9), (77, 77, 77), "TRANSPARENCY"),
        ("LA", (77, 255), (77, 77, 77), ""),
        ("P", 2, (10, 20, 30), "PALETTE"),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3), "TRANSPARENCY"),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0), "CMYK"),
    ],
)
def test_each_mode_becomes_rgb(tmp_path: Path, caplog, mode: str, pixel: object, rgb: tuple, code: str) -> None:
    image = Image.new(mode, (30, 20), pixel)
    if mode == "P":
        image.putpalette([200, 0, 0, 0, 200, 0, 10, 20, 30])
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    array = read_picture(path)
    assert array.shape == (20, 30, 3)
    assert np.unique(array.reshape(-1, 3), axis=0).tolist() == [list(rgb)]
    assert [record.getMessage().split(": ")[:2] for record in caplog.records] == ([[str(path), code]] if code else [])


def test_see_through_palette_keeps_its_colours(tmp_path: Path, caplog) -> None:
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=1)
    assert read_picture(tmp_path / "a.png")[0, 0].tolist() == [10, 20, 30]
    assert "TRANSPARENCY" in caplog.text


@pytest.mark.parametrize(
    ("size", "options", "codes"),
    [
        ((1, 1), {}, ["SIZE"]),
        ((300, 1), {}, ["SIZE"]),
        ((8, 8), {}, []),
        ((30, 20), {"exif": {0x0112: 6}}, ["ORIENTATION"]),
    ],
)
def test_odd_but_legal_picture_is_read_with_a_remark(
    tmp_path: Path, size: tuple[int, int], options: dict, codes: list[str]
) -> None:
    image = Image.new("RGB", size, (200, 100, 50))
    image.getexif().update(options.get("exif", {}))
    image.save(tmp_path / "a.png", exif=image.getexif())
    picture, remarks = read_with_remarks(tmp_path / "a.png")
    assert picture.shape == (size[1], size[0], 3)
    assert [remark.partition(":")[0] for remark in remarks] == codes
    assert "ORIENTATION" not in str(read_with_remarks(tmp_path / "a.png", upright=True)[1])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_by_257(tmp_path: Path, name: str) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    path = write(tmp_path / name, levels * 257)
    assert np.array_equal(read_picture(path)[..., 0], levels)
    assert np.asarray(Image.open(path).convert("RGB")).max() == 255  # what the usual recipe makes of most levels
    assert (np.asarray(Image.open(path).convert("RGB")) == 255).mean() > 0.9
    assert read_picture(write(tmp_path / name, np.array([[128, 129]], np.uint16)))[0, :, 0].tolist() == [0, 1]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_that_counts_from_white_is_its_twin_that_counts_from_black(
    tmp_path: Path, dtype: type, orientation: int
) -> None:
    levels = disc().astype(dtype) * np.iinfo(dtype).max
    # Pillow turns 8 bits round as it writes them with this tag, and 16 bits not
    for name, stored, photometric in (("black.tif", levels, 1), ("white.tif", np.invert(levels), 0)):
        pixels = Image.fromarray(levels if dtype is np.uint8 else stored)
        pixels.save(tmp_path / name, tiffinfo={262: photometric, 274: orientation})
    assert [Image.open(tmp_path / name).tag_v2[262] for name in ("black.tif", "white.tif")] == [1, 0]
    black, white = (read_levels(tmp_path / name).levels for name in ("black.tif", "white.tif"))
    assert np.array_equal(black, levels)
    assert np.array_equal(white, levels)
    assert np.array_equal(
        read_picture(tmp_path / "white.tif", upright=True), read_picture(tmp_path / "black.tif", True)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_other_depths_are_refused(tmp_path: Path, dtype: type) -> None:
    assert refusal(write(tmp_path / "a.tif", np.ones(SHAPE, dtype))).code == "BIT_DEPTH"


def test_unknown_colour_space_is_refused(tmp_path: Path) -> None:
    Image.new("LAB", (3, 2)).save(tmp_path / "a.tif")
    assert "LAB" in refusal(tmp_path / "a.tif").found


@pytest.mark.parametrize("tag", TURNED)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
@pytest.mark.parametrize("upright", [False, True])
def test_orientation_is_followed_only_when_asked(tmp_path: Path, name: str, tag: int, upright: bool) -> None:
    stored = np.kron(photograph(), np.ones((8, 8, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = tag
    path = write(tmp_path / name, stored, exif=exif, **({"quality": 95, "subsampling": 0} if name == "a.jpg" else {}))
    tolerance = 12 if name == "a.jpg" else 0
    expected = TURNED[tag](stored) if upright else stored
    array = read_picture(path, upright=upright)
    assert array.shape == expected.shape
    assert np.abs(array.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_mask_is_turned_like_its_picture(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(tmp_path / name, disc().astype(np.uint8) * 255, exif=exif)
    assert np.array_equal(read_picture_mask(path), disc())
    assert np.array_equal(read_picture_mask(path, upright=True), np.rot90(disc(), -1))


def test_turned_jpeg_is_still_lossy(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_levels(write(tmp_path / "m.jpg", disc().astype(np.uint8) * 255, exif=exif), upright=True).lossy
    assert not read_levels(write(tmp_path / "m.png", disc().astype(np.uint8) * 255, exif=exif), upright=True).lossy


# files that are none


def test_pipe_and_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert refusal(tmp_path / "a.png").code == "NOT_A_FILE"
    assert refusal(tmp_path / "a.png", read_picture_mask).code == "NOT_A_FILE"
    assert refusal(Path("/dev/zero")).code == "NOT_A_FILE"


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.png").code == "MISSING_FILE"
    assert refusal(tmp_path).found == "a folder"


@pytest.mark.parametrize(
    ("content", "code", "found"),
    [
        (b"", "EMPTY", "0 bytes"),
        (b"<!DOCTYPE html><html>404</html>", "DECODE", "not JPEG, PNG, TIFF or BMP"),
        (b"GIF89a\1\0\1\0\0\0\0;", "DECODE", "not JPEG, PNG, TIFF or BMP"),
        (b"\x89PNG\r\n\x1a\n", "TRUNCATED", "header"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: bytes, code: str, found: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    error = refusal(path)
    assert error.code == code
    assert found in error.found


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_file_is_truncated(tmp_path: Path, name: str, share: float) -> None:
    path = write(tmp_path / name, np.kron(photograph(), np.ones((4, 4, 1), np.uint8)))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert refusal(path).code == "TRUNCATED"
    assert refusal(path, read_picture_mask).code == "TRUNCATED"


def test_no_flipped_byte_of_a_png_changes_pixels_in_silence(tmp_path: Path) -> None:
    good = write(tmp_path / "a.png", photograph()).read_bytes()
    path = tmp_path / "flipped.png"
    outcomes = set()
    outcomes_of_pixels = set()
    pixels = range(good.index(b"IDAT") + 4, good.index(b"IEND") - 8)
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        try:
            outcomes.add("same" if np.array_equal(read_picture(path), photograph()) else "changed")
        except UserError as error:  # everything else escapes
            outcomes.add(error.code)
            if position in pixels:
                outcomes_of_pixels.add(error.code)
    assert outcomes == {"CHECKSUM", "DECODE", "TRUNCATED"}
    assert outcomes_of_pixels == {"CHECKSUM"}


def test_pixel_of_which_the_compression_has_no_sum_is_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "a.png", np.zeros((64, 64), np.uint8), compress_level=0).read_bytes()
    pixel = good.index(b"IDAT") + 2000
    (tmp_path / "a.png").write_bytes(good[:pixel] + b"\xff" + good[pixel + 1 :])
    assert refusal(tmp_path / "a.png").code == "CHECKSUM"


@pytest.mark.parametrize("name", ["a.jpg", "a.bmp"])
def test_damaged_file_is_read_or_refused(tmp_path: Path, name: str) -> None:
    good = write(tmp_path / name, photograph()).read_bytes()
    path = tmp_path / f"flipped_{name}"
    for position in range(0, min(len(good), 800), 2):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        with suppress(UserError):  # everything else escapes
            read_picture(path)


def claiming(path: Path, width: int, height: int) -> Path:
    """A PNG whose header claims a size that no byte of pixels follows."""
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)))
    with path.open("ab") as file:
        file.write(struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    return path


@pytest.mark.parametrize(("height", "code"), [(5000, "TRUNCATED"), (5001, "TOO_LARGE"), (9999, "TOO_LARGE")])
def test_limit_of_pixels_is_inclusive_and_read_from_the_header(tmp_path: Path, height: int, code: str) -> None:
    assert PIXELS.most == 10_000 * 5000
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's DecompressionBombWarning is no message to a user
        error = refusal(claiming(tmp_path / "a.png", 10_000, height))
    assert error.code == code
    assert (f"10000 x {height}" in error.found) == (code == "TOO_LARGE")


def test_reading_in_threads_leaves_pythons_warnings_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    first, second = threading.Event(), threading.Thread(target=read_picture, args=[tmp_path / "a.png"])
    pillow_open = Image.open

    def slow_open(*args: object, **options: object) -> Image.Image:
        if not first.is_set():
            first.set()
            second.start()
            time.sleep(0.05)
        else:
            time.sleep(0.1)  # so that the second thread, were it let in, would leave last
        return pillow_open(*args, **options)

    monkeypatch.setattr(Image, "open", slow_open)
    before = list(warnings.filters)
    read_picture(tmp_path / "a.png")
    second.join()
    assert list(warnings.filters) == before


def test_what_pillow_calls_a_bomb_is_too_large(tmp_path: Path) -> None:
    error = refusal(claiming(tmp_path / "a.png", 20_000, 20_000), read_picture_mask)
    assert error.code == "TOO_LARGE"
    assert error.found == "20000 x 20000 = 400000000 pixels by the header"


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_pillows_own_bound_does_not_stand_in_the_way_of_a_raised_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    Image.fromarray(photograph()).save(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)  # with which every image is a bomb
    small = PIXELS._replace(default=1, variable="MEDSEG3D_TEST_PIXELS")
    monkeypatch.setattr("medseg3d.pictures.decoding.PIXELS", small)
    monkeypatch.setenv("MEDSEG3D_TEST_PIXELS", str(photograph()[..., 0].size))
    assert read_picture(tmp_path / name).shape == photograph().shape
    assert Image.MAX_IMAGE_PIXELS == 1


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(photograph()) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    error = refusal(tmp_path / "a.tif")
    assert (error.code, error.found) == ("DIMENSIONS", "3 pages")


def test_second_picture_of_a_photograph_is_passed_over(tmp_path: Path) -> None:
    first, second = Image.fromarray(photograph()), Image.new("RGB", (2, 2))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert Image.open(tmp_path / "a.jpg").n_frames == 2
    assert read_picture(tmp_path / "a.jpg").shape == (*SHAPE, 3)


# masks


@pytest.mark.parametrize(
    ("dtype", "foreground"), [(np.uint8, 1), (np.uint8, 255), (np.uint16, 1), (np.uint16, 255), (np.uint16, 65535)]
)
@pytest.mark.parametrize("name", ["m.png", "m.tif"])
def test_every_scale_is_the_same_mask(tmp_path: Path, name: str, dtype: type, foreground: int) -> None:
    mask = read_picture_mask(write(tmp_path / name, disc().astype(dtype) * dtype(foreground)))
    assert mask.dtype == bool
    assert np.array_equal(mask, disc())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK"])
def test_every_mode_is_the_same_mask(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(disc().astype(np.uint8) * 255).convert("RGB").convert(mode)
    path = tmp_path / ("m.tif" if mode == "CMYK" else "m.png")
    image.save(path)
    assert np.array_equal(read_picture_mask(path), disc())


def test_palette_is_decoded_by_colour_not_by_index(tmp_path: Path) -> None:
    image = Image.fromarray((~disc()).astype(np.uint8), mode="L")
    swapped = Image.frombytes("P", image.size, image.tobytes())
    swapped.putpalette([255, 255, 255, 0, 0, 0])  # index 0 is white
    swapped.save(tmp_path / "m.png")
    assert np.asarray(Image.open(tmp_path / "m.png"))[0, 0] == 1
    assert np.array_equal(read_picture_mask(tmp_path / "m.png"), disc())


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("channels", [1, 3])
def test_rims_of_a_jpeg_mask_are_cut_exactly(tmp_path: Path, quality: int, channels: int) -> None:
    levels = np.repeat(disc().astype(np.uint8)[..., None] * 255, channels, axis=-1).squeeze()
    path = write(tmp_path / "m.jpg", levels, quality=quality)
    assert len(np.unique(np.asarray(Image.open(path)))) > 4
    assert np.array_equal(read_picture_mask(path), disc())


@pytest.mark.parametrize(("level", "foreground"), [(127, False), (128, True)])
def test_threshold_is_127(tmp_path: Path, level: int, foreground: bool) -> None:
    levels = disc().astype(np.uint8) * 255
    levels[0, :2] = level, level + (10 if foreground else -10)  # two rim pixels: not a third class
    assert read_picture_mask(write(tmp_path / "m.png", levels))[0, 0] == foreground


@pytest.mark.parametrize(("level", "code"), [(31, None), (32, "LABEL_SET"), (223, "LABEL_SET"), (224, None)])
@pytest.mark.parametrize(("pixels", "few"), [(270, True), (271, False)])  # of 5400: 5 %
def test_more_than_five_percent_of_grey_is_refused(
    tmp_path: Path, level: int, code: str | None, pixels: int, few: bool
) -> None:
    levels = disc().astype(np.uint8) * 255
    levels[disc((60, 90), 8)] = 250  # a fourth level: not three classes
    levels.reshape(-1)[:pixels] = level
    path = write(tmp_path / "m.png", levels)
    if code is None or few:
        assert read_picture_mask(path).sum() == disc().sum() + (pixels if level > 127 else 0)
    else:
        assert refusal(path, read_picture_mask).code == code


def test_soft_edge_of_a_resized_mask_is_thresholded(tmp_path: Path) -> None:
    large = Image.fromarray(disc((480, 640), 150).astype(np.uint8) * 255)
    large.resize((320, 240), Image.Resampling.BILINEAR).save(tmp_path / "m.png")
    expected = np.asarray(Image.open(tmp_path / "m.png")) > 127
    assert np.array_equal(read_picture_mask(tmp_path / "m.png"), expected)


@pytest.mark.parametrize(
    ("levels", "found"),
    [
        ([0, 2], "brighter than level 2"),
        ([0, 1, 2], "brighter than level 2"),
        ([0, 128], "brighter than level 128"),
        ([0, 1, 255], "three levels, 0, 1, 255"),
        ([0, 128, 255], "three levels, 0, 128, 255"),
    ],
)
def test_label_maps_are_refused(tmp_path: Path, levels: list[int], found: str) -> None:
    array = np.zeros((50, 50), np.uint8)
    array[0, : len(levels)] = levels
    error = refusal(write(tmp_path / "m.png", array), read_picture_mask)
    assert error.code == "LABEL_SET"
    assert found in error.found


def test_dark_jpeg_is_refused(tmp_path: Path) -> None:
    levels = np.zeros((16, 32), np.uint8)
    levels[:8, :8] = 1
    path = write(tmp_path / "m.jpg", levels, quality=100)  # 0 and 1, or an empty mask and noise?
    assert np.asarray(Image.open(path)).max() == 1
    assert refusal(path, read_picture_mask).code == "LABEL_SET"


def test_three_levels_of_a_jpeg_may_be_noise(tmp_path: Path) -> None:
    levels = np.zeros((24, 32), np.uint8)
    levels[:8], levels[8:16, :8] = 255, 1
    path = write(tmp_path / "m.jpg", levels, quality=100)
    assert np.unique(np.asarray(Image.open(path))).tolist() == [0, 1, 255]
    assert np.array_equal(read_picture_mask(path), levels == 255)


def test_photograph_is_no_mask(tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "m.png", photograph()), read_picture_mask).code == "LABEL_SET"


def test_coloured_classes_are_refused(tmp_path: Path) -> None:
    red = np.zeros((*disc().shape, 3), np.uint8)
    red[disc()] = (128, 0, 0)  # PASCAL VOC's first class; its grey level is 38
    error = refusal(write(tmp_path / "m.png", red), read_picture_mask)
    assert (error.code, "128" in error.found) == ("LABEL_SET", True)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_coded_mask_is_refused(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode[:-1], disc().shape[::-1], "white")
    image.putalpha(Image.fromarray(disc().astype(np.uint8) * 255))
    image.save(tmp_path / "m.png")
    error = refusal(tmp_path / "m.png", read_picture_mask)
    assert (error.code, "transparent" in error.found) == ("LABEL_SET", True)


def test_see_through_palette_entry_is_refused(tmp_path: Path) -> None:
    Image.fromarray(disc().astype(np.uint8) * 255).convert("P").save(tmp_path / "m.png", transparency=0)
    assert refusal(tmp_path / "m.png", read_picture_mask).code == "LABEL_SET"


@pytest.mark.parametrize("name", ["m.png", "m.jpg"])
def test_empty_mask_is_a_mask(tmp_path: Path, name: str) -> None:
    assert not read_picture_mask(write(tmp_path / name, np.zeros(SHAPE, np.uint8))).any()


@pytest.mark.parametrize(("rows", "warned"), [(5, False), (6, True)])
def test_foreground_above_half_is_reported_once(tmp_path: Path, caplog, rows: int, warned: bool) -> None:
    levels = np.zeros((10, 10), np.uint8)
    levels[:rows] = 255
    path = write(tmp_path / "m.png", levels)
    assert read_picture_mask(path).sum() == rows * 10
    expected = [f"{path}: FOREGROUND: 60% of the pixels are foreground; is the mask inverted?"] if warned else []
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == expected


# maps of probabilities


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_level_over_the_full_scale_is_the_probability(tmp_path: Path, dtype: type) -> None:
    full = np.iinfo(dtype).max
    prob = read_grey(write(tmp_path / "p.png", np.array([[0, 1, full // 3, full]], dtype)))
    assert prob.dtype == np.float32
    assert prob[0].tolist() == pytest.approx([0, 1 / full, 1 / 3, 1], abs=1e-7)


def test_equal_channels_are_one_map(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (*SHAPE, 1)).astype(np.uint8)
    prob = read_grey(write(tmp_path / "p.png", np.repeat(levels, 3, axis=-1)))
    assert np.array_equal(np.rint(prob * 255), levels[..., 0])


def test_coloured_map_is_refused(tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "p.png", photograph()), read_grey).code == "LABEL_SET"


@pytest.mark.parametrize(("levels", "binary"), [([0, 0], True), ([3, 200], True), ([0, 7, 255], False)])
def test_two_levels_are_told_from_more(tmp_path: Path, levels: list[int], binary: bool) -> None:
    assert read_levels(write(tmp_path / "p.png", np.array([levels], np.uint8))).is_binary == binary


# writers


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_written_mask_is_read_back_by_us_and_by_pillow(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "new" / "m.png"
    write_picture_mask(path, disc().astype(dtype))
    assert np.array_equal(read_picture_mask(path), disc())
    assert np.array_equal(np.asarray(Image.open(path)), disc() * np.uint8(255))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_written_probabilities_are_within_half_a_level(tmp_path: Path, dtype: type) -> None:
    prob = np.random.default_rng(0).random((40, 50)).astype(dtype)
    prob[0, :2] = 0, 1
    write_grey(tmp_path / "p.png", prob)
    assert np.abs(read_grey(tmp_path / "p.png") - prob.astype(np.float64)).max() <= 0.5 / 65535 + 1e-7
    again = read_grey(tmp_path / "p.png")
    write_grey(tmp_path / "q.png", again)
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "q.png").read_bytes()


def test_what_is_no_mask_is_not_written(tmp_path: Path) -> None:
    for mask in (np.array([[0, 2]]), np.array([[0.5]]), np.zeros((2, 2, 1)), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="mask must be"):
            write_picture_mask(tmp_path / "m.png", mask)
    for prob in (np.array([[1.1]]), np.array([[np.nan]]), np.ones((2, 2), int), np.zeros(3)):
        with pytest.raises(ValueError, match="prob must be"):
            write_grey(tmp_path / "m.png", prob)
    assert list(tmp_path.iterdir()) == []


def test_lossy_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png"):
        write_picture_mask(tmp_path / "m.jpg", disc())


def test_failed_write_leaves_the_old_mask(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.png"
    write_picture_mask(path, disc())

    def half(self: Image.Image, file: object, **_: object) -> None:
        buffer = io.BytesIO()
        original(self, buffer, format="PNG")
        Path(file).write_bytes(buffer.getvalue()[:60])

    original = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match=r"truncated|broken"):
        write_picture_mask(path, ~disc())
    monkeypatch.undo()
    assert np.array_equal(read_picture_mask(path), disc())
    assert [file.name for file in tmp_path.iterdir()] == ["m.png"]


# real images

FOLDERS = ["kvasir-seg", "cvc-clinicdb", "nih-pancreas-2d"]


def check_real(folder: Path, step: int) -> None:
    names = sorted(path.name for path in (folder / "images").iterdir())[::step]
    for name in names:
        with Image.open(folder / "images" / name) as image:
            assert np.array_equal(read_picture(folder / "images" / name), np.asarray(image.convert("RGB"))), name
        with Image.open(folder / "masks" / name) as image:
            expected = np.asarray(image.convert("RGB"))[..., 0] > 127
        assert np.array_equal(read_picture_mask(folder / "masks" / name), expected), name


@pytest.mark.parametrize("name", FOLDERS)
def test_some_real_pictures_read_as_the_usual_recipe_reads_them(real_data: Path, name: str) -> None:
    check_real(real_data / name, step=97)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_all_real_pictures_read_as_the_usual_recipe_reads_them(real_data: Path, name: str) -> None:
    check_real(real_data / name, step=1)


def test_a_written_probability_is_above_one_half_where_the_mask_is_foreground(tmp_path):
    half = np.float32(0.5)
    prob = np.array([[np.nextafter(half, np.float32(0)), half, np.nextafter(half, np.float32(1))]])
    write_grey(tmp_path / "prob.png", prob)
    assert (read_grey(tmp_path / "prob.png") > 0.5).tolist() == (prob > 0.5).tolist() == [[False, False, True]]
