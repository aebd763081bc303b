"""Two folders of masks, whoever wrote them: which file belongs to which, and what is in them."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medseg3d.data.folders import files_below, not_read, printable
from medseg3d.data.grids import GRID_TOLERANCE, check_pair
from medseg3d.data.label_maps import check_labels, holds_integers, stored_scaled
from medseg3d.data.nifti import read_header, read_nifti
from medseg3d.data.nifti_header import NiftiHeader
from medseg3d.data.pictures import PICTURE_SUFFIXES, GreyPicture, read_levels
from medseg3d.faults import Fault, UsageFault

VOLUME_SUFFIXES = (".nii.gz", ".nii")

MASK_ENDINGS = ("_segmentation", "_prediction", "_labels", "_label", "_masks", "_mask", "_pred", "_prob", "_seg", "_gt")
"""What a name may end with on one side only; `paired_masks` says when it is dropped."""

IMAGE_ENDINGS = ("_0000", "_image", "_img")
"""The same for images; `_0000` is nnU-Net's first channel."""

_KINDS = ("auto", "mask", "probability")
_MISSING = ("error", "empty", "leave-out")
_NAMED = 5
_FEW_LEVELS = 8  # as many as a map of labels may have, and fewer than any map of probabilities that is worth a curve
_ROUNDING = 1e-6  # by which a softmax in float32 may leave [0, 1]

logger = logging.getLogger("medseg3d")


class MaskPair(NamedTuple):
    """The files of one case.

    Attributes:
        case: relative path without suffix, and without an ending that had to be dropped.
        pred: the prediction; None where it is missing and counts as an empty mask.
        truth: the truth.
        image: the image; None where no folder of images was given.
    """

    case: str
    pred: Path | None
    truth: Path
    image: Path | None


@dataclass
class LoadedPair:
    """The masks of one case, on one grid.

    Attributes:
        case: as in `MaskPair`.
        pred: (*spatial) uint8 labels; of a picture 0 and 1.
        truth: (*spatial) uint8 labels.
        prob: (*spatial) float32 foreground probability in [0, 1], where the prediction is one.
        affine: (4, 4) float64, voxel index of the truth to RAS mm; None for pictures.
        kind: what the prediction was taken for: "mask", "probability" or, where there is none, "missing".
        warnings: `CODE: sentence` each.
    """

    case: str
    pred: np.ndarray
    truth: np.ndarray
    prob: np.ndarray | None
    affine: np.ndarray | None
    kind: str
    warnings: list[str] = field(default_factory=list)


class MaskPairs(list[MaskPair]):
    """Pairs in the order of their names.

    Attributes:
        left_out: names of the truths that have no prediction and were asked to be left out.
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

    A name is the path below the folder without suffix (`.nii.gz`, `.nii`, or one of `PICTURE_SUFFIXES`, in any case);
    the suffixes of a pair may differ. Sub-folders that are links are followed. All whose names begin with a dot are
    left alone; other files that may be images are not read and named in a warning.

    1. Equal names are a pair.
    2. Of the names left over on both sides one ending of `MASK_ENDINGS` is dropped (`ct_seg` and `ct_label` become
       `ct`); what is equal then is a pair, unless the shortened name is also that of another file of the same side.

    Images are found the same way, by the name of the truth, with `IMAGE_ENDINGS` as well; those of other cases, and
    files of another kind, are left alone.

    Args:
        pred_dir: predictions, NIfTI volumes or pictures.
        truth_dir: truths of the same kind; neither folder may lie in the other.
        image_dir: images of the same kind, one for each truth.
        missing: what a truth without prediction is: an "error"; "empty", a prediction of nothing; or no case at all,
            "leave-out", for predictions of a part of the truths.

    Raises:
        Fault: MISSING_FILE (no such folder), NO_INPUT (nothing in it), SAME_FOLDER (or a file of both, by a
            link), UNREADABLE (a sub-folder), MIXED_KINDS (volumes and pictures),
            NAME_COLLISION (two files, one name), UNPAIRED (a truth without prediction or image, or a prediction
            without truth).

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
        raise Fault(
            "MIXED_KINDS",
            pred_dir,
            f"{kind}, and other files in {truth_dir}",
            "volumes in both folders, or pictures in both",
            "convert one of them",
        )
    pred_of, case_of = _matched(preds, truths, MASK_ENDINGS, pred_dir, truth_dir)
    without_pred = [name for name in truths if name not in pred_of]
    without_truth = [name for name in preds if name not in pred_of.values()]
    warnings = [
        *_unread(pred_dir, unread_preds, without_pred, "truth without prediction"),
        *_unread(truth_dir, unread_truths, without_truth, "prediction without truth"),
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
            raise UsageFault(
                "SAME_FOLDER", pair.pred, f"the file of its truth {pair.truth}, by a link", "a prediction", "remove it"
            )
    left_out = without_pred if missing == "leave-out" else ()
    return MaskPairs(sorted(pairs, key=lambda pair: pair.case), left_out, warnings)


def prediction_kind(pairs: Sequence[MaskPair]) -> str:
    """Whether the predictions of a folder are masks or maps of foreground probability: "mask" or "probability".

    They are maps as soon as one of them is: a NIfTI volume with fractions, or a lossless picture of more than two
    levels. Ask once for all, because the map of a case in which nothing was found may be a mask to look at. Pictures
    and volumes of floating point are read for it, up to the first map.

    Args:
        pairs: as `paired_masks` gives them.

    Raises:
        Fault: as `read_pair`; LABEL_SET also for pictures that have more than two but at most 8 levels each: these are
            labels of several classes, or maps too coarse to be told from them.
    """
    files = [pair.pred for pair in pairs if pair.pred is not None]
    if all(_is_volume(file) for file in files):
        return "probability" if any(_is_fractional(file) for file in files) else "mask"
    return _kind_of_pictures(map(read_levels, files))


def read_pair(
    pair: MaskPair, pred_kind: str = "auto", threshold: float = 0.5, grid_tolerance: float = GRID_TOLERANCE
) -> LoadedPair:
    """The prediction and the truth of one case as labels on one grid; nothing is resized or resampled.

    The truth is always a mask: integer labels of a NIfTI volume, or a picture as `read_picture_mask` takes it, in the
    grid of the file.

    Args:
        pair: as `paired_masks` gives it.
        pred_kind: "mask", "probability", or "auto", which decides by this one file as `prediction_kind` does by all.
        threshold: foreground is where the probability is at least this.
        grid_tolerance: voxels that a corner of the prediction may lie from that of the truth.

    Raises:
        Fault: as `read_nifti` or `read_picture`; LABEL_SET (values that are no labels, or no probabilities);
            PAIR_GEOMETRY (shapes differ, or a corner lies further than that from where it should).
    """
    if pred_kind not in _KINDS:
        raise ValueError(f"pred_kind must be one of {_KINDS}, found {pred_kind!r}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be from 0 to 1, found {threshold}")
    volume = _is_volume(pair.truth)
    truth, header, remarks = _truth_volume(pair.truth) if volume else _truth_picture(pair.truth)
    loaded = LoadedPair(pair.case, truth, truth, None, header.affine if header else None, "mask", remarks)
    if pair.pred is None:
        loaded.kind = "missing"
        loaded.pred = np.zeros_like(truth)
        loaded.prob = np.zeros(truth.shape, np.float32) if pred_kind == "probability" else None
        loaded.warnings.append("MISSING_PREDICTION: counted as an empty mask")
    elif header is not None:
        _read_volume(loaded, pair, header, pred_kind, grid_tolerance)
    else:
        _read_picture(loaded, pair, pred_kind)
    if loaded.kind == "probability":
        assert loaded.prob is not None  # set with the kind
        loaded.pred = (loaded.prob >= np.float32(threshold)).astype(np.uint8)
    return loaded


# pairing


def _names(
    folder: Path, suffixes: tuple[str, ...] = VOLUME_SUFFIXES + PICTURE_SUFFIXES
) -> tuple[dict[str, Path], list[Path]]:
    """The files below a folder that end in one of the suffixes, by name, in the order of the names; and the unread."""
    if not folder.is_dir():
        raise UsageFault(
            "MISSING_FILE",
            folder,
            "a file" if folder.exists() else "no such folder",
            "a folder",
            "correct the path",
        )
    found: dict[str, Path] = {}
    files = files_below(folder, suffixes)
    for file in files.read:
        # an archive made on a Mac spells an umlaut in two letters
        stem = unicodedata.normalize("NFC", _stem(file.name))
        name = unicodedata.normalize("NFC", file.parent.relative_to(folder).as_posix())
        name = stem if name == "." else f"{name}/{stem}"
        if name in found:
            raise UsageFault(
                "NAME_COLLISION",
                file,
                f"the same name as {found[name]}",
                "one file for each case",
                "move or rename one of them",
            )
        found[name] = file
    if not found:
        raise UsageFault(
            "NO_INPUT",
            folder,
            "; ".join([f"no {', '.join(suffixes)}", *not_read(folder, files.unread, suffixes)]),
            "at least one such file",
            "name the folder that holds them, or convert the files",
        )
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


def _stem(name: str) -> str:
    return name[: len(name) - len(_suffix(name))]


def _is_volume(path: Path) -> bool:
    return _suffix(path.name) in VOLUME_SUFFIXES


def _kind_of(folder: Path, names: Mapping[str, Path]) -> str:
    volumes = sum(map(_is_volume, names.values()))
    if 0 < volumes < len(names):
        raise Fault(
            "MIXED_KINDS",
            folder,
            f"{volumes} volumes and {len(names) - volumes} pictures",
            "either volumes or pictures",
            "move the others to a folder of their own",
        )
    return "volumes" if volumes else "pictures"


def _check_folders(pred_dir: Path, truth_dir: Path) -> None:
    pred, truth = pred_dir.resolve(), truth_dir.resolve()
    if pred == truth or pred in truth.parents or truth in pred.parents:
        raise UsageFault(
            "SAME_FOLDER",
            pred_dir,
            "the folder of the truths" if pred == truth else f"a folder that holds or lies in {truth_dir}",
            "predictions and truths apart from each other",
            "give each a folder of its own",
        )


def _matched(
    preds: Mapping[str, Path], truths: Mapping[str, Path], endings: Sequence[str], pred_dir: Path, truth_dir: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """The name of the prediction for each name of a truth that has one, and the shortened name where it took one."""
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
                raise UsageFault(
                    "NAME_COLLISION",
                    folder,
                    f"{' and '.join(taken[:_NAMED])}, which may all be {short}",
                    "one file for each case",
                    "move the others away, or give prediction and truth the same name",
                )
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
        raise Fault(
            "UNPAIRED",
            image_dir,
            f"no image for {_listed(without)}",
            f"one of the same name for each truth in {truth_dir}",
            "correct the folder or leave the images out",
        )
    return {name: images[image] for name, image in image_of.items()}


def _unpaired(
    pred_dir: Path, truth_dir: Path, without_pred: list[str], without_truth: list[str], warnings: list[str]
) -> Fault:
    parts = []
    if without_pred:
        parts.append(f"no prediction for {_listed(without_pred)}")
    if without_truth:
        parts.append(f"no truth for {_listed(without_truth)}")
    remedy = "give both of a pair the same name before the suffix"
    if without_truth:
        remedy += ", and move predictions without a truth away"
    else:
        remedy += ", count missing predictions as empty masks (--missing empty), or leave their cases out (leave-out)"
    found = "; ".join([" and ".join(parts), *warnings])
    return Fault("UNPAIRED", pred_dir, found, f"one prediction for each truth in {truth_dir}", remedy)


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"


# volumes


def _truth_volume(path: Path) -> tuple[np.ndarray, NiftiHeader, list[str]]:
    array, header = read_nifti(path)
    return check_labels(array, None, path, header), header, [f"{warning} (truth)" for warning in header.warnings]


def _read_volume(loaded: LoadedPair, pair: MaskPair, truth: NiftiHeader, pred_kind: str, grid_tolerance: float) -> None:
    assert pair.pred is not None
    array, header = read_nifti(pair.pred)
    loaded.warnings += [f"{warning} (prediction)" for warning in header.warnings]
    loaded.warnings += _check_grid(pair, truth, header, grid_tolerance)
    if pred_kind == "auto":
        pred_kind = "mask" if holds_integers(array) else "probability"
    loaded.kind = pred_kind
    if pred_kind == "mask":
        loaded.pred = check_labels(array, None, pair.pred, header)
    else:
        loaded.prob = _probabilities(array, header)


def _check_grid(pair: MaskPair, truth: NiftiHeader, pred: NiftiHeader, grid_tolerance: float) -> tuple[str, ...]:
    try:
        return check_pair(truth, pred, grid_tolerance)
    except Fault as fault:
        if fault.code != "PAIR_GEOMETRY":
            raise
        or_else = "".join(fault.remedy.partition(", or raise")[1:])
        raise _off_grid(pair, fault.found, fault.wanted.replace("its image", "its truth", 1), or_else) from None


def _off_grid(pair: MaskPair, found: str, wanted: str, or_else: str = "") -> Fault:
    assert pair.pred is not None
    remedy = "write the prediction on the grid of its truth; nothing is resized or resampled silently"
    return Fault("PAIR_GEOMETRY", pair.pred, found, wanted, remedy + or_else)


def _is_fractional(path: Path) -> bool:
    header = read_header(path)
    if header.dtype.kind in "iu" and header.slope == int(header.slope) and header.intercept == int(header.intercept):
        return False
    return not holds_integers(read_nifti(path)[0])


def _probabilities(array: np.ndarray, header: NiftiHeader) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise Fault(
            "LABEL_SET",
            header.path,
            f"values from {low:g} to {high:g}, taken for probabilities{stored_scaled(header)}",
            "foreground probabilities from 0 to 1, or integer labels",
            "write the output of the sigmoid or softmax, not logits, and do not resample it with splines",
        )
    prob = array.astype(np.float32, order="K", copy=False)
    return np.clip(prob, 0, 1, out=prob)


# pictures


def _truth_picture(path: Path) -> tuple[np.ndarray, None, list[str]]:
    mask, remarks = read_levels(path).mask()
    return mask.view(np.uint8), None, [f"{remark} (truth)" for remark in remarks]


def _read_picture(loaded: LoadedPair, pair: MaskPair, pred_kind: str) -> None:
    assert pair.pred is not None
    grey = read_levels(pair.pred)
    if grey.levels.shape != loaded.truth.shape:
        raise _off_grid(
            pair, f"shape {grey.levels.shape}", f"that of its truth {pair.truth}: shape {loaded.truth.shape}"
        )
    if pred_kind == "auto":
        pred_kind = _kind_of_pictures([grey])
    loaded.kind = pred_kind
    if pred_kind == "mask":
        mask, remarks = grey.mask()
        loaded.pred = mask.view(np.uint8)
        loaded.warnings += [f"{remark} (prediction)" for remark in remarks]
    else:
        loaded.prob = grey.probabilities()


def _kind_of_pictures(greys: Iterable[GreyPicture]) -> str:
    coarse: tuple[Path, list[int]] | None = None
    for grey in greys:
        if grey.lossy or grey.is_binary:
            continue
        levels = np.unique(grey.levels).tolist()
        if len(levels) > _FEW_LEVELS:
            return "probability"
        coarse = coarse or (grey.path, levels)
    if coarse is None:
        return "mask"
    path, levels = coarse
    raise Fault(
        "LABEL_SET",
        path,
        f"{len(levels)} levels, {', '.join(map(str, levels))}: labels of several classes, or coarse probabilities",
        f"a mask of two levels or a map of more than {_FEW_LEVELS}",
        "say with pred_kind whether the predictions are masks or probabilities",
    )
