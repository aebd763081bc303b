"""What a page says of a mask: its labels with their names, colours and sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg3d import __version__
from medseg3d.data.outputs import record_file
from medseg3d.data.records import INTENDED_USE, read_record


def label_entries(
    path: Path, name: str, counts: Mapping[int, int], class_names: Sequence[str], colours: Iterator[str]
) -> list[dict[str, Any]]:
    """Value, name, colour and count of each label of a mask.

    Names are those that were given, else those that the record next to a mask of ours has; the only label of a mask
    without any is called as the mask is.
    """
    record = read_record(record_file(path)) or {}
    names = list(class_names) or list(record.get("class_names", ()))
    unnamed = "label {}" if len(counts) > 1 else name
    return [
        {
            "value": value,
            "name": names[value - 1] if value <= len(names) else unnamed.format(value),
            "colour": next(colours),
            "count": count,
        }
        for value, count in counts.items()
    ]


def scene_file(kind: str, path: Path, image: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> bytes:
    """`scene.json`: what the page has to show."""
    scene = {
        "kind": kind,
        "title": path.name,
        "image": image,
        "layers": layers,
        "made": f"medseg3d {__version__}, {INTENDED_USE}",
    }
    return json.dumps(scene).encode()
