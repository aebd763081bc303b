"""`medseg3d predict`: scans or 2-D images in, masks out."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from medseg3d.cli.progress import AboveTheBar, progress_bar
from medseg3d.workflows import predict, weights_for


def run(args: argparse.Namespace) -> int:
    """Segment, report each case, and return the exit code."""
    shipped = weights_for(args.bundle, args.config_overlay, args.knobs)
    if shipped is not None:
        print(f"weights {shipped}; to use your own: --model_file runs/.../model.pt", flush=True)
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
            number = series["number"] or "(unnumbered)"
            print(f"{record['case']}: {series['slices']} slices of DICOM series {number}, {series['chosen']}")
    if "engine" in args.knobs:
        for engine, number in Counter(record["inference"]["engine"] for record in report.done).items():
            print(f"{number} computed with {engine}")
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
