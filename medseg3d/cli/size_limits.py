"""`--max-voxels` and `--max-pixels`, of every verb that reads images."""

from __future__ import annotations

import argparse

from medseg3d.limits import PIXELS, VOXELS


def add_limits(parser: argparse.ArgumentParser, *, volumes: bool = True) -> None:
    """Add the options that bound an image by its header; `medseg3d.cli.main` lets them hold while the verb runs."""
    for limit, kind in ((VOXELS, "volume"), (PIXELS, "2-D image"))[0 if volumes else 1 :]:
        parser.add_argument(
            limit.option,
            type=int,
            metavar="N",
            help=f"refuse a {kind} of more {limit.unit}, by its header (default: {limit.default})",
        )
