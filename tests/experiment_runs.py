"""Commands that cost nothing, in place of MONAI's, for experiments on images that hold nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from commands import ROOT

from medseg3d.data.splits import split_record
from medseg3d.evaluation import Evaluation
from medseg3d.evaluation.thresholds import read_threshold

SMALL = {
    **{"unet_features": [2] * 6, "unet_plus_plus_features": [2] * 6, "segnet_features": [2] * 5},
    **{"refinement_channels": 2, "epochs": 4},
}
"""Knobs of small networks of polyp_cris."""


def picture(n_truth, n_found, found, elsewhere):
    """Truth and probability of 100 pixels: so much on so many pixels of the ground truth, so much on all others."""
    truth, prob = np.zeros(100, np.uint8), np.full(100, elsewhere, np.float32)
    truth[:n_truth] = 1
    prob[:n_found] = found
    return truth.reshape(10, 10), prob.reshape(10, 10)


PICTURES = {
    "train": [picture(20, 20, 0.355, 0.05)],  # Dice 1 from 0.06 to 0.35, of which the last is nearest to 0.5
    "val": [picture(20, 20, 0.215, 0.05)],
    "test": [picture(20, 10, 0.4, 0.1), picture(10, 10, 0.4, 0.1)],
}


class Commands:
    """Stands in for MONAI's command: a training leaves a checkpoint, an evaluation the files of those images.

    Args:
        wrong: strategy -> what its training ends with.
        pictures: part -> truths and probabilities; by the strategy where it has its own.
    """

    def __init__(self, wrong: dict[str, BaseException] | None = None, pictures: dict | None = None) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.wrong = wrong or {}
        self.pictures = pictures or {}

    def __call__(self, run_id, bundle, overlays, knobs, run, show=False):
        self.calls.append((run_id, dict(knobs)))
        if run_id == "training":
            (run / "checkpoints").mkdir(parents=True, exist_ok=True)
            if knobs["strategy"] in self.wrong:
                raise self.wrong[knobs["strategy"]]
            (run / "checkpoints" / "epoch_00004.pt").touch()
            return 5.0
        if run_id == "evaluating":
            evaluation = Evaluation(["polyp"], saliency=True)
            threshold = read_threshold(knobs.get("threshold_file"))
            pictures = self.pictures.get(knobs["strategy"], PICTURES)
            for number, (truth, prob) in enumerate(pictures[knobs["part"]]):
                evaluation.add(str(number), prob >= threshold, truth, prob=prob)
            split = split_record(knobs["split_file"])
            evaluation.write(run / f"evaluation_{knobs['part']}", {"part": knobs["part"], **split})
        return 1.0

    @property
    def trained(self) -> list[dict]:
        """The knobs of each training."""
        return [knobs for run_id, knobs in self.calls if run_id == "training"]


def empty_pictures(folder: Path, cases: int = 20) -> Path:
    """A data set of files without content: enough to be split."""
    for part, suffix in (("images", "jpg"), ("masks", "png")):
        (folder / part).mkdir(parents=True)
        for number in range(cases):
            (folder / part / f"{number}.{suffix}").touch()
    return folder


def definition(folder: Path, **others) -> dict:
    """Two strategies of polyp_cris on the images in `folder`/data, which is made."""
    data = folder / "data" if (folder / "data").exists() else empty_pictures(folder / "data")
    return {
        "bundle": str(ROOT / "bundles" / "polyp_cris"),
        "knobs": {**SMALL, "dataset_dir": str(data), "split_file": str(folder / "split.json")},
        "factors": {"strategy": ["backbone", "cris"]},
        "threshold": {"part": "train", "score": "dice_mean"},
        **others,
    }
