"""The cases that a JSON file lists, MONAI's datalists and the forms near them, by the parts they are for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = ("train", "val", "test")

_KEYS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def listed_parts(content: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Part to its entries, names or objects; every list that is one of a part is in it.

    Raises:
        TypeError: something in the place of a list.

    Example:
        >>> listed_parts({"training": [{"image": "a.nii", "label": "b.nii"}], "testing": ["c.nii"]})["test"]
        ['c.nii']
    """
    for key in (key for keys in _KEYS.values() for key in keys):
        if not isinstance(content.get(key, []), list):
            raise TypeError(f"{key!r} is {content[key]!r:.80}, and no list")
    return {part: [entry for key in keys for entry in content.get(key, [])] for part, keys in _KEYS.items()}


def listed_folds(parts: Mapping[str, list[Any]]) -> list[Any]:
    """The folds that entries to train on are of, where no list says which of them validate."""
    if parts["val"]:
        return []
    return sorted({entry["fold"] for entry in parts["train"] if isinstance(entry, dict) and "fold" in entry})
