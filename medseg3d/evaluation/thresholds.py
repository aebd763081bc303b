"""The probability from which a voxel counts as foreground: chosen on an evaluation, kept in a small file, used again.

A threshold chosen on the cases it is then tested on is a fitted number, not a measured one: choose it on the validation
part.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from medseg3d.errors import UsageError, UserError
from medseg3d.evaluation.files import THRESHOLDS_CSV, read_curve, read_summary
from medseg3d.files.plain import write_json
from medseg3d.files.stream import check_regular, file_sha256
from medseg3d.metrics import dice

SCORES = ("dice_pooled", "dice_mean")
"""What a threshold can be chosen for."""


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold and where it comes from.

    Attributes:
        threshold: probability, 0 to 1; foreground is `prob >= threshold`.
        logit: its logit.
        score: what is highest there: Dice of the counts of all cases pooled, over all thresholds (`dice_pooled`), or
            its mean over cases, over the 99 thresholds 0.01 to 0.99 (`dice_mean`).
        value: the score there.
        value_at_half: the score at 0.5.
        part: the part of the split it was chosen on; None if the evaluation does not say.
        n_cases: of the evaluation, those with a probability.
        source: the file it was read from.
        source_sha256: of that file.
        split_hash: of the split; None if the evaluation does not say.
        model_sha256: of the weights; None if the evaluation does not say.
    """

    threshold: float
    logit: float
    score: str
    value: float
    value_at_half: float
    part: str | None
    n_cases: int
    source: str
    source_sha256: str
    split_hash: str | None = None
    model_sha256: str | None = None


def choose_threshold(
    evaluation_dir: str | Path, score: str = "dice_pooled", allow_test: bool = False
) -> ThresholdChoice:
    """The threshold at which a score of an evaluation is highest; of several, the one nearest to 0.5.

    Args:
        evaluation_dir: folder of an evaluation that had probabilities.
        score: `dice_pooled`, over all thresholds of pr.npz; or `dice_mean`, over the 99 of thresholds.csv.
        allow_test: whether the part named test may be used too.

    Raises:
        UserError: TEST_PART if the evaluation is of the test set and that is not allowed; SCORE_FILE if a file is
            absent or damaged, or if no threshold has a score.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, found {score!r}")
    folder = Path(evaluation_dir)
    summary = read_summary(folder / "summary.json")
    part = summary.context.get("part")
    if part == "test" and not allow_test:
        raise UsageError(
            "TEST_PART",
            folder,
            "an evaluation of the test set",
            "one of the validation set, because a threshold chosen on the test cases is fitted to them",
            "evaluate with --part val first; use --allow-test only if you will not report its scores as test results",
        )
    source = folder / ("pr.npz" if score == "dice_pooled" else "thresholds.csv")
    best = _best_pooled(source) if score == "dice_pooled" else _best_mean(source)
    return ThresholdChoice(
        **best,
        score=score,
        part=part,
        n_cases=summary.settings.n_probabilities,
        source=str(source),
        source_sha256=file_sha256(source),
        split_hash=summary.context.get("split_hash"),
        model_sha256=summary.context.get("model_sha256"),
    )


def write_threshold(path: str | Path, choice: ThresholdChoice) -> None:
    """Write a chosen threshold as JSON, whole or not at all.

    Raises:
        UserError: NO_SPACE or NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "threshold.json"
        >>> write_threshold(path, ThresholdChoice(0.4, -0.41, "dice_pooled", 0.8, 0.7, "val", 2, "pr.npz", "ab"))
        >>> read_threshold(path)
        0.4
    """
    write_json(path, asdict(choice))


def read_threshold(path: str | Path | None, num_classes: int = 2) -> float:
    """The threshold in a file that `write_threshold` made; 0.5, the argmax of two classes, where there is no file.

    Args:
        path: the file, or None.
        num_classes: of the network, the background included.

    Raises:
        UserError: THRESHOLD_CLASSES if there is a file and more than two classes, of which a threshold cannot choose;
            MISSING_FILE; THRESHOLD_FILE if it holds no threshold.

    Example:
        >>> read_threshold(None)
        0.5
    """
    if path is None:
        return 0.5
    if num_classes > 2:
        raise UsageError(
            "THRESHOLD_CLASSES",
            path,
            f"a threshold for a network with {num_classes} classes",
            "two classes, background and foreground",
            "leave --threshold_file out: each voxel gets its most probable class",
        )
    try:
        check_regular(path, "a threshold")
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(
            "MISSING_FILE",
            path,
            (error.strerror or str(error)).lower(),
            "a threshold file",
            "medseg3d threshold EVALUATION_DIR writes one",
        ) from error
    except ValueError as error:
        raise _error(path, f"no JSON ({error})") from error
    threshold = content.get("threshold") if isinstance(content, Mapping) else None
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise _error(path, f"the threshold {threshold!r}")
    return float(threshold)


def _best_pooled(source: Path) -> dict[str, float]:
    curve = read_curve(source)
    try:
        best = curve.best_threshold("dice")
    except ValueError as error:
        raise _nothing_to_find(source, str(error)) from error
    at_half = dice(curve.counts_at(0.5))
    return {"threshold": best.threshold, "logit": best.logit, "value": best.value, "value_at_half": at_half}


def _best_mean(source: Path) -> dict[str, float]:
    rows = [row for row in THRESHOLDS_CSV.read(source) if not math.isnan(row["dice_mean"])]
    if not rows:
        raise _nothing_to_find(source, "no threshold with a Dice")
    best = max(rows, key=lambda row: (row["dice_mean"], -abs(row["threshold"] - 0.5)))
    half = next(row for row in rows if row["threshold"] == 0.5)
    threshold = best["threshold"]
    logit = math.log(threshold / (1 - threshold))
    value, at_half = best["dice_mean"], half["dice_mean"]
    return {"threshold": threshold, "logit": logit, "value": value, "value_at_half": at_half}


def _nothing_to_find(source: Path, found: str) -> UserError:
    return UserError("SCORE_FILE", source, found, "foreground in the ground truth", "evaluate cases with foreground")


def _error(path: str | Path, found: str) -> UserError:
    return UserError(
        "THRESHOLD_FILE", path, found, "a threshold from 0 to 1", "medseg3d threshold EVALUATION_DIR writes one"
    )
