"""Checking a data set of pictures before anything is trained on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from medseg3d.data.fetch import VerificationResult
from medseg3d.data.leaks import Leak, find_leaks
from medseg3d.data.picture_folders import find_pictures, grouped
from medseg3d.data.splits import PARTS, Split, read_split
from medseg3d.faults import Fault
from medseg3d.pictures.masks import read_levels
from medseg3d.pictures.reading import read_with_remarks

KNOWN_CASES = {"Kvasir-SEG": 1000, "CVC-ClinicDB": 612}
"""Folder to the number of cases its data set has."""

_NAMED = 3


def verify_pictures(
    dataset_dir: str | Path,
    split_file: str | Path | None = None,
    group_pattern: str | None = None,
    expected_cases: int | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> VerificationResult:
    """Check a data set of pictures whole: every file is decoded, every problem is listed.

    Checked are the number of cases, pictures and masks without the other half, and per case what `read_with_remarks`
    and `read_picture_mask` check, and that the mask has the size of its picture. Two pictures of equal pixels are a
    warning, and a fault where a split has them in two parts. A patient or sequence in two parts is a warning: the
    papers' own protocols split frame by frame, and what they measure is not how a network does on new patients.

    Args:
        dataset_dir: as in `read_picture_folder`.
        split_file: a split file to check as well.
        group_pattern: as in `read_picture_folder`; the split file's own groups if not given.
        expected_cases: number of cases that must be there; for folders of `KNOWN_CASES` theirs, if None.
        workers: cases read at a time.
        progress: called with (cases done, cases in all) after every case.

    Returns:
        The report; its `label_values` count the masks with background (0) and with foreground (1).

    Raises:
        Fault: MISSING_DATA, DUPLICATE_CASE, GROUP_PATTERN, and as `read_split`.
    """
    cases, faults, unread = find_pictures(dataset_dir)
    groups = grouped(cases, group_pattern) if group_pattern else None
    split = read_split(split_file) if split_file is not None else None
    report = VerificationResult(Path(dataset_dir).expanduser().absolute(), len(cases), faults=faults)
    report.warnings += [(str(report.folder), warning) for warning in unread]
    if expected_cases is None:
        expected_cases = KNOWN_CASES.get(report.folder.name)
    if expected_cases is not None and expected_cases != report.n_cases:
        report.faults.append(
            Fault("CASE_COUNT", report.folder, f"{report.n_cases} cases", str(expected_cases), "fetch it again")
        )
    digests = {}
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        results = pool.map(_check_case, cases)
        for number, (case, (digest, values, case_faults, warnings)) in enumerate(zip(cases, results, strict=True), 1):
            report.faults += case_faults
            report.warnings += warnings
            for value in values:
                report.label_values[value] = report.label_values.get(value, 0) + 1
            if digest is not None:
                digests[case["case"]] = digest
            if progress is not None:
                progress(number, len(cases))
    report.warnings += [(str(report.folder), warning) for warning in _duplicates(digests)]
    if split is not None and split_file is not None:
        _check_split(report, Path(split_file), split, groups, {case["case"] for case in cases}, digests)
    return report


def _check_case(case: Mapping[str, str]) -> tuple[str | None, list[int], list[Fault], list[tuple[str, str]]]:
    """Hash of the picture's pixels, label values of its mask, faults and warnings."""
    faults: list[Fault] = []
    warnings: list[tuple[str, str]] = []
    picture: Any = _tried(read_with_remarks, case["image"], faults)
    mask: Any = _tried(lambda path: read_levels(path).mask(), case["label"], faults)
    values = []
    if picture is not None:
        picture, remarks = picture
        warnings += [(case["image"], remark) for remark in remarks]
    if mask is not None:
        mask, remarks = mask
        warnings += [(case["label"], remark) for remark in remarks]
        values = [value for value in (0, 1) if (mask == value).any()]
    if picture is not None and mask is not None and picture.shape[:2] != mask.shape:
        faults.append(
            Fault(
                "PAIR_GEOMETRY",
                case["label"],
                f"{mask.shape[0]} rows of {mask.shape[1]} pixels",
                f"{picture.shape[0]} rows of {picture.shape[1]} pixels, as in {case['image']}",
                "a mask must be drawn on the grid of its picture",
            )
        )
    digest = None if picture is None else hashlib.sha256(str(picture.shape).encode() + picture.tobytes()).hexdigest()
    return digest, values, faults, warnings


def _tried(read: Callable[[str], Any], path: str, faults: list[Fault]) -> Any:
    try:
        return read(path)
    except Fault as fault:
        faults.append(fault)
        return None


def _duplicates(digests: Mapping[str, str]) -> list[str]:
    same: dict[str, list[str]] = {}
    for case, digest in digests.items():
        same.setdefault(digest, []).append(case)
    return [f"DUPLICATE_PICTURE: {_listed(found)} are one picture" for found in same.values() if len(found) > 1]


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
        report.faults.append(
            Fault("SPLIT_MISMATCH", path, found, "the data set's own cases", "name its own split file")
        )
    leaks = find_leaks(split, groups, digests)
    for leak in leaks:
        if leak.kind == "picture":
            report.faults.append(
                Fault("LEAKAGE", path, f"one picture as {_parts_of(leak)}", "it in one part", "draw the split anew")
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
