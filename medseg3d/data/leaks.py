"""What two parts of a split have in common though they should have nothing: pictures, patients, sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from medseg3d.data.splits import PARTS, Split


class Leak(NamedTuple):
    """Cases that are in different parts and belong together.

    Attributes:
        kind: "picture" for one content in two files, "group" for one patient or sequence.
        name: the group, or the hash of the content.
        cases: part to its cases of that group or content, for the parts that have some.
    """

    kind: str
    name: str
    cases: dict[str, list[str]]


def find_leaks(
    split: Split, groups: Mapping[str, str] | None = None, digests: Mapping[str, str] | None = None
) -> list[Leak]:
    """Every group and every content that is in more than one part of a split; pictures first, then by name.

    Only equal content is found: neighbouring frames of a video are not equal, which is what groups are for.

    Args:
        split: the split.
        groups: case to patient or sequence; those of the split itself if None.
        digests: case to a hash of its picture's content; cases without one are passed over.

    Example:
        >>> split = Split(["a", "b"], [], ["c"], seed=0, hash="")
        >>> find_leaks(split, groups={"a": "p1", "b": "p2", "c": "p1"})
        [Leak(kind='group', name='p1', cases={'train': ['a'], 'test': ['c']})]
    """
    leaks = []
    for kind, name_of in (("picture", digests or {}), ("group", split.groups if groups is None else groups)):
        found: dict[str, dict[str, list[str]]] = {}
        for part in PARTS:
            for case in getattr(split, part):
                if case in name_of:
                    found.setdefault(name_of[case], {}).setdefault(part, []).append(case)
        leaks += [Leak(kind, name, cases) for name, cases in sorted(found.items()) if len(cases) > 1]
    return leaks
