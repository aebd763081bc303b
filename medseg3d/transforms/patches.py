"""Volumes as the patches of a network: a slab of slices as channels, and padding that has a limit."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, SpatialPadd

from medseg3d.errors import UserError

SMALLEST_FILL = 0.25
"""Part of the patch, along each axis, that a volume has to fill; MSD pancreas scans of 37 slices fill 0.48."""


class SlicesToChannelsd(MapTransform):
    """A slab of slices (1, H, W, D) as one 2-D image: the image (D, H, W), the label its middle slice (1, H, W).

    Args:
        keys: the slabs, image and label; D is odd.
        label_key: key of the label.

    Raises:
        ValueError: more than one channel, or an even number of slices, which has no middle.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label") -> None:
        super().__init__(keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with plain tensors in place of the slabs."""
        item = dict(data)
        for key in self.keys:
            slab = torch.as_tensor(item[key]).as_subclass(torch.Tensor)
            if slab.ndim != 4 or slab.shape[0] != 1 or slab.shape[-1] % 2 == 0:
                raise ValueError(f"{key} must be (1, H, W, D) with an odd D, found shape {tuple(slab.shape)}")
            middle = slab.shape[-1] // 2
            item[key] = slab[..., middle] if key == self.label_key else slab[0].permute(2, 0, 1).contiguous()
        return item


class PadToPatchd(MapTransform):
    """Volumes at least as large as the patch, padded with zeros (air, background) evenly at both ends.

    MONAI's `SpatialPadd` behind a limit: a volume that fills less than a quarter of the patch would teach the network
    air, and is refused.

    Args:
        keys: channel-first volumes of one shape.
        roi_size: voxels of the patch.

    Raises:
        UserError: `PATCH_SIZE`, naming the file of the first key.
    """

    def __init__(self, keys: KeysCollection, roi_size: Sequence[int]) -> None:
        super().__init__(keys)
        self.roi_size = roi_size
        self.pad = SpatialPadd(keys, spatial_size=roi_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Pad the volumes of one case."""
        first = data[self.keys[0]]
        check_patch_fill(first.shape[1:], self.roi_size, first.meta.get("filename_or_obj", "a volume"))
        return self.pad(data)


def check_patch_fill(shape: Sequence[int], roi_size: Sequence[int], path: str | Path) -> None:
    """Raise `UserError` `PATCH_SIZE` if a volume fills less than a quarter of the patch along an axis.

    Args:
        shape: voxels of the resampled volume along R, A, S.
        roi_size: voxels of the patch.
        path: the volume's file.

    Example:
        >>> check_patch_fill((200, 200, 46), (96, 96, 96), "ct.nii.gz")
    """
    if any(size < SMALLEST_FILL * wanted for size, wanted in zip(shape, roi_size, strict=True)):
        found, patch = f"{'x'.join(map(str, shape))} voxels on the resampled grid", "x".join(map(str, roi_size))
        wanted = f"at least a quarter of the patch of {patch} along each axis (the rest is padded)"
        remedy = "use a smaller --roi_size or a finer --spacing, or leave the volume out"
        raise UserError("PATCH_SIZE", path, found, wanted, remedy)
