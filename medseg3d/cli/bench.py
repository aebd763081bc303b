"""`medseg3d bench`: what this machine can do, and which engine is fast on it."""

from __future__ import annotations

import argparse

HELP = "measure this machine: its limits, each engine and precision on a bundle's windows, the stages of a prediction"
TAKES_KNOBS = True
ENGINES = ("torch", "compile", "openvino", "onnxruntime")
EPILOG = """\
Takes minutes. Other --key value pairs are options of the bundle, as in predict; --engine is that of the stages.
docs/performance.md says how to read the table.

examples:
  medseg3d bench polyp_resunetpp
  medseg3d bench pancreas_nl ct.nii.gz --random-weights --engine openvino -o bench.json --figure bench.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A bundle, an image, what to try and where the numbers go."""
    parser.add_argument("bundle", help="folder or name of the bundle")
    parser.add_argument("image", nargs="?", help="a scan or picture (default: a phantom)")
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=["torch", "openvino", "onnxruntime"],
        help="which to try; compile takes minutes more (default: torch openvino onnxruntime)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (default: %(default)s)")
    parser.add_argument("--random-weights", action="store_true", help="instead of trained ones")
    parser.add_argument("--config-overlay", nargs="+", default=[], metavar="NAME", help="overlays of the bundle")
    parser.add_argument("-o", "--output", metavar="JSON", help="keep the numbers here")
    parser.add_argument("--figure", metavar="PNG", help="draw the engines and the stages")


def run(args: argparse.Namespace) -> int:
    """Measure, print, keep."""
    import json
    import tempfile

    from medseg3d.bench import bench, phantom_image, random_weights, table
    from medseg3d.files.atomic import atomic_write
    from medseg3d.workflows import case_predictor

    with tempfile.TemporaryDirectory() as folder:
        knobs = {**args.knobs, "device": "cpu"}
        if args.random_weights:
            knobs["model_file"] = f"{folder}/random.pt"
            random_weights(args.bundle, args.config_overlay, args.knobs, knobs["model_file"])
        image = args.image or phantom_image(args.bundle, folder)
        predictor = case_predictor(args.bundle, [image], folder, overlays=args.config_overlay, knobs=knobs)
        found = bench(predictor, engines=args.engines, rounds=args.rounds)
    print(table(found), end="")
    if args.output:
        with atomic_write(args.output, "w") as file:
            json.dump(found, file, indent=1)
            file.write("\n")
    if args.figure:
        from medseg3d.reports.bench_figure import draw_bench
        from medseg3d.reports.curves import save_figure

        save_figure(draw_bench(found), args.figure)
    return 0
