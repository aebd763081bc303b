"""`medseg3d predict`: scans or pictures in, masks out."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from medseg3d.cli.progress import AboveTheBar, progress_bar
from medseg3d.cli.size_limits import add_limits

HELP = "segment CT volumes or 2-D images with a trained bundle; masks keep the geometry of each input"
TAKES_KNOBS = True
RENAMED = {"--overlay": "--config-overlay", "--overlays": "--save-overlays"}
EPILOG = """\
Masks are named <volume>_seg.nii.gz (or as --format says) or <image>_seg.png; subfolders are kept. An existing mask is
kept if its record names the same image, weights and settings, and remade otherwise; one that was edited, or that
another program wrote, is replaced only with --overwrite. A DICOM folder, a ZIP of one and a multi-frame file are one
volume each (pip install "medseg3d[dicom]"; docs/dicom.md says what is refused). --probabilities also writes
<volume>_prob.nii.gz (float32, or as --format says) or <image>_prob.png (16-bit),
--save-overlays <image>_overlay.png, the image with the contour of its mask.
Other --key value pairs are options of the bundle: --model_file runs/a/model.pt --device cpu --precision bfloat16
--overlap 0.25 --workers 4 --engine auto (docs/engines.md). Without --model_file, --output_dir and --config-overlay, the
weights shipped with the bundle are used, if there are any.
--cluster ray spreads the cases over processes, one for each GPU or --workers of them, and --cluster HOST:6379 over the
machines of a Ray cluster (pip install "medseg3d[ray]"; docs/scaling.md).
exit codes: 0 all done, 1 all failed, 2 nothing to do or a wrong call, 3 some failed
Research only, not for clinical use.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A bundle, inputs, an output folder."""
    parser.add_argument("bundle", help="folder or name of the bundle, for instance pancreas_nl")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="files or folders: NIfTI, NRRD, MetaImage, or JPEG, PNG, TIFF, BMP; a DICOM folder or a ZIP of one is one "
        "volume",
    )
    parser.add_argument("--series", metavar="NUMBER", help="DICOM series to use, by number or UID")
    parser.add_argument(
        "--format",
        choices=["nifti", "nrrd", "mha", "source", "dicom-seg"],
        default="nifti",
        help="format of masks of volumes; source: NRRD or MetaImage for inputs that are, NIfTI for others; dicom-seg: "
        "for DICOM input, also write each mask as a DICOM Segmentation (default: %(default)s)",
    )
    parser.add_argument(
        "--suffix",
        default="_seg",
        help="what masks have behind the name of their image; '' for nnU-Net (default: _seg)",
    )
    parser.add_argument("-o", "--output", default="masks", help="folder for the masks (default: %(default)s)")
    parser.add_argument("--probabilities", metavar="DIR", help="folder for probability maps")
    parser.add_argument("--save-overlays", metavar="DIR", help="folder for 2-D images with the contour of their mask")
    parser.add_argument(
        "--config-overlay", nargs="+", default=[], metavar="NAME", help="overlays of the bundle used in training"
    )
    parser.add_argument(
        "--manifest",
        metavar="FILE",
        help="checksums of the images (sha256sum's format); images that differ are refused",
    )
    parser.add_argument(
        "--pseudonym",
        metavar="FILE.csv",
        help="table of pseudonyms, made if needed: results, records and messages have these instead of file names",
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="spread the cases over worker processes: ray for this machine, or the address of a Ray cluster",
    )
    parser.add_argument("--overwrite", action="store_true", help="segment again even where a mask exists")
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Segment, report each case, and return the exit code."""
    from collections import Counter

    from medseg3d.workflows import predict, weights_for

    shipped = weights_for(args.bundle, args.config_overlay, args.knobs)
    if shipped is not None:
        print(f"weights {shipped}; for your own: --model_file runs/.../model.pt", flush=True)
    with _spoken(), progress_bar("case") as progress:
        report = predict(
            args.bundle,
            args.inputs,
            args.output,
            prob_dir=args.probabilities,
            overlay_dir=args.save_overlays,
            series=args.series,
            dicom_seg=args.format == "dicom-seg",
            suffix=args.suffix,
            mask_format="nifti" if args.format == "dicom-seg" else args.format,
            manifest=args.manifest,
            pseudonyms=args.pseudonym,
            overwrite=args.overwrite,
            overlays=args.config_overlay,
            knobs=args.knobs,
            cluster=args.cluster,
            progress=lambda done, total, item: progress(done, total, item["case"]),
        )
    for record in report.done:
        if "series" in record["input"]:
            series = record["input"]["series"]
            number = series["number"] or "without a number"
            print(f"{record['case']}: {series['slices']} slices of DICOM series {number}, {series['chosen']}")
    if "engine" in args.knobs:
        for engine, number in Counter(record["inference"]["engine"] for record in report.done).items():
            print(f"{number} computed by {engine}")
    for what, items in (("skipped", report.skipped), ("segmented again", report.again)):
        for reason, number in Counter(item["reason"] for item in items).items():
            print(f"{number} {what}: {reason}")
    print(
        f"{len(report.done)} segmented, {len(report.skipped)} skipped, {len(report.failed)} failed; "
        f"masks in {args.output}. Research only, not for clinical use."
    )
    return report.exit_code


@contextmanager
def _spoken() -> Iterator[None]:
    """Context in which warnings and errors of single cases are one line each on stderr, as they happen."""
    logger, handler = logging.getLogger("medseg3d"), AboveTheBar(logging.WARNING)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
