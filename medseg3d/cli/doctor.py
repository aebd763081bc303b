"""`medseg3d doctor`: what a bug report needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from medseg3d.doctor import SOUND, examine


def run(args: argparse.Namespace) -> int:
    """Print it; 1 if weights are damaged."""
    found = examine()
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(_lines(found)))
    return 1 if any(each.get("state", SOUND) != SOUND for each in found["bundles"].values()) else 0


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """One line for each value, `where  what`; what holds several has them indented below it."""
    for name, value in found.items():
        title = name.replace("_gb", ", GB")
        if isinstance(value, list):
            value = {str(number): each for number, each in enumerate(value)} or "none"
        if not isinstance(value, Mapping):
            yield f"{title:14} {value}"
            continue
        yield title
        for key, each in value.items():
            text = ", ".join(f"{part} {what}" for part, what in each.items()) if isinstance(each, Mapping) else each
            yield f"    {key:20} {text}"
