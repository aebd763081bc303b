"""`medseg3d export`: a trained network for another program."""

from __future__ import annotations

import argparse

from medseg3d.packaging import export_bundle


def run(args: argparse.Namespace) -> int:
    """Write it and say what it takes."""
    named = {"weights": args.weights, "overlays": args.config_overlay, "knobs": args.knobs}
    path, shape = export_bundle(args.bundle, args.to, args.output, **named)
    size = path.stat().st_size / 2**20
    print(f"{path}: {size:.1f} MB; input: float32 of shape ({', '.join(map(str, shape))})")
    return 0
