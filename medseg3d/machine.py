"""The machine that this runs on: its processor, and where its user keeps what can be made again."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path

CACHE_VARIABLE = "MEDSEG3D_CACHE"


def processor() -> str:
    """The processor's name, as the system has it.

    Example:
        >>> bool(processor())
        True
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """Where this user keeps what can be made again: MEDSEG3D_CACHE, or `medseg3d` in the system's place for caches.

    That place is XDG_CACHE_HOME or ~/.cache, on macOS ~/Library/Caches, on Windows LOCALAPPDATA. It need not exist.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    if sys.platform == "win32":
        place = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        place = Path.home() / "Library" / "Caches"
    else:
        place = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(place) / "medseg3d"
