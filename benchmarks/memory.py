"""The memory that a prediction takes, beside what `medseg3d predict` expects of it: the table in docs/reliability.md.

    python benchmarks/memory.py

Each case is a generated image in a process of its own with random weights; what counts is the most that its resident
memory grows from just before the case to its end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import torch
from PIL import Image

from medseg3d.bundle import read_config
from medseg3d.bundle_folders import bundle_directory, bundle_folder, config_files, shipped_weights
from medseg3d.inference import CasePredictor
from medseg3d.knobs import literal
from medseg3d.workflows import predict

ROOT = Path(__file__).parent.parent
CT = ("bundles/pancreas_nl", "device=cpu", "overlap=0")
COARSE = (*CT, "roi_size=[32,32,32]", "spacing=[4,4,4]")
POLYPS = ("bundles/polyp_resunetpp", "device=cpu")
CASES: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "CT 256 x 256 x 60 to 137 x 137 x 60, windows of 96, float32": ("256x256x60", (*CT, "precision=float32"), False),
    "the same in bfloat16": ("256x256x60", (*CT, "precision=bfloat16"), False),
    "CT 512 x 512 x 100 to 102 x 102 x 50, windows of 32": ("512x512x100", COARSE, False),
    "the same with probabilities": ("512x512x100", COARSE, True),
    "the same, cleaned": ("512x512x100", (*COARSE, "largest_component=True", "fill_holes=True"), False),
    "CT 512 x 512 x 100, slices of 192 x 192": ("512x512x100", ("bundles/pancreas_nl_2d", "device=cpu"), False),
    "picture 4000 x 3000": ("4000x3000", POLYPS, False),
    "picture 8000 x 5000": ("8000x5000", POLYPS, False),
    "this picture with probabilities": ("8000x5000", POLYPS, True),
}


def image(folder: Path, shape: list[int]) -> Path:
    """A scan of noise in int16, or a picture."""
    rng = np.random.default_rng(0)
    if len(shape) == 3:
        voxels = rng.integers(-1000, 1200, shape, dtype=np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([-0.8, -0.8, 2.0, 1.0])), folder / "ct.nii")
        return folder / "ct.nii"
    small = Image.fromarray(rng.integers(0, 256, (shape[1] // 16, shape[0] // 16, 3), dtype=np.uint8))
    small.resize((shape[0], shape[1])).save(folder / "picture.jpg")
    return folder / "picture.jpg"


def weights(bundle: str, knobs: dict[str, object], file: Path) -> None:
    """Random weights of a bundle's network."""
    folder = bundle_folder(ROOT / bundle)
    with bundle_directory(folder):
        parser = read_config(config_files(folder, "train.json"), knobs)
        parser.parse()
        torch.save(parser.get_parsed_content("network_def").state_dict(), file)


def measured(scan: Path, words: list[str], with_probabilities: bool) -> dict[str, int]:
    """Bytes that a case takes in this process, and that were expected of it."""
    bundle, *pairs = words
    knobs = {name: literal(value) for name, _, value in (pair.partition("=") for pair in pairs)}
    found = {"peak": 0}
    process = psutil.Process()

    def watch() -> None:
        while "ended" not in found:
            found["peak"] = max(found["peak"], process.memory_info().rss)
            time.sleep(0.002)

    run = CasePredictor._segment

    def watched(self: CasePredictor, item: dict) -> dict:
        found["expected"] = self.bounds.memory(item)
        found["before"] = process.memory_info().rss
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            return run(self, item)
        finally:
            found["ended"] = 1
            thread.join()

    CasePredictor._segment = watched  # type: ignore[method-assign]
    ships = shipped_weights(bundle_folder(ROOT / bundle)) is not None
    if not ships:
        weights(bundle, knobs, scan.with_name("model.pt"))
        knobs["model_file"] = str(scan.with_name("model.pt"))
    prob_dir = scan.with_name("prob") if with_probabilities else None
    predict(ROOT / bundle, scan, scan.with_name("masks"), prob_dir=prob_dir, knobs=knobs).check()
    return {"taken": found["peak"] - found["before"], "expected": found["expected"]}


def main() -> None:
    """One process for each case; a row of the table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measured(Path(args.case[0]), args.case[2:], args.case[1] == "True")))
        return
    print("| | expected | taken |\n|---|---:|---:|")
    for name, (size, words, with_probabilities) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            scan = str(image(Path(folder), [int(part) for part in size.split("x")]))
            command = [sys.executable, __file__, "--case", scan, str(with_probabilities), *words]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row = json.loads(out.splitlines()[-1])
        print(f"| {name} | {row['expected'] / 1e6:.0f} MB | {row['taken'] / 1e6:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
