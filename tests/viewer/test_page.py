"""The page in a browser, at the width of a desk and of a phone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browser import Browser
from PIL import Image

import medseg3d
from medseg3d.pictures.colours import LABEL_COLOURS

SIZES = {"desktop": (1280, 800, False), "phone": (390, 844, True)}
ON_A_DESK = pytest.mark.parametrize("opened", ["desktop"], indirect=True)
EVERY_SIZE = [pytest.param(size, marks=[pytest.mark.slow] if size == "phone" else []) for size in SIZES]


@pytest.fixture(params=EVERY_SIZE)
def opened(request: pytest.FixtureRequest, browser: Browser, scan) -> Iterator[tuple[Browser, str]]:
    """The page of the scan with two masks, drawn, and its address."""
    with medseg3d.view(scan.ct, f"truth={scan.truth}", scan.prediction, open_browser=False) as page:
        browser.size(*SIZES[request.param])
        browser.open(page.url)
        browser.until("return document.body.dataset.state !== 'loading'")
        yield browser, page.url


def pixels_of(browser: Browser, colour: str) -> int:
    """How many pixels of the image on the page have a colour, within what the graphics round."""
    left, top, right, bottom = browser.run(
        "const box = document.getElementById('stage').getBoundingClientRect();"
        "return [box.left, box.top, box.right, box.bottom].map(Math.round)"
    )
    shot = np.asarray(Image.open(io.BytesIO(browser.picture())).convert("RGB"), int)[top:bottom, left:right]
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return int((np.abs(shot - wanted).max(axis=-1) <= 3).sum())


def test_a_scan_and_its_masks_are_drawn_by_this_machine_alone(opened):
    browser, url = opened
    assert browser.run("return document.body.dataset.state") == "drawn"
    assert browser.console() == []
    asked = browser.requests()
    assert {"scan.nii.gz", "mask0.nii.gz", "mask1.nii.gz"} <= {address.removeprefix(url) for address in asked}
    assert [address for address in asked if not address.startswith(url)] == []
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")


def test_a_mask_has_its_colour_until_it_is_hidden(opened):
    browser, _ = opened
    browser.press("ax" + 5 * "]")  # axial, no crosshair, opaque
    shown = [pixels_of(browser, colour) for colour in LABEL_COLOURS[:3]]
    assert min(shown) > 500, shown
    browser.press(" ")
    assert [pixels_of(browser, colour) for colour in LABEL_COLOURS[:3]] == [0, 0, 0]
    browser.press(" ")
    browser.run("document.querySelectorAll('.entry input[type=checkbox]')[1].click()")  # the prediction's
    assert pixels_of(browser, LABEL_COLOURS[0]) > shown[0]  # it lay on the truth
    assert pixels_of(browser, LABEL_COLOURS[1]) == 0
    assert browser.console() == []


@pytest.mark.slow
def test_labels_of_high_values_leave_the_background_as_it_is(browser, scan, tmp_path: Path):
    mask = nib.load(scan.truth)
    many = np.where(mask.get_fdata() == 1, 120, 0).astype(np.uint8)
    many[0, 0, 0] = 1  # whose colour NiiVue would mix into that of 0
    nib.save(nib.Nifti1Image(many, mask.affine), tmp_path / "many.nii.gz")
    with medseg3d.view(scan.ct, tmp_path / "many.nii.gz", open_browser=False) as page:
        browser.size(*SIZES["phone"])
        browser.open(page.url)
        browser.until("return document.body.dataset.state === 'drawn'")
        browser.run("document.querySelectorAll('.entry button')[1].click()")  # to label 120
        browser.press("ax" + 5 * "]")
        assert pixels_of(browser, LABEL_COLOURS[1]) > 500
        air = pixels_of(browser, "#000000")
        browser.press(" ")
        assert pixels_of(browser, "#000000") == air > 5000


@pytest.mark.slow
@ON_A_DESK
def test_a_key_changes_the_window_and_the_grey_of_the_tissue(opened):
    browser, _ = opened
    browser.press("a ")
    grey = {}
    for key in "123":
        browser.press(key)
        low, high = map(float, browser.run("return document.body.dataset.window").split())
        grey[key] = (low, high, pixels_of(browser, "#" + 3 * f"{round(255 * (40 - low) / (high - low)):02x}"))
    assert [ends[:2] for ends in grey.values()] == [(-160, 240), (-500, 1300), (-1350, 150)]
    assert min(count for *_, count in grey.values()) > 5000, grey  # 40 HU


@pytest.mark.slow
@ON_A_DESK
def test_the_crosshair_begins_in_the_first_mask_and_tells_place_value_and_label(opened):
    browser, _ = opened
    text = browser.run("return document.getElementById('position').innerText")
    # voxel 14 or 15 of 40 - 2 x, 18 or 19 of -30 + 2 y, 11 or 12 of 10 + 3 z, all RAS mm
    assert text.split() in (
        [*f"R {x}.0 A {y}.0 S {z}.0 mm 40 HU truth prediction: label {label}".split()]
        for x in (10, 12)
        for y in (6, 8)
        for z in (43, 46)
        for label in (1, 2)
    ), text


@pytest.mark.slow
@ON_A_DESK
def test_a_drag_with_the_right_button_moves_the_window_and_its_numbers(opened):
    browser, _ = opened
    browser.press("a")
    browser.drag(500, 400, 540, 430, button=2)
    low, high = map(float, browser.run("return document.body.dataset.window").split())
    assert (low, high) != (-160, 240)
    numbers = browser.run("return ['width', 'level'].map((id) => document.getElementById(id).valueAsNumber)")
    assert numbers == pytest.approx([high - low, (high + low) / 2], rel=1e-3)
    assert browser.run("return document.querySelectorAll('#panel [aria-label=Window] [aria-pressed=true]').length") == 0


@pytest.mark.slow
@ON_A_DESK
def test_the_help_lists_the_keys(opened):
    browser, _ = opened
    browser.press("h")
    words = browser.run("return document.getElementById('help').innerText")
    assert "Lung: -1350 to 150 HU" in words
    assert "two masks side by side" in words
    browser.press("h")
    assert not browser.run("return document.getElementById('help').open")


@pytest.mark.slow
@ON_A_DESK
def test_two_masks_are_shown_side_by_side_at_one_place(opened):
    browser, _ = opened
    browser.press("d")
    browser.until("return window.views.length === 2 && document.getElementById('message').textContent === ''")
    captions = browser.run("return [...document.querySelectorAll('figcaption')].map((each) => each.textContent)")
    assert captions == ["truth", "prediction"]
    shown = browser.run("return views.map((view) => view.volumes.slice(1).map((each) => each.opacity > 0))")
    assert shown == [[True, False], [False, True]]
    browser.run("document.querySelectorAll('.entry button')[2].click()")  # to label 2 of the prediction
    places = browser.run("return views.map((view) => [...view.frac2mm(view.scene.crosshairPos)].map(Math.round))")
    assert places[0] == places[1]
    browser.run("document.getElementById('right').focus()")
    browser.press("\ue012")  # arrow left: towards the patient's right
    moved = browser.run("return views.map((view) => Math.round(view.frac2mm(view.scene.crosshairPos)[0]))")
    assert moved == [places[0][0] + 2] * 2
    assert browser.console() == []


@pytest.mark.parametrize("size", EVERY_SIZE)
def test_a_picture_is_uncovered_by_the_slider(browser, picture, size):
    with medseg3d.view(*picture, open_browser=False) as page:
        browser.size(*SIZES[size])
        browser.open(page.url)
        browser.until("return document.body.dataset.state === 'drawn'")
        overlay_alone = {}
        for key in "132":
            browser.press(key)
            overlay_alone[key] = pixels_of(browser, "#5A5A5A")  # the image itself
        assert overlay_alone["1"] > overlay_alone["2"] > 0.9 * overlay_alone["3"] > 1000
        assert browser.console() == []


@pytest.mark.slow
def test_a_page_in_a_folder_is_drawn_from_any_server(browser, scan, tmp_path: Path):
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    from medseg3d.viewer import write_page

    write_page(tmp_path / "page", scan.ct, scan.prob)
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "page")))
    Thread(target=server.serve_forever, daemon=True).start()
    browser.size(*SIZES["desktop"])
    browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
    assert browser.until("return document.body.dataset.state !== 'loading' && document.body.dataset.state") == "drawn"
    assert browser.console() == []
    server.shutdown()
    server.server_close()
