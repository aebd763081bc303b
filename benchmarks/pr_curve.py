"""BinnedPRCurve against scikit-learn's sort and a loop over 1000 thresholds: time, memory and error of the average
precision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from harness import Arm, Report, argument_parser, run_benchmark
from sklearn.metrics import average_precision_score

from medseg3d.metrics import BinnedPRCurve

OURS = "BinnedPRCurve"
SORTED = "scikit-learn"
LOOP = "1000 thresholds"
VOLUME = 10**7  # voxels
SATURATED = "saturated"
LARGEST = "10⁸"
CASES = {"10⁶": (10**6, 1, False), "10⁷": (VOLUME, 1, False), f"10⁷ {SATURATED}": (VOLUME, 1, True)}
MAX_SECONDS, MAX_MIB, MAX_ERROR = 1.0, 0.1 * 1024, 1e-4  # the targets for 10⁸ voxels


def make_scores(voxels: int, saturated: bool) -> tuple[np.ndarray, np.ndarray]:
    """Foreground logits (float32) and ground truth (uint8) as of a trained network: 2 % foreground, AP about 0.8."""
    rng = np.random.default_rng(0)
    truth = (rng.random(voxels, dtype=np.float32) < 0.02).astype(np.uint8)
    logits = rng.standard_normal(voxels, dtype=np.float32)
    if saturated:  # a softmax in float32 is exactly 1 above 17
        logits *= 6
        logits += np.where(truth, np.float32(20), np.float32(0))
    else:
        logits *= 2
        logits += np.where(truth, np.float32(2), np.float32(-5))
    return logits, truth


def as_prob(logits: np.ndarray) -> np.ndarray:
    """The float32 probability that a network's sigmoid or softmax gives."""
    return np.float32(1) / (np.float32(1) + np.exp(-logits))


def histogram_call(voxels: int, volumes: int, saturated: bool) -> Callable[[], dict[str, float]]:
    """What BinnedPRCurve does of the logits; the exact AP, by a sort of the logits as float64, is not measured."""
    logits, truth = make_scores(voxels, saturated)
    exact = average_precision_score(truth, logits.astype(np.float64))

    def call() -> dict[str, float]:
        curve = BinnedPRCurve()
        for _ in range(volumes):  # the same volume again and again has the AP of one
            curve.update(logits, truth)
        low, high = curve.average_precision_bounds()
        return {"ap": curve.average_precision(), "exact": exact, "width": high - low}

    return call


def sort_call(voxels: int, saturated: bool) -> Callable[[], dict[str, float]]:
    """What scikit-learn does of the probabilities."""
    logits, truth = make_scores(voxels, saturated)
    prob = as_prob(logits)
    return lambda: {"ap": float(average_precision_score(truth, prob))}


def loop_call(voxels: int, saturated: bool) -> Callable[[], dict[str, float]]:
    """What a loop over thresholds from 0 to 1 does of the probabilities, as it is usually written."""
    logits, truth = make_scores(voxels, saturated)
    prob = as_prob(logits)
    truth = truth.astype(bool)
    return lambda: {"ap": loop_over_thresholds(prob, truth, thresholds=1000)}


def loop_over_thresholds(prob: np.ndarray, truth: np.ndarray, thresholds: int) -> float:
    """The sum of precision times gain in recall over evenly spaced thresholds, highest first."""
    foreground = np.count_nonzero(truth)
    ap = found_before = 0.0
    for threshold in np.linspace(1, 0, thresholds, dtype=np.float32):
        pred = prob >= threshold
        found, predicted = np.count_nonzero(pred & truth), np.count_nonzero(pred)
        if predicted:
            ap += (found - found_before) / foreground * found / predicted
        found_before = found
    return float(ap)


def compare(ours: dict[str, float], own: dict[str, float]) -> dict[str, float]:
    """How far an arm's AP is from the exact one, and how far BinnedPRCurve's own bounds are apart."""
    columns = {"AP": own["ap"], "error of AP": own["ap"] - ours["exact"]}
    return columns | ({"gap of its bounds": own["width"]} if "width" in own else {})


def verdict(report: Report) -> str:
    """The targets for 10⁸ voxels, each with what was reached."""
    (row,) = (row for row in report.rows if row.case == LARGEST)
    worst = max(abs(row.comparison["error of AP"]) for row in report.rows if row.arm == OURS)
    reached = {
        f"{row.median_s:.2f} s wall time and {row.median_cpu_s:.2f} s CPU time, "
        f"target at most {MAX_SECONDS} s": row.median_s <= MAX_SECONDS,
        f"{row.peak_extra_mib:.1f} MiB extra, target at most {MAX_MIB:.0f}": row.peak_extra_mib <= MAX_MIB,
        f"largest error of AP in any case {worst:.1e}, target at most {MAX_ERROR}": worst <= MAX_ERROR,
    }
    return f"Targets for {OURS} at {LARGEST}: " + "; ".join(
        f"{text}: **{'met' if met else 'missed'}**" for text, met in reached.items()
    )


def main() -> None:
    """Run the benchmark from the command line."""
    arguments = argument_parser(__doc__).parse_args()
    arms = [
        arm
        for case, (voxels, volumes, saturated) in CASES.items()
        for arm in (
            Arm(OURS, partial(histogram_call, voxels, volumes, saturated), case),
            Arm(SORTED, partial(sort_call, voxels, saturated), case),
            Arm(LOOP, partial(loop_call, voxels, saturated), case),
        )
    ]
    arms.append(Arm(OURS, partial(histogram_call, VOLUME, 10, False), LARGEST))
    report = run_benchmark(
        "Precision-recall curve and average precision",
        arms,
        baseline=OURS,
        compare=compare,
        repeats=arguments.repeats,
        threads=arguments.threads,
        description=(
            "Generated scores of voxels, 2 % foreground, in memory. BinnedPRCurve gets float32 logits, the others "
            "float32 probabilities, as they would be used; 10⁸ voxels are one volume of 10⁷ passed ten times. "
            "*error of AP*: compared with scikit-learn's sort of the logits in float64. "
            f"*{SATURATED}*: most foreground logits are above 17, where the float32 probability is exactly 1. "
            "The machine was shared with other jobs: trust the ratios and the CPU time."
        ),
    )
    report.description += "\n\n" + verdict(report)
    print(verdict(report))
    if arguments.output is not None:
        report.save(Path(arguments.output))


if __name__ == "__main__":
    main()
