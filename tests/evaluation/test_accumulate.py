"""Every convention by hand or by another library, side by side, and the files that hold them."""

from __future__ import annotations

import csv
import math
import re

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric
from sklearn import metrics as sk

from medseg3d import metrics
from medseg3d.errors import UserError
from medseg3d.evaluation import Evaluation, Summary
from medseg3d.evaluation.accumulate import THRESHOLDS
from medseg3d.evaluation.files import (
    GROUPS_CSV,
    SCORES_CSV,
    SLICES_CSV,
    THRESHOLDS_CSV,
    read_curve,
    read_files,
    read_summary,
    score_rows,
)
from medseg3d.evaluation.wording import WORDS, convention
from medseg3d.metrics import ConfusionCounts

SPACING = np.diag([2.0, 2.0, 5.0, 1.0])


def line(*voxels: int, n: int = 8) -> np.ndarray:
    """An image of one row."""
    picture = np.zeros((1, n), np.uint8)
    picture[0, list(voxels)] = 1
    return picture


def three_pictures() -> Evaluation:
    evaluation = Evaluation(["polyp"])
    evaluation.add("a", line(0, 1), line(0, 1), group="p1")  # tp 2
    evaluation.add("b", line(1, 2), line(0, 1), group="p1")  # tp 1, fp 1, fn 1
    evaluation.add("c", line(), line(0, 1, 2, 3), group="p2")  # fn 4: missed
    return evaluation


def soft_cases(seed: int = 0, cases: int = 5, shape=(12, 13)) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, probability, truth); the probability knows something of the ground truth."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(cases):
        truth = (rng.random(shape) < 0.1 + 0.1 * index).astype(np.uint8)
        prob = np.clip(0.6 * rng.random(shape) + 0.4 * truth, 0, 1).astype(np.float32)
        found.append((f"case_{index}", prob, truth))
    return found


def of_soft(cases, **options) -> Evaluation:
    evaluation = Evaluation(["polyp"], **options)
    for case, prob, truth in cases:
        evaluation.add(case, (prob >= 0.5).astype(np.uint8), truth, prob=prob)
    return evaluation


def value(summary: Summary, score: str, over: str = "cases", name: str = "polyp", size: str = "") -> float:
    return summary.find(name, score, over, size).value


def taken(summary: Summary, score: str, over: str = "cases") -> str:
    return convention(summary.find("polyp", score, over), summary.settings)


class TestConventions:
    """The same three images, and a number for each way of taking it."""

    @pytest.mark.parametrize(
        ("way", "expected"),
        [
            (("dice", "cases"), (1 + 1 / 2 + 0) / 3),
            (("dice", "pooled"), 6 / (6 + 1 + 5)),
            (("dice", "groups"), (6 / 8 + 0) / 2),  # p1: tp 3, fp 1, fn 1
            (("recall", "cases"), (1 + 1 / 2 + 0) / 3),
            (("precision", "cases"), (1 + 1 / 2) / 2),  # the missed one has no precision
            (("dice_background", "pooled"), 2 * 15 / (2 * 15 + 6)),
            (("mdice", "two_classes"), (6 / 12 + 30 / 36) / 2),
            (("aacc", "two_classes"), 18 / 24),
            (("mse", "cases"), (0 + 2 / 8 + 4 / 8) / 3),  # a mask's error is the share of wrong pixels
        ],
    )
    def test_by_hand(self, way, expected):
        assert value(three_pictures().summary(), *way) == pytest.approx(expected)

    def test_what_was_left_out_and_missed_is_counted(self):
        summary = three_pictures().summary()
        whole = summary.cases[0]
        assert (whole.n, whole.missed, whole.empty_pred, whole.empty_truth) == (3, 1, 1, 0)
        precision = summary.find("polyp", "precision")
        assert (precision.n, precision.left_out) == (2, 1)

    def test_the_spread_is_that_of_a_sample(self):
        assert three_pictures().summary().find("polyp", "dice").sd == 0.5  # of 1, 1/2 and 0

    def test_a_mask_is_no_probability_and_that_is_said(self):
        summary = three_pictures().summary()
        assert "masks, for which it is the error rate" in taken(summary, "mse")
        assert summary.pick(score="average_precision") == []
        assert "from probabilities" in taken(of_soft(soft_cases()).summary(), "mse")

    def test_the_grid_is_in_every_record_and_the_words_of_it(self):
        summary = of_soft(soft_cases(), grid="original grid", saliency=True).summary()
        assert {score.grid for score in summary.scores} == {"original grid"}
        assert {convention(score, summary.settings)[-22:] for score in summary.scores} == {"; on the original grid"}

    def test_every_score_has_words_and_every_word_a_score(self):
        cube = np.ones((2, 2, 2), np.uint8)
        volumes = Evaluation(["polyp"], surface=True)
        volumes.add("a", cube, cube, affine=SPACING)
        pictures = of_soft(soft_cases(), saliency=True)
        assert {score.score for each in (volumes, pictures) for score in each.summary().scores} == set(WORDS)

    def test_intervals_hold_the_value_and_are_the_same_again(self):
        one, two = (of_soft(soft_cases()).summary() for _ in range(2))
        assert one == two
        scores = [one.find("polyp", *way) for way in (("dice", "cases"), ("dice", "pooled"), ("mse", "cases"))]
        assert [score.low <= score.value <= score.high for score in scores] == [True] * 3
        assert one.intervals["resampled"] == "cases"

    def test_groups_are_drawn_whole_and_one_group_has_no_interval(self):
        evaluation = Evaluation(["polyp"])
        for case, prob, truth in soft_cases():
            evaluation.add(case, (prob > 0.5).astype(np.uint8), truth, group="one patient")
        summary = evaluation.summary()
        assert summary.intervals["resampled"] == "groups"
        assert summary.find("polyp", "dice").interval is None

    def test_strata_part_the_cases_by_size(self):
        evaluation = Evaluation(["polyp"], edges=(20, 40))
        for case, n in (("tiny", 1), ("half", 4), ("empty", 0), ("quarter", 2)):
            evaluation.add(case, line(0), line(*range(n)))
        summary = evaluation.summary()
        assert summary.size_edges("polyp") == (20, 40)
        assert (summary.settings.size_unit, summary.settings.size_edges_given) == ("percent", True)
        assert {each.size: each.n for each in summary.cases} == {"": 4, "small": 1, "medium": 1, "large": 1}
        assert value(summary, "dice", size="small") == 1
        assert value(summary, "dice", size="large") == pytest.approx(2 / 5)

    def test_each_of_several_data_sets_has_its_scores(self, tmp_path):
        evaluation = Evaluation(["polyp"])
        for case, n in (("kvasir/a", 1), ("kvasir/b", 4), ("clinic/c", 2)):
            evaluation.add(case, line(0), line(*range(n)), data_set=case.split("/")[0])
        summary = evaluation.write(tmp_path)
        counts = {each.data_set: each.n for each in summary.cases if each.data_set}
        assert counts == {"kvasir": 2, "clinic": 1}
        (kvasir,) = summary.pick(data_set="kvasir", score="dice", over="cases")
        (clinic,) = summary.pick(data_set="clinic", score="dice", over="pooled")
        assert (kvasir.value, clinic.value) == pytest.approx(((1 + 2 / 5) / 2, 2 / 3))
        page = (tmp_path / "summary.md").read_text(encoding="utf-8")
        assert "| score | over | kvasir (2 cases) | clinic (1 cases) |" in page
        assert re.search(r"\| dice \| cases \| 0\.7000 .*\| 0\.6667 \|", page)

    def test_cases_of_one_data_set_have_no_scores_by_data_set(self):
        assert {score.data_set for score in of_soft(soft_cases()).summary().scores} == {""}


class TestJudges:
    """Other libraries on the same masks."""

    def test_dice_of_volumes_is_monais(self):
        rng = np.random.default_rng(1)
        pairs = [rng.random((2, 6, 7, 8)) < 0.3 for _ in range(4)]
        evaluation = Evaluation(["pancreas"])
        judge = DiceMetric(reduction="mean")
        for index, (pred, truth) in enumerate(pairs):
            evaluation.add(str(index), pred, truth, affine=SPACING)
            judge(torch.tensor(pred[None, None]).float(), torch.tensor(truth[None, None]).float())
        assert value(evaluation.summary(), "dice", name="pancreas") == pytest.approx(judge.aggregate().item())

    def test_average_precision_and_errors_are_scikit_learns(self):
        cases = soft_cases()
        summary = of_soft(cases).summary()
        truth, prob = (np.concatenate([case[index].ravel() for case in cases]) for index in (2, 1))
        pooled = sk.average_precision_score(truth, prob)
        assert value(summary, "average_precision", "pooled") == pytest.approx(pooled, abs=1e-3)
        each = [sk.average_precision_score(truth.ravel(), prob.ravel()) for _, prob, truth in cases]
        assert value(summary, "average_precision") == pytest.approx(np.mean(each), abs=1e-3)
        # equally large images: the mean of means is the mean
        assert value(summary, "mse") == pytest.approx(sk.mean_squared_error(truth, prob))
        assert value(summary, "mae") == pytest.approx(sk.mean_absolute_error(truth, prob))
        assert value(summary, "precision", "pooled") == pytest.approx(sk.precision_score(truth, prob >= 0.5))

    def test_the_table_of_thresholds_is_scikit_learns(self, tmp_path):
        cases = soft_cases()
        of_soft(cases).write(tmp_path)
        rows = THRESHOLDS_CSV.read(tmp_path / "thresholds.csv")
        assert [row["threshold"] for row in rows] == [k / 100 for k in range(1, 100)] == THRESHOLDS.tolist()
        assert {row["n_cases"] for row in rows} == {5}
        dice_mean, recall_pooled = [], []
        for row in rows[4:95:15]:
            masks = [(truth.ravel(), (prob >= np.float32(row["threshold"])).ravel()) for _, prob, truth in cases]
            dice_mean.append(np.mean([sk.f1_score(*mask) for mask in masks]))
            recall_pooled.append(sk.recall_score(*(np.concatenate(side) for side in zip(*masks, strict=True))))
        assert [row["dice_mean"] for row in rows[4:95:15]] == pytest.approx(dice_mean)
        assert [row["recall_pooled"] for row in rows[4:95:15]] == pytest.approx(recall_pooled)

    def test_a_case_without_an_answer_is_left_out_at_that_threshold(self, tmp_path):
        evaluation = Evaluation(["polyp"])
        evaluation.add("empty", line(), line(), prob=np.full((1, 8), 0.3, np.float32))
        evaluation.add("there", line(0), line(0), prob=line(0).astype(np.float32))
        evaluation.write(tmp_path)
        rows = THRESHOLDS_CSV.read(tmp_path / "thresholds.csv")
        assert rows[19]["dice_mean"] == pytest.approx(0.5)  # 0.2: false alarms in the empty one count
        assert rows[49]["dice_mean"] == 1  # 0.5: nothing there, nothing found


class TestPictures:
    """PraNet's scores of images."""

    def test_of_a_set_they_are_those_of_its_metrics(self):
        cases = soft_cases()
        summary = of_soft(cases, saliency=True).summary()
        levels = [metrics.LevelCounts.from_map(metrics.grey_levels(prob), truth) for _, prob, truth in cases]
        expected = metrics.pranet_scores(*levels)
        assert value(summary, "dice_pranet256") == pytest.approx(expected["dice_pranet256"])
        assert value(summary, "e_measure_mean") == pytest.approx(expected["e_measure_mean"])
        assert value(summary, "max_dice_pranet256", "levels") == pytest.approx(expected["max_dice_pranet256"])
        s = np.mean([metrics.s_measure(prob, truth) for _, prob, truth in cases])
        assert value(summary, "s_measure") == pytest.approx(s)
        assert "no min-max" in taken(summary, "dice_pranet256")

    def test_of_a_mask_every_level_but_the_first_is_the_mask(self):
        evaluation = Evaluation(["polyp"], saliency=True)
        evaluation.add("a", line(1, 2), line(0, 1))
        summary = evaluation.summary()
        assert value(summary, "dice_pranet256") == pytest.approx((255 * 0.5 + 2 * 2 / (2 + 8)) / 256)
        assert "masks as maps of 0 and 255" in taken(summary, "dice_pranet256")

    def test_min_max_is_asked_for_and_named(self):
        faint = [("faint", 0.1 * line(0, 1).astype(np.float32), line(0, 1))]
        plain, stretched = (of_soft(faint, saliency=True, pranet_min_max=flag).summary() for flag in (False, True))
        assert value(plain, "dice_pranet256") < 0.5 < value(stretched, "dice_pranet256")
        ways = [("dice_pranet256", "cases"), ("weighted_f", "cases"), ("max_dice_pranet256", "levels")]
        assert ["pranet-compat" in taken(stretched, *way) for way in ways] == [True] * 3
        assert ["pranet-compat" in taken(plain, *way) for way in ways] == [False] * 3
        assert value(plain, "mse") == value(stretched, "mse")

    def test_pictures_have_no_volume(self):
        (row,) = score_rows(of_soft(soft_cases(cases=1)).cases)
        assert math.isnan(row["truth_ml"])


class TestVolumes:
    """Distances and slices."""

    def test_the_volume_of_an_oblique_scan_is_that_of_its_voxels(self):
        turn = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        truth = np.zeros((4, 4, 4), np.uint8)
        truth[1:3, 1:3, 1:3] = 1
        evaluation = Evaluation(["pancreas"])
        evaluation.add("a", truth, truth, affine=turn @ SPACING)
        assert score_rows(evaluation.cases)[0]["truth_ml"] == pytest.approx(8 * 0.02)

    def volumes(self) -> Evaluation:
        evaluation = Evaluation(["pancreas"], surface=True, surface_tolerance_mm=1.0, slice_axis="axial")
        cube = np.zeros((9, 9, 4), np.uint8)
        cube[2:6, 2:6, 1:3] = 1
        evaluation.add("shifted", np.roll(cube, 1, axis=0), cube, affine=SPACING)
        evaluation.add("missed", np.zeros_like(cube), cube, affine=SPACING)
        for case in ("nothing there", "nor there"):
            evaluation.add(case, np.zeros_like(cube), np.zeros_like(cube), affine=SPACING)
        return evaluation

    def test_a_missed_case_counts_in_every_distance(self):
        summary = self.volumes().summary()
        diagonal = math.hypot(18, 18, 20)
        assert value(summary, "hd95_mm", name="pancreas") == pytest.approx((2 + diagonal) / 2)
        scores = [summary.find("pancreas", score) for score in ("hd95_mm", "mean_surface_distance_mm", "surface_dice")]
        assert [(score.n, score.left_out, score.missed) for score in scores] == [(2, 2, 1)] * 3
        assert "within 1 mm" in convention(scores[-1], summary.settings)

    def test_distances_of_a_class_are_of_that_class_alone(self):
        truth = np.zeros((12, 6, 6), np.uint8)
        truth[2:5, 1:5, 1:5], truth[5:8, 1:5, 1:5] = 1, 2
        pred = np.where(truth == 2, 0, truth)
        pred[6:9, 1:5, 1:5] = 2
        evaluation = Evaluation(["pancreas", "tumour"], surface=True)
        evaluation.add("a", pred, truth, affine=SPACING)
        summary = evaluation.summary()
        assert value(summary, "hd95_mm", name="pancreas") == 0
        assert value(summary, "hd95_mm", name="tumour") == 2
        assert 0 < value(summary, "mean_surface_distance_mm", name="foreground") < 2

    def test_slices_are_scored_one_by_one(self):
        evaluation = self.volumes()
        score = evaluation.summary().find("pancreas", "dice", "slices")
        # two slices at 24 / 32 in "shifted", two missed ones; empty slices are left out
        assert (score.value, score.n, score.left_out) == (pytest.approx((2 * 24 / 32 + 0) / 4), 4, 12)

    def test_slices_add_up_to_their_volume(self, tmp_path):
        evaluation = self.volumes()
        evaluation.write(tmp_path)
        rows = [row for row in SLICES_CSV.read(tmp_path / "slices.csv") if row["case"] == "shifted"]
        assert [row["slice"] for row in rows] == [0, 1, 2, 3]
        total = sum((ConfusionCounts(*(row[k] for k in ("tp", "fp", "fn", "tn"))) for row in rows), ConfusionCounts())
        assert total == evaluation.cases["shifted"].counts["pancreas"]

    def test_axial_is_the_axis_of_the_body(self):
        truth = np.zeros((3, 4, 5), np.uint8)
        truth[1] = 1
        sagittal_first = np.eye(4)[[1, 2, 0, 3]]  # the first axis of the array is feet-head
        evaluation = Evaluation(["pancreas"], slice_axis="axial")
        evaluation.add("a", truth, truth, affine=sagittal_first)
        assert evaluation.summary().find("pancreas", "dice", "slices").n == 1

    def test_size_is_in_millilitres(self):
        summary = self.volumes().summary()
        assert summary.settings.size_unit == "ml"
        assert summary.size_edges("pancreas") == pytest.approx((0.64, 32 * 20 / 1000))


def test_several_classes_are_scored_alone_and_together():
    rng = np.random.default_rng(0)
    truth, pred = (rng.integers(0, 3, (5, 6, 7)) for _ in range(2))
    prob = rng.random(truth.shape)
    evaluation = Evaluation(["pancreas", "tumour"])
    evaluation.add("a", pred, truth, prob=prob)
    summary = evaluation.summary()
    assert summary.classes == ["pancreas", "tumour", "foreground"]
    judged = sk.f1_score((truth == 2).ravel(), (pred == 2).ravel())
    assert value(summary, "dice", name="tumour") == pytest.approx(judged)
    judged = sk.f1_score((truth > 0).ravel(), (pred > 0).ravel())
    assert value(summary, "dice", name="foreground") == pytest.approx(judged)
    # what is taken from the probability of foreground belongs to the foreground
    assert value(summary, "mse", name="foreground") == pytest.approx(np.mean((prob - (truth > 0)) ** 2))
    assert {score.class_name for score in summary.pick(score="mse")} == {"foreground"}
    assert math.isnan(score_rows(evaluation.cases)[1]["mse"])


class TestFiles:
    """What `write` leaves in the folder."""

    def test_all_files_come_back(self, tmp_path):
        evaluation = Evaluation(["polyp"], saliency=True)
        for index, (case, prob, truth) in enumerate(soft_cases()):
            files = {"truth": tmp_path / f"{case}.png", "pred": f"out/{case}.png"}
            pred = (prob >= 0.5).astype(np.uint8)
            evaluation.add(case, pred, truth, prob=prob, group=f"p{index // 2}", files=files, warnings=["odd"])
        context = {"part": "val", "seed": np.int64(3), "warnings": ["something else"]}
        written = evaluation.write(tmp_path / "out", context)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            *("files.json", "groups.csv", "pr.npz", "scores.csv", "summary.json", "summary.md", "thresholds.csv")
        ]
        rows = SCORES_CSV.read(tmp_path / "out/scores.csv")
        assert len(rows) == 5
        np.testing.assert_equal(rows, score_rows(evaluation.cases))  # to which NaN is NaN
        assert {"group", "mse", "average_precision", "dice_pranet256", "weighted_f", "s_measure"} <= set(rows[0])
        summary = read_summary(tmp_path / "out/summary.json")
        assert summary == written
        assert (summary.context["part"], summary.context["seed"]) == ("val", 3)
        assert summary.warnings[:2] == ["something else", "case_0: odd"]
        assert [(row["group"], row["n_cases"]) for row in GROUPS_CSV.read(tmp_path / "out/groups.csv")] == [
            *(("p0", 2), ("p1", 2), ("p2", 1))
        ]
        assert read_curve(tmp_path / "out/pr.npz") == evaluation.curve
        assert read_files(tmp_path / "out/files.json")["case_1"]["pred"] == "out/case_1.png"
        page = (tmp_path / "out/summary.md").read_text()
        words = ("| dice | cases |", "mean over cases", "[0.", "small: below", "something else", "not for clinical use")
        assert [word for word in words if word not in page] == []

    def test_what_an_earlier_evaluation_left_goes(self, tmp_path):
        of_soft(soft_cases()).write(tmp_path)
        assert (tmp_path / "pr.npz").exists()
        three_pictures().write(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            *("files.json", "groups.csv", "scores.csv", "summary.json", "summary.md")
        ]

    @pytest.mark.parametrize("writer", ["CsvTable.write", "write_curve", "write_json"])
    def test_all_files_or_none(self, writer, tmp_path, monkeypatch):
        of_soft(soft_cases()).write(tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(f"medseg3d.evaluation.files.{writer}", full)
        with pytest.raises(UserError, match="NO_SPACE"):
            of_soft(soft_cases(1)).write(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_no_cases_are_no_evaluation(self, tmp_path):
        with pytest.raises(ValueError, match="at least one case"):
            Evaluation(["polyp"]).write(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_the_first_columns_are_those_of_every_scores_csv(self, tmp_path):
        three_pictures().write(tmp_path)
        with open(tmp_path / "scores.csv", newline="") as file:
            header = next(csv.reader(file))
        assert header[:4] == ["case", "class", "dice", "iou"]
        assert header[13:] == ["pred_ml", "mse", "mae", "group"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"pred": np.zeros((1, 9))}, r"b: pred \(1, 9\) and ground truth \(1, 8\) are on different grids"),
        ({"pred": 2 * line(0)}, r"pred must hold labels 0\.\.1 only, found also 2"),
        ({"prob": 2.0 * line(0)}, r"prob must lie in \[0, 1\]"),
        ({"prob": np.zeros((1, 9))}, "must have the same shape"),
        ({"case": "a"}, "each case must be added once, found a twice"),
        ({"group": "p1"}, "either every case has a group or none has"),
        (
            {"pred": np.zeros((1, 8, 1)), "truth": np.zeros((1, 8, 1))},
            "2-D images and volumes cannot be evaluated together",
        ),
    ],
)
def test_a_refused_case_leaves_no_trace(words, message):
    evaluation = Evaluation(["polyp"], saliency=True)
    evaluation.add("a", line(0), line(0), prob=line(0).astype(np.float32))
    before = evaluation.summary()
    with pytest.raises(ValueError, match=message):
        evaluation.add(**{"case": "b", "pred": line(0), "truth": line(0), **words})
    assert evaluation.summary() == before


def test_wrong_settings_are_refused_before_any_case():
    with pytest.raises(ValueError, match="different names other than foreground"):
        Evaluation(["foreground", "tumour"])
    with pytest.raises(ValueError, match="class_names must be different"):
        Evaluation(["a", "a"])
    with pytest.raises(ValueError, match="slice_axis"):
        Evaluation(["a"], slice_axis="coronal")
    with pytest.raises(ValueError, match="edges must be two"):
        Evaluation(["a"], edges=(3, 2))
    with pytest.raises(ValueError, match="distances need the affine"):
        Evaluation(["a"], surface=True).add("a", np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))
