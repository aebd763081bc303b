"""Make a data set of images and masks small enough to carry to another machine.

    python scripts/pack_pictures.py data/Kvasir-SEG packed/Kvasir-SEG
    python scripts/pack_pictures.py data/CVC-ClinicDB packed/CVC-ClinicDB --side 320

Masks become PNG of one bit, which loses nothing. Images stay as they are, unless `--side` shrinks them: then they are
JPEG of quality 88, and scores of them are not scores of the data set.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from medseg3d.data.picture_folders import find_pictures
from medseg3d.errors import UserError
from medseg3d.pictures.masks import read_picture_mask
from medseg3d.pictures.reading import read_picture

QUALITY = 88


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with images/ and masks/")
    parser.add_argument("target", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--side", type=int, help="longest side of an image in pixels (default: as it is)")
    args = parser.parse_args()
    try:
        pack(args.source, args.target, args.side)
    except UserError as error:
        parser.exit(1, f"error: {error}\n")


def pack(source: Path, target: Path, side: int | None = None) -> None:
    """Write `target/images` and `target/masks`.

    Raises:
        UserError: as `find_pictures`; for a file without its other half, data sets below the folder, a target that
            exists.
    """
    cases, errors, _ = find_pictures(source)
    if errors:
        raise errors[0]
    if target.exists():
        raise UserError("OUTPUT_EXISTS", target, "a folder", "a new one", "remove it or name another")
    if any("/" in case["case"] for case in cases):
        raise UserError("MISSING_DATA", source, "several data sets", "images/ and masks/", "pack one after the other")
    images, masks = target / "images", target / "masks"
    for folder in (images, masks):
        folder.mkdir(parents=True)
    for case in cases:
        picture, name = Path(case["image"]), case["case"]
        mask = Image.fromarray(read_picture_mask(case["label"]).astype(np.uint8) * 255)
        scale = 1.0 if side is None else min(1.0, side / max(mask.size))
        if scale < 1:
            size = tuple(max(1, round(scale * length)) for length in mask.size)
            small = Image.fromarray(read_picture(picture)).resize(size, Image.Resampling.LANCZOS)
            small.save(images / f"{name}.jpg", quality=QUALITY)
            mask = mask.resize(size, Image.Resampling.NEAREST)
        else:
            shutil.copy(picture, images / f"{name}{picture.suffix}")
        mask.convert("1", dither=Image.Dither.NONE).save(masks / f"{name}.png", optimize=True)
    size = sum(path.stat().st_size for path in target.rglob("*.*"))
    print(f"{target}: {len(cases)} images with their masks, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
