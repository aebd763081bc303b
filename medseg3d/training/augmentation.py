"""Augmentations that mmsegmentation has and MONAI lacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform, SpatialCrop


class RandVariedCropd(MapTransform, RandomizableTransform):
    """A window of images and their mask that no class fills, at a random place.

    mmsegmentation's `RandomCrop`: where one class has `largest_share` of the window or more, another place is drawn, up
    to ten times; the last is taken as it is. An image smaller than the window keeps its size along that side.

    Args:
        keys: images (C, H, W) of one size, and the mask.
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
        """The item with the window in place of the images."""
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


class Distortion(NamedTuple):
    """Other colours: what `RandPhotometricd` draws, in the order in which `distorted` does it.

    Each is a number, or a tensor that broadcasts with the images, such as (B, 1, 1, 1).
    """

    offset: Any
    contrast_first: Any
    saturation: Any
    turn: Any
    contrast_last: Any


class RandPhotometricd(MapTransform, RandomizableTransform):
    """Colour images with other brightness, contrast, saturation and hue, each with a probability of one half.

    mmsegmentation's `PhotoMetricDistortion`: brightness first, contrast second or, as often, last; values are clipped
    after each. Where it differs: images are not rounded to 256 levels in between, and hue turns by any angle, not by
    steps of 2 degrees.

    Args:
        keys: images (3, H, W), red, green, blue in [0, 1].
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

    def randomize(self, data: Any = None) -> None:
        """Draw the next `distortion`."""
        offset = self._drawn(-self.brightness, self.brightness, 0.0)
        contrast_last = self.R.randint(2)
        contrast = self._drawn(*self.contrast, 1.0)
        saturation, turn = self._drawn(*self.saturation, 1.0), self._drawn(-self.hue, self.hue, 0.0)
        first, last = (1.0, contrast) if contrast_last else (contrast, 1.0)
        self.distortion = Distortion(offset, first, saturation, turn, last)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the colours changed."""
        self.randomize()
        coloured = self.distortion.saturation != 1 or self.distortion.turn != 0
        return {**data, **{key: distorted(data[key], self.distortion, coloured) for key in self.keys}}

    def _drawn(self, least: float, most: float, else_: float) -> float:
        return self.R.uniform(least, most) if self.R.randint(2) else else_


def distorted(picture: torch.Tensor, distortion: Distortion, coloured: bool = True) -> torch.Tensor:
    """A image (*, 3, H, W), red, green, blue, with other colours; it is clipped to [0, 1] after each change.

    Saturation and hue are touched where it is `coloured`.
    """
    picture = (picture + distortion.offset).clamp(0, 1)
    picture = (picture * distortion.contrast_first).clamp(0, 1)
    if coloured:
        picture = with_colours(picture, distortion.saturation, distortion.turn)
    return (picture * distortion.contrast_last).clamp(0, 1)


def with_colours(picture: torch.Tensor, saturation: float | torch.Tensor, turn: float | torch.Tensor) -> torch.Tensor:
    """An image with its saturation multiplied (1 at most) and its hue turned, its value (largest channel) kept.

    Args:
        picture: (*, 3, H, W), red, green, blue in [0, 1].
        saturation: factor, at least 0.
        turn: part of the circle; 1/3 makes red green.

    Example:
        >>> with_colours(torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1), 1.0, 1 / 3).flatten().tolist()
        [0.0, 1.0, 0.0]
    """
    value, largest = picture.max(dim=-3, keepdim=True)
    chroma = value - picture.amin(dim=-3, keepdim=True)
    red, green, blue = picture.unbind(-3)
    # in sixths of the circle, from red
    sixths = torch.stack([green - blue, blue - red, red - green], dim=-3) / chroma.clamp(min=1e-12)
    hue = sixths.gather(-3, largest) + 2 * largest + 6 * turn
    strength = torch.minimum(chroma * saturation, value)
    steps = (hue + torch.tensor([5.0, 3.0, 1.0], device=picture.device).view(3, 1, 1)) % 6
    return value - strength * torch.minimum(steps, 4 - steps).clamp(0, 1)
