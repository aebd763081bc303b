"""Two folders of masks, whoever wrote them: which file belongs to which, by its name."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medseg3d.errors import UsageError, UserError
from medseg3d.files.folders import files_below, first_of, not_read, printable
from medseg3d.pictures.reading import PICTURE_SUFFIXES
from medseg3d.volumes.reading import VOLUME_SUFFIXES

MASK_ENDINGS = (
    *("_segmentation", "_prediction", "_labels", "_label", "_masks", "_mask", "_pred", "_prob", "_seg", "_gt"),
    ".seg",  # of 3D Slicer
)
"""What a name may end with on one side only; `paired_masks` says when it is dropped."""

IMAGE_ENDINGS = ("_0000", "_image", "_img")
"""The same for images; `_0000` is nnU-Net's first channel."""

_MISSING = ("error", "empty", "leave-out")
_NAMED = 5

logger = logging.getLogger("medseg3d")


class MaskPair(NamedTuple):
    """The files of one case.

    Attributes:
        case: relative path without suffix, and without an ending that had to be dropped.
        pred: the prediction; None where it is missing and counts as an empty mask.
        truth: the ground truth.
        image: the image; None where no folder of images was given.
    """

    case: str
    pred: Path | None
    truth: Path
    image: Path | None


class MaskPairs(list[MaskPair]):
    """Pairs in the order of their names.

    Attributes:
        left_out: names of the ground truth that have no prediction and were asked to be left out.
        warnings: `CODE: sentence` each, of files that are not read.
    """

    def __init__(
        self, pairs: Iterable[MaskPair] = (), left_out: Iterable[str] = (), warnings: Iterable[str] = ()
    ) -> None:
        super().__init__(pairs)
        self.left_out = list(left_out)
        self.warnings = list(warnings)


def paired_masks(
    pred_dir: str | Path, truth_dir: str | Path, image_dir: str | Path | None = None, missing: str = "error"
) -> MaskPairs:
    """Which prediction belongs to which truth (and image), by name, in the order of the names.

    A name is the path below the folder without suffix (of `VOLUME_SUFFIXES` or `PICTURE_SUFFIXES`, in any case);
    the suffixes of a pair may differ. Sub-folders that are links are followed. All whose names begin with a dot are
    left alone; other files that may be images are not read and named in a warning.

    1. Equal names are a pair.
    2. Of the names left over on both sides one ending of `MASK_ENDINGS` is dropped (`ct_seg` and `ct_label` become
       `ct`); what is equal then is a pair, unless the shortened name is also that of another file of the same side.

    Images are found the same way, by the name of the ground truth, with `IMAGE_ENDINGS` as well; those of other cases,
    and files of another kind, are left alone.

    Args:
        pred_dir: predictions, NIfTI volumes or 2-D images.
        truth_dir: truths of the same kind; neither folder may lie in the other.
        image_dir: images of the same kind, one for each ground truth.
        missing: what a ground truth without prediction is: an "error"; "empty", a prediction of nothing; or no case at
            all, "leave-out", for predictions of a part of the ground truth.

    Raises:
        UserError: MISSING_FILE (no such folder), NO_INPUT (nothing in it), SAME_FOLDER (or a file of both, by a
            link), UNREADABLE (a sub-folder), MIXED_KINDS (volumes and 2-D images),
            NAME_COLLISION (two files, one name), UNPAIRED (a ground truth without prediction or image, or a prediction
            without ground truth).

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("pred/a/ct_seg.nii.gz", "truth/a/ct.nii.gz"):
        ...     (folder / name).parent.mkdir(parents=True)
        ...     _ = (folder / name).write_bytes(b"")
        >>> [(pair.case, pair.pred.name, pair.truth.name) for pair in paired_masks(folder / "pred", folder / "truth")]
        [('a/ct', 'ct_seg.nii.gz', 'ct.nii.gz')]
    """
    if missing not in _MISSING:
        raise ValueError(f"missing must be one of {_MISSING}, found {missing!r}")
    pred_dir, truth_dir = Path(pred_dir), Path(truth_dir)
    (preds, unread_preds), (truths, unread_truths) = _names(pred_dir), _names(truth_dir)
    _check_folders(pred_dir, truth_dir)
    kind = _kind_of(pred_dir, preds)
    if _kind_of(truth_dir, truths) != kind:
        found = f"{kind}, and other files in {truth_dir}"
        raise UserError(
            "MIXED_KINDS", pred_dir, found, "volumes in both folders, or 2-D images in both", "convert one of them"
        )
    pred_of, case_of = _matched(preds, truths, MASK_ENDINGS, pred_dir, truth_dir)
    without_pred = [name for name in truths if name not in pred_of]
    without_truth = [name for name in preds if name not in pred_of.values()]
    warnings = [
        *_unread(pred_dir, unread_preds, without_pred, "ground truth without prediction"),
        *_unread(truth_dir, unread_truths, without_truth, "prediction without ground truth"),
    ]
    if without_truth or (without_pred and missing == "error"):
        raise _unpaired(pred_dir, truth_dir, without_pred, without_truth, warnings)
    if without_pred:
        what = "count as empty masks" if missing == "empty" else "are left out"
        logger.warning("MISSING_PREDICTION: %s of %d %s", _listed(without_pred), len(truths), what)
    if missing == "leave-out":
        truths = {name: path for name, path in truths.items() if name in pred_of}
        if not truths:
            raise _unpaired(pred_dir, truth_dir, without_pred, without_truth, warnings)
    images = _images_of(truths, image_dir, truth_dir, kind) if image_dir is not None else {}
    pairs = [
        MaskPair(printable(case_of.get(name, name)), preds.get(pred_of.get(name, "")), truth, images.get(name))
        for name, truth in truths.items()
    ]
    for pair in pairs:
        if pair.pred is not None and pair.pred.resolve() == pair.truth.resolve():
            raise UsageError(
                "SAME_FOLDER",
                pair.pred,
                f"a link to its ground truth {pair.truth}",
                "a prediction",
                "replace the link with a prediction",
            )
    left_out = without_pred if missing == "leave-out" else ()
    return MaskPairs(sorted(pairs, key=lambda pair: pair.case), left_out, warnings)


def is_volume(path: Path) -> bool:
    """Whether a file is a volume by its name."""
    return _suffix(path.name) in VOLUME_SUFFIXES


def _names(
    folder: Path, suffixes: tuple[str, ...] = VOLUME_SUFFIXES + PICTURE_SUFFIXES
) -> tuple[dict[str, Path], list[Path]]:
    """The files below a folder that end in one of the suffixes, by name, in the order of the names; and the unread."""
    found: dict[str, Path] = {}
    files = files_below(folder, suffixes)
    for file in files.read:
        # an archive made on a Mac spells an umlaut in two letters
        stem = unicodedata.normalize("NFC", file.name[: len(file.name) - len(_suffix(file.name))])
        name = unicodedata.normalize("NFC", file.parent.relative_to(folder).as_posix())
        name = stem if name == "." else f"{name}/{stem}"
        if name in found:
            wanted = "one file for each case"
            remedy = "move or rename one of them"
            raise UsageError("NAME_COLLISION", file, f"the same name as {found[name]}", wanted, remedy)
        found[name] = file
    if not found:
        said = "; ".join([f"no {', '.join(suffixes)}", *not_read(folder, files.unread, suffixes)])
        remedy = "name the folder that holds them, or convert the files"
        raise UsageError("NO_INPUT", folder, said, "at least one such file", remedy)
    return dict(sorted(found.items())), files.unread


def _unread(folder: Path, unread: Sequence[Path], alone: Sequence[str], what: str) -> list[str]:
    """The warning of files that are not read; it names those that the other side waits for."""
    waiting = {*alone, *_shortened(alone, {}, MASK_ENDINGS)}
    stems = {path: path.relative_to(folder).with_suffix("").as_posix() for path in unread}
    partners = [path.name for path, stem in stems.items() if waiting & {stem, *_shortened([stem], {}, MASK_ENDINGS)}]
    told = f"; the name of a {what} have {_listed(partners)}" if partners else ""
    return [warning + told for warning in not_read(folder, unread, VOLUME_SUFFIXES + PICTURE_SUFFIXES)]


def _suffix(name: str) -> str:
    return next((suffix for suffix in VOLUME_SUFFIXES + PICTURE_SUFFIXES if name.lower().endswith(suffix)), "")


def _kind_of(folder: Path, names: Mapping[str, Path]) -> str:
    volumes = sum(map(is_volume, names.values()))
    if 0 < volumes < len(names):
        found = f"{volumes} volumes and {len(names) - volumes} 2-D images"
        remedy = "move the others to a separate folder"
        raise UserError("MIXED_KINDS", folder, found, "either volumes or 2-D images", remedy)
    return "volumes" if volumes else "pictures"


def _check_folders(pred_dir: Path, truth_dir: Path) -> None:
    pred, truth = pred_dir.resolve(), truth_dir.resolve()
    if pred == truth or pred in truth.parents or truth in pred.parents:
        found = "the folder of the ground truth" if pred == truth else f"a folder that holds or lies in {truth_dir}"
        wanted = "separate folders for predictions and ground truth"
        raise UsageError("SAME_FOLDER", pred_dir, found, wanted, "move them to separate folders")


def _matched(
    preds: Mapping[str, Path], truths: Mapping[str, Path], endings: Sequence[str], pred_dir: Path, truth_dir: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """The name of the prediction for each ground truth that has one, and the shortened name where it took one."""
    matched = {name: name for name in truths if name in preds}
    short_preds = _shortened(preds, matched, endings)
    short_truths = _shortened(truths, matched, endings)
    shortened = {}
    for short, names in short_truths.items():
        rivals = short_preds.get(short, [])
        if not rivals:
            continue
        for folder, same in ((truth_dir, names), (pred_dir, rivals)):
            taken = [*([short] if short in matched else []), *same]
            if len(taken) > 1:
                found = f"{' and '.join(taken[:_NAMED])}, which could all match {short}"
                remedy = "remove the others, or give prediction and ground truth the same name"
                raise UsageError("NAME_COLLISION", folder, found, "one file for each case", remedy)
        matched[names[0]] = rivals[0]
        shortened[names[0]] = short
    return matched, shortened


def _shortened(names: Iterable[str], matched: Mapping[str, str], endings: Sequence[str]) -> dict[str, list[str]]:
    """The names not matched yet by what is left of them without an ending."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if name not in matched:
            ending = next((ending for ending in endings if name.lower().endswith(ending)), "")
            short = name[: len(name) - len(ending)]
            # nothing but the ending: a file called _seg.png in a folder of its own
            groups.setdefault(short if short and not short.endswith("/") else name, []).append(name)
    return groups


def _images_of(truths: Mapping[str, Path], image_dir: str | Path, truth_dir: Path, kind: str) -> dict[str, Path]:
    images, _ = _names(Path(image_dir), VOLUME_SUFFIXES if kind == "volumes" else PICTURE_SUFFIXES)
    image_of, _ = _matched(images, truths, MASK_ENDINGS + IMAGE_ENDINGS, Path(image_dir), truth_dir)
    without = [name for name in truths if name not in image_of]
    if without:
        wanted = f"an image of the same name for each ground truth in {truth_dir}"
        remedy = "correct --images or leave it out"
        raise UserError("UNPAIRED", image_dir, f"no image for {_listed(without)}", wanted, remedy)
    return {name: images[image] for name, image in image_of.items()}


def _unpaired(
    pred_dir: Path, truth_dir: Path, without_pred: list[str], without_truth: list[str], warnings: list[str]
) -> UserError:
    parts = []
    if without_pred:
        parts.append(f"no prediction for {_listed(without_pred)}")
    if without_truth:
        parts.append(f"no ground truth for {_listed(without_truth)}")
    remedy = "give both of a pair the same name before the suffix"
    if without_truth:
        remedy += ", and move predictions without a ground truth away"
    else:
        remedy += ", count missing predictions as empty masks (--missing empty), or leave their cases out (leave-out)"
    found = "; ".join([" and ".join(parts), *warnings])
    return UserError("UNPAIRED", pred_dir, found, f"one prediction for each ground truth in {truth_dir}", remedy)


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({first_of(names)})"
