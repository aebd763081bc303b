"""Colonoscopy-like images with polyps: data to try, test and demonstrate everything on without a download.

They are drawn, not simulated: a wall of mucosa with vessels, folds and a lumen, lit from the camera, with highlights,
soiling and bubbles, behind the mask and captions of an endoscope. Polyps are domes of any size with an outline, a tint
and a fine texture of their own; the tint may be redder or paler than the wall and is often close to it, so no level of
any colour channel finds them, while border, shading and texture do. Some frames have none.
A phantom proves that a pipeline works. It says nothing about accuracy on patients.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from medseg3d.phantoms.ct import case_seed, whole_data_set
from medseg3d.phantoms.scene import Scene

MARKER = "phantoms.json"
NAME = "PhantomPolyps"
WITHOUT_POLYP = 0.1
"""Share of the frames that have none, where it is left to the seed."""


def is_phantom_data(dataset_dir: str | Path) -> bool:
    """Whether a data set, of volumes or 2-D images, says of itself that it was generated."""
    folder = Path(dataset_dir)
    try:
        described = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        described = None
    named = isinstance(described, dict) and described.get("reference") == "medseg3d phantom"
    return named or (folder / MARKER).is_file()


class PolypPhantom(NamedTuple):
    """One frame with its mask.

    Args:
        picture: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.
    """

    picture: np.ndarray
    mask: np.ndarray


def make_polyp_phantom(seed: int, *, size: tuple[int, int] | None = None, polyps: int | None = None) -> PolypPhantom:
    """A frame of a colonoscopy and the mask of its polyps; equal for equal arguments.

    Args:
        seed: decides everything that is not given.
        size: rows and columns; by default 256 to 320 by 288 to 384, by seed. (64, 80) is enough for tests.
        polyps: how many; by default none in a tenth of the seeds, one in most, two or three in some.

    Raises:
        ValueError: a side below 32, or a negative number of polyps.

    Example:
        >>> picture, mask = make_polyp_phantom(0, size=(64, 80), polyps=1)
        >>> picture.shape, picture.dtype, mask.shape, mask.dtype
        ((64, 80, 3), dtype('uint8'), (64, 80), dtype('bool'))
    """
    # children of one seed, so that what is given does not shift what is drawn for the rest
    wall, alike, polyp, light, camera, geometry = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(6)
    )
    drawn_size = int(geometry.integers(256, 321)), int(geometry.integers(288, 385))
    drawn_polyps = int(geometry.choice(4, p=(WITHOUT_POLYP, 0.75, 0.1, 0.05)))
    shape = drawn_size if size is None else (int(size[0]), int(size[1]))
    count = drawn_polyps if polyps is None else polyps
    if min(shape) < 32 or count < 0:
        raise ValueError(f"size must be at least 32 by 32 and polyps >= 0, got {shape} and {count}")
    scene = Scene(shape)
    inside = _aperture(scene, geometry)
    scene.draw_wall(wall)
    scene.draw_look_alikes(alike)
    for _ in range(count):
        scene.draw_polyp(polyp, inside)
    direction = np.array([*light.normal(0, 0.15, 2), 1.0])
    tint = np.array([1.0, light.uniform(0.88, 1.04), light.uniform(0.82, 1.04)])
    picture = scene.lit(light, direction / np.linalg.norm(direction), light.uniform(1.3, 2.0), tint)
    return PolypPhantom(_taken(picture, inside, camera), scene.mask)


def write_polyp_phantoms(
    folder: str | Path,
    cases: int = 60,
    seed: int = 0,
    *,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write phantoms in the layout of Kvasir-SEG (`images/*.jpg`, `masks/*.jpg`); the folder comes back.

    Masks are JPEG as there: their rims have to be thresholded. The data set is written next to the folder and moved
    there when it is complete.

    Args:
        folder: the data set's folder.
        cases: number of frames; every tenth is without a polyp.
        seed: seed of the data set.
        size: rows and columns of each; varies by case if None.
        overwrite: replace a data set of these phantoms that is there already.

    Raises:
        UserError: NOT_EMPTY if the folder holds anything (unless `overwrite` and it holds phantoms).
        ValueError: `cases` below 1.
    """
    if cases < 1:
        raise ValueError(f"cases must be >= 1, got {cases}")
    folder = Path(folder).expanduser().absolute()
    with whole_data_set(folder, overwrite, MARKER, NAME) as partial:
        for part in ("images", "masks"):
            (partial / part).mkdir(parents=True)
        for number in range(1, cases + 1):
            case = case_seed(seed, number)
            phantom = make_polyp_phantom(case, size=size, polyps=0 if number % 10 == 0 else None)
            name = f"phantom_{number:03d}.jpg"
            Image.fromarray(phantom.picture).save(partial / "images" / name, quality=90)
            Image.fromarray(phantom.mask.astype(np.uint8) * 255).save(partial / "masks" / name, quality=95)
        content = {
            "name": NAME,
            "description": f"Generated colonoscopy-like frames with polyps, seed {seed}; not patients",
            "licence": "Apache-2.0",
            "cases": cases,
        }
        (partial / MARKER).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return folder


def _aperture(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """What the endoscope's mask leaves free: a rectangle without its corners, often without the place of a map."""
    half_y, half_x = scene.shape[0] / scene.unit / 2, scene.shape[1] / scene.unit / 2
    x, y = np.abs(scene.x), np.abs(scene.y)
    inside = (x < half_x * rng.uniform(0.94, 1.02)) & (y < half_y * rng.uniform(0.96, 1.02))
    inside &= x / half_x + y / half_y < rng.uniform(1.5, 1.75)
    if rng.random() < 0.4:
        inside &= (scene.x > -half_x * rng.uniform(0.3, 0.5)) | (scene.y < half_y * rng.uniform(0.3, 0.5))
    return inside


def _taken(picture: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The frame as stored: lens blur, sensor noise, the black mask and captions, 8 bits."""
    picture = ndimage.gaussian_filter(picture, (*[rng.uniform(0.2, 0.9)] * 2, 0))
    picture = picture + rng.normal(0, rng.uniform(0.004, 0.015), picture.shape)
    picture[~inside] = 0.01
    if rng.random() < 0.6:
        _caption(picture, rng)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _caption(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Rows of glyphs at the left, that no one can read."""
    top, scale = picture.shape[0] // 4, max(1, min(picture.shape[:2]) // 250)
    for row in range(rng.integers(2, 5)):
        for column in range(rng.integers(4, 10)):
            glyph = np.kron(rng.random((5, 3)) < 0.55, np.ones((scale, scale), bool))
            y, x = top + 8 * scale * row, 3 + 4 * scale * column
            place = picture[y : y + glyph.shape[0], x : x + glyph.shape[1]]
            place[glyph[: place.shape[0], : place.shape[1]]] = 0.85
