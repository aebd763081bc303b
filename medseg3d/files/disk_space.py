"""Whether the disks that results go to have room for them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from medseg3d.errors import UserError


def check_space(needed: Mapping[Path, int], remedy: str) -> None:
    """Refuse results for which a disk has no room.

    `needed` has the bytes that go to each folder, which need not exist yet; folders of one disk share what is free
    there.

    Raises:
        UserError: NO_SPACE.
    """
    disks: dict[int, dict[Path, int]] = {}
    for folder, size in needed.items():
        disks.setdefault(_existing(folder).stat().st_dev, {})[folder] = size
    for folders in disks.values():
        folder, size = next(iter(folders)), sum(folders.values())
        free = shutil.disk_usage(_existing(folder)).free
        if free < size:
            raise UserError(
                "NO_SPACE", folder, f"{in_words(free)} free", in_words(size), f"free some space or {remedy}"
            )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest around it that is there."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def in_words(n_bytes: int) -> str:
    """A size for a person.

    Example:
        >>> in_words(46_000_000), in_words(11_400_000_000)
        ('46 MB', '11.4 GB')
    """
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
