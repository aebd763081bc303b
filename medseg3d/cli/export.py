"""`medseg3d export`: a trained network for another program."""

from __future__ import annotations

import argparse

HELP = "write the network of a bundle with its weights as TorchScript, ONNX or torch.export"
TAKES_KNOBS = True
EPILOG = """\
  medseg3d export polyp_resunetpp --to onnx
  medseg3d export pancreas_nl --to torchscript --weights runs/pancreas_nl/model.pt -o pancreas.ts
It takes what the bundle's transforms make of an image, and gives logits. ONNX needs
pip install "medseg3d[onnxruntime]".
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A bundle, a form, a file, weights."""
    parser.add_argument("bundle", help="folder or name of the bundle, for instance polyp_resunetpp")
    parser.add_argument("--to", required=True, choices=("torchscript", "onnx", "torch.export"), help="the form")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: the bundle's name with .ts, .onnx or .pt2")
    parser.add_argument("--weights", metavar="FILE", help="weights (default: those that the bundle ships)")
    parser.add_argument(
        "--config-overlay", nargs="+", default=[], metavar="NAME", help="overlays of the bundle used in training"
    )


def run(args: argparse.Namespace) -> int:
    """Write it and say what it takes."""
    from medseg3d.packaging import export_bundle

    named = {"weights": args.weights, "overlays": args.config_overlay, "knobs": args.knobs}
    path, shape = export_bundle(args.bundle, args.to, args.output, **named)
    size = path.stat().st_size / 2**20
    print(f"{path}: {size:.1f} MB, takes float32 of shape ({', '.join(map(str, shape))})")
    return 0
