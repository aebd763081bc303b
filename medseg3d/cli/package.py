"""`medseg3d package`: a bundle for MONAI's model zoo and the programs that read it."""

from __future__ import annotations

import argparse

from medseg3d.packaging import package_bundle


def run(args: argparse.Namespace) -> int:
    """Write it and say where."""
    folder, archive = package_bundle(
        args.bundle,
        args.output,
        weights=args.weights,
        weights_url=args.weights_url,
        overlays=args.config_overlay,
        knobs=args.knobs,
    )
    print(f"{folder}\n{archive}: {archive.stat().st_size / 2**20:.1f} MB")
    return 0
