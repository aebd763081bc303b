"""Checking a data set, of volumes or of 2-D images, before anything is trained on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg3d.data.msd import MSDDataset, missing_files, read_msd
from medseg3d.data.picture_folders import find_pictures, grouped
from medseg3d.data.splits import PARTS, Leak, Split, find_leaks, read_split
from medseg3d.errors import UserError
from medseg3d.files.folders import files_below, not_read
from medseg3d.pictures.masks import check_size, read_levels
from medseg3d.pictures.reading import read_with_remarks
from medseg3d.volumes.geometry import GRID_TOLERANCE, check_pair
from medseg3d.volumes.label_maps import check_labels
from medseg3d.volumes.reading import VOLUME_SUFFIXES, read_volume

KNOWN_CASES = {"Task07_Pancreas": 281, "Kvasir-SEG": 1000, "CVC-ClinicDB": 612}
"""Folder to the number of cases its data set has."""

_NAMED = 3


@dataclass
class VerificationResult:
    """What `verify_msd` or `verify_pictures` found.

    Args:
        folder: the data set's folder.
        n_cases: labelled cases that `dataset.json` names, or images with a mask.
        n_test: unlabelled cases that it names.
        label_values: number of cases in which each label value occurs; of masks of images 0 and 1.
        errors: everything that is wrong, in the order of the cases.
        warnings: (file, warning) of what is odd but usable.
    """

    folder: Path
    n_cases: int = 0
    n_test: int = 0
    label_values: dict[int, int] = field(default_factory=dict)
    errors: list[UserError] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Checked:
    """What is found in one case; `digest` of its picture's pixels."""

    errors: list[UserError] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    digest: str | None = None

    def tried(self, read: Callable[..., Any], *arguments: Any) -> Any:
        """What reading gives; None where it is refused, which is noted."""
        try:
            return read(*arguments)
        except UserError as error:
            self.errors.append(error)
            return None


def verify_msd(
    dataset_dir: str | Path,
    expected_cases: int | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    grid_tolerance: float = GRID_TOLERANCE,
) -> VerificationResult:
    """Check a data set in the MSD layout whole: every file is read to its last byte, every problem is listed.

    Checked are the number of cases, files that are named but missing or there but not named, and per case what
    `medseg3d.volumes.reading` checks: the bytes, the header, three axes, plausible spacing, finite voxels, one grid for
    image and label, and integer label values that `dataset.json` names.

    Args:
        dataset_dir: as in `read_msd`.
        expected_cases: number of labelled cases that must be there; for folders of `KNOWN_CASES` theirs, if None.
        workers: cases read at a time; one case of MSD takes about half a GB while it is read.
        progress: called with (cases done, cases in all) after every case.
        grid_tolerance: as in `check_pair`.

    Returns:
        The report; its `errors` is empty if all is well.

    Raises:
        UserError: as `read_msd`, when `dataset.json` itself cannot be used.
    """
    dataset = read_msd(dataset_dir, require_files=False)
    report = VerificationResult(dataset.folder, len(dataset.cases), len(dataset.test))
    _check_count(report, dataset.source, "labelled cases", expected_cases)
    report.errors += missing_files(dataset) + _unnamed_files(dataset, report.warnings)
    entries = [*dataset.cases, *dataset.test]
    _check_all(report, entries, lambda entry: _check_volumes(entry, dataset.labels, grid_tolerance), workers, progress)
    return report


def verify_pictures(
    dataset_dir: str | Path,
    split_file: str | Path | None = None,
    group_pattern: str | None = None,
    expected_cases: int | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> VerificationResult:
    """Check a data set of images whole: every file is decoded, every problem is listed.

    Checked are the number of cases, images and masks without the other half, and per case what `read_with_remarks`
    and `read_picture_mask` check, and that the mask has the size of its image. Two images of equal pixels are a
    warning, and an error where a split has them in two parts. A patient or sequence in two parts is a warning: the
    papers' own protocols split frame by frame, and what they measure is not how a network does on new patients.

    Args:
        dataset_dir: as in `read_picture_folder`.
        split_file: a split file to check as well.
        group_pattern: as in `read_picture_folder`; the split file's own groups if not given.
        expected_cases: number of cases that must be there; for folders of `KNOWN_CASES` theirs, if None.
        workers: cases read at a time.
        progress: called with (cases done, cases in all) after every case.

    Raises:
        UserError: MISSING_DATA, DUPLICATE_CASE, GROUP_PATTERN, and as `read_split`.
    """
    cases, errors, unread = find_pictures(dataset_dir)
    groups = grouped(cases, group_pattern) if group_pattern else None
    split = read_split(split_file) if split_file is not None else None
    report = VerificationResult(Path(dataset_dir).expanduser().absolute(), len(cases), errors=errors)
    report.warnings += [(str(report.folder), warning) for warning in unread]
    _check_count(report, report.folder, "cases", expected_cases)
    checked = _check_all(report, cases, _check_picture, workers, progress)
    digests = {case["case"]: each.digest for case, each in zip(cases, checked, strict=True) if each.digest is not None}
    report.warnings += [(str(report.folder), warning) for warning in _duplicates(digests)]
    if split is not None and split_file is not None:
        _check_split(report, Path(split_file), split, groups, {case["case"] for case in cases}, digests)
    return report


def _check_count(report: VerificationResult, source: Path, what: str, expected: int | None) -> None:
    expected = KNOWN_CASES.get(report.folder.name) if expected is None else expected
    if expected not in (None, report.n_cases):
        found = f"{report.n_cases} {what}"
        report.errors.append(UserError("CASE_COUNT", source, found, str(expected), "fetch the data set again"))


def _check_all(
    report: VerificationResult,
    cases: Sequence[dict[str, str]],
    check: Callable[[dict[str, str]], _Checked],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[_Checked]:
    """What is found in each case, and in the report."""
    checked = []
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for number, found in enumerate(pool.map(check, cases), start=1):
            checked.append(found)
            report.errors += found.errors
            report.warnings += found.warnings
            for value in found.values:
                report.label_values[value] = report.label_values.get(value, 0) + 1
            if progress is not None:
                progress(number, len(cases))
    return checked


def _check_volumes(entry: Mapping[str, str], labels: Mapping[int, str], grid_tolerance: float) -> _Checked:
    """One case; missing files are not its business."""
    case, headers = _Checked(), {}
    for key in ("image", "label"):
        path = entry.get(key)
        if path is None or not Path(path).is_file():
            continue
        if (volume := case.tried(read_volume, path, key == "image")) is None:
            continue
        array, headers[key] = volume
        case.warnings += [(path, warning) for warning in headers[key].warnings]
        if key == "label":
            label = case.tried(check_labels, array, list(labels) or None, path, headers[key])
            case.values = [] if label is None else np.unique(label).tolist()
    if len(headers) == 2:
        off_grid = case.tried(check_pair, headers["image"], headers["label"], grid_tolerance)
        case.warnings += [(entry["label"], warning) for warning in off_grid or ()]
    return case


def _unnamed_files(dataset: MSDDataset, warnings: list[tuple[str, str]]) -> list[UserError]:
    """A volume in one of the layout's folders that `dataset.json` does not name is a case that nobody would miss.

    Files there that may be images of another format are added to the warnings.
    """
    named = {
        Path(entry[key]) for entry in (*dataset.cases, *dataset.test) for key in ("image", "label") if key in entry
    }
    errors = []
    for part in ("imagesTr", "labelsTr", "imagesTs") if dataset.source.name == "dataset.json" else ():
        if not (dataset.folder / part).is_dir():
            continue
        below = files_below(dataset.folder / part, VOLUME_SUFFIXES)
        unread = not_read(dataset.folder / part, below.unread, VOLUME_SUFFIXES)
        warnings += [(str(dataset.folder), warning) for warning in unread]
        found, remedy = (
            "a volume that dataset.json does not name",
            "add it to dataset.json, or move it out of the folder",
        )
        errors += [
            UserError("UNNAMED_FILE", path, found, "an entry for every volume", remedy)
            for path in below.read
            if path not in named
        ]
    return errors


def _check_picture(entry: Mapping[str, str]) -> _Checked:
    case = _Checked()
    picture, remarks = case.tried(read_with_remarks, entry["image"]) or (None, ())
    case.warnings += [(entry["image"], remark) for remark in remarks]
    mask, remarks = case.tried(lambda path: read_levels(path).mask(), entry["label"]) or (None, ())
    case.warnings += [(entry["label"], remark) for remark in remarks]
    if mask is not None:
        case.values = np.unique(mask).astype(int).tolist()
    if picture is not None:
        case.digest = hashlib.sha256(str(picture.shape).encode() + picture.tobytes()).hexdigest()
        if mask is not None:
            case.tried(check_size, entry["label"], mask.shape, entry["image"], picture.shape)
    return case


def _duplicates(digests: Mapping[str, str]) -> list[str]:
    same: dict[str, list[str]] = {}
    for case, digest in digests.items():
        same.setdefault(digest, []).append(case)
    return [f"DUPLICATE_PICTURE: {_listed(found)} are the same image" for found in same.values() if len(found) > 1]


def _check_split(
    report: VerificationResult,
    path: Path,
    split: Split,
    groups: Mapping[str, str] | None,
    present: set[str],
    digests: Mapping[str, str],
) -> None:
    absent = sorted({case for part in PARTS for case in getattr(split, part)} - present)
    if absent:
        found = f"{len(absent)} cases that the data set lacks ({_listed(absent)})"
        report.errors.append(
            UserError("SPLIT_MISMATCH", path, found, "the data set's own cases", "name the split file of this data set")
        )
    leaks = find_leaks(split, groups, digests)
    for leak in leaks:
        if leak.kind == "picture":
            report.errors.append(
                UserError(
                    "LEAKAGE",
                    path,
                    f"the same image as {_parts_of(leak)}",
                    "each image in one set",
                    "create a new split",
                )
            )
    shared = [leak for leak in leaks if leak.kind == "group"]
    if shared:
        cases = sum(len(leak.cases.get("test", [])) for leak in shared)
        report.warnings.append(
            (
                str(path),
                f"LEAKAGE: {len(shared)} patients or sequences are in more than one part, {cases} of "
                f"{len(split.test)} test cases are theirs: scores say how a network does on them, not on new ones "
                f"(first: {shared[0].name}, {_parts_of(shared[0])})",
            )
        )


def _parts_of(leak: Leak) -> str:
    return " and ".join(f"{_listed(cases)} in {part}" for part, cases in leak.cases.items())


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
