"""Data sets that are a folder of pictures: `images/` and `masks/`, paired by file name without suffix.

Slices exported from CT (`PANCREAS_0001-1106.jpg`), colonoscopy stills, frames of videos. A regular expression says of
which patient or sequence a picture is, because a random split of near-copies proves nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from medseg3d.data.splits import PARTS, load_or_make_split
from medseg3d.faults import Fault

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
"""Of the files that are taken for pictures, in any case of letters."""


def read_picture_folder(dataset_dir: str | Path, group_pattern: str | None = None) -> list[dict[str, str]]:
    r"""Every picture of a folder with its mask: `{"case", "image", "label"}` and `"group"`, sorted by case.

    Args:
        dataset_dir: folder that holds `images/` and `masks/`.
        group_pattern: regular expression that is searched for in each case's name; its first group, or what it matches
            if it has none, is the picture's group: the patient, the sequence. None or "" for no groups.

    Raises:
        Fault: MISSING_DATA (no such folders, no picture), MISSING_FILE (a picture without mask or the other way round),
            DUPLICATE_CASE (`a.png` beside `a.jpg`), GROUP_PATTERN (no regular expression, or a name that it does not
            match).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("images/P_0001-17.jpg", "masks/P_0001-17.png"):
        ...     (folder / name).parent.mkdir()
        ...     (folder / name).touch()
        >>> [(case["case"], case["group"]) for case in read_picture_folder(folder, r"P_(\d+)-")]
        [('P_0001-17', '0001')]
    """
    folder = Path(dataset_dir).expanduser().absolute()
    images, masks = (_pictures(folder, part) for part in ("images", "masks"))
    for there, absent, kind in ((images, masks, "mask"), (masks, images, "picture")):
        alone = sorted(there.keys() - absent.keys())
        if alone:
            more = f" ({len(alone)} of {len(there)} lack one)" if len(alone) > 1 else ""
            raise Fault(
                "MISSING_FILE",
                there[alone[0]],
                f"no {kind} of the same name{more}",
                "a picture in images/ and a mask in masks/ for every case",
                "put it there, or take the file out",
            )
    cases = [{"case": case, "image": str(images[case]), "label": str(masks[case])} for case in sorted(images)]
    if group_pattern:
        for case in cases:
            case["group"] = _group(case["case"], group_pattern, case["image"])
    return cases


def split_pictures(
    dataset_dir: str | Path,
    split_file: str | Path,
    part: str,
    test_cases: int,
    val_cases: int,
    seed: int = 0,
    group_pattern: str | None = None,
    mask_dir: str | Path | None = None,
) -> list[dict[str, str]]:
    """The pictures of one part of a folder, as `read_picture_folder` gives them, groups never parted.

    What `medseg3d.data.split_cases` is for volumes: the bundles call it, and the manifest is written on first use.

    Args:
        dataset_dir: folder that holds `images/` and `masks/`.
        split_file: the manifest.
        part: "train", "val" or "test".
        test_cases: number of groups in the test part; of pictures without `group_pattern`.
        val_cases: number of groups, or pictures, in the validation part.
        seed: seed of the rule.
        group_pattern: as in `read_picture_folder`.
        mask_dir: if given, each case gets a `"mask_file"` in this folder, `<case>_seg.png`.

    Raises:
        ValueError: unknown part.
        Fault: as `read_picture_folder` and `medseg3d.data.load_or_make_split`.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    cases = read_picture_folder(dataset_dir, group_pattern)
    groups = {case["case"]: case["group"] for case in cases if "group" in case}
    name = Path(dataset_dir).absolute().name
    split = load_or_make_split(
        split_file, [case["case"] for case in cases], test_cases, val_cases, seed, name, groups or None
    )
    wanted = set(getattr(split, part))
    chosen = [case for case in cases if case["case"] in wanted]
    if mask_dir is None:
        return chosen
    return [{**case, "mask_file": str(Path(mask_dir) / f"{case['case']}_seg.png")} for case in chosen]


def _pictures(folder: Path, part: str) -> dict[str, Path]:
    """Case name to file."""
    if not (folder / part).is_dir():
        raise Fault(
            "MISSING_DATA",
            folder,
            f"no folder {part}/" if folder.is_dir() else "no such folder",
            "a data set with the folders images/ and masks/",
            "name it with --dataset_dir; a picture and its mask have the same name but for the suffix",
        )
    found: dict[str, Path] = {}
    for path in sorted((folder / part).iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in found:
            raise Fault(
                "DUPLICATE_CASE",
                path,
                f"{found[path.stem].name} beside it",
                "one file per case",
                "take one of them out",
            )
        found[path.stem] = path
    if not found:
        raise Fault("MISSING_DATA", folder / part, "no picture", f"files that end in {', '.join(SUFFIXES)}")
    return found


def _group(case: str, pattern: str, path: str) -> str:
    remedy = "--patient_pattern takes a regular expression whose group is the patient, or '' for no patients"
    try:
        match = re.search(pattern, case)
    except re.error as error:
        raise Fault("GROUP_PATTERN", pattern, f"no regular expression: {error}", "one", remedy) from error
    if match is None:
        raise Fault("GROUP_PATTERN", path, "a name without a patient", f"a name that {pattern} matches", remedy)
    return match[1] if match.re.groups else match[0]
