"""nnU-Net's raw folders: `dataset.json`, `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`, `imagesTs/`.

Isensee et al., "nnU-Net", Nature Methods 18, 203 (2021), doi:10.1038/s41592-020-01008-z; the layout of version 2:
https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from medseg3d.errors import UserError
from medseg3d.volumes.reading import VOLUME_SUFFIXES, volume_stem

_FOLDERS = ("imagesTr", "imagesTs")
_FIRST = "_0000"
_CHANNEL = re.compile(r"(.+)_\d{4}")


def case_of(path: str | Path) -> str:
    """The case that a file is of: its name without suffix, and without `_0000` in nnU-Net's folders of images.

    Example:
        >>> case_of("imagesTs/p_2_0000.nii.gz"), case_of("ct/p_2_0000.nii.gz"), case_of("imagesTr/p.png")
        ('p_2', 'p_2_0000', 'p')
    """
    path = Path(path)
    stem = volume_stem(path.name)
    stem = stem if stem != path.name else path.stem
    return stem.removesuffix(_FIRST) if path.parent.name in _FOLDERS else stem


def check_channels(paths: Collection[Path]) -> None:
    """Refuse images of several channels, `<case>_0001` and on next to `<case>_0000`.

    Raises:
        UserError: DIMENSIONS.
    """
    first = {path.parent / case_of(path) for path in paths}
    for path in paths:
        match = _CHANNEL.fullmatch(case_of(path))
        if path.parent.name in _FOLDERS and match and path.parent / match[1] in first:
            wanted = f"one image for each case, {match[1]}{_FIRST}"
            remedy = "remove the other channels: these networks take CT only, or one colour image"
            raise UserError("DIMENSIONS", path, f"another channel of the case {match[1]}", wanted, remedy)


def is_nnunet(content: Mapping[str, Any]) -> bool:
    """Whether a `dataset.json` is one of nnU-Net v2, which lists no case."""
    return "training" not in content and ("channel_names" in content or "file_ending" in content)


def listed_as_msd(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """What a `dataset.json` of nnU-Net v2 says and the folders hold, in the form of MSD's.

    Raises:
        ValueError: what cannot be read; in its arguments what was found, and what is wanted.
    """
    ending, channels, labels = (content.get(key) for key in ("file_ending", "channel_names", "labels"))
    if ending not in VOLUME_SUFFIXES or not isinstance(channels, dict) or len(channels) != 1:
        raise ValueError(f"the channels {channels!r:.80} and files {ending!r:.20}", "one channel, in volumes")
    if not isinstance(labels, dict) or not all(type(value) is int for value in labels.values()):
        raise ValueError(f"the labels {labels!r:.80}", "a value for each name")
    ids = sorted(path.name[: -len(ending)] for path in (folder / "labelsTr").glob(f"[!.]*{ending}"))
    number = content.get("numTraining", len(ids))
    if number != len(ids):
        raise ValueError(f"numTraining {number!r:.20} and {len(ids)} labels in labelsTr", "a label for each case")
    return {
        "name": content.get("name"),
        "labels": {str(value): name for name, value in labels.items()},
        "training": [
            {"image": f"imagesTr/{case}{_FIRST}{ending}", "label": f"labelsTr/{case}{ending}"} for case in ids
        ],
        "test": [f"imagesTs/{path.name}" for path in (folder / "imagesTs").glob(f"[!.]*{_FIRST}{ending}")],
    }
