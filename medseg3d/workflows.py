"""What the command line does, for use from Python."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medseg3d.bundle import absolute_paths, read_config, refuse_absent_device, spelt_for_monai
from medseg3d.bundle_folders import ShippedWeights, bundle_directory, bundle_folder, config_files, shipped_weights
from medseg3d.data.loaded_pairs import LoadedPair, prediction_kind, read_pair
from medseg3d.data.manifests import Manifest
from medseg3d.data.mask_folders import MaskPair, is_volume, paired_masks
from medseg3d.data.outputs import MASK_FORMATS
from medseg3d.data.picture_folders import grouped
from medseg3d.data.pseudonyms import names_hidden
from medseg3d.errors import UsageError, UserError
from medseg3d.evaluation import FOREGROUND, Evaluation, Summary
from medseg3d.files.atomic import check_folder
from medseg3d.inference import CasePredictor, PredictionResult, RayWorkers
from medseg3d.training.evaluation import command_line, versions
from medseg3d.volumes.geometry import GRID_TOLERANCE

logger = logging.getLogger("medseg3d")


def predict(
    bundle: str | Path,
    inputs: Sequence[str | Path] | str | Path,
    output_dir: str | Path,
    *,
    prob_dir: str | Path | None = None,
    overlay_dir: str | Path | None = None,
    series: str | int | None = None,
    dicom_seg: bool = False,
    mask_format: str = "nifti",
    suffix: str = "_seg",
    manifest: str | Path | None = None,
    pseudonyms: str | Path | None = None,
    overwrite: bool = False,
    overlays: Sequence[str] = (),
    knobs: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, dict], None] | None = None,
    cluster: str | None = None,
) -> PredictionResult:
    """Segment volumes or 2-D images with a bundle's inference.json; each mask has the geometry of its image.

    Without a `model_file` and without `overlays`, the weights shipped with the bundle are used, if there are any:
    `weights_for` says which. While the configs are read, the current directory is the bundle's repository, because
    their paths are relative to it; while cases are segmented, it is the caller's again.

    Args:
        bundle: the bundle's folder.
        inputs: files and folders of them: volumes in NIfTI, NRRD or MetaImage, or JPEG, PNG, TIFF and BMP if the
            bundle is for 2-D images. A DICOM folder, a ZIP of one and a multi-frame file are one volume each.
        output_dir: folder for the masks: `<name>_seg.nii.gz` (or as `mask_format` says), 2-D: `<name>_seg.png`.
        prob_dir: folder for foreground probability maps, `<name>_prob` as float32 NIfTI or 16-bit PNG; None for none.
        overlay_dir: folder for images with the contour of their mask, `<name>_overlay.png`; None for none.
        series: DICOM: number or UID of the series to use; None for the only CT volume.
        dicom_seg: DICOM: also write each mask as a DICOM Segmentation, `<name>_seg.dcm`.
        mask_format: format of masks and maps of volumes, one of `medseg3d.data.outputs.MASK_FORMATS`: "nifti", "nrrd",
            "mha", or "source" for the format of each image if that is NRRD or MetaImage.
        suffix: appended to the name of the image; letters, digits and `_.-`.
        manifest: checksum file in the format of `sha256sum`; an image that does not match fails with CHECKSUM.
        pseudonyms: table of pseudonyms (CSV, created if missing) that replace file and folder names in results, records
            and messages; see `medseg3d.data.pseudonyms`. None to use the names themselves.
        overwrite: segment images again even if their masks exist.
        overlays: the overlays used in training, without `.json`.
        knobs: options of the bundle (`model_file`, `device`, `overlap`, `workers`, ...); relative paths start from the
            current directory.
        progress: called with (cases done, cases in all, item) after each case.
        cluster: `ray`, or the address of a Ray cluster, to distribute the cases with `medseg3d.inference.RayWorkers`
            over as many workers as the option `workers` says; None to use this process.

    Returns:
        What was done, skipped and failed. A bad file does not stop the others.

    Raises:
        UserError: before anything is computed, for missing input, colliding names, missing weights or those of another
            network, unknown options, invalid values, a missing device, overlays of volumes, a volume format for 2-D
            images, `series` or `dicom_seg` without DICOM, pseudonyms with a DICOM segmentation, or an unusable cluster;
            later if its workers cannot run.
    """
    inputs = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    folders = {"prob_dir": prob_dir, "overlay_dir": overlay_dir}
    overrides = {**(knobs or {}), "overwrite": overwrite}
    overrides |= {knob: str(Path(place).absolute()) for knob, place in folders.items() if place is not None}
    with nullcontext() if pseudonyms is None else names_hidden(inputs):
        build = functools.partial(
            case_predictor,
            bundle,
            inputs,
            output_dir,
            series=series,
            dicom_seg=dicom_seg,
            pseudonyms=pseudonyms,
            overlays=overlays,
            knobs=overrides,
            manifest=manifest,
            mask_format=mask_format,
            suffix=suffix,
        )
        predictor = build()
        if cluster is None:
            return predictor.run(progress=progress)
        worker = functools.partial(build, is_worker=True)
        number = predictor.workers if overrides.get("workers") is not None else None
        gpus = str(overrides.get("device", "cuda")).startswith("cuda")
        with RayWorkers(cluster, worker, predictor.bounds.size, number, predictor.workers > 1, gpus) as workers:
            return predictor.run(workers, progress)


def case_predictor(
    bundle: str | Path,
    inputs: Sequence[str | Path],
    output_dir: str | Path,
    series: str | int | None = None,
    dicom_seg: bool = False,
    pseudonyms: str | Path | None = None,
    overlays: Sequence[str] = (),
    knobs: Mapping[str, Any] | None = None,
    manifest: str | Path | None = None,
    mask_format: str = "nifti",
    suffix: str = "_seg",
    is_worker: bool = False,
) -> CasePredictor:
    """The predictor that `predict` runs, ready to run; arguments and errors are those of `predict`.

    That of a worker lists no inputs, because a worker receives its cases one by one.
    """
    folder = bundle_folder(bundle)
    if series is not None and not re.fullmatch(r"[0-9.]+", str(series)):
        raise UsageError("BAD_VALUE", "--series", repr(series), "the number of a series or its UID", "correct it")
    if not re.fullmatch(r"[\w.-]*", suffix):
        raise UsageError("BAD_VALUE", "--suffix", repr(suffix), "letters, digits, _, . and -", "--suffix _seg")
    if pseudonyms is not None and dicom_seg:
        found, wanted = "given with --pseudonym", "NIfTI alone: a DICOM Segmentation carries the patient of its source"
        raise UsageError("BAD_VALUE", "--format dicom-seg", found, wanted, "leave one of them out")
    shipped = weights_for(folder, overlays, knobs)
    if shipped is not None:
        logger.info("%s", shipped)
        overlays = [shipped.overlay]
    overrides = absolute_paths(knobs or {})
    overrides |= {
        "inputs": [str(Path(path).absolute()) for path in inputs],
        "mask_dir": str(Path(output_dir).absolute()),
    }
    sums = None if manifest is None else Manifest(manifest)
    files = config_files(folder, "inference.json", overlays)
    here = os.getcwd()
    with bundle_directory(folder):
        parser = read_config(files, overrides)
        refuse_absent_device(parser)
        _set_mask_format(parser, mask_format)
        if is_worker:
            parser["dataset::data"] = []
            parser["workers"] = 1
            series = pseudonyms = None  # which say how to list
        if series is not None:
            parser["dataset::data::series"] = str(series)
        if dicom_seg and not is_worker:
            parser["dataset::data::dicom_seg"] = True
        if suffix != "_seg" and not is_worker:
            parser["dataset::data::suffix"] = suffix
        if pseudonyms is not None:
            parser["dataset::data::pseudonyms"] = spelt_for_monai(os.path.join(here, pseudonyms))
        parser.parse()
        predictor: CasePredictor = parser.get_parsed_content("evaluator")
        predictor.manifest = sums
    return predictor


def _set_mask_format(parser: ConfigParser, mask_format: str) -> None:
    if mask_format == "nifti":
        return
    if parser["mask_suffix"] not in MASK_FORMATS.values():
        wanted, remedy = "one for volumes", "leave it out: the masks of 2-D images are PNG"
        raise UsageError("BAD_VALUE", f"--format {mask_format}", "a bundle for 2-D images", wanted, remedy)
    if mask_format not in MASK_FORMATS:
        raise UsageError(
            "BAD_VALUE", f"--format {mask_format}", "no such format", f"one of {', '.join(MASK_FORMATS)}", "correct it"
        )
    parser["mask_suffix"] = MASK_FORMATS[mask_format]


def weights_for(
    bundle: str | Path, overlays: Sequence[str] = (), knobs: Mapping[str, Any] | None = None
) -> ShippedWeights | None:
    """The shipped weights that `predict` uses with these arguments; None if the caller names others.

    `model_file`, the `output_dir` of a training and any overlay name other weights, whether or not that training has
    been run.

    Raises:
        UserError: as `medseg3d.bundle_folders.shipped_weights`.
    """
    if overlays or {"model_file", "output_dir"} & (knobs or {}).keys():
        return None
    return shipped_weights(bundle_folder(bundle))


def evaluate(
    pred_dir: str | Path,
    truth_dir: str | Path,
    output_dir: str | Path,
    *,
    image_dir: str | Path | None = None,
    class_names: Sequence[str] = (),
    pred_kind: str = "auto",
    threshold: float = 0.5,
    missing: str = "error",
    group: str | None = None,
    slices: bool = False,
    tolerance_mm: float = 2.0,
    grid_tolerance: float = GRID_TOLERANCE,
    pranet_min_max: bool = False,
    edges: Sequence[float] | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Summary:
    """Score a folder of predictions, from any program, against a folder of ground truth, and write the results.

    Volumes also get surface distances, 2-D images the scores of PraNet's evaluation; `Evaluation` documents each
    score. One case is in memory at a time. A bad pair stops the evaluation, because without that case it would be a
    different evaluation.

    Args:
        pred_dir: masks or probability maps, paired with the ground truth by name (`medseg3d.data.paired_masks`).
        truth_dir: masks of the same kind and on the same grids.
        output_dir: folder for the files of `Evaluation.write`, all written at the end.
        image_dir: the images, only listed in files.json.
        class_names: names of label values 1, 2, ...; by default 1 is "foreground" and no other value is allowed.
        pred_kind: "mask", "probability", or "auto", decided once for the whole folder.
        threshold: probabilities at or above this are foreground.
        missing: how to treat ground truth without a prediction: "error"; "empty", scored with an empty mask; or
            "leave-out", not scored, which the summary states.
        group: regular expression, searched in each case's name; its first group (or the whole match) is the
            patient or sequence of the case.
        slices: volumes: also score each axial slice.
        tolerance_mm: volumes: tolerance of the surface Dice.
        grid_tolerance: volumes: maximum distance in voxels between corners of prediction and ground truth.
        pranet_min_max: 2-D images: min-max normalize each map for PraNet's scores, as PraNet does.
        edges: the two limits between small, medium and large cases, in ml (2-D images: %); None for tertiles.
        seed: random seed of the bootstrap confidence intervals.
        progress: called with (cases done, cases in all, case) after each case.

    Returns:
        The content of summary.json.

    Raises:
        UserError: BAD_VALUE for an argument; GROUP_PATTERN where the expression does not fit the name of a case;
            otherwise as `paired_masks`, `prediction_kind` and `read_pair`; LABEL_SET for a label without a name;
            NOT_WRITABLE for `output_dir`. Nothing is written then.
    """
    pairs = paired_masks(pred_dir, truth_dir, image_dir, missing)
    check_folder(output_dir)
    groups = {} if group is None else grouped([{"case": pair.case, "image": pair.case} for pair in pairs], group)
    volumes = is_volume(pairs[0].truth)
    names = list(class_names) or [FOREGROUND]
    _check_arguments(volumes, slices, pranet_min_max, threshold)
    try:
        evaluation = Evaluation(
            names,
            grid="grid of the ground truth",
            slice_axis="axial" if slices else None,
            surface=volumes,
            surface_tolerance_mm=tolerance_mm,
            saliency=not volumes,
            pranet_min_max=pranet_min_max,
            edges=edges,
            seed=seed,
        )
    except ValueError as error:
        raise UsageError("BAD_VALUE", "the evaluation", str(error), "", "correct that option") from error
    evaluation.warnings += pairs.warnings
    if pairs.left_out:
        left_out, total = len(pairs.left_out), len(pairs.left_out) + len(pairs)
        evaluation.warnings.append(
            f"LEFT_OUT: {left_out} of {total} ground-truth masks have no prediction and are left out of all scores"
        )
    if pred_kind == "auto":
        pred_kind = prediction_kind(pairs)
    kinds = []
    for number, pair in enumerate(pairs, start=1):
        loaded = read_pair(pair, pred_kind, threshold, grid_tolerance)
        _check_labels(loaded, pair, names)
        kinds.append(loaded.kind)
        evaluation.add(
            pair.case,
            loaded.pred,
            loaded.truth,
            prob=loaded.prob,
            affine=loaded.affine,
            group=groups.get(pair.case),
            files={
                kind: path.absolute()
                for kind, path in (("image", pair.image), ("truth", pair.truth), ("pred", pair.pred))
                if path is not None
            },
            warnings=loaded.warnings,
        )
        if progress is not None:
            progress(number, len(pairs), pair.case)
    return evaluation.write(
        output_dir,
        {
            "pred_dir": Path(pred_dir).absolute(),
            "truth_dir": Path(truth_dir).absolute(),
            "pred_kind": pred_kind,
            "threshold": threshold if pred_kind == "probability" else None,
            "grid_tolerance": grid_tolerance if volumes else None,
            "n_missing_predictions": kinds.count("missing"),
            "left_out": pairs.left_out,
            "group": group,
            "command": command_line(sys.argv),
            "versions": versions(),
        },
    )


def _check_arguments(volumes: bool, slices: bool, pranet_min_max: bool, threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise UsageError("BAD_VALUE", "--threshold", f"{threshold}", "a probability from 0 to 1", "correct it")
    if slices and not volumes:
        raise UsageError(
            "BAD_VALUE",
            "--slices",
            "2-D images",
            "volumes",
            "leave it out; to group 2-D images by patient, use --group-pattern",
        )
    if pranet_min_max and volumes:
        raise UsageError("BAD_VALUE", "--pranet-minmax", "volumes", "2-D images", "leave it out")


def _check_labels(loaded: LoadedPair, pair: MaskPair, class_names: Sequence[str]) -> None:
    for path, labels in ((pair.truth, loaded.truth), (pair.pred, loaded.pred)):
        if path is not None and labels.max() > len(class_names):
            raise UserError(
                "LABEL_SET",
                path,
                f"the label {labels.max()}",
                f"0 for the background and {', '.join(f'{k} for {name}' for k, name in enumerate(class_names, 1))}",
                "name the classes of label values 1, 2, ... with --class-names",
            )
