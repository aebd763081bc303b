"""Image and label from disk, checked: volumes and 2-D images as `MetaTensor` that remember the grid of their file."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medseg3d.files.stream import file_sha256
from medseg3d.pictures.masks import check_size, read_picture_mask
from medseg3d.pictures.reading import read_with_remarks
from medseg3d.volumes.geometry import GRID_TOLERANCE, check_pair
from medseg3d.volumes.header import VolumeHeader
from medseg3d.volumes.label_maps import check_labels
from medseg3d.volumes.reading import read_volume

logger = logging.getLogger("medseg3d")


class LoadVolumed(MapTransform):
    """Image and label as `MetaTensor` (1, X, Y, Z), read through `read_volume` and refused when anything is wrong.

    The image of an item with the key `series` is DICOM and read through `read_series`; `series` becomes what was read.

    The image is float32, the label uint8. Both carry `affine` (voxel to RAS mm) and in `meta`: `original_affine`,
    `spatial_shape`, `filename_or_obj`, `space` ("RAS"), `geometry` (`VolumeHeader.geometry`, what a mask on the same
    grid needs), `sha256` of the file, and `warnings` (one per line, "" for none). When both keys are loaded, the
    label has to lie on the grid of its image.

    Args:
        keys: what to load: `image_key`, `label_key` or both; other keys are loaded as images.
        image_key: key of the image.
        label_key: key of the label.
        labels: values a label may hold; None allows every integer from 0 to 255.
        check_hu: whether images that do not look like Hounsfield units get a warning.
        grid_tolerance: voxels that a corner of the label may lie from that of its image.
        keep_integers: whether an image stored in signed integers of up to 16 bits without scaling keeps its type: half
            the memory and less time for a chain that continues with `ResampleVolumed`.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        UserError: as `read_volume`; PAIR_GEOMETRY, LABEL_SET. MONAI's Compose wraps it: see
            `medseg3d.errors.find_user_error`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        label_key: str = "label",
        labels: Sequence[int] | None = None,
        check_hu: bool = True,
        grid_tolerance: float = GRID_TOLERANCE,
        keep_integers: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.label_key = label_key
        self.labels = labels
        self.check_hu = check_hu
        self.grid_tolerance = grid_tolerance
        self.keep_integers = keep_integers

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the volumes in place of their paths."""
        item = dict(data)
        headers: dict[Hashable, VolumeHeader] = {}
        for key in self.key_iterator(item):
            is_label = key == self.label_key
            if key == self.image_key and "series" in item:
                from medseg3d.dicom.series import read_series  # of the extra dicom

                array, header, item["series"] = read_series(item[key], item["series"], self.check_hu)
            else:
                array, header = read_volume(item[key], check_hu=self.check_hu and not is_label)
            if is_label:
                array = check_labels(array, self.labels, item[key], header)
            elif not (self.keep_integers and array.dtype in (np.int8, np.int16)):
                array = array.astype(np.float32, order="K", copy=False)  # torch lacks some of NIfTI's types
            values, affine = torch.from_numpy(array)[None], torch.from_numpy(header.affine)
            item[key] = _as_meta_tensor(values, affine, header.path, header.sha256, header.warnings)
            item[key].meta.update(space="RAS", geometry=header.geometry)
            headers[key] = header
        if self.image_key in headers and self.label_key in headers:
            check_pair(headers[self.image_key], headers[self.label_key], self.grid_tolerance)
            # to the last bit, or the two could be resampled to different shapes
            item[self.label_key].affine = item[self.image_key].affine.clone()
        return item


class LoadPictured(MapTransform):
    """Picture and mask as `MetaTensor` (C, H, W): RGB float32 in [0, 1], and the mask uint8 0 or 1 with one channel.

    Read through `read_picture` and `read_picture_mask`, row by row as the file stores them. Both carry `affine` (the
    identity: row, column) and in `meta`: `original_affine`, `spatial_shape` (H, W), `filename_or_obj`, `sha256` of the
    file, and `warnings` of an image (one per line, "" for none).

    Args:
        keys: what to load: the image, `label_key` or both.
        label_key: key of the mask.
        upright: whether to turn both as their EXIF orientation asks.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        UserError: as `read_picture` and `read_picture_mask`; PAIR_GEOMETRY. MONAI's Compose wraps it: see
            `medseg3d.errors.find_user_error`.
    """

    def __init__(
        self, keys: KeysCollection, label_key: str = "label", upright: bool = False, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.upright = upright

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the images in place of their paths."""
        item = dict(data)
        first: tuple[Any, tuple[int, ...]] | None = None
        for key in self.key_iterator(item):
            path = item[key]
            array: np.ndarray
            remarks: tuple[str, ...] = ()
            if key == self.label_key:
                array = read_picture_mask(path, self.upright).astype(np.uint8)[None]
            else:
                pixels, remarks = read_with_remarks(path, self.upright)
                if self.label_key in self.keys:  # a training; of a prediction the record says it
                    for remark in remarks:
                        logger.warning("%s: %s", path, remark)
                array = np.moveaxis(pixels, -1, 0).astype(np.float32, order="C")
                array /= 255
            shape = array.shape[1:]
            first = first or (path, shape)
            check_size(path, shape, *first)
            identity = torch.eye(4, dtype=torch.float64)
            item[key] = _as_meta_tensor(torch.from_numpy(array), identity, path, file_sha256(path), remarks)
        return item


def _as_meta_tensor(
    values: torch.Tensor, affine: torch.Tensor, path: str | Path, sha256: str | None, warnings: Sequence[str]
) -> MetaTensor:
    meta = {
        "original_affine": affine.clone(),
        "spatial_shape": np.array(values.shape[1:]),  # as MONAI's readers leave it
        "filename_or_obj": str(path),
        "sha256": sha256,
        "warnings": "\n".join(warnings),
    }
    return MetaTensor(values, affine=affine, meta=meta)
