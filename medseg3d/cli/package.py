"""`medseg3d package`: a bundle for MONAI's model zoo and the programs that read it."""

from __future__ import annotations

import argparse

HELP = "write a bundle as MONAI's model zoo publishes one: a self-contained folder and its ZIP"
TAKES_KNOBS = True
EPILOG = """\
  medseg3d package polyp_resunetpp                                       with the weights that come along
  medseg3d package pancreas_nl --weights runs/pancreas_nl/model.pt       with those of a training
Give it the overlays and knobs that the training had. The configs call medseg3d, which has to be installed where the
package is used.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A bundle, its weights, where to."""
    parser.add_argument("bundle", help="folder or name of the bundle, for instance polyp_resunetpp")
    parser.add_argument("--weights", metavar="FILE", help="weights (default: those that the bundle ships)")
    parser.add_argument("-o", "--output", default="packages", metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--config-overlay", nargs="+", default=[], metavar="NAME", help="overlays of the bundle used in training"
    )
    parser.add_argument(
        "--weights-url",
        metavar="URL",
        help="where they can be downloaded; the ZIP is then without them",
    )


def run(args: argparse.Namespace) -> int:
    """Write it and say where."""
    from medseg3d.packaging import package_bundle

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
