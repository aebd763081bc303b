"""What the record next to a mask says of it, and whether that still holds."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.data.outputs import record_file
from medseg3d.data.pseudonyms import hidden, read_pseudonyms
from medseg3d.dicom.sources import require_packages
from medseg3d.errors import UsageError, UserError
from medseg3d.files.folders import files_below
from medseg3d.files.signature import is_ours
from medseg3d.files.stream import file_sha256
from medseg3d.pictures.masks import read_grey
from medseg3d.volumes.reading import VOLUME_SUFFIXES, read_volume, volume_files

INTENDED_USE = "research only, not for clinical use"

BESIDE = {"probability": "prob_file", "overlay": "overlay_file", "segmentation": "dicom_seg_file"}
"""Part of a record -> key of the item: what a case may have besides its mask."""

_EVERY_NAME = ("",)
_MASKS = tuple(f"_seg{suffix}" for suffix in (*VOLUME_SUFFIXES, ".png"))


@dataclass(frozen=True)
class Standing:
    """What is to be done with a case.

    Attributes:
        kept: whether what stands is left alone.
        reason: why it is, or why it is segmented again; empty where nothing stands.
        warning: whether a person has to look at it.
    """

    kept: bool
    reason: str
    warning: bool = False


def standing(item: Mapping[str, Any], made_with: Mapping[str, Any]) -> Standing:
    """Whether the mask of a case stands: the sums in its record decide, of image, mask, weights and settings.

    Args:
        item: `image` and `mask_file`, and what else the case shall have, as `input_items` gives it.
        made_with: parts of the record that say what a mask is made with, as a record made now would have them.

    Example:
        >>> standing({"image": "ct.nii.gz", "mask_file": "no/ct_seg.nii.gz"}, {})
        Standing(kept=False, reason='', warning=False)
    """
    mask = Path(item["mask_file"])
    if not mask.exists():
        return Standing(False, "")
    if not ("series" in item or Path(item["image"]).is_file()):
        return Standing(False, "its image is not a file")  # which reading it says, of this case alone
    path = record_file(mask)
    record = read_record(path)
    if record is None and path.exists():
        return Standing(True, f"{path.name} next to the mask is not a record of medseg3d", warning=True)
    if record is None:
        return Standing(False, "its mask has no record")
    if file_sha256(mask) != record["mask"]["sha256"]:
        if _readable(mask):
            return Standing(True, "the mask was changed since it was written; --overwrite replaces it", warning=True)
        return Standing(False, "its mask is damaged")
    changed = list(_changed(item, record, json.loads(json.dumps(made_with, default=str))))
    if changed:
        return Standing(False, ", ".join(changed))
    return Standing(True, "the mask exists: same image, weights and settings")


def read_record(path: Path) -> dict[str, Any] | None:
    """What a record says; None where there is none, or somebody else's."""
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        parts = [record[part] for part in ("mask", "input", *(BESIDE.keys() & record.keys()))]
        files = all(path.with_name(part["file"]).name == part["file"] for part in parts)
        return record if files and isinstance(record["mask"]["sha256"], str) and "sha256" in record["input"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _changed(item: Mapping[str, Any], record: Mapping[str, Any], made_with: Mapping[str, Any]) -> Iterator[str]:
    """Why a mask is another one's than would be made now."""
    if _image_sha256(item) != record["input"]["sha256"]:
        yield "another image"
    for part, now in made_with.items():
        before = record.get(part)
        if not isinstance(before, Mapping) or not isinstance(now, Mapping):
            if before != now:
                yield f"another {part}"
            continue
        for name in now:
            if before.get(name) != now[name]:
                what = "other weights" if (part, name) == ("model", "sha256") else f"{name} {before.get(name)}"
                yield what if what == "other weights" else f"made with {what}, now {now[name]}"
    for part, key in BESIDE.items():
        if key in item:
            path = Path(item[key])
            if not path.exists():
                yield f"no {part} yet"
            elif file_sha256(path) != record.get(part, {}).get("sha256"):
                yield f"another {part}"


def _image_sha256(item: Mapping[str, Any]) -> str:
    """The sum of the image, of DICOM that of its series; "" of a series that cannot be read, which reading it says."""
    if "series" not in item:
        return file_sha256(*volume_files(item["image"]))
    from medseg3d.dicom.series import series_sha256  # of the extra dicom

    try:
        return series_sha256(item["image"], item["series"])
    except UserError:
        return ""


def _readable(mask: Path) -> bool:
    try:
        if mask.suffix.lower() == ".png":
            read_grey(mask)
        else:
            read_volume(mask)
    except UserError:
        return False
    return True


@dataclass(frozen=True)
class Difference:
    """A file of a folder of results that is not what its record says."""

    file: str
    code: str
    found: str


def verify_results(
    folders: Sequence[str | Path], images: Sequence[str | Path] = (), pseudonyms: str | Path | None = None
) -> tuple[int, list[Difference]]:
    """How many records there are below some folders, and every file that is not as they say.

    Args:
        folders: of masks, and of the maps and overlays that were written with them.
        images: folders of the images, to hold them against the records too; none for not at all.
        pseudonyms: table by which images that a record has under a pseudonym are found; what comes back has it as well.

    Raises:
        UserError: `MISSING_FILE` for what is not a folder, `NO_INPUT` where no record is; as
            `medseg3d.data.pseudonyms.read_pseudonyms`.
    """
    files = [path for folder in folders for path in files_below(folder, _EVERY_NAME).read]
    records = {path: record for path in files if path.suffix == ".json" and (record := read_record(path))}
    if not records:
        said = ", ".join(map(str, folders))
        raise UsageError(
            "NO_INPUT", said, "no record", "the masks of medseg3d predict", "name the folder that predict wrote to"
        )
    named = _by_name(files)
    originals = {} if pseudonyms is None else read_pseudonyms(pseudonyms)
    inputs = _by_name([path for folder in images for path in files_below(folder, _EVERY_NAME).read])
    differences = []
    for path, record in records.items():
        mask = path.with_name(record["mask"]["file"])
        differences += _compared([mask] if mask.is_file() else [], record["mask"])
        for part in BESIDE.keys() & record.keys():
            differences += _compared(named.get(record[part]["file"], []), record[part])
        if images:
            name = record["input"]["file"]
            original = originals.get(name, name)
            differences += [
                each if name == original else _without_names(each, original, name)
                for each in (
                    _compared_series(images, Path(original).name, record["input"])
                    if "series" in record["input"]
                    else _compared(inputs.get(Path(original).name, []), record["input"])
                )
            ]
    recorded = {path.with_name(record["mask"]["file"]) for path, record in records.items()}
    masks = [path for path in files if path.name.endswith(_MASKS) and path not in recorded]
    differences += [Difference(str(path), "NO_RECORD", "a mask without a record") for path in masks if is_ours(path)]
    return len(records), differences


def _compared(candidates: Sequence[Path], recorded: Mapping[str, Any]) -> list[Difference]:
    """A file of one name may be in several sub-folders: one of them has to be the recorded one."""
    if not candidates:
        return [Difference(recorded["file"], "MISSING_FILE", "no such file in the given folders")]
    sums = [file_sha256(*volume_files(path)) for path in candidates]
    if recorded["sha256"] in sums:
        return []
    return [Difference(str(candidates[0]), "CHECKSUM", f"sha256 {sums[0][:12]}, not {str(recorded['sha256'])[:12]}")]


def _without_names(difference: Difference, image: str, pseudonym: str) -> Difference:
    error = hidden(UserError(difference.code, pseudonym, difference.found), {image: pseudonym})
    return Difference(error.subject, error.code, error.found)


def _compared_series(folders: Sequence[str | Path], name: str, recorded: Mapping[str, Any]) -> list[Difference]:
    """The DICOM folders and ZIPs of one name below some folders: a series of one of them has to be the recorded one."""
    require_packages(name)
    from medseg3d.dicom.series import all_series_sha256  # of the extra dicom

    candidates = [path for folder in folders for path in Path(folder).rglob(glob.escape(name))]
    candidates += [Path(folder) for folder in folders if Path(folder).name == name]
    if not candidates:
        return [Difference(name, "MISSING_FILE", "no such folder or ZIP in the given folders")]
    try:
        if any(recorded["sha256"] in all_series_sha256(path) for path in candidates):
            return []
    except UserError as error:
        return [Difference(error.subject, error.code, error.found)]
    return [Difference(str(candidates[0]), "CHECKSUM", f"no series with the sum {str(recorded['sha256'])[:12]}")]


def _by_name(files: Sequence[Path]) -> dict[str, list[Path]]:
    named: dict[str, list[Path]] = {}
    for path in files:
        named.setdefault(path.name, []).append(path)
    return named
