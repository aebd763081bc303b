"""What engines and precisions change in the masks of the shipped weights, on real pictures."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medseg3d.data import read_picture, read_picture_mask
from medseg3d.inference import SlidingWindow, load_weights, with_engine
from medseg3d.networks import ResUNetPlusPlus, SegResNetNL

WAYS = (
    ("torch", "float32"),
    ("openvino", "float32"),
    ("onnxruntime", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
)
"""Engines and precisions; the first is what the others are compared with, the last needs NNCF."""

WEIGHTS = Path(__file__).parents[1] / "bundles"


def trained() -> dict[str, tuple[nn.Module, str, int]]:
    """Name -> network with the weights that a bundle ships, folder of its pictures, size of its windows."""
    polyps = load_weights(ResUNetPlusPlus(), WEIGHTS / "polyp_resunetpp/models/kvasir_clinicdb128.safetensors")
    slices = SegResNetNL(spatial_dims=2, in_channels=3, init_filters=16, nonlocal_blocks=2)
    load_weights(slices, WEIGHTS / "pancreas_nl_2d/models/nih_slices.safetensors")
    return {"polyp_resunetpp": (polyps, "kvasir-seg", 128), "pancreas_nl_2d": (slices, "nih-pancreas-2d", 160)}


def int8(network: nn.Module, pictures: torch.Tensor, calibration: torch.Tensor) -> torch.Tensor:
    """Logits of the network quantized by NNCF as it does by itself, calibrated on other pictures."""
    import nncf
    import openvino as ov

    model = ov.convert_model(network, example_input=pictures[:1])
    batches = nncf.Dataset(list(calibration[:, None].numpy()))
    compiled = ov.compile_model(nncf.quantize(model, batches, subset_size=len(calibration)), "CPU")
    return torch.from_numpy(np.concatenate([compiled(picture[None].numpy())[0] for picture in pictures]))


def resized(array: np.ndarray, size: int, mode: str) -> torch.Tensor:
    """(1, C, size, size) float32 of an array (H, W) or (H, W, C)."""
    image = torch.from_numpy(np.atleast_3d(array).astype(np.float32)).permute(2, 0, 1)[None]
    return nn.functional.interpolate(image, (size, size), mode=mode, antialias=mode == "bilinear")


def foreground(logits: torch.Tensor) -> torch.Tensor:
    """(B, H, W) bool."""
    return logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1) > 0


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of all pixels together; 0 where both are empty."""
    return float(2 * (one & other).sum() / max(1, int(one.sum() + other.sum())))


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=10, help="take every n-th image (default: %(default)s)")
    arguments = parser.parse_args()
    data = os.environ.get("MEDSEG3D_DATA") or sys.exit("MEDSEG3D_DATA names no folder of real images")
    print("| weights | images | engine | precision | labels equal | Dice to float32 | Dice to ground truth |")
    print("|---|---|---|---|---|---|---|")
    for name, (network, folder, size) in trained().items():
        every = sorted(Path(data, folder, "images").iterdir())
        files = every[:: arguments.every]
        masks = {path.stem: path for path in Path(data, folder, "masks").iterdir()}
        pictures, calibration = (
            torch.cat([resized(read_picture(file) / 255, size, "bilinear") for file in some])
            for some in (files, every[1 :: arguments.every])
        )
        truths = (
            torch.cat([resized(read_picture_mask(masks[file.stem]) > 0, size, "area")[:, 0] for file in files]) > 0.5
        )
        first: torch.Tensor | None = None
        for engine, precision in WAYS if find_spec("nncf") else WAYS[:-1]:
            with torch.inference_mode(precision != "int8"):
                if precision == "int8":
                    found = foreground(int8(network.eval(), pictures, calibration))
                else:
                    inferer = with_engine(SlidingWindow((size, size), sw_batch_size=8, precision=precision), engine)
                    found = foreground(inferer(pictures, network.eval()))
            first = found if first is None else first
            equal, mean = (
                (found == first).float().mean(),
                np.mean([dice(*pair) for pair in zip(found, truths, strict=True)]),
            )
            numbers = f"{equal:.6f} | {dice(found, first):.4f} | {mean:.4f}"
            print(f"| {name} | {len(files)} | {engine} | {precision} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
