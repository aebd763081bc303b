"""What is in a page: the voxels on the grid of the scan, the names, colours and sizes of the masks."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import re
from urllib.request import urlopen

import nibabel as nib
import numpy as np
import pytest
from commands import ROOT
from dicom_series import stored_values, write_series
from PIL import Image

import medseg3d
from medseg3d.cli import main
from medseg3d.errors import UserError
from medseg3d.pictures.colours import LABEL_COLOURS
from medseg3d.viewer.show import page_files

PAGE = ROOT / "medseg3d" / "viewer" / "page"


def volume(content: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def scene_of(*call, **options) -> dict:
    return json.loads(page_files(*call, **options)["scene.json"])


def test_the_page_holds_the_voxels_on_the_grid_of_the_scan(scan):
    files = page_files(scan.ct, [scan.truth, scan.prob])
    for name, path in (("scan", scan.ct), ("mask0", scan.truth), ("mask1", scan.prob)):
        served, original = volume(files[f"{name}.nii.gz"]), nib.load(path)
        np.testing.assert_array_equal(served.get_fdata(), original.get_fdata())
        np.testing.assert_allclose(served.affine, original.affine)


def test_a_mask_is_laid_on_the_grid_of_its_scan_to_the_last_bit(scan, tmp_path):
    mask = nib.load(scan.truth)
    moved = mask.affine.copy()
    moved[0, 3] += 0.01
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj), moved), tmp_path / "mask.nii.gz")
    files = page_files(scan.ct, [tmp_path / "mask.nii.gz"])
    np.testing.assert_array_equal(volume(files["mask0.nii.gz"]).affine, volume(files["scan.nii.gz"]).affine)


def test_labels_have_names_colours_sizes_and_a_place(scan):
    layers = scene_of(scan.ct, [f"truth={scan.truth}", scan.prediction], class_names=["pancreas", "tumour"])["layers"]
    assert [layer["name"] for layer in layers] == ["truth", "prediction"]
    labels = [label for layer in layers for label in layer["labels"]]
    assert [(label["value"], label["name"]) for label in labels] == [(1, "pancreas"), (1, "pancreas"), (2, "tumour")]
    assert [label["colour"] for label in labels] == list(LABEL_COLOURS[:3])
    # 10 x 10 x 8 and 3 x 10 x 8 voxels of 2 x 2 x 3 mm
    assert [label["size"] for label in labels] == ["9.6 ml", "6.7 ml", "2.9 ml"]
    x, y, z = (np.linalg.inv(nib.load(scan.truth).affine) @ [*labels[0]["centre"], 1])[:3].round(6)
    assert (x in (14, 15), y in (18, 19), z in (11, 12)) == (True, True, True)


def test_labels_without_a_name_are_numbered_and_the_only_one_is_called_as_its_mask(scan):
    truth, prediction = scene_of(scan.ct, [scan.truth, scan.prediction])["layers"]
    assert [label["name"] for label in truth["labels"]] == ["truth"]
    assert [label["name"] for label in prediction["labels"]] == ["label 1", "label 2"]


def test_a_mask_of_ours_has_the_names_of_its_record(scan, tmp_path):
    mask = tmp_path / "ct_seg.nii.gz"
    mask.write_bytes(scan.truth.read_bytes())
    record = {"mask": {"file": mask.name, "sha256": "0"}, "input": {"file": "ct.nii.gz", "sha256": "0"}}
    (tmp_path / "ct_seg.json").write_text(json.dumps({**record, "class_names": ["pancreas"]}), encoding="utf-8")
    assert scene_of(scan.ct, [mask])["layers"][0]["labels"][0]["name"] == "pancreas"


def test_an_empty_mask_is_shown_as_one_of_nothing(scan, tmp_path):
    mask = nib.load(scan.truth)
    nib.save(nib.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), tmp_path / "empty.nii.gz")
    (label,) = scene_of(scan.ct, [tmp_path / "empty.nii.gz"])["layers"][0]["labels"]
    assert (label["size"], label["centre"]) == ("0.0 ml", None)


def test_a_ct_has_the_windows_of_the_abdomen_the_bones_and_the_lungs_and_its_own(scan):
    image = scene_of(scan.ct, [])["image"]
    assert image["unit"] == "HU"
    assert {window["name"]: (window["low"], window["high"]) for window in image["windows"]} == {
        "Abdomen": (-160, 240),
        "Bone": (-500, 1300),
        "Lung": (-1350, 150),
        "Full range": (-1000, 900),
    }


def test_what_is_no_ct_begins_with_a_window_of_its_own_values(tmp_path):
    values = np.linspace(0, 1000, 8000, dtype=np.float32).reshape(20, 20, 20)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "mr.nii.gz")
    image = scene_of(tmp_path / "mr.nii.gz", [])["image"]
    assert image["unit"] == ""
    assert [window["name"] for window in image["windows"]] == ["Auto", "Full range"]
    assert image["windows"][0] == {
        "name": "Auto",
        "low": pytest.approx(5, abs=0.1),
        "high": pytest.approx(995, abs=0.1),
    }


def test_a_folder_of_dicom_is_shown_in_16_bits(tmp_path):
    pytest.importorskip("highdicom")
    write_series(tmp_path / "series")
    served = volume(page_files(tmp_path / "series", [])["scan.nii.gz"])
    assert served.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.sort(served.get_fdata().ravel()), np.sort(stored_values(1).ravel() - 1024.0))


def test_a_mask_of_a_picture_is_opaque_at_its_border_and_see_through_elsewhere(picture):
    frame, mask = picture
    files = page_files(frame, [mask])
    served = Image.open(io.BytesIO(files["mask0.png"]))
    opacity = np.asarray(served.getchannel("A"))
    assert (served.mode, opacity[20, 29], opacity[20, 30], opacity[0, 45]) == ("LA", 0, 255, 255)
    assert 0 < opacity[20, 45] < 128
    assert np.asarray(Image.open(io.BytesIO(files["picture.png"]))).tolist() == np.asarray(Image.open(frame)).tolist()
    assert json.loads(files["scene.json"])["layers"][0]["labels"][0]["size"] == "50.0%"


@pytest.mark.parametrize("which", ["volume", "picture"])
def test_a_mask_of_another_grid_is_refused(scan, picture, tmp_path, which):
    if which == "volume":
        image, mask = scan.ct, tmp_path / "mask.nii.gz"
        nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), np.eye(4)), mask)
    else:
        image, mask = picture[0], tmp_path / "mask.png"
        Image.new("L", (40, 60)).save(mask)
    with pytest.raises(UserError, match="PAIR_GEOMETRY"):
        page_files(image, [mask])


def test_two_masks_of_one_name_need_names(scan, tmp_path):
    (tmp_path / "truth.nii.gz").write_bytes(scan.truth.read_bytes())
    with pytest.raises(UserError, match="NAME_COLLISION truth"):
        page_files(scan.ct, [scan.truth, tmp_path / "truth.nii.gz"])


@pytest.mark.parametrize("missing", ["scan", "mask"])
def test_a_file_that_is_not_there_is_an_error(scan, capsys, missing):
    words = ["no.nii.gz", str(scan.truth)] if missing == "scan" else [str(scan.ct), "no.nii.gz"]
    assert main(["view", *words, "--no-browser"]) == 2
    assert capsys.readouterr().err.startswith("error: MISSING_FILE no.nii.gz: no such file")


def test_python_gets_a_page_that_a_notebook_shows(scan):
    with medseg3d.view(scan.ct, scan.truth, open_browser=False) as page:
        assert f'<iframe src="{page.url}"' in page._repr_html_()
        with urlopen(f"{page.url}scene.json") as answer:
            assert json.load(answer)["title"] == "ct.nii.gz"


def test_a_browser_is_opened_but_in_a_notebook(scan, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    with medseg3d.view(scan.ct) as page:
        assert opened == [page.url]
    monkeypatch.setitem(__import__("sys").modules, "ipykernel", object())
    medseg3d.view(scan.ct).close()
    assert len(opened) == 1


def test_the_page_can_be_written_to_a_folder_once(scan, tmp_path, capsys):
    words = ["view", str(scan.ct), str(scan.truth), "-o", str(tmp_path / "page")]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "index.html")
    written = {path.name: path.read_bytes() for path in (tmp_path / "page").iterdir()}
    assert written.keys() == page_files(scan.ct, [scan.truth]).keys()
    assert main(words) == 2
    assert "NOT_EMPTY" in capsys.readouterr().err


def test_no_file_of_the_page_names_another_place():
    own = [path for path in PAGE.iterdir() if path.suffix in (".html", ".css", ".js") and path.name != "niivue.js"]
    assert len(own) == 5
    assert {path.name: re.findall(r"(?:https?:)?//[\w.]+\.\w+", path.read_text(encoding="utf-8")) for path in own} == {
        path.name: [] for path in own
    }


def test_niivue_is_the_one_that_its_script_fetches_and_has_its_licence():
    spec = importlib.util.spec_from_file_location("fetch_niivue", ROOT / "scripts" / "fetch_niivue.py")
    fetch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fetch)
    assert hashlib.sha256((PAGE / "niivue.js").read_bytes()).hexdigest() == fetch.SHA256
    assert f"@niivue/niivue {fetch.VERSION}" in (PAGE / "niivue.LICENSE.txt").read_text(encoding="utf-8")
