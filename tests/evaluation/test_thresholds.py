"""A threshold is chosen where the score is highest, never on the test set unasked, and comes back from its file."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from medseg3d.cli import main
from medseg3d.errors import UserError
from medseg3d.evaluation import Evaluation
from medseg3d.evaluation.thresholds import ThresholdChoice, choose_threshold, read_threshold, write_threshold
from medseg3d.metrics import ConfusionCounts, dice


def evaluated(folder, part: str | None = "val", cases: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """An evaluation whose probabilities are all too low, and its probabilities and ground truth."""
    rng = np.random.default_rng(2)
    evaluation = Evaluation(["polyp"])
    pairs = []
    for index in range(cases):
        truth = rng.random((20, 20)) < 0.05 + 0.1 * index
        prob = (0.3 * rng.random((20, 20)) + 0.2 * truth).astype(np.float32)
        evaluation.add(str(index), (prob >= 0.5).astype(np.uint8), truth, prob=prob)
        pairs.append((prob, truth))
    context = {"split_hash": "abc", "model_sha256": "def"}
    evaluation.write(folder, context | ({} if part is None else {"part": part}))
    return pairs


def dice_at(pairs, threshold: float) -> list[ConfusionCounts]:
    return [ConfusionCounts.from_masks(prob >= np.float32(threshold), truth) for prob, truth in pairs]


def test_the_pooled_dice_is_highest_there_among_all_thresholds(tmp_path):
    pairs = evaluated(tmp_path)
    choice = choose_threshold(tmp_path)
    reached = dice(sum(dice_at(pairs, choice.threshold), ConfusionCounts()))
    assert choice.value == pytest.approx(reached)
    every = [dice(sum(dice_at(pairs, level), ConfusionCounts())) for level in np.linspace(0.001, 0.999, 999)]
    assert choice.value >= max(every)
    assert choice.value_at_half == pytest.approx(dice(sum(dice_at(pairs, 0.5), ConfusionCounts())))
    assert choice.threshold == pytest.approx(1 / (1 + np.exp(-choice.logit)))


def test_the_mean_dice_is_highest_there_among_the_99(tmp_path):
    pairs = evaluated(tmp_path)
    choice = choose_threshold(tmp_path, "dice_mean")
    means = {k / 100: np.nanmean([dice(counts) for counts in dice_at(pairs, k / 100)]) for k in range(1, 100)}
    assert choice.value == pytest.approx(max(means.values()))
    assert choice.value == pytest.approx(means[choice.threshold])


def test_of_equally_good_thresholds_the_one_nearest_to_one_half_is_taken(tmp_path):
    evaluation = Evaluation(["polyp"])
    truth = np.array([[0, 1, 1, 0]])
    evaluation.add("a", truth, truth, prob=np.array([[0.1, 0.7, 0.9, 0.305]]))
    evaluation.write(tmp_path)
    assert choose_threshold(tmp_path, "dice_mean").threshold == 0.5
    evaluation.add("b", truth, truth, prob=np.array([[0.1, 0.95, 0.9, 0.605]]))
    evaluation.write(tmp_path)
    assert choose_threshold(tmp_path, "dice_mean").threshold == 0.61


def test_the_file_says_where_the_threshold_comes_from(tmp_path):
    evaluated(tmp_path / "evaluation")
    choice = choose_threshold(tmp_path / "evaluation")
    write_threshold(tmp_path / "threshold.json", choice)
    content = json.loads((tmp_path / "threshold.json").read_text())
    assert ThresholdChoice(**content) == choice
    assert (content["part"], content["n_cases"], content["split_hash"]) == ("val", 4, "abc")
    curve = tmp_path / "evaluation/pr.npz"
    assert content["source_sha256"] == hashlib.sha256(curve.read_bytes()).hexdigest()
    assert read_threshold(tmp_path / "threshold.json") == choice.threshold


def test_the_test_part_is_refused_unless_allowed(tmp_path):
    evaluated(tmp_path, part="test")
    with pytest.raises(UserError, match=r"TEST_PART .*evaluate with --part val first"):
        choose_threshold(tmp_path)
    assert choose_threshold(tmp_path, allow_test=True).part == "test"


def test_an_evaluation_that_names_no_part_is_taken(tmp_path):
    evaluated(tmp_path, part=None)
    assert choose_threshold(tmp_path).part is None


def test_an_evaluation_of_masks_has_no_threshold(tmp_path):
    evaluation = Evaluation(["polyp"])
    evaluation.add("a", np.ones((2, 2)), np.ones((2, 2)))
    evaluation.write(tmp_path)
    for score in ("dice_pooled", "dice_mean"):
        with pytest.raises(UserError, match="SCORE_FILE"):
            choose_threshold(tmp_path, score)


def test_nothing_to_find_has_no_threshold(tmp_path):
    evaluation = Evaluation(["polyp"])
    evaluation.add("a", np.zeros((2, 2)), np.zeros((2, 2)), prob=np.zeros((2, 2)))
    evaluation.write(tmp_path)
    with pytest.raises(UserError, match="SCORE_FILE"):
        choose_threshold(tmp_path, "dice_mean")


def test_no_file_is_argmax_and_more_classes_are_refused(tmp_path):
    assert read_threshold(None) == read_threshold(None, num_classes=3) == 0.5
    with pytest.raises(UserError, match=r"THRESHOLD_CLASSES .* 3 classes"):
        read_threshold(tmp_path / "threshold.json", num_classes=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "MISSING_FILE .*threshold.json: no such file"),
        ("{half", "THRESHOLD_FILE .*no JSON"),
        ("[0.5]", "THRESHOLD_FILE .*the threshold None"),
        ('{"threshold": 1.5}', "THRESHOLD_FILE .*the threshold 1.5"),
        ('{"threshold": NaN}', "THRESHOLD_FILE .*the threshold nan"),
        ('{"threshold": true}', "THRESHOLD_FILE .*the threshold True"),
    ],
)
def test_what_is_no_threshold_is_an_error(content, message, tmp_path):
    if content is not None:
        (tmp_path / "threshold.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_threshold(tmp_path / "threshold.json")


class TestVerb:
    """`medseg3d threshold`."""

    def test_it_writes_the_file_beside_the_evaluation_and_says_how_to_use_it(self, tmp_path, capsys):
        evaluated(tmp_path)
        assert main(["threshold", str(tmp_path), "--score", "dice_mean"]) == 0
        out = capsys.readouterr().out
        assert f"--threshold_file {tmp_path / 'threshold.json'}" in out
        assert "on the validation set, 4 cases; at 0.5 it is" in out
        assert read_threshold(tmp_path / "threshold.json") == choose_threshold(tmp_path, "dice_mean").threshold

    def test_the_test_part_is_a_wrong_call(self, tmp_path, capsys):
        evaluated(tmp_path, part="test")
        assert main(["threshold", str(tmp_path), "-o", str(tmp_path / "t.json")]) == 2
        assert capsys.readouterr().err.startswith("error: TEST_PART")
        assert not (tmp_path / "t.json").exists()
        assert main(["threshold", str(tmp_path), "-o", str(tmp_path / "t.json"), "--allow-test"]) == 0
