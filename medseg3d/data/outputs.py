"""Where each result goes, and what is left alone."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medseg3d.data.nnunet import case_of, check_channels
from medseg3d.data.pseudonyms import pseudonyms_of
from medseg3d.dicom.sources import is_dicom, is_zip, require_packages
from medseg3d.errors import UsageError, UserError
from medseg3d.files.atomic import check_folder
from medseg3d.files.folders import files_below, not_read, printable
from medseg3d.files.signature import is_ours
from medseg3d.knobs import as_flag
from medseg3d.volumes.reading import VOLUME_SUFFIXES

PROBABILITY_SUFFIX = "_prob"
"""What is put behind the name of the image for its map of probabilities."""

OVERLAY_SUFFIX = "_overlay"
"""What is put behind the name of the image for the image with its mask drawn on it."""

MASK_FORMATS = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "source": "source"}
"""Formats of masks of volumes, and how their names end; `source` stands for that of each image."""

_OF_SOURCE = {".nrrd": ".nrrd", ".nhdr": ".nrrd", ".mha": ".mha", ".mhd": ".mha"}
_PICTURE = ".png"
_FOREIGN = {
    "prob_file": "a probability map",
    "overlay_file": "an overlay",
    "dicom_seg_file": "a segmentation",
    "mask_file": "a mask",
}

logger = logging.getLogger("medseg3d")


class _Place(NamedTuple):
    """Where results of one kind go and what their names are."""

    folder: Path
    suffix: str
    kind: str

    def file(self, name: Path, image: Path) -> Path:
        """The result for an image that has this name, without its suffixes, below the folder it was found in."""
        kind = self.kind if self.kind != "source" else _OF_SOURCE.get(image.suffix.lower(), ".nii.gz")
        return self.folder / name.parent / f"{name.name}{self.suffix}{kind}"


def input_items(
    inputs: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    suffix: str = "_seg",
    overwrite: bool | str = False,
    image_suffixes: Sequence[str] = VOLUME_SUFFIXES,
    mask_suffix: str = ".nii.gz",
    prob_dir: str | Path | None = None,
    overlay_dir: str | Path | None = None,
    series: str | int | None = None,
    dicom_seg: bool = False,
    pseudonyms: str | Path | None = None,
) -> list[dict[str, str]]:
    """The cases to segment, each with its image and the mask file it belongs to, and those to leave alone.

    A file `ct.nii.gz` gets the mask `<output_dir>/ct_seg.nii.gz`. A folder stands for all volumes
    below it, or the files of other `image_suffixes` (in any case, without names that begin with a dot), and their
    sub-folders are kept under `output_dir`. Sub-folders that are links are followed; what may be an image and is not
    read is named in a warning in the log.
    Of nnU-Net's images, `imagesTs/ct_0000.nii.gz`, the `_0000` is left out; several channels are refused.
    Files of one name from different folders keep their path below their common parent. A folder that holds DICOM files,
    a ZIP and a DICOM file are one case each, `<output_dir>/folder_seg.nii.gz`, where masks are NIfTI. Masks found below
    `output_dir`, maps of probabilities below `prob_dir` and overlays below `overlay_dir` are results, not inputs.

    Args:
        inputs: files and folders, in any mixture.
        output_dir: where the masks go; it need not exist.
        suffix: what is put behind the name of the image.
        overwrite: whether to segment cases again whose mask is there.
        image_suffixes: how the names of images in folders end; a file that is named itself may end as it likes.
        mask_suffix: how the names of masks end, and so their format: one of `MASK_FORMATS`, or `.png` for images;
            "source" gives an NRRD for an NRRD, a MetaImage for a MetaImage, and NIfTI for whatever else.
        prob_dir: where maps of probabilities go, `<prob_dir>/ct_prob.nii.gz`; None for none. A folder of its own, so
            that either folder can be evaluated.
        overlay_dir: where images with their masks drawn on them go, `<overlay_dir>/frame_overlay.png`; None for none.
        series: number or UID of the series to take from DICOM; None for the only CT volume.
        dicom_seg: whether each mask also goes to `<output_dir>/folder_seg.dcm`, a DICOM segmentation of its image.
        pseudonyms: table of `medseg3d.data.pseudonyms`, whose names take the place of those of files and folders: items
            then have a `"pseudonym"`, and no sub-folder is kept.

    Returns:
        Items `{"image", "mask_file", "case"}`, `"prob_file"` with a `prob_dir`, `"overlay_file"` with an `overlay_dir`
        and `"dicom_seg_file"` with `dicom_seg`, in the order of the inputs; those of DICOM also have `"series"`, as it
        was given or "". Those in whose place somebody else's file stands have a `"reason"` to be left alone.
        Whether a mask of ours still holds is for `medseg3d.data.records.standing` to say.

    Raises:
        UserError: NO_INPUT, MISSING_FILE, DIMENSIONS (several channels), FILE_NAME (control characters), NAME_COLLISION
            (two inputs, one mask), NOT_WRITABLE or NO_SPACE (a folder of results), OUTSIDE_OUTPUT (a symbolic link
            leads out of one), BAD_VALUE (overlays of volumes, a series or segmentation of what is not DICOM, a table of
            pseudonyms among the results), MISSING_PACKAGE (the extra `dicom`).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a/ct.nii.gz", "b/ct.nii.gz"):
        ...     (folder / name).parent.mkdir()
        ...     _ = (folder / name).write_bytes(b"")
        >>> items = input_items([folder / "a/ct.nii.gz", folder / "b"], folder / "out")
        >>> [Path(item["mask_file"]).relative_to(folder).as_posix() for item in items]
        ['out/a/ct_seg.nii.gz', 'out/b/ct_seg.nii.gz']
    """
    if Path(suffix).name != suffix and suffix:
        raise ValueError(f"suffix must be part of a file name, found {suffix!r}")
    inputs = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    if overlay_dir is not None and mask_suffix != _PICTURE:
        raise UsageError(
            "BAD_VALUE",
            "--save-overlays",
            "a bundle for volumes",
            "a bundle for 2-D images",
            "leave --save-overlays out",
        )
    if mask_suffix not in (*MASK_FORMATS.values(), ".nii", _PICTURE):
        raise UsageError(
            "BAD_VALUE", "--mask_suffix", repr(mask_suffix), "the suffix of a supported format", "--mask_suffix .nii.gz"
        )
    places = {"mask_file": _Place(Path(output_dir), suffix, mask_suffix)}
    if prob_dir is not None:
        places["prob_file"] = _Place(Path(prob_dir), PROBABILITY_SUFFIX, mask_suffix)
    if overlay_dir is not None:
        places["overlay_file"] = _Place(Path(overlay_dir), OVERLAY_SUFFIX, _PICTURE)
    folders = [place.folder for place in places.values()]
    if dicom_seg:
        places["dicom_seg_file"] = _Place(Path(output_dir), suffix, ".dcm")
    found, dicom, warnings = _found(inputs, tuple(image_suffixes), folders, takes_dicom=mask_suffix != _PICTURE)
    for place in places.values():
        found = _without_results(found, place)
    if not found:
        said = "; ".join([f"no file that ends in {' or '.join(image_suffixes)}", *warnings]) if inputs else "nothing"
        remedy = "name image files, or a folder that contains some"
        raise UsageError("NO_INPUT", ", ".join(map(str, inputs)) or "inputs", said, "at least one image", remedy)
    _check_dicom(found, dicom, series, dicom_seg)
    for place in places.values():
        check_folder(place.folder)
    for warning in warnings:
        logger.warning("%s", warning if pseudonyms is None else warning.partition(" below ")[0])
    if pseudonyms is None:
        names = _distinct(found)
    else:
        _check_apart(Path(pseudonyms), folders)
        names = {image: Path(name) for image, name in pseudonyms_of(pseudonyms, list(found)).items()}
    overwrite = as_flag(overwrite, "overwrite")
    items = []
    for image, name in names.items():
        files = {key: place.file(name, image) for key, place in places.items()}
        for key, place in places.items():
            _check_place(image, files[key], place.folder, found)
        item = {
            "image": str(image),
            "case": printable(name.as_posix()),
            **{key: str(file) for key, file in files.items()},
            **({"series": str(series or "")} if image in dicom else {}),
            **({} if pseudonyms is None else {"pseudonym": str(name)}),
        }
        reason = None if overwrite else _foreign(files)
        items.append(item if reason is None else {**item, "reason": reason})
    return items


def record_file(mask_file: str | Path) -> Path:
    """The record next to a mask: `ct_seg.json` for `ct_seg.nii.gz`. It is written last, so it says that all is done."""
    path = Path(mask_file)
    return path.with_name(f"{case_of(path)}.json")


def _found(
    inputs: Sequence[str | Path], image_suffixes: tuple[str, ...], results: Sequence[Path], takes_dicom: bool
) -> tuple[dict[Path, Path], set[Path], list[str]]:
    """Absolute image paths, in order, and the name of each without suffixes, below the folder it was found in.

    Those of them that are DICOM, and a warning for each folder that holds what may be images as well, out of the
    folders of results.
    """
    found: dict[Path, Path] = {}
    dicom: set[Path] = set()
    warnings: list[str] = []
    for given in inputs:
        path = Path(os.path.abspath(given))
        if path.is_dir():
            files = files_below(path, image_suffixes)
            for file in files.read:
                found.setdefault(file, file.relative_to(path).with_name(case_of(file)))
            unread = [file for file in files.unread if not any(_lies_in(file, folder) for folder in results)]
            others = [file for file in unread if not is_dicom(file)] if takes_dicom else unread
            if len(others) < len(unread):
                found.setdefault(path, Path(path.name))
                dicom.add(path)
            warnings += not_read(path, others, image_suffixes)
        elif path.exists():
            found.setdefault(path, Path(case_of(path)))
            if takes_dicom and (is_dicom(path) or is_zip(path)):
                dicom.add(path)
        else:
            raise UsageError(
                "MISSING_FILE", given, "no such file or folder", "an image or a folder of images", "correct the path"
            )
    check_channels(found)
    for file, name in found.items():
        if any(unicodedata.category(letter) == "Cc" for letter in str(name)):
            raise UserError("FILE_NAME", file, "control characters in the name", "a printable name", "rename the file")
    return found, dicom, warnings


def _check_dicom(found: Mapping[Path, Path], dicom: set[Path], series: str | int | None, dicom_seg: bool) -> None:
    if dicom:
        require_packages(min(dicom))
    elif series is not None:
        raise UsageError(
            "BAD_VALUE", f"--series {series}", "no DICOM among the inputs", "a DICOM folder or ZIP", "leave it out"
        )
    others = [file for file in found if file not in dicom]
    if dicom_seg and others:
        wanted = "DICOM only, because a segmentation refers to the patient, study and images of its source"
        remedy = "leave it out, or segment the other files separately"
        raise UsageError("BAD_VALUE", "--format dicom-seg", f"{others[0]}, which is not DICOM", wanted, remedy)


def _check_apart(table: Path, folders: Sequence[Path]) -> None:
    if any(_lies_in(table.absolute(), folder) for folder in folders):
        remedy = "keep the table of names in another folder"
        raise UsageError(
            "BAD_VALUE",
            f"--pseudonym {table}",
            "a file inside a folder of results",
            "a file outside the results",
            remedy,
        )


def _lies_in(file: Path, folder: Path) -> bool:
    """Whether a file lies below a folder, also by a link on the way."""
    return Path(os.path.abspath(folder)) in file.parents or folder.resolve() in file.resolve().parents


def _without_results(found: dict[Path, Path], place: _Place) -> dict[Path, Path]:
    if not place.suffix:
        return found
    results = [file for file in found if case_of(file).endswith(place.suffix) and _lies_in(file, place.folder)]
    if results:
        logger.info("%d files below %s are results, not inputs: %s, ...", len(results), place.folder, results[0].name)
    return {file: name for file, name in found.items() if file not in results}


def _distinct(found: dict[Path, Path]) -> dict[Path, Path]:
    """The same files, those of one name told apart by the folders they come from."""
    names = dict(found)
    for files in _same(found):
        common = Path(os.path.commonpath([file.parent for file in files]))
        names.update({file: file.relative_to(common).with_name(found[file].name) for file in files})
    for files in _same(names):
        remedy = "rename one of them or segment them into different folders"
        raise UsageError("NAME_COLLISION", files[0], f"the same name as {files[1]}", "one mask for each image", remedy)
    return names


def _same(names: dict[Path, Path]) -> list[list[Path]]:
    groups: dict[str, list[Path]] = {}
    for file, name in names.items():
        groups.setdefault(os.path.normcase(name), []).append(file)
    return [files for files in groups.values() if len(files) > 1]


def _check_place(image: Path, mask: Path, output_dir: Path, found: dict[Path, Path]) -> None:
    if Path(os.path.abspath(mask)) in found:
        raise UsageError(
            "NAME_COLLISION",
            image,
            f"a result that would replace the input {mask}",
            "another name",
            "choose a --suffix",
        )
    if not mask.parent.resolve().is_relative_to(output_dir.resolve()):
        wanted = f"a folder below {output_dir}"
        remedy = "remove the link or choose another output folder"
        raise UserError("OUTSIDE_OUTPUT", mask.parent, f"a symbolic link to {mask.parent.resolve()}", wanted, remedy)


def _foreign(files: Mapping[str, Path]) -> str | None:
    """What is in place of a result and not ours to replace, or None."""
    for key, what in _FOREIGN.items():
        # a mask with a record is judged by that, even where the file is damaged
        judged = key not in files or (key == "mask_file" and record_file(files[key]).exists())
        if not judged and files[key].exists() and not is_ours(files[key]):
            return f"{what} that was not written by medseg3d exists"
    return None
