"""Augmentations that mmsegmentation has and MONAI lacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform, SpatialCrop


class RandVariedCropd(MapTransform, RandomizableTransform):
    """A window of pictures and their mask that no class fills, at a random place.

    mmsegmentation's `RandomCrop`: where one class has `largest_share` of the window or more, another place is drawn, up
    to ten times; the last is taken as it is. A picture smaller than the window keeps its size along that side.

    Args:
        keys: pictures (C, H, W) of one size, and the mask.
        roi_size: rows and columns of the window.
        label_key: key of the mask.
        largest_share: as above; 1 for any window with two classes.
    """

    def __init__(
        self, keys: KeysCollection, roi_size: Sequence[int], label_key: str = "label", largest_share: float = 0.75
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.roi_size = roi_size
        self.label_key = label_key
        self.largest_share = largest_share

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the window in place of the pictures."""
        item = dict(data)
        label = item[self.label_key]
        crop = self._draw(label.shape[1:])
        for _ in range(10):
            shares = torch.bincount(torch.as_tensor(crop(label)).flatten().long()).float()
            if (shares > 0).sum() > 1 and shares.max() < self.largest_share * shares.sum():
                break
            crop = self._draw(label.shape[1:])
        for key in self.keys:
            item[key] = crop(item[key])
        return item

    def _draw(self, shape: Sequence[int]) -> SpatialCrop:
        window = [min(wanted, size) for wanted, size in zip(self.roi_size, shape, strict=True)]
        start = [self.R.randint(size - side + 1) for size, side in zip(shape, window, strict=True)]
        return SpatialCrop(roi_start=start, roi_end=[first + side for first, side in zip(start, window, strict=True)])


class RandPhotometricd(MapTransform, RandomizableTransform):
    """Colour pictures with other brightness, contrast, saturation and hue, each with a probability of one half.

    mmsegmentation's `PhotoMetricDistortion`: brightness first, contrast second or, as often, last; values are clipped
    after each. Where it differs: pictures are not rounded to 256 levels in between, and hue turns by any angle, not by
    steps of 2 degrees.

    Args:
        keys: pictures (3, H, W), red, green, blue in [0, 1].
        brightness: most that is added or taken away.
        contrast: least and largest factor of the values.
        saturation: least and largest factor of the saturation (of hue, saturation, value).
        hue: largest turn, as a part of the circle.
    """

    def __init__(
        self,
        keys: KeysCollection,
        brightness: float = 32 / 255,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 0.1,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the colours changed."""
        item = dict(data)
        offset = self._drawn(-self.brightness, self.brightness, 0.0)
        contrast_last = self.R.randint(2)
        contrast = self._drawn(*self.contrast, 1.0)
        saturation, turn = self._drawn(*self.saturation, 1.0), self._drawn(-self.hue, self.hue, 0.0)
        for key in self.keys:
            picture = (item[key] + offset).clamp(0, 1)
            if not contrast_last:
                picture = (picture * contrast).clamp(0, 1)
            if saturation != 1 or turn != 0:
                picture = with_colours(picture, saturation, turn)
            item[key] = (picture * contrast).clamp(0, 1) if contrast_last else picture
        return item

    def _drawn(self, least: float, most: float, else_: float) -> float:
        return self.R.uniform(least, most) if self.R.randint(2) else else_


def with_colours(picture: torch.Tensor, saturation: float, turn: float) -> torch.Tensor:
    """A picture with its saturation multiplied (1 at most) and its hue turned, its value (largest channel) kept.

    Args:
        picture: (3, H, W), red, green, blue in [0, 1].
        saturation: factor, at least 0.
        turn: part of the circle; 1/3 makes red green.

    Example:
        >>> with_colours(torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1), 1.0, 1 / 3).flatten().tolist()
        [0.0, 1.0, 0.0]
    """
    value, largest = picture.max(dim=0)
    chroma = value - picture.min(dim=0).values
    red, green, blue = picture
    # in sixths of the circle, from red
    sixths = torch.stack([green - blue, blue - red, red - green]) / chroma.clamp(min=1e-12)
    hue = sixths.gather(0, largest[None])[0] + 2 * largest + 6 * turn
    strength = torch.minimum(chroma * saturation, value)
    steps = (hue + torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1)) % 6
    return value - strength * torch.minimum(steps, 4 - steps).clamp(0, 1)
