"""What a region of interest saves and loses, with a trained network, on the test cases of its own run."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Compose, Orientationd, ScaleIntensityRanged, Spacingd
from torch import nn

from medseg3d.inference import SlidingWindow, load_weights
from medseg3d.networks import SegResNetNL
from medseg3d.transforms import LoadVolumed, ResampleVolumed

ARMS = ((0.0, 0), (0.01, 16), (0.01, 8), (0.01, 4), (0.05, 8), (0.05, 4))
"""`region_tau` and `region_margin`; the first arm computes every window."""


class Counted(nn.Module):
    """A network that counts the windows that it is given, those of the coarse pass too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.windows = 0

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        self.windows += len(windows)
        return self.network(windows)


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of two masks; 1 where both are empty."""
    both = int(one.sum() + other.sum())
    return 2 * int((one & other).sum()) / both if both else 1.0


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="MSD layout; its split.json says which cases are for test")
    parser.add_argument("model", type=Path, help="model.pt of a run of pancreas_nl on it")
    parser.add_argument("--init-filters", type=int, default=8)
    parser.add_argument("--spacing", type=float, nargs=3, default=[4.0, 4.0, 4.0])
    parser.add_argument("--roi-size", type=int, default=32, help="default: %(default)s, that of phantom.json")
    arguments = parser.parse_args()
    network = SegResNetNL(3, arguments.init_filters, 1, 2, nonlocal_blocks=2, nonlocal_attention="scaled")
    counted = Counted(load_weights(network, arguments.model).eval())
    prepare = Compose(
        [
            LoadVolumed(["image", "label"], keep_integers=True),
            ResampleVolumed("image", arguments.spacing),
            Orientationd("label", "RAS", labels=[["L", "R"], ["P", "A"], ["I", "S"]]),
            Spacingd("label", arguments.spacing, mode="nearest"),
            ScaleIntensityRanged("image", -100, 240, 0, 1, clip=True),
        ]
    )
    names = json.loads((arguments.dataset / "split.json").read_text())["test"]
    rows: dict[tuple, list[tuple]] = {arm: [] for arm in ARMS}
    for name in names:
        files = {"image": "imagesTr", "label": "labelsTr"}
        item = prepare({key: str(arguments.dataset / folder / f"{name}.nii.gz") for key, folder in files.items()})
        image, truth = item["image"].as_tensor()[None], item["label"].as_tensor()[0] > 0
        whole = None
        for tau, margin in ARMS:
            inferer = SlidingWindow([arguments.roi_size] * 3, region_tau=tau, region_margin=margin)
            counted.windows, start = 0, time.perf_counter()
            with torch.inference_mode():
                mask = inferer(image, counted).argmax(1)[0] > 0
            took = time.perf_counter() - start
            whole = mask if whole is None else whole
            rows[tau, margin].append((counted.windows, took, dice(mask, whole), dice(mask, truth), bool(mask.any())))
        print(f"{name} {tuple(image.shape[2:])}: Dice {rows[ARMS[0]][-1][3]:.3f}", flush=True)
    print(
        "| region_tau | region_margin | windows | time | mean Dice to all windows | least "
        "| change of the mean Dice to the truth | of the case that loses most |"
    )
    print("|---|---|---|---|---|---|---|---|")
    first = np.array(rows[ARMS[0]])
    for (tau, margin), values in rows.items():
        table = np.array(values)
        windows, took = table[:, :2].sum(0) / first[:, :2].sum(0)
        change = table[:, 3] - first[:, 3]
        print(
            f"| {tau} | {margin} | {windows:.2f} | {took:.2f} | {table[:, 2].mean():.4f} | {table[:, 2].min():.4f} "
            f"| {change.mean():+.4f} | {change.min():+.4f} |"
        )


if __name__ == "__main__":
    main()
