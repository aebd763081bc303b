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
    """Segment volumes or pictures with a bundle's inference.json; masks in the geometry of each come out.

    Without weights of one's own (`model_file`) and without `overlays`, those that the bundle ships are taken, where it
    ships some: `weights_for` says which. The current directory is the bundle's repository while its configs are read,
    because their paths start there, and the caller's again while cases are segmented.

    Args:
        bundle: the bundle's folder.
        inputs: files and folders of them: volumes in NIfTI, NRRD or MetaImage, or JPEG, PNG, TIFF and BMP where the
            bundle is for pictures. A DICOM folder, a ZIP of one and a multi-frame file are one volume each.
        output_dir: where the masks go: `<name>_seg.nii.gz` (or as `mask_format` says), of pictures `<name>_seg.png`.
        prob_dir: where maps of foreground probability go, `<name>_prob` as float32 NIfTI or 16-bit PNG; None for none.
        overlay_dir: where pictures with their masks drawn on them go, `<name>_overlay.png`; None for none.
        series: of DICOM, the number or UID of the series to take; None for the only CT volume.
        dicom_seg: of DICOM, write each mask as a DICOM segmentation too, `<name>_seg.dcm`.
        mask_format: of the masks and maps of volumes, one of `medseg3d.data.outputs.MASK_FORMATS`: "nifti", "nrrd",
            "mha", or "source" for that of each image where it is NRRD or MetaImage.
        suffix: what masks have behind the name of their image, of letters, digits and `_.-`.
        manifest: list of SHA-256 sums as `sha256sum` writes it; an image that is not as listed fails with CHECKSUM.
        pseudonyms: table of pseudonyms (CSV, made if needed) that take the place of the names of files and folders in
            results, records and messages; see `medseg3d.data.pseudonyms`. None for the names themselves.
        overwrite: segment again what has a mask already.
        overlays: overlays beside inference.json that the training had, without `.json`.
        knobs: further knobs (`model_file`, `device`, `overlap`, `workers`, ...); paths from the current directory.
        progress: called with (cases done, cases in all, item) after each case.
        cluster: `ray`, or the address of a cluster, to spread the cases as `medseg3d.inference.RayWorkers` does, over
            as many workers as the knob `workers` says; None for this process.

    Returns:
        What was done, skipped and failed. A file that cannot be used does not stop the others.

    Raises:
        UserError: before anything is computed: no input, colliding names, no weights or another network's, misspelt
            knobs, impossible values, a device that is not there, overlays of volumes, a format of volumes for pictures,
            a series or a segmentation of what is no DICOM, pseudonyms with a segmentation, a cluster that cannot be
            used; on the way when its workers cannot.
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
    """What `predict` runs, before it runs; arguments and errors are those of `predict`.

    A worker's lists no inputs, because it is handed its cases one by one.
    """
    folder = bundle_folder(bundle)
    if series is not None and not re.fullmatch(r"[0-9.]+", str(series)):
        raise UsageError("BAD_VALUE", "--series", repr(series), "the number of a series or its UID")
    if not re.fullmatch(r"[\w.-]*", suffix):
        raise UsageError("BAD_VALUE", "--suffix", repr(suffix), "letters, digits, _, . and -")
    if pseudonyms is not None and dicom_seg:
        found, wanted = "it with --pseudonym", "NIfTI alone: a DICOM Segmentation carries the patient of its source"
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
        raise UsageError("BAD_VALUE", f"--format {mask_format}", "no such format", ", ".join(MASK_FORMATS))
    parser["mask_suffix"] = MASK_FORMATS[mask_format]


def weights_for(
    bundle: str | Path, overlays: Sequence[str] = (), knobs: Mapping[str, Any] | None = None
) -> ShippedWeights | None:
    """The shipped weights that `predict` takes with these arguments; None where the caller has named others.

    Named are weights by `model_file`, by the `output_dir` of a training, and by any overlay. Whether a training has
    been run makes no difference.

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
    """Score a folder of predictions, anybody's, against a folder of ground truth, and write what came out.

    Volumes (NIfTI) also get surface distances, pictures the scores of PraNet's evaluation; `Evaluation` says what each
    number is. One case is in memory at a time. A pair that cannot be used stops the whole: an evaluation that left
    cases out would be another one.

    Args:
        pred_dir: masks or probability maps, paired with the ground truth by name (`medseg3d.data.paired_masks`).
        truth_dir: masks of the same kind and on the same grids.
        output_dir: where `Evaluation.write` puts its files, all at the end.
        image_dir: images, only to be named in files.json.
        class_names: of the label values 1, 2, ...; by default 1 is "foreground" and nothing else is allowed.
        pred_kind: "mask", "probability", or "auto", decided once for the whole folder.
        threshold: foreground is where a probability is at least this.
        missing: what a ground truth without prediction is: an "error"; "empty", a prediction of nothing; or
            "leave-out", no case at all, which the summary then says.
        group: regular expression, searched in each case's name; what its first parenthesis matches (or all of it)
            names the patient or sequence of the case.
        slices: volumes: also score each axial slice.
        tolerance_mm: volumes: of the surface Dice.
        grid_tolerance: volumes: voxels that a corner of a prediction may lie from that of its ground truth.
        pranet_min_max: pictures: stretch each map to its full range first, as PraNet does, for its scores.
        edges: the two sizes that part small, medium and large cases, in ml (pictures: %); None for tertiles.
        seed: of the resampling behind the intervals.
        progress: called with (cases done, cases in all, case) after each case.

    Returns:
        What summary.json holds.

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
        raise UsageError("BAD_VALUE", "the evaluation", str(error)) from error
    evaluation.warnings += pairs.warnings
    if pairs.left_out:
        left_out, total = len(pairs.left_out), len(pairs.left_out) + len(pairs)
        evaluation.warnings.append(f"LEFT_OUT: {left_out} of {total} truths have no prediction and are in no score")
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
        raise UsageError("BAD_VALUE", "--threshold", f"{threshold}", "a probability from 0 to 1")
    if slices and not volumes:
        raise UsageError(
            "BAD_VALUE", "--slices", "pictures", "volumes", "a picture is one slice; name patients by --group-pattern"
        )
    if pranet_min_max and volumes:
        raise UsageError("BAD_VALUE", "--pranet-minmax", "volumes", "pictures", "leave it out")


def _check_labels(loaded: LoadedPair, pair: MaskPair, class_names: Sequence[str]) -> None:
    for path, labels in ((pair.truth, loaded.truth), (pair.pred, loaded.pred)):
        if path is not None and labels.max() > len(class_names):
            raise UserError(
                "LABEL_SET",
                path,
                f"the label {labels.max()}",
                f"0 for the background and {', '.join(f'{k} for {name}' for k, name in enumerate(class_names, 1))}",
                "name the classes of the values 1, 2, ... with --class-names",
            )
