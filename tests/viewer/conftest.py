"""A scan and a 2-D image with masks, and a browser to see them in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from browser import Browser, chromium_or_skip
from PIL import Image

AFFINE = np.diag([-2.0, 2.0, 3.0, 1.0])  # LAS: the first voxel is the most right one
AFFINE[:3, 3] = [40, -30, 10]


class Scan(NamedTuple):
    """A CT of 40 x 36 x 24 voxels and what goes with it."""

    ct: Path
    truth: Path
    prediction: Path
    prob: Path


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    """A body of 40 HU with a bone; the truth is a block, the prediction that further left, with a second label."""
    folder = tmp_path_factory.mktemp("scan")
    ct = np.full((40, 36, 24), -1000, np.int16)
    ct[6:34, 6:30, 2:22] = 40
    ct[18:22, 8:12, 2:22] = 900
    truth = np.zeros(ct.shape, np.uint8)
    truth[10:20, 14:24, 8:16] = 1
    prediction = np.roll(truth, 3, axis=0)
    prediction[13:16, 14:24, 8:16] = 2
    prob = np.where(truth, np.float32(0.75), np.float32(0.1))
    paths = Scan(*(folder / f"{name}.nii.gz" for name in Scan._fields))
    for path, array in zip(paths, (ct, truth, prediction, prob), strict=True):
        nib.save(nib.Nifti1Image(array, AFFINE), path)
    return paths


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A grey image of 60 x 40 pixels and a mask that is its right half."""
    folder = tmp_path_factory.mktemp("picture")
    Image.new("RGB", (60, 40), (90, 90, 90)).save(folder / "frame.png")
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 30:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder / "frame.png", folder / "mask.png"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    yield from chromium_or_skip()
