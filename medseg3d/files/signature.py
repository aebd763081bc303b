"""What every result says of its origin, so that nobody else's file is replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
from PIL import Image

from medseg3d import __version__
from medseg3d.files.pillow import pillow_unbounded

SIGNATURE = f"medseg3d {__version__}, research only"
"""A NIfTI has it in its description, an NRRD as its content, a MetaImage as its comment, a PNG as its Software."""

_TEXTS = (".dcm", ".nrrd", ".mha")  # that have it to the letter
_HEAD = 1 << 16  # bytes that hold it


def is_ours(mask: Path) -> bool:
    """Whether a mask, a map or an overlay says that it was written here."""
    own = SIGNATURE.split()[0]  # of any version
    if not mask.is_file():
        return False  # a pipe or a device, which may never answer
    try:
        if mask.suffix.lower() == ".png":
            with pillow_unbounded(), Image.open(mask) as picture:
                return str(picture.info.get("Software", "")).startswith(own)
        if mask.suffix.lower() in _TEXTS:
            with open(mask, "rb") as file:
                return own.encode() in file.read(_HEAD)
        header: Any = nib.load(mask).header
        return bytes(header["descrip"]).startswith(own.encode())
    except Exception:  # whatever it is, it is not ours to replace
        return False
