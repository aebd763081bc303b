"""Data sets that are folders of images and of masks, paired by file name without suffix.

Slices exported from CT (`PANCREAS_0001-1106.jpg`), colonoscopy stills, frames of videos. A regular expression says of
which patient or sequence an image is, because a random split of near-copies proves nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from medseg3d.data.clinicdb import clinicdb_sequence
from medseg3d.data.nnunet import case_of, check_channels
from medseg3d.data.splits import PARTS, Split, load_or_make_split
from medseg3d.errors import UsageError, UserError
from medseg3d.files.folders import files_below, not_read, printable
from medseg3d.pictures.reading import PICTURE_SUFFIXES

FOLDER_PAIRS = (("images", "masks"), ("image", "mask"), ("Original", "Ground Truth"), ("imagesTr", "labelsTr"))
"""Names of the two folders: Kvasir-SEG and most others; PraNet's training set; CVC-ClinicDB as distributed; nnU-Net."""

GROUPINGS = {"clinicdb-sequence": clinicdb_sequence}
"""What may stand in place of a regular expression where none can tell the groups."""


logger = logging.getLogger("medseg3d")


class FoundPictures(NamedTuple):
    """What `find_pictures` finds.

    Attributes:
        cases: as `read_picture_folder` gives them.
        errors: one for every file without its other half.
        warnings: `CODE: sentence` each, of files that are not read.
    """

    cases: list[dict[str, str]]
    errors: list[UserError]
    warnings: list[str]


def holds_pictures(dataset_dir: str | Path) -> bool:
    """Whether a data set is of 2-D images: folders without a list of volumes, or nnU-Net's of files such as PNG."""
    folder = Path(dataset_dir).expanduser()
    if not folder.is_dir():
        return False
    if not any((folder / name).exists() for name in ("dataset.json", "imagesTr")):
        return any(path.is_dir() for path in folder.iterdir())
    images = folder / "imagesTr"
    return images.is_dir() and bool(files_below(images, PICTURE_SUFFIXES).read)


def read_picture_folder(dataset_dir: str | Path, group_pattern: str | None = None) -> list[dict[str, str]]:
    r"""Every image of a data set with its mask: `{"case", "image", "label"}` and `"group"`, sorted by case.

    The data set is a folder that holds one of `FOLDER_PAIRS`, or that has such folders up to two levels below it; a
    case then is named with the folder it is in: `TestDataset/Kvasir/cju0qkwl35piu0993l0dewei2` of PraNet's
    `TrainDataset/{image,mask}` and `TestDataset/<name>/{images,masks}`. Files that are not images
    (`kavsir_bboxes.json`) are ignored; those that may be images of another format, and images in sub-folders,
    with a warning in the log. That a mask has the size of its image is seen when they are loaded
    (`LoadPictured`) and by `medseg3d data verify`.

    Args:
        dataset_dir: the data set's folder.
        group_pattern: regular expression that is searched for in each case's name; its first group, or what it matches
            if it has none, is the picture's group: the patient, the sequence. Or a key of `GROUPINGS`. None or "" for
            no groups.

    Raises:
        UserError: MISSING_DATA (no such folders, no image), MISSING_FILE (an image without mask or the other way
            round), DUPLICATE_CASE (`a.png` next to `a.jpg`, `PNG/` next to `TIF/`), BAD_VALUE (no regular
            expression), GROUP_PATTERN (a name that it does not match).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("images/P_0001-17.jpg", "masks/P_0001-17.png"):
        ...     (folder / name).parent.mkdir()
        ...     (folder / name).touch()
        >>> [(case["case"], case["group"]) for case in read_picture_folder(folder, r"P_(\d+)-")]
        [('P_0001-17', '0001')]
    """
    cases, errors, warnings = find_pictures(dataset_dir)
    if errors:
        raise errors[0]
    for warning in warnings:
        logger.warning("%s", warning)
    if not group_pattern:
        return cases
    groups = grouped(cases, group_pattern)
    return [{**case, "group": groups[case["case"]]} for case in cases]


def grouped(cases: list[dict[str, str]], group_pattern: str) -> dict[str, str]:
    """Case to its group, as `read_picture_folder` has it.

    Raises:
        UserError: GROUP_PATTERN.
    """
    return {case["case"]: _group(case["case"], group_pattern, case["image"]) for case in cases}


def find_pictures(dataset_dir: str | Path) -> FoundPictures:
    """The pairs of a data set, an error for every file without its other half, and what is not read.

    Raises:
        UserError: MISSING_DATA, DUPLICATE_CASE.
    """
    folder = Path(dataset_dir).expanduser().absolute()
    cases: list[dict[str, str]] = []
    errors: list[UserError] = []
    warnings: list[str] = []
    sets: dict[frozenset[str], Path] = {}
    for place, parts in _places(folder):
        images, masks = (_pictures(place, part, warnings) for part in parts)
        _check_twin(place, frozenset(images), sets)
        errors += _unpaired(images, masks, parts)
        within = "" if place == folder else place.relative_to(folder).as_posix() + "/"
        cases += [
            {"case": printable(within + name), "image": str(images[name]), "label": str(masks[name])}
            for name in images
            if name in masks
        ]
    return FoundPictures(sorted(cases, key=lambda case: case["case"]), errors, warnings)


def split_pictures(
    dataset_dir: str | Path | Sequence[str | Path],
    split_file: str | Path | Sequence[str | Path],
    part: str,
    test_cases: int | float | Sequence[int | float | None] | None,
    val_cases: int | float | Sequence[int | float | None] | None,
    seed: int = 0,
    group_pattern: str | Sequence[str | None] | None = None,
    mask_dir: str | Path | None = None,
    train_list: str | Path | None = None,
) -> list[dict[str, str]]:
    """The images of one part of a folder, as `read_picture_folder` gives them, groups never parted; or of several.

    What `medseg3d.data.split_cases` is for volumes: the bundles call it, and the split file is written on first use.

    Several data sets keep a split and its file each, the ones they have on their own, so that scores stay comparable.
    Their cases come one data set after the other, named `<folder>/<case>`, with the folder under `"data_set"`. If one
    of them has groups, the images of those without are a group each.

    Args:
        dataset_dir: as in `read_picture_folder`, or a list of such folders. Of a list, every argument below but `part`,
            `seed` and `mask_dir` may be a list too, of one value for each folder; otherwise all have the same.
        split_file: the split file; one for each of several folders.
        part: "train", "val" or "test".
        test_cases: number of groups in the test set, or their share, a float below 1; of images without
            `group_pattern`. None for what the split file has, which then must be there.
        val_cases: number or share of groups, or images, in the validation set, or None.
        seed: seed of the rule.
        group_pattern: as in `read_picture_folder`.
        mask_dir: if given, each case gets a `"mask_file"` in this folder, `<case>_seg.png`.
        train_list: the published cases to train on and to validate with: a text file of their names, one a line, or
            shell wildcards that match them, such as `TrainDataset/*`. All others then are the test set, and
            `test_cases` is not used.

    Raises:
        ValueError: unknown part.
        UserError: as `split_of_pictures`; DATA_SETS for lists that do not fit together, folders of the same name, or
            one split file for several.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    several = not isinstance(dataset_dir, (str, Path))
    chosen: list[dict[str, str]] = []
    for folder, *arguments in data_sets(dataset_dir, split_file, test_cases, val_cases, group_pattern, train_list):
        file, test, val, pattern, listed = arguments
        cases, split = split_of_pictures(folder, file, test, val, seed, pattern, listed)
        wanted = set(getattr(split, part))
        own = [case for case in cases if case["case"] in wanted]
        chosen += [_within(case, data_set_name(folder)) for case in own] if several else own
    if several and any("group" in case for case in chosen):
        chosen = [{"group": case["case"], **case} for case in chosen]
    if mask_dir is None:
        return chosen
    return [{**case, "mask_file": str(Path(mask_dir) / f"{case['case']}_seg.png")} for case in chosen]


def _within(case: dict[str, str], data_set: str) -> dict[str, str]:
    """A case as it is called among those of several data sets."""
    named = {key: f"{data_set}/{value}" for key, value in case.items() if key in ("case", "group")}
    return {**case, **named, "data_set": data_set}


def data_sets(dataset_dir: Any, split_file: Any, *others: Any) -> list[tuple[Any, ...]]:
    """The arguments of `split_pictures` for each data set: its folder, its split file, and the others.

    Raises:
        UserError: DATA_SETS.

    Example:
        >>> data_sets(["data/a", "data/b"], ["a.json", "b.json"], 0.1, [None, "P_([0-9]+)"])
        [('data/a', 'a.json', 0.1, None), ('data/b', 'b.json', 0.1, 'P_([0-9]+)')]
    """
    if isinstance(dataset_dir, (str, Path)):
        return [(dataset_dir, split_file, *others)]
    folders = list(dataset_dir)
    names = [data_set_name(folder) for folder in folders]
    files = [split_file] if isinstance(split_file, (str, Path)) else list(split_file)
    remedy = "give --dataset_dir and --split_file as lists of one length, as in --dataset_dir \"['data/a','data/b']\""
    for found, wrong, wanted in (
        (f"{len(folders)} folders", not folders, "one or more"),
        (f"folders named {', '.join(names)}", len(set(names)) < len(names), "folders of different names"),
        (f"{len(set(map(str, files)))} split files", len(set(map(str, files))) != len(folders), "one for each folder"),
    ):
        if wrong:
            raise UserError("DATA_SETS", ", ".join(map(str, folders)), found, wanted, remedy)
    columns = [files]
    for value in others:
        column = list(value) if isinstance(value, (list, tuple)) else [value] * len(folders)
        if len(column) != len(folders):
            raise UserError(
                "DATA_SETS", str(value), f"{len(column)} values", f"one, or {len(folders)}, one a folder", remedy
            )
        columns.append(column)
    return list(zip(folders, *columns, strict=True))


def data_set_name(dataset_dir: str | Path | Sequence[str | Path]) -> str:
    """What a data set is called: its folder's name; of several those of all.

    Example:
        >>> data_set_name("data/kvasir-seg/"), data_set_name(["data/kvasir-seg", "data/cvc-clinicdb"])
        ('kvasir-seg', 'kvasir-seg+cvc-clinicdb')
    """
    folders = [dataset_dir] if isinstance(dataset_dir, (str, Path)) else dataset_dir
    return "+".join(Path(folder).absolute().name for folder in folders)


def split_files(dataset_dir: str | Path | Sequence[str | Path], rule: str) -> str | list[str]:
    """Where the bundles look for the split file of a data set; of a list of data sets the split files of each.

    Example:
        >>> split_files("/data/kvasir-seg", "80-10-10"), split_files(["a", "b"], "80-10-10")[1]
        ('data/splits/kvasir-seg_80-10-10.json', 'data/splits/b_80-10-10.json')
    """
    if isinstance(dataset_dir, (str, Path)):
        return f"data/splits/{data_set_name(dataset_dir)}_{rule}.json"
    return [f"data/splits/{data_set_name(folder)}_{rule}.json" for folder in dataset_dir]


def image_folders(dataset_dir: str | Path | Sequence[str | Path]) -> list[str]:
    """The folder `images` of a data set, or of each of several."""
    folders = [dataset_dir] if isinstance(dataset_dir, (str, Path)) else dataset_dir
    return [str(Path(folder) / "images") for folder in folders]


def split_of_pictures(
    dataset_dir: str | Path,
    split_file: str | Path,
    test_cases: int | float | None,
    val_cases: int | float | None,
    seed: int = 0,
    group_pattern: str | None = None,
    train_list: str | Path | None = None,
) -> tuple[list[dict[str, str]], Split]:
    """All images and the split of them, which is written on first use; the arguments are those of `split_pictures`.

    Raises:
        UserError: as `read_picture_folder` and `medseg3d.data.load_or_make_split`; CASE_LIST (a list that names other
            cases or leaves none to test on).
    """
    cases = read_picture_folder(dataset_dir, group_pattern)
    ids = [case["case"] for case in cases]
    groups = {case["case"]: case["group"] for case in cases if "group" in case}
    name = data_set_name(dataset_dir)
    test = test_cases if train_list is None else _left_for_testing(ids, train_list)
    return cases, load_or_make_split(split_file, ids, test, val_cases, seed, name, groups or None)


def _left_for_testing(ids: list[str], train_list: str | Path) -> list[str]:
    if any(wildcard in str(train_list) for wildcard in "*?["):
        listed = {case for case in ids if fnmatchcase(case, str(train_list))}
    else:
        listed = _names_in(Path(train_list))
    unknown = sorted(listed.difference(ids))
    left = [case for case in ids if case not in listed]
    if unknown or not left or not listed:
        found = f"{len(listed)} of the data set's {len(ids)} cases"
        if unknown:
            found = f"{len(unknown)} names that the data set lacks ({', '.join(unknown[:5])})"
        wanted = "names of some of its cases, with others left for testing"
        remedy = "complete the data set, or name another list with --train_list"
        raise UserError("CASE_LIST", train_list, found, wanted, remedy)
    return left


def _names_in(path: Path) -> set[str]:
    if not path.is_file():
        raise UsageError("MISSING_FILE", path, "no such file", "a list of cases", "correct --train_list")
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    return {
        line[: -len(Path(line).suffix)] if line.lower().endswith(PICTURE_SUFFIXES) else line for line in lines if line
    }


def _places(folder: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    """The folders that hold images and masks, and the names of the two."""
    if not folder.is_dir():
        raise _no_data_set(folder, "no such folder")
    level, found = [folder], False
    for _ in range(3):
        below = []
        for place in level:
            parts = next((pair for pair in FOLDER_PAIRS if any((place / part).is_dir() for part in pair)), None)
            if parts is not None:
                found = True
                yield place, parts
            else:
                below += sorted(path for path in place.iterdir() if path.is_dir() and path.name[0] not in "._")
        level = below
    if not found:
        raise _no_data_set(folder, "no folder images/ or masks/")


def _no_data_set(folder: Path, found: str) -> UserError:
    remedy = "name it with --dataset_dir; an image and its mask have the same name except for the suffix"
    return UserError("MISSING_DATA", folder, found, "a data set with the folders images/ and masks/", remedy)


def _unpaired(images: dict[str, Path], masks: dict[str, Path], parts: tuple[str, str]) -> list[UserError]:
    errors: list[UserError] = []
    for there, absent, kind in ((images, masks, "mask"), (masks, images, "image")):
        alone = sorted(there.keys() - absent.keys())
        more = f" ({len(alone)} of {len(there)} lack one)" if len(alone) > 1 else ""
        found = f"no {kind} of the same name{more}"
        wanted = f"an image in {parts[0]}/ and a mask in {parts[1]}/ for every case"
        remedy = "add it, or remove the file"
        errors += [UsageError("MISSING_FILE", there[name], found, wanted, remedy) for name in alone]
    return errors


def _check_twin(place: Path, names: frozenset[str], sets: dict[frozenset[str], Path]) -> None:
    """One data set in two formats (CVC-ClinicDB's `PNG/` and `TIF/`) must not be read as two."""
    if names in sets:
        found = f"the {len(names)} names that {sets[names]} has too"
        remedy = f"name one of the two with --dataset_dir, for example {place}"
        raise UserError("DUPLICATE_CASE", place, found, "every case once", remedy)
    sets[names] = place


def _pictures(folder: Path, part: str, warnings: list[str]) -> dict[str, Path]:
    """Case name to file; what is not read is added to the warnings."""
    if not (folder / part).is_dir():
        raise _no_data_set(folder, f"no folder {part}/")
    found: dict[str, Path] = {}
    below = files_below(folder / part, PICTURE_SUFFIXES)
    nested = [path for path in below.read if path.parent != folder / part]
    warnings += not_read(folder / part, [*below.unread, *nested], PICTURE_SUFFIXES)
    own = below.read[: len(below.read) - len(nested)]  # a folder's own files come first
    check_channels(own)
    for path in own:
        if case_of(path) in found:
            wanted = "one file per case"
            remedy = "remove one of them"
            raise UserError("DUPLICATE_CASE", path, f"{found[case_of(path)].name} beside it", wanted, remedy)
        found[case_of(path)] = path
    if not found:
        wanted = f"files that end in {', '.join(PICTURE_SUFFIXES)}"
        raise UserError("MISSING_DATA", folder / part, "no image", wanted, "name their parent folder")
    return found


def _group(case: str, pattern: str, path: str) -> str:
    if pattern in GROUPINGS:
        return GROUPINGS[pattern](case)
    remedy = "--group_pattern takes a regular expression whose group is the patient, or '' for no patients"
    try:
        match = re.search(pattern, case)
    except re.error as error:
        found = f"an invalid regular expression: {error}"
        raise UsageError("BAD_VALUE", f"--group_pattern {pattern}", found, "a valid one", remedy) from error
    if match is None:
        raise UserError("GROUP_PATTERN", path, "a name without a patient", f"a name that {pattern} matches", remedy)
    return match[1] if match.re.groups else match[0]
