"""`medseg3d bench`: what this machine can do, and which engine is fast on it."""

from __future__ import annotations

import argparse
import json
import tempfile

from medseg3d.bench import bench, phantom_image, random_weights, table
from medseg3d.files.atomic import atomic_write
from medseg3d.workflows import case_predictor


def run(args: argparse.Namespace) -> int:
    """Measure, print, keep."""
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
        from medseg3d.reports.charts import draw_bench
        from medseg3d.reports.curves import save_figure

        save_figure(draw_bench(found), args.figure)
    return 0
