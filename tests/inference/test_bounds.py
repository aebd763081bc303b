from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Orientationd, SpatialPadd
from PIL import Image

from medseg3d.data.outputs import input_items
from medseg3d.errors import UserError
from medseg3d.inference import CasePredictor, SliceWindows, SlidingWindow
from medseg3d.inference.bounds import CaseBounds
from medseg3d.networks.costs import forward_bytes
from medseg3d.transforms import (
    FitPictured,
    FitSlicesd,
    InvertToOriginald,
    LoadPictured,
    LoadVolumed,
    ResampleVolumed,
    ResizePictured,
    SaveMaskd,
)

AXES = [["L", "R"], ["P", "A"], ["I", "S"]]
RAS = Orientationd("image", "RAS", labels=AXES)
FREE = "medseg3d.inference.bounds.available_memory"


def write_ct(path, shape=(20, 30, 40), affine=((0, 0, -2), (-0.7, 0, 0), (0, 0.8, 0))):
    """A scan whose axes are not in the order of R, A, S."""
    whole = np.eye(4)
    whole[:3, :3] = affine
    nib.save(nib.Nifti1Image(np.full(shape, 40, np.int16), whole), path)
    return path


def bounds_of(chain, network=None, inferer=None, workers=1):
    return CaseBounds(chain, None, network, inferer, torch.device("cpu"), workers)


def predictor_of(folder, workers=1):
    return CasePredictor(
        dataset=input_items(folder, folder / "masks"),
        network=torch.nn.Conv3d(1, 2, 1),
        inferer=SlidingWindow((8, 8, 8)),
        preprocessing=Compose([LoadVolumed("image"), RAS]),
        postprocessing=Compose([InvertToOriginald("pred"), SaveMaskd("pred")]),
        workers=workers,
    )


@pytest.mark.parametrize(
    "steps",
    [
        [ResampleVolumed("image", (1.5, 0.5, 3))],
        [ResampleVolumed("image", (1.5, 1.5, -1)), SpatialPadd("image", (64, 64, -1))],
        [Orientationd("image", "ALS", labels=AXES), FitSlicesd("image", 32, (30, 40))],
    ],
)
def test_the_network_meets_the_shape_that_the_chain_makes(tmp_path, steps):
    chain = Compose([LoadVolumed("image"), *steps])
    item = {"image": str(write_ct(tmp_path / "ct.nii.gz"))}
    bounds = bounds_of(chain)
    expected = chain(item)["image"].shape[1:]
    np.testing.assert_allclose(bounds.prepared(bounds.grid(item)), expected, atol=1)


@pytest.mark.parametrize("step", [ResizePictured("image", (12, 16)), FitPictured("image", (12, 16))])
def test_a_picture_meets_the_network_in_its_size(tmp_path, step):
    Image.new("RGB", (40, 50)).save(tmp_path / "polyp.png")
    chain = Compose([LoadPictured("image"), step])
    item = {"image": str(tmp_path / "polyp.png")}
    bounds = bounds_of(chain)
    assert bounds.prepared(bounds.grid(item)) == tuple(chain(item)["image"].shape[1:])


def test_windows_are_counted_with_their_batch_and_their_mirror_images(tmp_path):
    network = torch.nn.Conv3d(1, 2, 1)
    item = {"image": str(write_ct(tmp_path / "ct.nii.gz"))}
    chain = Compose([LoadVolumed("image")])
    one = bounds_of(chain, network, SlidingWindow((300, 300, 300))).memory(item)
    mirrored = SlidingWindow((300, 300, 300), sw_batch_size=2, mirror_axes=[0, 1])
    eight = bounds_of(chain, network, mirrored).memory(item)
    assert eight - one == 7 * 2 * 300**3 * 4 * 9 // 8 == 7 * forward_bytes(network, (1, 1, 300, 300, 300))[0] * 9 // 8


def test_slices_go_through_the_network_with_their_neighbours(tmp_path):
    network = torch.nn.Conv2d(3, 2, 1)
    item = {"image": str(write_ct(tmp_path / "ct.nii.gz"))}
    inferer = SliceWindows((2000, 2000), neighbours=1)
    needed = bounds_of(Compose([LoadVolumed("image")]), network, inferer).memory(item)
    assert needed > 2000 * 2000 * 2 * 4


def test_a_case_beyond_the_memory_is_refused_by_its_header_and_the_others_go_on(tmp_path, monkeypatch):
    write_ct(tmp_path / "small.nii.gz")
    huge = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    huge.header.set_data_shape((1000, 1000, 1000))
    with open(tmp_path / "huge.nii", "wb") as file:
        file.write(huge.header.binaryblock + bytes(4))
        file.truncate(352 + 2 * 1000**3)  # no disk holds it
    monkeypatch.setattr(FREE, lambda: 4_000_000_000)
    monkeypatch.setattr(CasePredictor, "_logits", lambda self, image: torch.zeros(2, *image.shape[1:]))
    report = predictor_of(tmp_path).run()
    assert [record["case"] for record in report.done] == ["small"]
    error = report.failed[0].error
    assert (error.code, error.subject) == ("OUT_OF_MEMORY", str(tmp_path / "huge.nii"))
    assert error.found.startswith("about 16.")  # image, logits of two classes and their weights
    assert error.wanted == "at most the 4.0 GB available"
    assert "--roi_size" in error.remedy
    assert "--workers" not in error.remedy
    assert not (tmp_path / "masks/huge_seg.nii.gz").exists()


def test_cases_at_once_need_the_memory_of_all(tmp_path, monkeypatch):
    item = {"image": str(write_ct(tmp_path / "ct.nii.gz"))}
    chain = Compose([LoadVolumed("image")])
    monkeypatch.setattr(FREE, lambda: bounds_of(chain).memory(item, 3))
    bounds_of(chain, workers=3).check_case(item)
    with pytest.raises(UserError, match=r"OUT_OF_MEMORY .* --workers 1 instead of 4"):
        bounds_of(chain, workers=4).check_case(item)


def test_a_batch_without_room_for_its_masks_is_refused_before_the_first(tmp_path, monkeypatch):
    write_ct(tmp_path / "ct.nii.gz", (100, 100, 100))
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 13_000))
    with pytest.raises(UserError, match=r"NO_SPACE .*masks: 0 MB free") as refused:
        predictor_of(tmp_path).run()
    assert "--output" in refused.value.remedy
    assert not (tmp_path / "masks").exists()


def test_folders_of_one_disk_share_its_room(tmp_path, monkeypatch):
    Image.new("RGB", (1000, 1000)).save(tmp_path / "polyp.png")
    items = input_items(
        tmp_path,
        tmp_path / "masks",
        image_suffixes=(".png",),
        mask_suffix=".png",
        prob_dir=tmp_path / "maps",
        overlay_dir=tmp_path / "overlays",
    )
    usage, bounds = type(shutil.disk_usage(tmp_path)), bounds_of(LoadPictured("image"))
    needed = 1_000_000 * (1 + 1.5) + 10_000 + 4096
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, needed))
    bounds.check_batch(items)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, needed - 1))
    with pytest.raises(UserError, match="NO_SPACE"):
        bounds.check_batch(items)


def test_a_chain_of_ones_own_is_not_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(FREE, lambda: 0)
    bounds = bounds_of(lambda item: item)
    bounds.check_batch([{"image": "none", "mask_file": str(tmp_path / "mask.nii.gz")}])
    bounds.check_case({"image": "none"})
