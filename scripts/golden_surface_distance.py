"""Record what DeepMind's surface-distance says of a handful of masks: tests/metrics/golden/surface_distance.json.

Version 0.1, the one on PyPI, wants an older NumPy and SciPy than medseg3d, so it runs in an environment of its own:

    python3 -m venv golden && golden/bin/pip install "surface-distance==0.1" "numpy<2" "scipy<1.15" nibabel
    golden/bin/python scripts/golden_surface_distance.py tests/metrics/golden/surface_distance.json DATA

DATA is the folder that MEDSEG3D_DATA names for the tests: pairs of its `pancreas-masks` are measured too. Generated
masks are written into the file, real ones only named.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np
import surface_distance

TOLERANCES_MM = (0.0, 1.0, 2.0)
REAL = ("pancreas_045", "pancreas_087", "pancreas_422")


def generated() -> dict[str, tuple[np.ndarray, np.ndarray, tuple[float, ...]]]:
    """Prediction, truth and spacing by name."""
    cube = np.zeros((7, 8, 9), dtype=bool)
    cube[2:5, 2:6, 3:7] = True
    voxel = np.zeros((5, 5, 5), dtype=bool)
    voxel[2, 3, 1] = True
    corner = np.zeros((6, 6, 6), dtype=bool)
    corner[:2, :3, :] = True
    two = cube.copy()
    two[6, 7, 8] = True
    i, j, k = np.ogrid[:14, :13, :9]
    ball = ((i - 6) * 0.8) ** 2 + ((j - 6) * 0.8) ** 2 + ((k - 4) * 2.5) ** 2 < 16
    moved = ((i - 7) * 0.8) ** 2 + ((j - 5) * 0.8) ** 2 + ((k - 4) * 2.5) ** 2 < 18
    rng = np.random.default_rng(0)
    noise = rng.random((2, 6, 5, 7)) < 0.4
    square = np.zeros((9, 8), dtype=bool)
    square[2:6, 2:7] = True
    flat_noise = rng.random((2, 11, 9)) < 0.5
    return {
        "the same cube": (cube, cube, (1.0, 1.0, 1.0)),
        "a cube moved along the thick axis": (np.roll(cube, 1, 2), cube, (0.8, 0.8, 2.5)),
        "a cube moved along a thin axis": (np.roll(cube, 2, 0), cube, (0.8, 0.7, 2.5)),
        "one voxel and a cube": (np.pad(voxel, ((0, 2), (0, 3), (0, 4))), cube, (1.0, 2.0, 3.0)),
        "one voxel and its neighbour": (np.roll(voxel, 1, 1), voxel, (0.9, 1.1, 5.0)),
        "at the image's border": (np.roll(corner, 1, 1), corner, (0.8, 0.8, 2.5)),
        "the whole image": (np.ones((4, 5, 6), dtype=bool), np.ones((4, 5, 6), dtype=bool), (1.0, 1.0, 2.0)),
        "the whole image and a part": (np.ones((6, 6, 6), dtype=bool), corner, (1.5, 1.0, 0.5)),
        "a second piece far away": (two, cube, (0.8, 0.8, 2.5)),
        "balls": (moved, ball, (0.8, 0.8, 2.5)),
        "noise": (noise[0], noise[1], (0.7, 1.3, 2.1)),
        "an image": (np.roll(square, 1, 0), square, (1.0, 1.0)),
        "an anisotropic image": (np.roll(square, (1, -2), (0, 1)), square, (0.5, 2.0)),
        "noise in an image": (flat_noise[0], flat_noise[1], (0.7, 1.3)),
        "nothing and a cube": (np.zeros_like(cube), cube, (0.8, 0.8, 2.5)),
        "a cube and nothing": (cube, np.zeros_like(cube), (0.8, 0.8, 2.5)),
        "nothing and nothing": (np.zeros_like(cube), np.zeros_like(cube), (0.8, 0.8, 2.5)),
    }


def measured(pred: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> dict[str, object]:
    """All that the package computes of one pair; null for NaN and for infinite."""
    surfaces = surface_distance.compute_surface_distances(truth, pred, spacing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 0 / 0 where nothing is
        from_truth, from_pred = surface_distance.compute_average_surface_distance(surfaces)
        return {
            "hd95_mm": number(surface_distance.compute_robust_hausdorff(surfaces, 95)),
            "hd100_mm": number(surface_distance.compute_robust_hausdorff(surfaces, 100)),
            "average_from_truth_mm": number(from_truth),
            "average_from_pred_mm": number(from_pred),
            "area_truth": number(surfaces["surfel_areas_gt"].sum()),
            "area_pred": number(surfaces["surfel_areas_pred"].sum()),
            "surface_dice": {
                str(mm): number(surface_distance.compute_surface_dice_at_tolerance(surfaces, mm))
                for mm in TOLERANCES_MM
            },
        }


def number(value: float) -> float | None:
    """The value as JSON knows it."""
    return float(value) if np.isfinite(value) else None


def packed(mask: np.ndarray) -> str:
    """The bits of a mask, in C order."""
    return np.packbits(mask).tobytes().hex()


def main(target: Path, data: Path) -> None:
    """Measure everything and write the file."""
    cases: list[dict[str, object]] = []
    for name, (pred, truth, spacing) in generated().items():
        masks = {"shape": pred.shape, "pred_bits": packed(pred), "truth_bits": packed(truth)}
        cases.append({"name": name, "spacing": spacing, **masks, "expected": measured(pred, truth, spacing)})
    real: list[dict[str, object]] = []
    for case in REAL:
        files = {"pred": f"pancreas-masks/pred_CE/{case}.nii.gz", "truth": f"pancreas-masks/gt/{case}.nii.gz"}
        images = {name: nibabel.load(data / file) for name, file in files.items()}
        spacing = tuple(float(mm) for mm in images["truth"].header.get_zooms())
        pred, truth = (np.asarray(images[name].dataobj) > 0 for name in ("pred", "truth"))
        real.append({"name": case, "spacing": spacing, **files, "expected": measured(pred, truth, spacing)})
    versions = {package: version(package) for package in ("surface-distance", "numpy", "scipy")}
    golden = {"made_by": "scripts/golden_surface_distance.py", "versions": versions, "generated": cases, "real": real}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
