"""Masks, overlays and maps of probability to disk, on the grid of their image, whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medseg3d.pictures.overlays import write_overlay
from medseg3d.pictures.reading import read_with_remarks
from medseg3d.pictures.writing import write_grey, write_picture_mask
from medseg3d.volumes.writing import write_mask, write_probabilities


class SaveMaskd(MapTransform):
    """Writes a label map (1, X, Y, Z) as uint8 on the grid of its source, whole or not at all.

    The format is that of the name to write to. Shape and geometry are those of the source file, in its own format to
    the letter; the file is read back and compared before it gets its name. `meta["mask_sha256"]` of the label map is
    set.

    Args:
        keys: the label map, as `InvertToOriginald` leaves it.
        path_key: the item's key for the path to write to.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        Fault: NO_SPACE, NOT_WRITABLE.
    """

    def __init__(self, keys: KeysCollection, path_key: str = "mask_file", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.path_key = path_key
        if len(self.keys) != 1:
            raise ValueError(f"keys must name one label map for one {path_key}, found {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its label map written."""
        item = dict(data)
        for key in self.key_iterator(item):
            labels = item[key]
            if not isinstance(labels, MetaTensor):
                raise ValueError(f"{key} must be a MetaTensor that knows its affine, found {type(labels).__name__}")
            labels.meta["mask_sha256"] = write_mask(
                item[self.path_key],
                labels.cpu().numpy()[0],
                geometry=labels.meta.get("geometry"),
                affine=labels.affine.cpu().numpy(),
            )
        return item


class SavePictureMaskd(MapTransform):
    """Writes a mask (1, H, W) of 0 and 1 as a PNG of 0 and 255, whole or not at all.

    `meta["mask_sha256"]` of the mask is set.

    Args:
        keys: the mask, as `InvertToOriginald` leaves it.
        path_key: the item's key for the path to write to.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        ValueError: more than one class of foreground, which a picture of black and white cannot hold.
        Fault: NO_SPACE, NOT_WRITABLE.
    """

    def __init__(self, keys: KeysCollection, path_key: str = "mask_file", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.path_key = path_key
        if len(self.keys) != 1:
            raise ValueError(f"keys must name one mask for one {path_key}, found {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its mask written."""
        item = dict(data)
        for key in self.key_iterator(item):
            mask = item[key]
            path = Path(item[self.path_key])
            write_picture_mask(path, np.asarray(mask.cpu())[0])
            if isinstance(mask, MetaTensor):
                mask.meta["mask_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return item


class SaveOverlayd(MapTransform):
    """Writes the source picture with its mask (1, H, W) drawn on it (`draw_overlay`), whole or not at all.

    The picture is read once more, because that of the item has the network's size. `meta["overlay_sha256"]` of the
    mask is set. An item without `path_key` wants no overlay.

    Args:
        keys: the mask, as `InvertToOriginald` leaves it; every label above 0 is drawn alike.
        path_key: the item's key for the path to write to.
        upright: as `LoadPictured` had it.

    Raises:
        Fault: NO_SPACE, NOT_WRITABLE.
    """

    def __init__(self, keys: KeysCollection, path_key: str = "overlay_file", upright: bool = False) -> None:
        super().__init__(keys)
        self.path_key = path_key
        self.upright = upright
        if len(self.keys) != 1:
            raise ValueError(f"keys must name one mask for one {path_key}, found {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its overlay written."""
        if self.path_key in data:
            mask, path = data[self.keys[0]], Path(data[self.path_key])
            write_overlay(
                path, read_with_remarks(mask.meta["filename_or_obj"], self.upright)[0], mask.cpu().numpy()[0] > 0
            )
            mask.meta["overlay_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return dict(data)


class SaveProbabilityd(MapTransform):
    """Writes a map of foreground probability, whole or not at all: (1, X, Y, Z) as a volume, (1, H, W) as 16-bit PNG.

    The volume is float32 on the grid of its source, as `SaveMaskd` has it. `meta["prob_sha256"]` of the map is set.

    Args:
        keys: the map, as `InvertToOriginald` leaves it under `prob_key`.
        path_key: the item's key for the path to write to.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        Fault: NO_SPACE, NOT_WRITABLE.
    """

    def __init__(self, keys: KeysCollection, path_key: str = "prob_file", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.path_key = path_key
        if len(self.keys) != 1:
            raise ValueError(f"keys must name one map for one {path_key}, found {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its map written."""
        item = dict(data)
        for key in self.key_iterator(item):
            prob = item[key]
            path = Path(item[self.path_key])
            array = prob.cpu().numpy()[0].clip(0, 1)  # a sum of classes may exceed 1 by a rounding
            if array.ndim == 2:
                write_grey(path, array)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                digest = write_probabilities(path, array, prob.meta.get("geometry"), prob.affine.cpu().numpy())
            if isinstance(prob, MetaTensor):
                prob.meta["prob_sha256"] = digest
        return item
