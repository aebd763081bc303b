"""Every convention by hand or by another library, side by side, and the files that hold them."""

from __future__ import annotations

import csv
import json
import math
import re

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric
from sklearn import metrics as sk

from medseg3d import metrics
from medseg3d.data.score_files import (
    read_curve,
    read_files,
    read_groups,
    read_scores,
    read_slices,
    read_summary,
    read_thresholds,
)
from medseg3d.evaluation import THRESHOLDS, Evaluation
from medseg3d.faults import Fault
from medseg3d.metrics import ConfusionCounts

SPACING = np.diag([2.0, 2.0, 5.0, 1.0])


def line(*voxels: int, n: int = 8) -> np.ndarray:
    """A picture of one row."""
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
    """(name, probability, truth); the probability knows something of the truth."""
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


def value(scores: dict, key: str) -> float:
    assert scores[key]["convention"]
    return scores[key]["value"]


class TestConventions:
    """The same three pictures, and a number for each way of taking it."""

    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            ("dice_mean", (1 + 1 / 2 + 0) / 3),
            ("dice_pooled", 6 / (6 + 1 + 5)),
            ("dice_group_mean", (6 / 8 + 0) / 2),  # p1: tp 3, fp 1, fn 1
            ("recall_mean", (1 + 1 / 2 + 0) / 3),
            ("precision_mean", (1 + 1 / 2) / 2),  # the missed one has no precision
            ("dice_background_pooled", 2 * 15 / (2 * 15 + 6)),
            ("mdice_mmseg", (6 / 12 + 30 / 36) / 2),
            ("aacc_mmseg", 18 / 24),
            ("mse_mean", (0 + 2 / 8 + 4 / 8) / 3),  # a mask's error is the share of wrong pixels
        ],
    )
    def test_by_hand(self, key, expected):
        assert value(three_pictures().summary()["scores"]["polyp"], key) == pytest.approx(expected)

    def test_what_was_left_out_and_missed_is_counted(self):
        scores = three_pictures().summary()["scores"]["polyp"]
        assert (scores["n_cases"], scores["n_missed"], scores["n_empty_pred"]) == (3, 1, 1)
        assert (scores["precision_mean"]["n"], scores["precision_mean"]["n_nan"]) == (2, 1)

    def test_a_mask_is_no_probability_and_that_is_said(self):
        scores = three_pictures().summary()["scores"]
        assert "masks, where it is the error rate" in scores["polyp"]["mse_mean"]["convention"]
        assert "average_precision" not in scores
        assert "from probabilities" in of_soft(soft_cases()).summary()["scores"]["polyp"]["mse_mean"]["convention"]

    def test_the_grid_is_in_every_convention(self):
        evaluation = of_soft(soft_cases(), grid="original grid", saliency=True)
        scores = evaluation.summary()["scores"]
        for entry in [*scores["polyp"].values(), scores["average_precision"]]:
            if isinstance(entry, dict) and "value" in entry:
                assert entry["convention"].endswith("; on the original grid")

    def test_intervals_hold_the_value_and_are_the_same_again(self):
        one, two = (of_soft(soft_cases()).summary() for _ in range(2))
        assert one == two
        for key in ("dice_mean", "dice_pooled", "mse_mean"):
            entry = one["scores"]["polyp"][key]
            assert entry["ci95"][0] <= entry["value"] <= entry["ci95"][1]
        assert one["intervals"]["resampled"] == "cases"

    def test_groups_are_drawn_whole_and_one_group_has_no_interval(self):
        evaluation = Evaluation(["polyp"])
        for case, prob, truth in soft_cases():
            evaluation.add(case, (prob > 0.5).astype(np.uint8), truth, group="one patient")
        summary = evaluation.summary()
        assert summary["intervals"]["resampled"] == "groups"
        assert "ci95" not in summary["scores"]["polyp"]["dice_mean"]

    def test_strata_part_the_cases_by_size(self):
        evaluation = Evaluation(["polyp"], edges=(20, 40))
        for case, n in (("tiny", 1), ("half", 4), ("empty", 0), ("quarter", 2)):
            evaluation.add(case, line(0), line(*range(n)))
        strata = evaluation.summary()["scores"]["polyp"]["strata"]
        assert (strata["unit"], strata["edges"], strata["edges_are"]) == ("% of the picture", [20, 40], "given")
        assert [strata[name]["n_cases"] for name in ("small", "medium", "large")] == [1, 1, 1]
        assert value(strata["small"], "dice_mean") == 1
        assert value(strata["large"], "dice_mean") == pytest.approx(2 / 5)

    def test_each_of_several_data_sets_has_its_scores(self, tmp_path):
        evaluation = Evaluation(["polyp"])
        for case, n in (("kvasir/a", 1), ("kvasir/b", 4), ("clinic/c", 2)):
            evaluation.add(case, line(0), line(*range(n)), data_set=case.split("/")[0])
        summary = evaluation.write(tmp_path)
        scores = summary["scores"]["polyp"]["data_sets"]
        assert {name: each["n_cases"] for name, each in scores.items()} == {"kvasir": 2, "clinic": 1}
        assert value(scores["kvasir"], "dice_mean") == pytest.approx((1 + 2 / 5) / 2)
        assert value(scores["clinic"], "dice_pooled") == pytest.approx(2 / 3)
        page = (tmp_path / "summary.md").read_text(encoding="utf-8")
        assert "| score | kvasir (2 cases) | clinic (1 cases) |" in page
        assert re.search(r"\| dice_mean \| 0\.7000 .*\| 0\.6667 \|", page)

    def test_cases_of_one_data_set_have_no_scores_by_data_set(self):
        assert "data_sets" not in of_soft(soft_cases()).summary()["scores"]["polyp"]


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
        assert value(evaluation.summary()["scores"]["pancreas"], "dice_mean") == pytest.approx(judge.aggregate().item())

    def test_average_precision_and_errors_are_scikit_learns(self):
        cases = soft_cases()
        summary = of_soft(cases).summary()
        truth, prob = (np.concatenate([case[index].ravel() for case in cases]) for index in (2, 1))
        pooled = sk.average_precision_score(truth, prob)
        assert value(summary["scores"], "average_precision") == pytest.approx(pooled, abs=1e-3)
        each = [sk.average_precision_score(truth.ravel(), prob.ravel()) for _, prob, truth in cases]
        polyp = summary["scores"]["polyp"]
        assert value(polyp, "average_precision_mean") == pytest.approx(np.mean(each), abs=1e-3)
        # equally large pictures: the mean of means is the mean
        assert value(polyp, "mse_mean") == pytest.approx(sk.mean_squared_error(truth, prob))
        assert value(polyp, "mae_mean") == pytest.approx(sk.mean_absolute_error(truth, prob))
        assert value(polyp, "precision_pooled") == pytest.approx(sk.precision_score(truth, prob >= 0.5))

    def test_the_table_of_thresholds_is_scikit_learns(self, tmp_path):
        cases = soft_cases()
        of_soft(cases).write(tmp_path)
        rows = read_thresholds(tmp_path / "thresholds.csv")
        assert [row["threshold"] for row in rows] == [k / 100 for k in range(1, 100)] == THRESHOLDS.tolist()
        for row in rows[4:95:15]:
            masks = [(truth.ravel(), (prob >= np.float32(row["threshold"])).ravel()) for _, prob, truth in cases]
            assert row["dice_mean"] == pytest.approx(np.mean([sk.f1_score(*mask) for mask in masks]))
            assert row["recall_pooled"] == pytest.approx(
                sk.recall_score(*(np.concatenate(side) for side in zip(*masks, strict=True)))
            )
            assert row["n_cases"] == 5

    def test_a_case_without_an_answer_is_left_out_at_that_threshold(self, tmp_path):
        evaluation = Evaluation(["polyp"])
        evaluation.add("empty", line(), line(), prob=np.full((1, 8), 0.3, np.float32))
        evaluation.add("there", line(0), line(0), prob=line(0).astype(np.float32))
        evaluation.write(tmp_path)
        rows = read_thresholds(tmp_path / "thresholds.csv")
        assert rows[19]["dice_mean"] == pytest.approx(0.5)  # 0.2: false alarms in the empty one count
        assert rows[49]["dice_mean"] == 1  # 0.5: nothing there, nothing found


class TestPictures:
    """PraNet's scores of pictures."""

    def test_of_a_set_they_are_those_of_its_metrics(self):
        cases = soft_cases()
        polyp = of_soft(cases, saliency=True).summary()["scores"]["polyp"]
        levels = [metrics.LevelCounts.from_map(metrics.grey_levels(prob), truth) for _, prob, truth in cases]
        expected = metrics.pranet_scores(*levels)
        assert value(polyp, "dice_pranet256_mean") == pytest.approx(expected["dice_pranet256"])
        assert value(polyp, "e_measure_mean_mean") == pytest.approx(expected["e_measure_mean"])
        assert value(polyp, "max_dice_pranet256") == pytest.approx(expected["max_dice_pranet256"])
        s = np.mean([metrics.s_measure(prob, truth) for _, prob, truth in cases])
        assert value(polyp, "s_measure_mean") == pytest.approx(s)
        assert "no min-max" in polyp["dice_pranet256_mean"]["convention"]

    def test_of_a_mask_every_level_but_the_first_is_the_mask(self):
        evaluation = Evaluation(["polyp"], saliency=True)
        evaluation.add("a", line(1, 2), line(0, 1))
        polyp = evaluation.summary()["scores"]["polyp"]
        assert value(polyp, "dice_pranet256_mean") == pytest.approx((255 * 0.5 + 2 * 2 / (2 + 8)) / 256)
        assert "masks as maps of 0 and 255" in polyp["dice_pranet256_mean"]["convention"]

    def test_min_max_is_asked_for_and_named(self):
        faint = [("faint", 0.1 * line(0, 1).astype(np.float32), line(0, 1))]
        plain, stretched = (
            of_soft(faint, saliency=True, pranet_min_max=flag).summary()["scores"]["polyp"] for flag in (False, True)
        )
        assert value(plain, "dice_pranet256_mean") < 0.5 < value(stretched, "dice_pranet256_mean")
        for key in ("dice_pranet256_mean", "weighted_f_mean", "max_dice_pranet256"):
            assert "pranet-compat" in stretched[key]["convention"]
            assert "pranet-compat" not in plain[key]["convention"]
        assert value(plain, "mse_mean") == value(stretched, "mse_mean")

    def test_pictures_have_no_volume(self):
        (row,) = of_soft(soft_cases(cases=1)).rows
        assert math.isnan(row["truth_ml"])


class TestVolumes:
    """Distances and slices."""

    def test_the_volume_of_an_oblique_scan_is_that_of_its_voxels(self):
        turn = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        truth = np.zeros((4, 4, 4), np.uint8)
        truth[1:3, 1:3, 1:3] = 1
        evaluation = Evaluation(["pancreas"])
        evaluation.add("a", truth, truth, affine=turn @ SPACING)
        assert evaluation.rows[0]["truth_ml"] == pytest.approx(8 * 0.02)

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
        scores = self.volumes().summary()["scores"]["pancreas"]
        diagonal = math.hypot(18, 18, 20)
        assert value(scores, "hd95_mm_mean") == pytest.approx((2 + diagonal) / 2)
        for key in ("hd95_mm_mean", "mean_surface_distance_mm_mean", "surface_dice_mean"):
            assert (scores[key]["n"], scores[key]["n_nan"], scores[key]["n_missed"]) == (2, 2, 1)
        assert "within 1 mm" in scores["surface_dice_mean"]["convention"]

    def test_distances_of_a_class_are_of_that_class_alone(self):
        truth = np.zeros((12, 6, 6), np.uint8)
        truth[2:5, 1:5, 1:5], truth[5:8, 1:5, 1:5] = 1, 2
        pred = np.where(truth == 2, 0, truth)
        pred[6:9, 1:5, 1:5] = 2
        evaluation = Evaluation(["pancreas", "tumour"], surface=True)
        evaluation.add("a", pred, truth, affine=SPACING)
        scores = evaluation.summary()["scores"]
        assert value(scores["pancreas"], "hd95_mm_mean") == 0
        assert value(scores["tumour"], "hd95_mm_mean") == 2
        assert 0 < value(scores["foreground"], "mean_surface_distance_mm_mean") < 2

    def test_slices_are_scored_one_by_one(self):
        evaluation = self.volumes()
        scores = evaluation.summary()["scores"]["pancreas"]
        # two slices at 24 / 32 in "shifted", two missed ones; empty slices are left out
        assert value(scores, "dice_slice_mean") == pytest.approx((2 * 24 / 32 + 0) / 4)
        assert (scores["dice_slice_mean"]["n"], scores["dice_slice_mean"]["n_nan"]) == (4, 12)

    def test_slices_add_up_to_their_volume(self, tmp_path):
        evaluation = self.volumes()
        evaluation.write(tmp_path)
        rows = [row for row in read_slices(tmp_path / "slices.csv") if row["case"] == "shifted"]
        assert [row["slice"] for row in rows] == [0, 1, 2, 3]
        total = sum((ConfusionCounts(*(row[k] for k in ("tp", "fp", "fn", "tn"))) for row in rows), ConfusionCounts())
        assert total == evaluation.counts["pancreas"]["shifted"]

    def test_axial_is_the_axis_of_the_body(self):
        truth = np.zeros((3, 4, 5), np.uint8)
        truth[1] = 1
        sagittal_first = np.eye(4)[[1, 2, 0, 3]]  # the first axis of the array is feet-head
        evaluation = Evaluation(["pancreas"], slice_axis="axial")
        evaluation.add("a", truth, truth, affine=sagittal_first)
        assert evaluation.summary()["scores"]["pancreas"]["dice_slice_mean"]["n"] == 1

    def test_size_is_in_millilitres(self):
        strata = self.volumes().summary()["scores"]["pancreas"]["strata"]
        assert strata["unit"] == "ml"
        assert strata["edges"] == pytest.approx([32 * 20 / 1000] * 2)


def test_several_classes_are_scored_alone_and_together():
    rng = np.random.default_rng(0)
    truth, pred = (rng.integers(0, 3, (5, 6, 7)) for _ in range(2))
    prob = rng.random(truth.shape)
    evaluation = Evaluation(["pancreas", "tumour"])
    evaluation.add("a", pred, truth, prob=prob)
    scores = evaluation.summary()["scores"]
    assert list(scores) == ["pancreas", "tumour", "foreground", "average_precision"]
    assert value(scores["tumour"], "dice_mean") == pytest.approx(sk.f1_score((truth == 2).ravel(), (pred == 2).ravel()))
    assert value(scores["foreground"], "dice_mean") == pytest.approx(
        sk.f1_score((truth > 0).ravel(), (pred > 0).ravel())
    )
    # what is taken from the probability of foreground belongs to the foreground
    assert value(scores["foreground"], "mse_mean") == pytest.approx(np.mean((prob - (truth > 0)) ** 2))
    assert "mse_mean" not in scores["tumour"]
    assert math.isnan(evaluation.rows[1]["mse"])


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
        rows = read_scores(tmp_path / "out/scores.csv")
        for row, expected in zip(rows, evaluation.rows, strict=True):
            assert set(row) == set(expected)
            assert all(row[key] == number or math.isnan(number) for key, number in expected.items())
        assert {"group", "mse", "average_precision", "dice_pranet256", "weighted_f", "s_measure"} <= set(rows[0])
        summary = read_summary(tmp_path / "out/summary.json")
        assert summary == json.loads(json.dumps(written, default=int))
        assert (summary["part"], summary["seed"]) == ("val", 3)
        assert summary["warnings"][:2] == ["something else", "case_0: odd"]
        assert [(row["group"], row["n_cases"]) for row in read_groups(tmp_path / "out/groups.csv")] == [
            *(("p0", 2), ("p1", 2), ("p2", 1))
        ]
        assert read_curve(tmp_path / "out/pr.npz")["foreground"] == evaluation.curve
        assert read_files(tmp_path / "out/files.json")["case_1"]["pred"] == "out/case_1.png"
        page = (tmp_path / "out/summary.md").read_text()
        for word in ("dice_mean", "mean over cases", "[0.", "small: below", "something else", "not for clinical use"):
            assert word in page

    def test_what_an_earlier_evaluation_left_goes(self, tmp_path):
        of_soft(soft_cases()).write(tmp_path)
        assert (tmp_path / "pr.npz").exists()
        three_pictures().write(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            *("files.json", "groups.csv", "scores.csv", "summary.json", "summary.md")
        ]

    @pytest.mark.parametrize("name", ["scores.csv", "thresholds.csv", "summary.json"])
    def test_all_files_or_none(self, name, tmp_path, monkeypatch):
        of_soft(soft_cases()).write(tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(f"medseg3d.evaluation.write_{name.split('.')[0]}", full)
        with pytest.raises(Fault, match="NO_SPACE"):
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
        ({"pred": np.zeros((1, 9))}, r"b: pred \(1, 9\) and truth \(1, 8\) are on different grids"),
        ({"pred": 2 * line(0)}, r"pred must hold labels 0\.\.1 only, found also 2"),
        ({"prob": 2.0 * line(0)}, r"prob must lie in \[0, 1\]"),
        ({"prob": np.zeros((1, 9))}, "must have the same shape"),
        ({"case": "a"}, "each case must be added once, found a twice"),
        ({"group": "p1"}, "either every case has a group or none has"),
        (
            {"pred": np.zeros((1, 8, 1)), "truth": np.zeros((1, 8, 1))},
            "pictures and volumes cannot be evaluated together",
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
    with pytest.raises(ValueError, match="other than average_precision, foreground"):
        Evaluation(["foreground", "tumour"])
    with pytest.raises(ValueError, match="class_names must be different"):
        Evaluation(["a", "a"])
    with pytest.raises(ValueError, match="slice_axis"):
        Evaluation(["a"], slice_axis="coronal")
    with pytest.raises(ValueError, match="edges must be two"):
        Evaluation(["a"], edges=(3, 2))
    with pytest.raises(ValueError, match="distances need the affine"):
        Evaluation(["a"], surface=True).add("a", np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))
