"""The Medical Segmentation Decathlon layout: `dataset.json`, `imagesTr/`, `labelsTr/`, `imagesTs/`.

Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 13, 4128 (2022),
doi:10.1038/s41467-022-30695-9. nnU-Net's raw folders and MONAI's datalists are read into the same list of cases.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.data.nnunet import case_of, check_channels, is_nnunet, listed_as_msd
from medseg3d.errors import UsageError, UserError
from medseg3d.files.folders import path_inside
from medseg3d.volumes.reading import volume_stem

HOW_TO_GET_DATA = (
    "`medseg3d data fetch pancreas` downloads MSD Task07_Pancreas (11.4 GB, CC BY-SA 4.0) to data/Task07_Pancreas; "
    "to try without a download: `medseg3d phantom data/phantom_pancreas`, then `python -m monai.bundle run training "
    "--config_file \"['bundles/pancreas_nl/train.json','bundles/pancreas_nl/phantom.json']\"`"
)
"""What a user without data can do; the last part of every MISSING_DATA error."""

_LISTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


@dataclass(frozen=True)
class MSDDataset:
    """What a `dataset.json` or a datalist says, with absolute paths.

    Args:
        folder: the data set's folder, absolute.
        source: the file that lists the cases.
        name: the data set's name.
        labels: label value to name, background included; nothing where a datalist does not say.
        cases: `{"case": id, "image": path, "label": path}` per labelled volume, sorted by id.
        test: `{"case": id, "image": path}` per unlabelled volume, sorted by id.
        parts: "train", "val" and "test" to the ids of the labelled cases that are listed for it.
        folds: of the cases to train on, where none are listed to validate with.
    """

    folder: Path
    source: Path
    name: str
    labels: dict[int, str]
    cases: list[dict[str, str]]
    test: list[dict[str, str]]
    parts: dict[str, list[str]]
    folds: list[Any]

    @property
    def ids(self) -> list[str]:
        """The ids of the labelled cases, sorted."""
        return [case["case"] for case in self.cases]


def read_msd(dataset_dir: str | Path, require_files: bool = True) -> MSDDataset:
    """The labelled and unlabelled cases of a data set of volumes: the MSD's layout, nnU-Net's, or a datalist of MONAI.

    The id of a case is the name of its image without suffix, with the folder before it where two have one name.
    Paths may be those of Windows. Where the `dataset.json` is one of nnU-Net v2, which lists no case, every label below
    `labelsTr` is one, and its image the `<case>_0000` in `imagesTr`; one of nnU-Net v1 lists cases without `_0000`.
    A datalist has the lists `training`, `validation` and `test` of `{"image", "label"}`, of which those without a label
    are unlabelled cases, or a `fold` in each entry; its paths begin at its own folder. Entries whose file name starts
    with a dot are left out: the MSD's archives carry AppleDouble files (`._pancreas_001.nii.gz`) that hold no image.

    Args:
        dataset_dir: folder that holds `dataset.json`, or the file of a datalist.
        require_files: also demand that every image and label named there is on the disk.

    Raises:
        UserError: MISSING_DATA (no folder or no `dataset.json`), DATASET_JSON (not readable, or an entry of it is not
            as the layout wants it), PATH_ESCAPE (a path that leaves the folder), DUPLICATE_CASE, MISSING_FILE,
            DIMENSIONS (several channels).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> entry = {"image": "./imagesTr/p_1.nii.gz", "label": "./labelsTr/p_1.nii.gz"}
        >>> _ = (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "background"}, "training": [entry]}))
        >>> read_msd(folder, require_files=False).ids
        ['p_1']
    """
    source = _source(Path(dataset_dir).expanduser().absolute())
    folder, content = source.parent, _read_json(source)
    try:
        content = listed_as_msd(folder, content) if is_nnunet(content) else content
    except ValueError as error:
        raise _json_error(source, f"nnU-Net v2's layout with {error.args[0]}", error.args[1]) from None
    try:
        listed = listed_parts(content)
    except TypeError as error:
        raise _json_error(source, str(error), "lists of cases") from None
    labelled = {part: [_labelled(folder, entry, source) for entry in listed[part]] for part in ("train", "val")}
    tests = [_tested(folder, entry, source) for entry in listed["test"]]
    labelled["test"] = [files for files in tests if "label" in files]
    cases = _named([files for part in labelled.values() for files in part if files], source)
    test = _named([files for files in tests if files and "label" not in files], source)
    if not cases:
        raise _json_error(source, "no training case", "at least one")
    case_of_image = {case["image"]: case["case"] for case in cases}
    parts = {part: [case_of_image[files["image"]] for files in entries if files] for part, entries in labelled.items()}
    name = str(content.get("name") or (folder.name if source.name == "dataset.json" else source.stem))
    labels = _labels(content, source) if "labels" in content or source.name == "dataset.json" else {}
    dataset = MSDDataset(folder, source, name, labels, cases, test, parts, listed_folds(listed))
    if require_files:
        missing = missing_files(dataset)
        if missing:
            raise missing[0]
    return dataset


def missing_files(dataset: MSDDataset) -> list[UserError]:
    """One MISSING_FILE error for every image or label that is listed and not on the disk."""
    wanted = [(case["case"], key, case[key]) for case in dataset.cases for key in ("image", "label")]
    wanted += [(case["case"], "image", case["image"]) for case in dataset.test]
    absent = [item for item in wanted if not Path(item[2]).is_file()]
    shown = dataset.folder if dataset.source.name == "dataset.json" else dataset.source
    others = f" ({len(absent)} of {len(wanted)} files are missing)" if len(absent) > 1 else ""
    remedy = f"put it there, or remove the case from {dataset.source}"
    remedy += f"; `medseg3d data verify {shown}` lists all problems"
    return [
        UsageError("MISSING_FILE", path, f"no file{others}", f"the {key} of case {case}", remedy)
        for case, key, path in absent
    ]


def case_id(path: str | Path) -> str:
    """File name without the suffix of a volume, in any case of letters.

    Example:
        >>> case_id("imagesTr/pancreas_001.nii.gz"), case_id("a.b.nii"), case_id("scan.NII.GZ")
        ('pancreas_001', 'a.b', 'scan')
    """
    return volume_stem(Path(path).name)


def listed_parts(content: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Part to its entries, names or objects; every list that is one of a part is in it.

    Raises:
        TypeError: something instead of a list.

    Example:
        >>> listed_parts({"training": [{"image": "a.nii", "label": "b.nii"}], "testing": ["c.nii"]})["test"]
        ['c.nii']
    """
    for key in (key for keys in _LISTS.values() for key in keys):
        if not isinstance(content.get(key, []), list):
            raise TypeError(f"{key!r} is {content[key]!r:.80}, and no list")
    return {part: [entry for key in keys for entry in content.get(key, [])] for part, keys in _LISTS.items()}


def listed_folds(parts: Mapping[str, list[Any]]) -> list[Any]:
    """The folds that entries to train on are of, where no list says which of them validate."""
    if parts["val"]:
        return []
    return sorted({entry["fold"] for entry in parts["train"] if isinstance(entry, dict) and "fold" in entry})


def _source(path: Path) -> Path:
    """The file that lists the cases."""
    if path.is_file():
        return path
    source = path / "dataset.json"
    if not source.is_file():
        found = "a folder without dataset.json" if path.is_dir() else "no such folder"
        raise UserError("MISSING_DATA", path, found, "a data set in the MSD layout", HOW_TO_GET_DATA)
    return source


def _labelled(folder: Path, entry: Any, source: Path) -> dict[str, str]:
    """Image and label of an entry; nothing for a file that holds no image."""
    if not isinstance(entry, dict) or not all(isinstance(_one(entry.get(key)), str) for key in ("image", "label")):
        raise _json_error(source, f"the training entry {_short(entry)}", '{"image": path, "label": path}')
    image, label = (_inside(folder, _one(entry[key]), source) for key in ("image", "label"))
    return {} if image.name.startswith(".") else {"image": str(_on_disk(image)), "label": str(label)}


def _tested(folder: Path, entry: Any, source: Path) -> dict[str, str]:
    """The image of an entry to test on, and its label if it has one; nothing for a file that holds no image."""
    if isinstance(entry, dict) and entry.get("label"):
        return _labelled(folder, entry, source)
    name = _one(entry.get("image") if isinstance(entry, dict) else entry)  # some tasks of the MSD write {"image": path}
    if not isinstance(name, str):
        raise _json_error(source, f"the test entry {_short(entry)}", "a path")
    image = _inside(folder, name, source)
    return {} if image.name.startswith(".") else {"image": str(_on_disk(image))}


def _one(value: Any) -> Any:
    """The only one of a list: MONAI's for the channels of an image."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _on_disk(image: Path) -> Path:
    """The image; of nnU-Net v1, whose lists leave the channel out, its first channel.

    Raises:
        UserError: DIMENSIONS, where there are others.
    """
    stem = volume_stem(image.name)
    channels = [image.with_name(f"{stem}_{number:04d}{image.name[len(stem) :]}") for number in (0, 1)]
    if image.exists() or not channels[0].exists():
        return image
    check_channels([channel for channel in channels if channel.exists()])
    return channels[0]


def _named(files: list[dict[str, str]], source: Path) -> list[dict[str, str]]:
    """The cases with their ids, sorted by them."""
    names = [case_of(each["image"]) for each in files]
    twice = {name for name, count in Counter(names).items() if count > 1}
    ids = [
        f"{Path(each['image']).parent.name}_{name}" if name in twice else name
        for name, each in zip(names, files, strict=True)
    ]
    repeated = [case for case, count in Counter(ids).items() if count > 1]
    if repeated:
        found = f"{', '.join(repeated[:5])} more than once"
        raise UserError("DUPLICATE_CASE", source, found, "every case once", "remove the second entry")
    return sorted(
        ({"case": case, **each} for case, each in zip(ids, files, strict=True)), key=lambda each: each["case"]
    )


def _read_json(source: Path) -> dict[str, Any]:
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _json_error(source, f"no JSON ({error})", "a JSON object") from error
    if not isinstance(content, dict):
        raise _json_error(source, f"a JSON {type(content).__name__}", "a JSON object")
    return content


def _labels(content: dict[str, Any], source: Path) -> dict[int, str]:
    labels: Any = content.get("labels")
    try:
        return {int(value): str(name) for value, name in sorted(labels.items(), key=lambda item: int(item[0]))}
    except (AttributeError, TypeError, ValueError):
        raise _json_error(source, f"'labels' is {_short(labels)}", '{"0": "background", "1": ...}') from None


def _inside(folder: Path, entry: str, source: Path) -> Path:
    """The absolute path of an entry."""
    path = path_inside(folder, entry)
    if path is None:
        found = f"the path {_short(entry)} outside it"
        remedy = "correct the entry; do not trust a data set from an unknown source that does this"
        raise UserError("PATH_ESCAPE", source, found, "a path inside the data set's folder", remedy)
    return path


def _json_error(source: Path, found: str, wanted: str) -> UserError:
    return UserError("DATASET_JSON", source, found, wanted, "take the original file from the data set's archive")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
