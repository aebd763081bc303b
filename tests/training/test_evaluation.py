from __future__ import annotations

import importlib.metadata
import math
from types import SimpleNamespace

import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot

import medseg3d
from medseg3d.data.splits import make_split, write_split
from medseg3d.errors import UserError
from medseg3d.evaluation.files import SCORES_CSV, read_curve, read_files, read_summary, score_rows
from medseg3d.training import CaseScores, ScoreFiles
from medseg3d.training.evaluation import versions

SPACING = torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0]))


def item(case: str, truth: torch.Tensor, pred: torch.Tensor, **more) -> dict:
    label = MetaTensor(truth[None], affine=SPACING, meta={"filename_or_obj": f"labels/{case}.nii.gz"})
    return {"case": case, "label": label, "pred": pred[None], **more}


def masks(*voxels: int, shape=(2, 2, 2)) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.uint8)
    mask.view(-1)[list(voxels)] = 1
    return mask


def test_the_engines_score_is_the_mean_over_cases():
    scores = CaseScores(["pancreas"])
    scores.update(item("a", masks(0, 1), masks(0, 1)))  # 1
    scores.update(item("b", masks(0, 1), masks(1, 2)))  # 1/2
    scores.update(item("c", masks(0), masks()))  # missed: 0, and it counts
    scores.update(item("d", masks(), masks()))  # nothing there, nothing found: left out
    assert scores.compute() == pytest.approx(0.5)
    assert score_rows(scores.evaluation.cases)[0]["truth_ml"] == pytest.approx(2 * 20 / 1000)
    assert math.isnan(score_rows(scores.evaluation.cases)[3]["dice"])


def test_classes_are_scored_one_by_one_and_agree_with_monai():
    generator = torch.Generator().manual_seed(0)
    truth, pred = (torch.randint(0, 3, (6, 6, 6), generator=generator, dtype=torch.uint8) for _ in range(2))
    scores = CaseScores(["pancreas", "tumour"])
    scores.update(item("a", truth, pred))
    judge = DiceMetric(include_background=False, reduction="none")
    expected = judge(*(one_hot(mask[None, None].long(), 3) for mask in (pred, truth)))[0]
    of_classes = [row["dice"] for row in score_rows(scores.evaluation.cases) if row["class"] in scores.class_names]
    assert of_classes == pytest.approx(expected.tolist())
    assert scores.compute() == pytest.approx(expected.mean().item())


def test_nothing_to_find_and_nothing_found_has_no_score():
    scores = CaseScores(["pancreas"])
    scores.update(item("a", masks(), masks()))
    assert math.isnan(scores.compute())


def test_masks_on_different_grids_are_refused_by_name():
    with pytest.raises(ValueError, match=r"a: pred \(1, 2, 2, 2\) and label \(1, 2, 2, 3\) are on different grids"):
        CaseScores(["pancreas"]).update(item("a", masks(shape=(2, 2, 3)), masks()))


def test_single_scores_stand_beside_the_mean():
    scores = CaseScores(["pancreas"], prefix="val_")
    scores.update(item("a", masks(0, 1), masks(1, 2)))
    engine = SimpleNamespace(state=SimpleNamespace(metrics={}))
    scores.completed(engine, "val_dice_mean")
    assert engine.state.metrics["val_dice_mean"] == pytest.approx(0.5)
    assert engine.state.metrics["val_recall_pooled"] == pytest.approx(0.5)


def test_every_validation_has_scores_of_its_own():
    engine, truth = SimpleNamespace(state=SimpleNamespace(metrics={})), masks(0, 1)
    scores, seen = CaseScores(["pancreas"], prefix="val_"), []
    for pred in (masks(0, 2, 3, 4), masks(0, 1), masks()):
        scores.reset()
        scores.update(item("a", truth, pred))
        scores.completed(engine, "val_dice_mean")
        metrics = engine.state.metrics
        seen.append([metrics.get(f"val_{score}") for score in ("dice_mean", "recall_pooled", "precision_mean")])
    assert seen == [[pytest.approx(1 / 3), 0.5, 0.25], [1, 1, 1], [0, 0, None]]  # nothing predicted: no precision


@pytest.mark.parametrize("others", [0, 1])
def test_an_evaluation_in_which_a_case_failed_has_no_score(others, caplog):
    scores, engine = CaseScores(["pancreas"], prefix="val_"), SimpleNamespace(state=SimpleNamespace(metrics={}))
    scores.update(item("a", masks(0, 1), masks(0, 1)))
    scores.completed(engine, "val_dice_mean")
    assert engine.state.metrics["val_recall_mean"] == 1
    scores.reset()
    for _ in range(others):
        scores.update(item("a", masks(0, 1), masks(0, 1)))
    scores.update(item("b", masks(0, 1), masks(), error=UserError("NON_FINITE", "b.nii.gz", "NaN")))
    scores.completed(engine, "val_dice_mean")
    assert list(engine.state.metrics) == ["val_dice_mean"]
    assert math.isnan(engine.state.metrics["val_dice_mean"])
    assert caplog.messages == ["no score: 1 case failed, the first with NON_FINITE b.nii.gz: NaN"]


def test_a_training_measures_nothing_slow_and_an_evaluation_does(monkeypatch):
    def slow(*_, **__):
        raise AssertionError("too slow for a validation")

    for name in ("mean_interval", "pooled_interval", "surface_scores", "pranet_scores"):
        monkeypatch.setattr(f"medseg3d.metrics.{name}", slow)
    scores = CaseScores(["pancreas"], prefix="val_")
    scores.update(item("a", masks(0, 1), masks(1, 2)))
    scores.completed(SimpleNamespace(state=SimpleNamespace(metrics={})), "val_dice_mean")
    with pytest.raises(AssertionError, match="too slow"):
        CaseScores(["pancreas"], surface_tolerance_mm=2.0).update(item("a", masks(0, 1), masks(1, 2)))


def test_group_and_files_of_a_case_are_its_items():
    scores = CaseScores(["pancreas"], slice_axis="axial", surface_tolerance_mm=2.0)
    scores.update(item("a", masks(0, 2), masks(0, 1), group="patient 7", mask_file="masks/a_seg.nii.gz"))
    (row,) = score_rows(scores.evaluation.cases)
    assert row["group"] == "patient 7"
    assert {"hd95_mm", "surface_dice"} <= set(row)
    assert scores.evaluation.summary().find("pancreas", "dice", "slices")


def test_the_files_hold_what_was_scored(tmp_path):
    scores = CaseScores(["pancreas"], grid="original grid of the scan")
    prob = torch.tensor([0.9, 0.8, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1]).reshape(1, 2, 2, 2)
    scores.update(item("a", masks(0, 2), masks(0, 1), prob=prob, mask_file="masks/a_seg.nii.gz"))
    split = make_split([f"case_{n}" for n in range(4)], test_cases=1, val_cases=1)
    write_split(tmp_path / "split.json", split)
    (tmp_path / "model.pt").write_bytes(b"weights")
    ScoreFiles(scores, tmp_path / "out", tmp_path / "split.json", tmp_path / "model.pt", {"part": "test"})(None)
    (row,) = SCORES_CSV.read(tmp_path / "out/scores.csv")
    assert (row["tp"], row["fp"], row["fn"], row["tn"]) == (1, 1, 1, 5)
    summary = read_summary(tmp_path / "out/summary.json")
    dice, precision = summary.find("pancreas", "dice"), summary.find("pancreas", "average_precision", "pooled")
    assert (dice.value, dice.grid) == (pytest.approx(0.5), "original grid of the scan")
    # by hand: precision 1 at recall 1/2, 2/3 at recall 1
    assert precision.value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3, abs=1e-4)
    assert (summary.context["split_hash"], summary.context["part"]) == (split.hash, "test")
    assert read_curve(tmp_path / "out/pr.npz").histogram.sum() == 8
    assert read_files(tmp_path / "out/files.json") == {"a": {"truth": "labels/a.nii.gz", "pred": "masks/a_seg.nii.gz"}}


def test_versions_need_no_metadata_of_what_is_run_from_its_source(monkeypatch):
    installed = versions()

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    assert versions() == {**installed, "medseg3d": medseg3d.__version__}
    assert installed["torch"] == torch.__version__
    monkeypatch.delattr("nibabel.__version__")
    assert versions()["nibabel"] == "unknown"
