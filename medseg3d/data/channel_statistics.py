"""Mean and standard deviation of the channels of images, for a bundle's normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medseg3d.data.picture_folders import read_picture_folder
from medseg3d.data.splits import read_split
from medseg3d.errors import UserError
from medseg3d.pictures.reading import read_picture


class ChannelStatistics(NamedTuple):
    """Of the pixels of some images, on a scale from 0 to 1.

    Attributes:
        mean: of red, green and blue.
        std: of red, green and blue, over all pixels (not over one less).
        pictures: how many were read.
        pixels: how many each channel has.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pictures: int
    pixels: int


def channel_statistics(paths: Sequence[str | Path]) -> ChannelStatistics:
    """The statistics of all pixels of these images, of large ones more than of small ones.

    One image at a time; only how often each of the 256 levels occurs is kept, in whole numbers, so that neither the
    number of images nor their order rounds anything.

    Raises:
        UserError: as `read_picture`.
        ValueError: no image.
    """
    if not paths:
        raise ValueError("paths must name at least one image")
    counts = np.zeros((3, 256), np.int64)
    for path in paths:
        picture = read_picture(path)
        counts += [np.bincount(picture[..., channel].ravel(), minlength=256) for channel in range(3)]
    levels, pixels = np.arange(256), counts[0].sum()
    mean = counts @ levels / (255 * pixels)
    variance = (counts * (levels / 255 - mean[:, None]) ** 2).sum(axis=1) / pixels
    return ChannelStatistics(tuple(mean.tolist()), tuple(np.sqrt(variance).tolist()), len(paths), int(pixels))


def training_statistics(dataset_dir: str | Path, split_file: str | Path | None = None) -> ChannelStatistics:
    """The statistics of the training set of a split file; of all images of the data set where none is named.

    Raises:
        UserError: as `read_picture_folder`, `read_split` and `read_picture`; SPLIT_MISMATCH if the training set names
            images that the data set lacks, or none.
    """
    images = {case["case"]: case["image"] for case in read_picture_folder(dataset_dir)}
    if split_file is None:
        return channel_statistics(list(images.values()))
    wanted = read_split(split_file).train
    absent = [case for case in wanted if case not in images]
    if absent or not wanted:
        found = f"{len(absent)} of {len(wanted)} training cases that the data set lacks ({', '.join(absent[:3])})"
        raise UserError(
            "SPLIT_MISMATCH", split_file, found, "the data set's own cases", "name the split file of this data set"
        )
    return channel_statistics([images[case] for case in wanted])
