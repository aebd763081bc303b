"""Pictures and slices in the size of a network: MONAI's values and affine, in a fraction of the time."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.networks.layers.convutils import gaussian_1d
from monai.transforms import MapTransform
from monai.transforms.utils import scale_affine

from medseg3d.errors import UsageError


class ResizePictured(MapTransform):
    """Pictures (C, H, W) stretched to one size: images as `resize_picture` does it, masks as `resize_mask`.

    Args:
        keys: images and masks.
        spatial_size: rows and columns that come out.
        label_key: key of the mask.

    Example:
        >>> ResizePictured("image", (32, 64))({"image": MetaTensor(torch.zeros(3, 40, 60))})["image"].shape
        torch.Size([3, 32, 64])
    """

    def __init__(self, keys: KeysCollection, spatial_size: Sequence[int], label_key: str = "label") -> None:
        super().__init__(keys)
        self.spatial_size = spatial_size
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the images resized."""
        item = dict(data)
        for key in self.keys:
            resize = resize_mask if key == self.label_key else resize_picture
            item[key] = resize(item[key], self.fitted(item[key].shape[1:]))
        return item

    def fitted(self, shape: Sequence[int]) -> Sequence[int]:
        """Rows and columns that become of an image of these."""
        return self.spatial_size


class FitPictured(ResizePictured):
    """Pictures (C, H, W) resized to fit into a frame, their proportion kept: one side is the frame's, no side larger.

    Images as `resize_picture` does it, masks as `resize_mask`. Arguments are those of `ResizePictured`, of which
    `spatial_size` is the frame.

    Example:
        >>> FitPictured("image", (512, 1024))({"image": MetaTensor(torch.zeros(3, 40, 60))})["image"].shape
        torch.Size([3, 512, 768])
    """

    def fitted(self, shape: Sequence[int]) -> list[int]:
        """Rows and columns that become of an image of these."""
        scale = min(wanted / size for wanted, size in zip(self.spatial_size, shape, strict=True))
        return [max(1, round(scale * size)) for size in shape]


class FitSlicesd(MapTransform):
    """Volumes (1, H, W, D) whose slices (H, W) are resized as `FitPictured` resizes images, at a pixel size to match.

    The longer side of a slice becomes `picture_size` pixels, its proportion in mm is kept, each slice is resized as
    `resize_picture` does it, and the axis of slices stays as it is. A network trained on whole images has met the
    fields of view of those images: a slice that shows more or less than `field_of_view_mm` gets the pixel size of the
    nearest bound instead, and so more or fewer pixels than `picture_size`.

    Args:
        keys: volumes as `MetaTensor`, whose affine gives the mm.
        picture_size: pixels of the longer side.
        field_of_view_mm: shortest and longest of the longer side that are resized to it.

    Raises:
        UserError: BAD_VALUE for bounds that are none.

    Example:
        512 pixels of 0.8 mm are within the bounds, 250 of 0.8 mm are not: they are taken for a part of 320 mm.

        >>> fit = FitSlicesd("image", 192, (320, 500))
        >>> image = MetaTensor(torch.zeros(1, 512, 512, 3), affine=torch.diag(torch.tensor([0.8, 0.8, 5, 1])))
        >>> fit({"image": image})["image"].shape, fit({"image": image[:, :250, :200]})["image"].shape
        (torch.Size([1, 192, 192, 3]), torch.Size([1, 120, 96, 3]))
    """

    def __init__(self, keys: KeysCollection, picture_size: int, field_of_view_mm: Sequence[float]) -> None:
        super().__init__(keys)
        least, most = field_of_view_mm
        if not 0 < least <= most:
            raise UsageError(
                "BAD_VALUE",
                "--field_of_view_mm",
                str(list(field_of_view_mm)),
                "[shortest, longest] in mm",
                "--field_of_view_mm [300,400]",
            )
        self.picture_size = picture_size
        self.least, self.most = least, most

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the slices resized."""
        item = dict(data)
        for key in self.keys:
            volume = item[key]
            fitted = self.fitted(np.linalg.norm(volume.affine.cpu().numpy()[:3, :2], axis=0) * volume.shape[1:3])
            # the slices as the channels of one 2-D image; its affine is the volume's, whose first two axes change
            meta = {name: value for name, value in volume.meta.items() if name != "affine"}
            slices = MetaTensor(volume.as_tensor()[0].permute(2, 0, 1), affine=volume.affine, meta=dict(meta))
            picture = resize_picture(slices, fitted)
            item[key] = MetaTensor(picture.as_tensor().permute(1, 2, 0)[None], affine=picture.affine, meta=meta)
        return item

    def fitted(self, extent_mm: np.ndarray) -> list[int]:
        """Rows and columns that become of slices whose sides have this length."""
        pixel_mm = min(max(extent_mm.max(), self.least), self.most) / self.picture_size
        return [max(1, round(float(size))) for size in extent_mm / pixel_mm]


def resize_picture(picture: MetaTensor, spatial_size: Sequence[int]) -> MetaTensor:
    """An image (C, H, W) in another size: what MONAI's `Resize(mode="bilinear", anti_aliasing=True)` makes of it.

    Values (float32) and affine are MONAI's, to within the rounding of a sum. MONAI smooths the whole image with a
    Gaussian, beyond its border black, and reads the smooth one at few places; here every pixel that comes out is
    summed from those it depends on, along one axis after the other, which is many times faster. What was done is not
    noted in `applied_operations`: the way back is `restore_labels`, which needs the affine alone.

    Args:
        picture: values in any range.
        spatial_size: rows and columns that come out.

    Example:
        >>> from monai.transforms import Resize
        >>> picture = MetaTensor(torch.rand(3, 40, 60))
        >>> stock = Resize((10, 90), mode="bilinear", anti_aliasing=True)(picture)
        >>> bool((resize_picture(picture, (10, 90)) - stock).abs().max() < 1e-6)
        True
    """
    channels, height, width = picture.shape
    rows, columns = (int(size) for size in spatial_size)
    index, weight = _resize_taps(height, rows)
    of_channels = (height * torch.arange(channels)[:, None, None] + index).flatten(0, 1)
    lines = picture.as_tensor().float().reshape(channels * height, width)  # no copy of what is largest
    lines = F.embedding_bag(of_channels, lines, mode="sum", per_sample_weights=weight.repeat(channels, 1))
    index, weight = _resize_taps(width, columns)
    lines = F.embedding_bag(index, lines.T.contiguous(), mode="sum", per_sample_weights=weight)
    return _resized(picture, lines.T.contiguous().view(channels, rows, columns))


def resize_mask(mask: MetaTensor, spatial_size: Sequence[int]) -> MetaTensor:
    """A mask (1, H, W) in another size: what MONAI's `Resize(mode="nearest-exact")` makes of it, float32, to the bit.

    As with `resize_picture`, what was done is noted in the affine alone.

    Args:
        mask: labels.
        spatial_size: rows and columns that come out.

    Example:
        >>> resize_mask(MetaTensor(torch.tensor([[[0, 1, 1, 0]]], dtype=torch.uint8)), (1, 2)).tolist()
        [[[1.0, 0.0]]]
    """
    size = [int(size) for size in spatial_size]
    return _resized(mask, F.interpolate(mask.as_tensor()[None], size, mode="nearest-exact")[0].float())


def _resized(picture: MetaTensor, values: torch.Tensor) -> MetaTensor:
    """`values` with the meta of the image that they are a resized form of, and the affine that follows."""
    scaling = to_affine_nd(len(picture.affine) - 1, scale_affine(picture.shape[1:], values.shape[1:]))
    meta = {name: value for name, value in picture.meta.items() if name != "affine"}
    return MetaTensor(values, affine=picture.affine @ torch.from_numpy(scaling), meta=meta)


@functools.lru_cache(maxsize=256)
def _resize_taps(size: int, new_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pixels of an axis each new one is summed from, and with which weights; both (new_size, taps)."""
    # torch's bilinear rule: the scale in float32, the position rounded once
    scale = float(np.float32(size) / np.float32(new_size))
    position = (scale * (np.arange(new_size) + 0.5) - 0.5).astype(np.float32).clip(min=0)
    lower = np.minimum(position.astype(np.int64), size - 1)
    weight = torch.from_numpy(position - lower.astype(np.float32))[:, None]
    near = torch.from_numpy(np.stack([lower, np.minimum(lower + 1, size - 1)], axis=1))
    # MONAI's rule, which is scikit-image's
    sigma = (torch.tensor(float(size)) / new_size - 1) / 2
    kernel = gaussian_1d(sigma) if sigma > 0 else torch.ones(1)
    reach = len(kernel) // 2
    index = (near[:, :, None] + torch.arange(-reach, reach + 1)).flatten(1)
    weights = torch.cat([(1 - weight) * kernel, weight * kernel], dim=1)
    inside = (index >= 0) & (index < size)
    return index.clamp(0, size - 1), weights * inside
