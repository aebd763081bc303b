"""The recorded scores of pysodmetrics and the images they are of, made again by the script that recorded them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parent.parent / "scripts" / "golden_pysodmetrics.py"
GOLDEN = json.loads((Path(__file__).parent / "metrics" / "golden" / "pysodmetrics.json").read_text(encoding="utf-8"))

_spec = importlib.util.spec_from_file_location("record_golden_pysodmetrics", SCRIPT)
_script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_script)


def synthetic_pictures() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Grey levels and truth of every synthetic case by name."""
    return _checked("synthetic", dict(_script.synthetic()))


def real_pictures(real_data: Path, case: str) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels and truth of one case of Kvasir-SEG."""
    return _checked("real", {case: _script.real(real_data / "kvasir-seg" / "masks", case)})[case]


def _checked(group: str, pictures: dict) -> dict:
    for name, pair in pictures.items():
        if _script.fingerprint(pair) != GOLDEN[group][name]["sha256"]:
            raise ValueError(f"{name} is not the image that was scored; run {SCRIPT} again")
    return pictures
