"""Masks, overlays and maps of probability to disk, on the grid of their image, whole or not at all."""

from __future__ import annotations

from abc import abstractmethod
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


class Saved(MapTransform):
    """Writes one key of an item to the path under another, and the SHA-256 of the file into the `meta` of the former.

    The file is whole or not there.

    Args:
        keys: the one key, as `InvertToOriginald` leaves it.
        allow_missing_keys: pass over an item that lacks it.

    Raises:
        UserError: NO_SPACE, NOT_WRITABLE.
    """

    path_key: str
    sum_key: str

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"keys must name one map for one {self.path_key}, found {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, what is under the key written."""
        item = dict(data)
        for key in self.key_iterator(item):
            digest = self.write(Path(item[self.path_key]), item[key])
            if isinstance(item[key], MetaTensor):
                item[key].meta[self.sum_key] = digest
        return item

    @abstractmethod
    def write(self, path: Path, tensor: Any) -> str:
        """Write the tensor; the SHA-256 of the file comes back."""


class SaveMaskd(Saved):
    """Writes a label map (1, X, Y, Z) as uint8 on the grid of its source to `mask_file`; `meta["mask_sha256"]` is set.

    Arguments and errors are those of `Saved`. The format is that of the name to write to. Shape and geometry are those
    of the source file, in its own format to the letter; the file is read back and compared before it gets its name.
    """

    path_key, sum_key = "mask_file", "mask_sha256"

    def write(self, path: Path, tensor: Any) -> str:
        """Write a volume of labels."""
        if not isinstance(tensor, MetaTensor):
            raise ValueError(f"a mask must be a MetaTensor that knows its affine, found {type(tensor).__name__}")
        return write_mask(path, tensor.cpu().numpy()[0], tensor.meta.get("geometry"), tensor.affine.cpu().numpy())


class SavePictureMaskd(Saved):
    """Writes a mask (1, H, W) of 0 and 1 as a PNG of 0 and 255 to `mask_file`; `meta["mask_sha256"]` is set.

    Arguments and errors are those of `Saved`.

    Raises:
        ValueError: more than one class of foreground, which an image of black and white cannot hold.
    """

    path_key, sum_key = "mask_file", "mask_sha256"

    def write(self, path: Path, tensor: Any) -> str:
        """Write an image of black and white."""
        return write_picture_mask(path, np.asarray(tensor.cpu())[0])


class SaveOverlayd(Saved):
    """Writes the source image with its mask (1, H, W) drawn on it (`draw_overlay`) to `overlay_file`.

    The image is read once more, because that of the item has the network's size. `meta["overlay_sha256"]` of the
    mask is set. An item without `overlay_file` wants none. Errors are those of `Saved`.

    Args:
        keys: the mask, as `InvertToOriginald` leaves it; every label above 0 is drawn alike.
        upright: as `LoadPictured` had it.
    """

    path_key, sum_key = "overlay_file", "overlay_sha256"

    def __init__(self, keys: KeysCollection, upright: bool = False) -> None:
        super().__init__(keys)
        self.upright = upright

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, its overlay written where it wants one."""
        return super().__call__(data) if self.path_key in data else dict(data)

    def write(self, path: Path, tensor: Any) -> str:
        """Write the image that the mask is of."""
        picture, _ = read_with_remarks(tensor.meta["filename_or_obj"], self.upright)
        return write_overlay(path, picture, tensor.cpu().numpy()[0] > 0)


class SaveProbabilityd(Saved):
    """Writes a map of foreground probability to `prob_file`: (1, X, Y, Z) as a volume, (1, H, W) as 16-bit PNG.

    The volume is float32 on the grid of its source, as `SaveMaskd` has it. `meta["prob_sha256"]` of the map is set.
    Arguments and errors are those of `Saved`.
    """

    path_key, sum_key = "prob_file", "prob_sha256"

    def write(self, path: Path, tensor: Any) -> str:
        """Write a volume or a 2-D image of probabilities."""
        array = tensor.cpu().numpy()[0].clip(0, 1)  # a sum of classes may exceed 1 by a rounding
        if array.ndim == 2:
            return write_grey(path, array)
        return write_probabilities(path, array, tensor.meta.get("geometry"), tensor.affine.cpu().numpy())
