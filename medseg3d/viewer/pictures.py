"""An image and its masks as files that a browser reads."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from medseg3d.data.loaded_pairs import picture_values
from medseg3d.pictures.colours import LABEL_COLOURS
from medseg3d.pictures.masks import check_size, read_levels
from medseg3d.pictures.reading import read_picture
from medseg3d.viewer.layers import label_entries, scene_file
from medseg3d.volumes.label_maps import label_counts

_INSIDE = 80  # of 255: how opaque a mask is within its border


def picture_page(picture: Path, masks: Mapping[str, Path], class_names: Sequence[str] = ()) -> dict[str, bytes]:
    """Name -> content of `scene.json` and of the images that it names, in the grid of the picture's file.

    Args:
        picture: JPEG, PNG, TIFF or BMP.
        masks: name -> mask or map of probabilities, which their levels tell apart.
        class_names: the name of what the masks show.

    Raises:
        UserError: as `medseg3d.pictures.reading.read_picture`; PAIR_GEOMETRY; LABEL_SET.
    """
    pixels = read_picture(picture)
    height, width = pixels.shape[:2]
    files = {"picture.png": _png(Image.fromarray(pixels))}
    colours = itertools.cycle(LABEL_COLOURS)
    layers: list[dict[str, Any]] = []
    for name, path in masks.items():
        grey = read_levels(path)
        check_size(path, grey.levels.shape, picture, pixels.shape)
        kind, values, _ = picture_values(grey)
        layer: dict[str, Any] = {"name": name, "file": f"mask{len(layers)}.png", "kind": kind}
        if kind == "mask":
            layer["labels"] = label_entries(path, name, label_counts(values) or {1: 0}, class_names, colours)
            for label in layer["labels"]:
                label["size"] = f"{label['count'] / values.size:.1%}"
            image = Image.merge("LA", (Image.new("L", (width, height), 255), Image.fromarray(_opacity(values > 0))))
        else:
            image = Image.fromarray(np.rint(values * 255).astype(np.uint8))
        files[layer["file"]] = _png(image)
        layers.append(layer)
    shown = {"file": "picture.png", "width": width, "height": height}
    return {**files, "scene.json": scene_file("picture", picture, shown, layers)}


def _opacity(mask: np.ndarray) -> np.ndarray:
    """(H, W) uint8: opaque at the border of the mask, which grows with the image, and faint within."""
    border = max(1, round(max(mask.shape) / 200))
    core = ndimage.binary_erosion(mask, iterations=border)
    return np.where(core, _INSIDE, np.where(mask, 255, 0)).astype(np.uint8)


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "png", compress_level=1)
    return content.getvalue()
