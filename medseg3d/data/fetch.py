"""Getting MSD Task07_Pancreas, and checking a data set in the MSD layout before anything is trained on it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from medseg3d.data.msd import MSDDataset, missing_files, read_msd
from medseg3d.faults import Fault
from medseg3d.files.archives import check_empty, download, unpack
from medseg3d.files.disk_space import check_space
from medseg3d.files.folders import files_below, not_read
from medseg3d.volumes.grids import GRID_TOLERANCE, check_pair
from medseg3d.volumes.label_maps import check_labels
from medseg3d.volumes.reading import VOLUME_SUFFIXES, read_volume

PANCREAS_NAME = "Task07_Pancreas"
PANCREAS_CASES = 281
PANCREAS_MD5 = "4f7080cfca169fa8066d17ce6eb061e4"
PANCREAS_LICENCE = "CC BY-SA 4.0"
ARCHIVE_BYTES = 11_500_000_000
"""Upper bound of the archive's size (11.4 GB); unpacked it takes the same again."""


def fetch_pancreas(root: str | Path = "data", say: Callable[[str], None] = print, keep_archive: bool = False) -> Path:
    """Download and unpack MSD Task07_Pancreas through MONAI's checked downloader; the data set's folder comes back.

    The archive is checked by its MD5 and unpacked beside its final folder, which therefore is whole or not there.

    Args:
        root: folder that gets `Task07_Pancreas/`; made if needed.
        say: where messages for the user go.
        keep_archive: keep `Task07_Pancreas.tar` after unpacking.

    Raises:
        Fault: NO_SPACE or NOT_EMPTY before anything is downloaded, NO_NETWORK with the steps by hand if the download
            fails, CHECKSUM if an archive does not have the known MD5.
    """
    root = Path(root).expanduser().absolute()
    folder, archive = root / PANCREAS_NAME, root / f"{PANCREAS_NAME}.tar"
    if (folder / "dataset.json").is_file():
        say(f"{folder} is there already; `medseg3d data verify {folder}` checks it")
        return folder
    check_empty(folder, "dataset.json")
    say(
        f"MSD {PANCREAS_NAME}: 11.4 GB to download and the same again unpacked, licence {PANCREAS_LICENCE}; "
        "cite Antonelli et al. 2022, doi:10.1038/s41467-022-30695-9"
    )
    check_space({root: ARCHIVE_BYTES * (1 if archive.is_file() else 2)}, "name another disk with --root")
    root.mkdir(parents=True, exist_ok=True)
    _download(archive)
    say(f"unpacking to {folder}")
    unpack(archive, folder, _msd_folder, f"{PANCREAS_NAME}/dataset.json")
    if not keep_archive:
        archive.unlink()
    say(f"{folder} is complete; `medseg3d data verify {folder}` checks every volume")
    return folder


@dataclass
class VerificationResult:
    """What `verify_msd` found.

    Args:
        folder: the data set's folder.
        n_cases: labelled cases that `dataset.json` names.
        n_test: unlabelled cases that it names.
        label_values: number of cases in which each label value occurs.
        faults: everything that is wrong, in the order of the cases.
        warnings: (file, warning) of what is odd but usable.
    """

    folder: Path
    n_cases: int = 0
    n_test: int = 0
    label_values: dict[int, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)


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
        expected_cases: number of labelled cases that must be there; for a folder called Task07_Pancreas, 281 if None.
        workers: cases read at a time; one case of MSD takes about half a GB while it is read.
        progress: called with (cases done, cases in all) after every case.
        grid_tolerance: as in `check_pair`.

    Returns:
        The report; its `faults` is empty if all is well.

    Raises:
        Fault: as `read_msd`, when `dataset.json` itself cannot be used.
    """
    dataset = read_msd(dataset_dir, require_files=False)
    report = VerificationResult(dataset.folder, len(dataset.cases), len(dataset.test))
    if expected_cases is None and dataset.folder.name == PANCREAS_NAME:
        expected_cases = PANCREAS_CASES
    if expected_cases is not None and report.n_cases != expected_cases:
        report.faults.append(
            Fault(
                "CASE_COUNT",
                dataset.source,
                f"{report.n_cases} labelled cases",
                str(expected_cases),
                "fetch the data set again",
            )
        )
    report.faults += missing_files(dataset) + _unnamed_files(dataset, report.warnings)
    entries = [*dataset.cases, *dataset.test]
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        results = pool.map(lambda entry: _check_case(entry, dataset.labels, grid_tolerance), entries)
        for number, (faults, warnings, values) in enumerate(results, start=1):
            report.faults += faults
            report.warnings += warnings
            for value in values:
                report.label_values[value] = report.label_values.get(value, 0) + 1
            if progress is not None:
                progress(number, len(entries))
    return report


def _check_case(
    entry: dict[str, str], labels: dict[int, str], grid_tolerance: float
) -> tuple[list[Fault], list[tuple[str, str]], list[int]]:
    """Faults, warnings and label values of one case; missing files are not its business."""
    import numpy as np

    faults: list[Fault] = []
    off_grid: tuple[str, ...] = ()
    headers, values = {}, []
    for key in ("image", "label"):
        path = entry.get(key)
        if path is None or not Path(path).is_file():
            continue
        try:
            array, headers[key] = read_volume(path, check_hu=key == "image")
            if key == "label":
                values = [
                    int(value) for value in np.unique(check_labels(array, list(labels) or None, path, headers[key]))
                ]
        except Fault as fault:
            faults.append(fault)
    if len(headers) == 2:
        try:
            off_grid = check_pair(headers["image"], headers["label"], grid_tolerance)
        except Fault as fault:
            faults.append(fault)
    warnings = [(str(header.path), warning) for header in headers.values() for warning in header.warnings]
    return faults, warnings + [(entry["label"], warning) for warning in off_grid], values


def _unnamed_files(dataset: MSDDataset, warnings: list[tuple[str, str]]) -> list[Fault]:
    """A volume in one of the layout's folders that `dataset.json` does not name is a case that nobody would miss.

    Files there that may be images of another format are added to the warnings.
    """
    named = {
        Path(entry[key]) for entry in (*dataset.cases, *dataset.test) for key in ("image", "label") if key in entry
    }
    faults = []
    for part in ("imagesTr", "labelsTr", "imagesTs") if dataset.source.name == "dataset.json" else ():
        if not (dataset.folder / part).is_dir():
            continue
        below = files_below(dataset.folder / part, VOLUME_SUFFIXES)
        unread = not_read(dataset.folder / part, below.unread, VOLUME_SUFFIXES)
        warnings += [(str(dataset.folder), warning) for warning in unread]
        for path in below.read:
            if path not in named:
                faults.append(
                    Fault(
                        "UNNAMED_FILE",
                        path,
                        "a volume that dataset.json does not name",
                        "an entry for every volume",
                        "add it to dataset.json, or move it out of the folder",
                    )
                )
    return faults


def _download(archive: Path) -> None:
    from monai.apps import DecathlonDataset

    url = DecathlonDataset.resource[PANCREAS_NAME]
    by_hand = (
        f"download {url} in another way, put it at {archive} (md5 {PANCREAS_MD5}) and run the same command again; "
        "other sources: http://medicaldecathlon.com"
    )
    download(url, archive, by_hand, PANCREAS_MD5)


def _msd_folder(unpacked: Path) -> Path | None:
    folder = unpacked / PANCREAS_NAME
    return folder if (folder / "dataset.json").is_file() else None
