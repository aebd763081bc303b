"""The Medical Segmentation Decathlon layout: `dataset.json`, `imagesTr/`, `labelsTr/`, `imagesTs/`.

Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 13, 4128 (2022),
doi:10.1038/s41467-022-30695-9. nnU-Net v2 names its folders so too, but not the cases.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from medseg3d.data.volumes import volume_stem
from medseg3d.faults import Fault, UsageFault

HOW_TO_GET_DATA = (
    "`medseg3d data fetch pancreas` downloads MSD Task07_Pancreas (11.4 GB, CC BY-SA 4.0) to data/Task07_Pancreas; "
    "to try without a download: `medseg3d phantom data/phantom_pancreas`, then `python -m monai.bundle run training "
    "--config_file \"['bundles/pancreas_nl/train.json','bundles/pancreas_nl/phantom.json']\"`"
)
"""What a user without data can do; the last part of every MISSING_DATA fault."""


@dataclass(frozen=True)
class MSDDataset:
    """What a `dataset.json` says, with absolute paths.

    Args:
        folder: the data set's folder, absolute.
        name: the data set's name.
        labels: label value to name, background included.
        cases: `{"case": id, "image": path, "label": path}` per labelled volume, sorted by id.
        test: `{"case": id, "image": path}` per unlabelled volume, sorted by id.
    """

    folder: Path
    name: str
    labels: dict[int, str]
    cases: list[dict[str, str]]
    test: list[dict[str, str]]

    @property
    def ids(self) -> list[str]:
        """The ids of the labelled cases, sorted."""
        return [case["case"] for case in self.cases]


def read_msd(dataset_dir: str | Path, require_files: bool = True) -> MSDDataset:
    """The labelled and unlabelled cases of a data set in the MSD layout.

    The id of a case is the name of its image without `.nii.gz`. Paths may be those of Windows. Where the `dataset.json`
    is one of nnU-Net v2, which lists no case, every label below `labelsTr` is one, and its image the
    `<case>_0000.nii.gz` in `imagesTr`. Entries whose file name starts with a dot are left
    out: the MSD's archives carry AppleDouble files (`._pancreas_001.nii.gz`) that hold no image.

    Args:
        dataset_dir: folder that holds `dataset.json`.
        require_files: also demand that every image and label named in `dataset.json` is there.

    Raises:
        Fault: MISSING_DATA (no folder or no `dataset.json`), DATASET_JSON (not readable, or an entry of it is not as
            the layout wants it), PATH_ESCAPE (a path that leaves the folder), DUPLICATE_CASE, MISSING_FILE.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> entry = {"image": "./imagesTr/p_1.nii.gz", "label": "./labelsTr/p_1.nii.gz"}
        >>> _ = (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "background"}, "training": [entry]}))
        >>> read_msd(folder, require_files=False).ids
        ['p_1']
    """
    folder = Path(dataset_dir).expanduser().absolute()
    content = _read_json(folder)
    source = folder / "dataset.json"
    cases, test = [], []
    named_by_label = _is_nnunet(content)
    if named_by_label:
        content = _listed_by_msd(folder, content, source)
    for entry in _entries(content, "training", source):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise _json_fault(source, f"the training entry {_short(entry)}", '{"image": path, "label": path}')
        image, label = (_inside(folder, entry[key], source) for key in ("image", "label"))
        if not image.name.startswith("."):
            case = case_id(label if named_by_label else image)
            cases.append({"case": case, "image": str(image), "label": str(label)})
    for entry in _entries(content, "test", source):
        # some tasks write {"image": path} here
        name = entry.get("image") if isinstance(entry, dict) else entry
        if not isinstance(name, str):
            raise _json_fault(source, f"the test entry {_short(entry)}", "a path")
        image = _inside(folder, name, source)
        if not image.name.startswith("."):
            test.append({"case": case_id(image), "image": str(image)})
    for part, found in (("training", cases), ("test", test)):
        found.sort(key=lambda case: case["case"])
        repeated = [case for case, count in Counter(case["case"] for case in found).items() if count > 1]
        if repeated:
            raise Fault(
                "DUPLICATE_CASE",
                source,
                f"{part} names {', '.join(repeated[:5])} more than once",
                "every case once",
                "remove the second entry",
            )
    if not cases:
        raise _json_fault(source, "no training case", "at least one")
    dataset = MSDDataset(folder, str(content.get("name") or folder.name), _labels(content, source), cases, test)
    if require_files:
        missing = missing_files(dataset)
        if missing:
            raise missing[0]
    return dataset


def missing_files(dataset: MSDDataset) -> list[Fault]:
    """One MISSING_FILE fault for every image or label that `dataset.json` names and the folder lacks."""
    wanted = [(case["case"], key, case[key]) for case in dataset.cases for key in ("image", "label")]
    wanted += [(case["case"], "image", case["image"]) for case in dataset.test]
    absent = [item for item in wanted if not Path(item[2]).is_file()]
    others = f" ({len(absent)} of {len(wanted)} files are missing)" if len(absent) > 1 else ""
    return [
        UsageFault(
            "MISSING_FILE",
            path,
            f"no file{others}",
            f"the {key} of case {case}",
            f"put it there, or take the case out of {dataset.folder / 'dataset.json'}; "
            f"`medseg3d data verify {dataset.folder}` lists everything that is wrong",
        )
        for case, key, path in absent
    ]


def case_id(path: str | Path) -> str:
    """File name without the suffix of a volume, in any case of letters.

    Example:
        >>> case_id("imagesTr/pancreas_001.nii.gz"), case_id("a.b.nii"), case_id("scan.NII.GZ")
        ('pancreas_001', 'a.b', 'scan')
    """
    return volume_stem(Path(path).name)


def _read_json(folder: Path) -> dict[str, Any]:
    source = folder / "dataset.json"
    if not folder.is_dir():
        raise Fault("MISSING_DATA", folder, "no such folder", "a data set in the MSD layout", HOW_TO_GET_DATA)
    if not source.is_file():
        raise Fault(
            "MISSING_DATA", folder, "a folder without dataset.json", "a data set in the MSD layout", HOW_TO_GET_DATA
        )
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _json_fault(source, f"no JSON ({error})", "a JSON object") from error
    if not isinstance(content, dict):
        raise _json_fault(source, f"a JSON {type(content).__name__}", "a JSON object")
    return content


def _is_nnunet(content: dict[str, Any]) -> bool:
    return "training" not in content and ("channel_names" in content or "file_ending" in content)


def _listed_by_msd(folder: Path, content: dict[str, Any], source: Path) -> dict[str, Any]:
    """What a dataset.json of nnU-Net v2 says and the folders hold, in the form of MSD's.

    https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
    """
    ending, channels, labels = (content.get(key) for key in ("file_ending", "channel_names", "labels"))
    if ending not in (".nii.gz", ".nii") or not isinstance(channels, dict) or len(channels) != 1:
        raise _json_fault(
            source, f"nnU-Net v2's layout with {_short(channels)} and files {_short(ending)}", "one channel of NIfTI"
        )
    if not isinstance(labels, dict) or not all(type(value) is int for value in labels.values()):
        raise _json_fault(source, f"nnU-Net v2's layout with the labels {_short(labels)}", "a value for each name")
    ids = sorted(path.name[: -len(ending)] for path in (folder / "labelsTr").glob(f"[!.]*{ending}"))
    return {
        "name": content.get("name"),
        "labels": {str(value): name for name, value in labels.items()},
        "training": [{"image": f"imagesTr/{case}_0000{ending}", "label": f"labelsTr/{case}{ending}"} for case in ids],
        "test": [f"imagesTs/{path.name}" for path in (folder / "imagesTs").glob(f"[!.]*_0000{ending}")],
    }


def _entries(content: dict[str, Any], key: str, source: Path) -> list[Any]:
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise _json_fault(source, f"{key!r} is {_short(entries)}", "a list of cases")
    return entries


def _labels(content: dict[str, Any], source: Path) -> dict[int, str]:
    labels: Any = content.get("labels")
    try:
        return {int(value): str(name) for value, name in sorted(labels.items(), key=lambda item: int(item[0]))}
    except (AttributeError, TypeError, ValueError):
        raise _json_fault(source, f"'labels' is {_short(labels)}", '{"0": "background", "1": ...}') from None


def _inside(folder: Path, entry: str, source: Path) -> Path:
    """The absolute path of an entry. Links that the user made inside the folder are followed, `..` is not."""
    path = PureWindowsPath(entry)  # it knows both kinds of slashes
    if path.drive or path.root or ".." in path.parts or not path.name:
        raise Fault(
            "PATH_ESCAPE",
            source,
            f"the path {_short(entry)}",
            "a path inside the data set's folder",
            "correct the entry; a data set from an unknown source that does this is not to be trusted",
        )
    return folder.joinpath(*path.parts)


def _json_fault(source: Path, found: str, wanted: str) -> Fault:
    return Fault("DATASET_JSON", source, found, wanted, "take the original file from the data set's archive")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
