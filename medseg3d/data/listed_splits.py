"""A custom split: three lists of cases, nnU-Net's `splits_final.json`, or a datalist of MONAI."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from medseg3d.data.msd import case_id, listed_folds, listed_parts
from medseg3d.data.splits import PARTS, Split, find_leaks, given_split
from medseg3d.errors import UsageError, UserError
from medseg3d.files.folders import first_of
from medseg3d.files.stream import file_sha256
from medseg3d.pictures.reading import PICTURE_SUFFIXES
from medseg3d.volumes.reading import volume_files

logger = logging.getLogger("medseg3d")

_FORMS = (
    "JSON with lists train, val and test, nnU-Net's splits_final.json, a MONAI datalist, or two or three text files "
    "with a case in each line"
)


def listed_split(
    lists: Sequence[str | Path],
    cases: Sequence[Mapping[str, str]],
    fold: int | None = None,
    groups: Mapping[str, str] | None = None,
) -> Split:
    """The split that lists of cases say, every case of the data set in one part.

    A list names cases by their ids or by the paths of their images, in these forms:

    - one JSON object with the lists `train`, `val` and `test` (`training`, `validation`, `testing`), `test` may be
      absent; its entries may be MONAI's, `{"image": ..., "label": ...}`, of which those without a label are left out,
      and instead of a validation list may each have a `fold`;
    - nnU-Net's `splits_final.json`, an object for each fold;
    - text files, a case in each line: training, validation and, if there is one, test.

    Args:
        lists: the JSON file, or the text files.
        cases: `{"case": id, "image": path, ...}` of the data set.
        fold: which of several folds validates, from 0.
        groups: case to patient or sequence, none of which may be in two parts.

    Raises:
        UserError: MISSING_FILE, CASE_LIST (none of these forms, a case twice), BAD_VALUE (several folds and no `fold`,
            or no such one), TOO_FEW_CASES (none to train on), SPLIT_MISMATCH (names that are not cases, cases that no
            list names), LEAKAGE (a case, a patient, or the same image in two parts).
    """
    source = ", ".join(map(str, lists))
    named = _read(lists, fold)
    ids = {case["case"] for case in cases}
    parts = {part: [_known_as(name, ids) for name in names] for part, names in named.items()}
    repeated = [case for names in parts.values() for case, count in Counter(names).items() if count > 1]
    if repeated:
        wanted = "each case once"
        remedy = "remove the duplicates"
        raise UserError("CASE_LIST", source, f"{first_of(repeated)} more than once in one list", wanted, remedy)
    split = given_split(parts, source, groups)
    unknown = sorted({case for names in parts.values() for case in names} - ids)
    left = sorted(ids - {case for names in parts.values() for case in names})
    if unknown or left:
        found = f"{len(unknown)} names that the data set lacks ({first_of(unknown)})" if unknown else ""
        found += " and " if unknown and left else ""
        found += f"{len(left)} of its cases in no list ({first_of(left)})" if left else ""
        raise UserError(
            "SPLIT_MISMATCH", source, found, "each case of the data set in exactly one list", "correct the lists"
        )
    for leak in find_leaks(split, digests=_digests_of_twins(cases)):
        if leak.kind == "picture":
            places = " and ".join(f"{first_of(same)} in {part}" for part, same in leak.cases.items())
            raise UserError(
                "LEAKAGE",
                source,
                f"the same image as {places}",
                "each image in one set",
                "remove it from all but one of them",
            )
    return split


def _read(lists: Sequence[str | Path], fold: int | None) -> dict[str, list[str]]:
    """Part to the names in its list."""
    paths = [Path(path) for path in lists]
    for path in paths:
        if not path.is_file():
            raise UsageError("MISSING_FILE", path, "no such file", _FORMS, "name it with --from")
    if len(paths) == 1:
        try:
            content = json.loads(paths[0].read_text(encoding="utf-8-sig"))
            return _of_json(content, paths[0], fold)
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                "CASE_LIST", paths[0], f"a file without lists of cases ({error})", _FORMS, "correct the file"
            ) from error
    if len(paths) > len(PARTS):
        raise UsageError("BAD_VALUE", "--from", f"{len(paths)} files", _FORMS, "leave out the rest")
    lines = [path.read_text(encoding="utf-8-sig").splitlines() for path in paths]
    return {
        part: [line.strip() for line in of_part if line.strip()]
        for part, of_part in zip(PARTS, [*lines, []], strict=False)
    }


def _of_json(content: Any, path: Path, fold: int | None) -> dict[str, list[str]]:
    if isinstance(content, list):
        if fold is None and len(content) != 1:
            raise _no_fold(path, "no --fold", range(len(content)))
        if not 0 <= (fold or 0) < len(content):
            raise _no_fold(path, f"--fold {fold}", range(len(content)))
        content = content[fold or 0]
    entries = listed_parts(content)
    folds = listed_folds(entries)
    if folds:
        if fold not in folds:
            raise _no_fold(path, "no --fold" if fold is None else f"--fold {fold}", folds)
        entries["val"] = [entry for entry in entries["train"] if entry["fold"] == fold]
        entries["train"] = [entry for entry in entries["train"] if entry["fold"] != fold]
    unlabelled = [entry for entry in entries["test"] if isinstance(entry, dict) and not entry.get("label")]
    if unlabelled:
        logger.warning("%s: %d test images without a label are left out", path, len(unlabelled))
        entries["test"] = [entry for entry in entries["test"] if entry not in unlabelled]
    return {part: [_name_of(entry) for entry in of_part] for part, of_part in entries.items()}


def _no_fold(path: Path, found: str, folds: Sequence[int]) -> UserError:
    wanted = f"one of {list(folds)}"
    return UsageError("BAD_VALUE", f"{found} of {path}", "a file with several folds", wanted, "choose one with --fold")


def _name_of(entry: Any) -> str:
    image = entry["image"] if isinstance(entry, dict) else entry
    name = image[0] if isinstance(image, list) else image
    if not isinstance(name, str):
        raise TypeError(f"{name!r} names no case")
    return name


def _known_as(name: str, ids: set[str]) -> str:
    """The id that a name or a path of an image means; the name itself if there is none."""
    path = PureWindowsPath(name)  # it knows both kinds of slashes
    stem = case_id(path.name)
    if stem.lower().endswith(PICTURE_SUFFIXES):
        stem = stem[: -len(Path(stem).suffix)]
    first = stem.removesuffix("_0000")
    within = f"{path.parent.name}_{first}"  # as in `read_msd`, where two images have one name
    return next((known for known in (name, stem, first, within) if known in ids), name)


def _digests_of_twins(cases: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The sums of the images that have the size of another one: no others can be the same."""
    of_size = defaultdict(list)
    for case in cases:
        of_size[Path(case["image"]).stat().st_size].append(case)
    twins = [case for same in of_size.values() if len(same) > 1 for case in same]
    return {case["case"]: file_sha256(*volume_files(case["image"])) for case in twins}
