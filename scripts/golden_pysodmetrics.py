"""Record what pysodmetrics 1.6.2 says of fixed images: tests/metrics/golden/pysodmetrics.json.

It needs older libraries than this package, so it runs in an environment of its own, on the command line:

    python -m venv golden && golden/bin/pip install pysodmetrics==1.6.2 Pillow
    golden/bin/python scripts/golden_pysodmetrics.py --masks KVASIR-SEG/masks -o tests/metrics/golden/pysodmetrics.json

Only numbers are stored. The images are made again by the tests, from the functions here; a SHA-256 of each tells
whether they are the same. The real ones are made from the masks of Kvasir-SEG named in `REAL`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion, gaussian_filter, shift

Pictures = tuple[np.ndarray, np.ndarray]
"""Grey levels (H, W) uint8 and truth (H, W) bool."""

REAL = {
    "cju0qkwl35piu0993l0dewei2": "shifted",
    "cju0qx73cjw570799j4n5cjze": "blurred",
    "cju0s2a9ekvms080138tjjpxr": "shifted and blurred",
    "cju175facms5f0993a5tjikvt": "half missed",
    "cju17hw9hr9c5098800fu4u8e": "eroded and pale",
    "cju17v6ih0u7808783zcbg1jy": "noisy",
}
"""Case of Kvasir-SEG: how its prediction is made from its mask."""


def synthetic() -> Iterator[tuple[str, Pictures]]:
    """Name and images of every synthetic case."""
    noise = np.random.RandomState(1)  # the one generator whose stream NumPy has frozen
    round_ = ellipse((64, 64), (30, 34), (15, 20))
    soft = to_levels(gaussian_filter(np.roll(round_, 5, axis=0).astype(float), 4))
    yield "soft", (soft, round_)
    yield "binary", (to_levels(ellipse((64, 64), (34, 30), (17, 17))), round_)
    yield "perfect", (to_levels(round_), round_)
    yield "inverted", (255 - soft, round_)
    yield "empty prediction", (np.zeros((64, 64), np.uint8), round_)
    yield "empty truth", (soft, np.zeros((64, 64), bool))
    yield "empty truth, nearly empty prediction", ((soft > 250).astype(np.uint8), np.zeros((64, 64), bool))
    yield "both empty", (np.zeros((64, 64), np.uint8), np.zeros((64, 64), bool))
    yield "full truth", (soft, np.ones((64, 64), bool))
    yield "both full", (np.full((64, 64), 255, np.uint8), np.ones((64, 64), bool))
    yield "noise", (noise.randint(0, 256, (64, 64)).astype(np.uint8), round_)
    yield "low contrast", (60 + soft // 2, round_)
    clouds = to_levels(gaussian_filter(noise.random_sample((40, 97)), 2))
    yield "non-square", (clouds, ellipse((40, 97), (5, 80), (9, 30)))
    yield "two objects at the border", (soft, ellipse((64, 64), (0, 10), (8, 8)) | ellipse((64, 64), (63, 63), (20, 9)))
    yield "one true pixel in the last corner", (soft, ellipse((64, 64), (63, 63), (0.5, 0.5)))
    yield "tiny", (np.array([[0, 90], [200, 255], [10, 128]], np.uint8), np.array([[0, 0], [1, 1], [0, 1]], bool))
    yield "two pixels", (np.array([[200, 10]], np.uint8), np.array([[1, 0]], bool))
    yield "constant prediction", (np.full((64, 64), 77, np.uint8), round_)
    corners = np.zeros((64, 64), bool)
    corners[:10, :10] = corners[54:, 54:] = True
    yield "constant prediction, quarters without truth", (np.full((64, 64), 90, np.uint8), corners)


def real(masks: Path, case: str) -> Pictures:
    """Pictures of a case of `REAL`."""
    with Image.open(masks / f"{case}.jpg") as picture:
        truth = np.asarray(picture.convert("L")) > 127
    return prediction(truth, REAL[case]), truth


def prediction(truth: np.ndarray, recipe: str) -> np.ndarray:
    """Grey levels made from a mask."""
    mask = truth.astype(np.float64)
    middle, core = truth.shape[1] // 2, binary_erosion(truth, iterations=12).astype(np.float64)
    waves = np.sin(np.arange(truth.shape[0]) / 3)[:, None] * np.sin(np.arange(truth.shape[1]) / 5)[None, :]
    return to_levels(
        {
            "shifted": lambda: shift(mask, (9, -14), order=0),
            "blurred": lambda: gaussian_filter(mask, 12),
            "shifted and blurred": lambda: gaussian_filter(shift(mask, (-20, 11), order=0), 5),
            "half missed": lambda: np.where(np.arange(truth.shape[1]) < middle, mask, 0.1 * mask),
            "eroded and pale": lambda: 0.1 + 0.6 * gaussian_filter(core, 3),
            "noisy": lambda: np.clip(0.15 + 0.7 * mask + 0.25 * waves, 0, 1),
        }[recipe]()
    )


def ellipse(shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """A filled ellipse, (H, W) bool."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


def to_levels(prob: np.ndarray) -> np.ndarray:
    """The nearest grey levels; probabilities a hair from the middle of two go the same way on every machine."""
    return np.floor(255 * np.round(np.clip(prob.astype(np.float64), 0, 1), 9) + 0.5).astype(np.uint8)


def fingerprint(pictures: Pictures) -> str:
    """SHA-256 of the two images and their shape."""
    levels, truth = pictures
    content = f"{levels.shape}".encode() + levels.tobytes() + truth.astype(np.uint8).tobytes()
    return hashlib.sha256(content).hexdigest()


def scores(pictures: Pictures, min_max: bool) -> dict[str, float | None]:
    """What pysodmetrics says, under the names that `pranet_scores` has here; None stands for its NaN.

    Specificity is set to 0 wherever Dice is, the rule of PraNet's tools, which pysodmetrics leaves out.
    """
    import py_sod_metrics as sod

    handlers = {
        "dice": sod.DICEHandler(with_dynamic=True, with_adaptive=False),
        "iou": sod.IOUHandler(with_dynamic=True, with_adaptive=False),
        "recall": sod.RecallHandler(with_dynamic=True, with_adaptive=False),
        "specificity": sod.SpecificityHandler(with_dynamic=True, with_adaptive=False),
    }
    overlap = sod.FmeasureV2(handlers)
    metrics = [overlap, sod.WeightedFmeasure(), sod.Smeasure(), sod.Emeasure()]
    levels, truth = pictures
    for metric in metrics:
        if min_max:
            metric.step(pred=levels, gt=truth.astype(np.uint8) * 255)
        else:
            metric.step(pred=levels / 255, gt=truth, normalize=False)
    curves = {name: result["dynamic"] for name, result in overlap.get_results().items()}
    curves["specificity"] = np.where(curves["dice"] > 0, curves["specificity"], 0)
    found = {f"{name}_pranet256": float(curve.mean()) for name, curve in curves.items()}
    found |= {f"max_{name}_pranet256": float(curve.max()) for name, curve in curves.items()}
    e_measure = metrics[3].get_results()["em"]
    found["e_measure_mean"] = float(e_measure["curve"].mean())
    found["e_measure_max"] = float(e_measure["curve"].max())
    found["e_measure_adaptive"] = float(e_measure["adp"])
    found["weighted_f"] = float(metrics[1].get_results()["wfm"])
    found["s_measure"] = float(metrics[2].get_results()["sm"])
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=Path, required=True, help="folder masks/ of Kvasir-SEG")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file")
    arguments = parser.parse_args()
    record = {"pysodmetrics": version("pysodmetrics"), "numpy": version("numpy"), "scipy": version("scipy")}
    real_cases = ((case, real(arguments.masks, case)) for case in REAL)
    for group, cases in (("synthetic", synthetic()), ("real", real_cases)):
        record[group] = {
            name: {
                "sha256": fingerprint(pictures),
                "as_is": scores(pictures, min_max=False),
                "min_max": scores(pictures, min_max=True),
            }
            for name, pictures in cases
        }
    arguments.output.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
