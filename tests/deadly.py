"""A step of a chain of transforms that kills the process it runs in."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any


class DieOnce:
    """Kill the process at an image of this name, unless a file says that it has happened."""

    def __init__(self, name: str, marker: str) -> None:
        self.name = name
        self.marker = Path(marker)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if str(item["image"].meta["filename_or_obj"]).endswith(self.name) and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item
