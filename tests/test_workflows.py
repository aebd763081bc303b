"""`medseg3d.evaluate` and its verb: folders in, every convention out, nothing written unless all is well."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

import medseg3d
from medseg3d.cli import main
from medseg3d.evaluation.files import GROUPS_CSV, SCORES_CSV, SLICES_CSV, THRESHOLDS_CSV, read_files, read_summary
from medseg3d.pictures.writing import write_grey, write_picture_mask

AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])


def volume(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


@pytest.fixture
def volumes(tmp_path) -> tuple[Path, Path]:
    """Folders of predictions and ground truth of two volumes with two classes."""
    rng = np.random.default_rng(0)
    for case in ("ct_1", "ct_2"):
        truth = np.zeros((10, 11, 6), np.uint8)
        truth[2:7, 3:8, 1:5] = 1
        truth[4, 5, 2:4] = 2
        pred = np.where(rng.random(truth.shape) < 0.05, 0, np.roll(truth, 1, axis=0)).astype(np.uint8)
        volume(tmp_path / "truth" / f"{case}.nii.gz", truth)
        volume(tmp_path / "pred" / f"{case}_seg.nii.gz", pred)
    return tmp_path / "pred", tmp_path / "truth"


@pytest.fixture
def pictures(tmp_path) -> tuple[Path, Path]:
    """Folders of probability maps and ground truth of four images of two patients."""
    rng = np.random.default_rng(0)
    (tmp_path / "truth").mkdir()
    (tmp_path / "pred").mkdir()
    for name in ("A-1", "A-2", "B-1", "B-2"):
        truth = np.zeros((30, 40), bool)
        truth[5:20, 8 : 20 + 4 * int(name[-1])] = True
        write_picture_mask(tmp_path / "truth" / f"{name}.png", truth)
        write_grey(tmp_path / "pred" / f"{name}.png", (0.5 * truth + 0.5 * rng.random(truth.shape)).astype(np.float32))
    return tmp_path / "pred", tmp_path / "truth"


def test_volumes_of_two_classes_get_distances_and_slices(volumes, tmp_path):
    pred, truth = volumes
    seen = []
    summary = medseg3d.evaluate(
        pred,
        truth,
        tmp_path / "out",
        class_names=["pancreas", "tumour"],
        slices=True,
        progress=lambda number, total, case: seen.append((number, total, case)),
    )
    assert seen == [(1, 2, "ct_1"), (2, 2, "ct_2")]
    rows = SCORES_CSV.read(tmp_path / "out/scores.csv")
    assert [(row["case"], row["class"]) for row in rows[:3]] == [
        ("ct_1", name) for name in ("pancreas", "tumour", "foreground")
    ]
    true, found = (
        nib.load(folder / name).get_fdata() for folder, name in ((truth, "ct_1.nii.gz"), (pred, "ct_1_seg.nii.gz"))
    )
    masks = [(true == 1, found == 1), (true == 2, found == 2), (true > 0, found > 0)]
    assert [row["dice"] for row in rows[:3]] == pytest.approx([sk.f1_score(a.ravel(), b.ravel()) for a, b in masks])
    volumes = [a.sum() * 1.5 * 1.5 * 3 / 1000 for a, _ in masks]
    assert [row["truth_ml"] for row in rows[:3]] == pytest.approx(volumes)
    assert summary.find("foreground", "hd95_mm").value == pytest.approx(1.5)
    assert len(SLICES_CSV.read(tmp_path / "out/slices.csv")) == 2 * 3 * 6
    stated = read_summary(tmp_path / "out/summary.json").context
    assert (stated["pred_kind"], stated["threshold"], stated["truth_dir"]) == ("mask", None, str(truth))
    assert read_files(tmp_path / "out/files.json")["ct_2"]["pred"] == str(pred / "ct_2_seg.nii.gz")


def test_probability_maps_of_pictures_get_everything_a_polyp_paper_prints(pictures, tmp_path):
    pred, truth = pictures
    summary = medseg3d.evaluate(pred, truth, tmp_path / "out", group="^(.+)-", class_names=["polyp"])
    ways = {(score.score, score.over): score.value for score in summary.whole.scores}
    assert ways.keys() >= {
        *(("dice", "cases"), ("dice", "pooled"), ("mdice", "two_classes"), ("dice_pranet256", "cases")),
        *(("max_dice_pranet256", "levels"), ("dice", "groups"), ("weighted_f", "cases"), ("s_measure", "cases")),
        *(("e_measure_mean", "cases"), ("mae", "cases"), ("average_precision", "cases")),
    }
    assert 0 <= min(ways.values()) <= max(ways.values()) < 1.01  # the E-measure is a sum over N - 1
    assert [row["group"] for row in GROUPS_CSV.read(tmp_path / "out/groups.csv")] == ["A", "B"]
    assert summary.intervals["resampled"] == "groups"
    levels = np.asarray(Image.open(pred / "A-1.png")).astype(float) / 65535
    true = np.asarray(Image.open(truth / "A-1.png")) > 127
    assert SCORES_CSV.read(tmp_path / "out/scores.csv")[0]["mae"] == pytest.approx(np.abs(levels - true).mean())


def test_the_threshold_moves_the_mask_and_not_the_curve(pictures, tmp_path):
    half, higher = (medseg3d.evaluate(*pictures, tmp_path / str(t), threshold=t) for t in (0.5, 0.7))
    assert half.find("foreground", "recall").value > higher.find("foreground", "recall").value
    assert half.pick(score="average_precision", size="") == higher.pick(score="average_precision", size="")
    table = {row["threshold"]: row for row in THRESHOLDS_CSV.read(tmp_path / "0.5/thresholds.csv")}
    tabled = [table[t][f"dice_{over}"] for t in (0.5, 0.7) for over in ("mean", "pooled")]
    assert tabled == pytest.approx(
        [summary.find("foreground", "dice", over).value for summary in (half, higher) for over in ("cases", "pooled")]
    )


def test_a_missing_prediction_counts_as_an_empty_one_when_asked(pictures, tmp_path):
    pred, truth = pictures
    (pred / "A-1.png").unlink()
    summary = medseg3d.evaluate(pred, truth, tmp_path / "out", missing="empty")
    assert (summary.cases[0].n, summary.cases[0].missed, summary.context["n_missing_predictions"]) == (4, 1, 1)
    assert any("MISSING_PREDICTION" in warning for warning in summary.warnings)
    assert summary.find("foreground", "average_precision", "pooled").n == 4


def test_truths_without_prediction_are_left_out_when_asked_and_the_summary_says_so(pictures, tmp_path):
    pred, truth = pictures
    (pred / "A-1.png").unlink()
    summary = medseg3d.evaluate(pred, truth, tmp_path / "out", missing="leave-out")
    assert (summary.cases[0].n, summary.cases[0].missed, len(summary.context["left_out"])) == (3, 0, 1)
    assert (
        summary.warnings[0] == "LEFT_OUT: 1 of 4 ground-truth masks have no prediction and are left out of all scores"
    )


class TestVerb:
    """`medseg3d evaluate`."""

    def call(self, folders, out: Path, *words: str) -> int:
        pred, truth = folders
        return main(["evaluate", "--pred", str(pred), "--truth", str(truth), "-o", str(out), *words])

    def test_it_prints_the_table_and_writes_the_files(self, pictures, tmp_path, capsys):
        assert (
            self.call(pictures, tmp_path / "out", "--class-names", "polyp", "--edges", "20", "30", "--seed", "3") == 0
        )
        out = capsys.readouterr().out
        assert "polyp: 4 cases" in out
        assert "dice_pranet256" in out
        assert "not for clinical use" in out
        summary = read_summary(tmp_path / "out/summary.json")
        assert summary.intervals["seed"] == 3
        assert summary.size_edges("polyp") == (20, 30)

    @pytest.mark.parametrize(
        ("damage", "words", "code", "exit_code"),
        [
            (None, ["--group-pattern", "^(C)"], "GROUP_PATTERN", 1),
            (None, ["--group-pattern", "("], "BAD_VALUE", 2),
            (None, ["--edges", "3", "2"], "BAD_VALUE", 2),
            (None, ["--threshold", "1.5"], "BAD_VALUE", 2),
            (None, ["--slices"], "BAD_VALUE", 2),
            (None, ["--surface-tolerance-mm", "-1"], "BAD_VALUE", 2),
            (None, ["--class-names", "a", "a"], "BAD_VALUE", 2),
            (None, ["--images", "nowhere"], "MISSING_FILE", 2),
            ("missing", [], "UNPAIRED", 1),
            ("truncated", [], "TRUNCATED", 1),
            ("size", [], "PAIR_GEOMETRY", 1),
        ],
        ids=str,
    )
    def test_one_bad_thing_is_one_line_and_nothing_is_written(
        self, damage, words, code, exit_code, pictures, tmp_path, capsys
    ):
        last = pictures[0] / "B-2.png"
        if damage == "missing":
            last.unlink()
        elif damage == "truncated":
            last.write_bytes(last.read_bytes()[:200])
        elif damage == "size":
            write_grey(last, np.linspace(0, 1, 120, dtype=np.float32).reshape(10, 12))
        assert self.call(pictures, tmp_path / "out", *words) == exit_code
        err = capsys.readouterr().err
        assert f"error: {code}" in err
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_labels_without_a_name_are_named(self, volumes, tmp_path, capsys):
        assert self.call(volumes, tmp_path / "out") == 1
        err = capsys.readouterr().err
        assert "error: LABEL_SET" in err
        assert "the label 2" in err
        assert "--class-names" in err
        assert not (tmp_path / "out").exists()

    def test_min_max_is_of_pictures(self, volumes, tmp_path, capsys):
        assert self.call(volumes, tmp_path / "out", "--pranet-minmax") == 2
        assert "BAD_VALUE --pranet-minmax" in capsys.readouterr().err


class TestRealMasks:
    """Published predictions of the pancreas, and their ground truth."""

    def test_two_cases(self, real_data, tmp_path):
        for case in ("pancreas_021", "pancreas_422"):
            for part, folder in (("gt", "truth"), ("pred_DiceCE", "pred")):
                (tmp_path / folder).mkdir(exist_ok=True)
                shutil.copy(real_data / "pancreas-masks" / part / f"{case}.nii.gz", tmp_path / folder)
        summary = medseg3d.evaluate(tmp_path / "pred", tmp_path / "truth", tmp_path / "out", class_names=["pancreas"])
        expected = {}
        for case in ("pancreas_021", "pancreas_422"):
            files = [nib.load(tmp_path / folder / f"{case}.nii.gz") for folder in ("truth", "pred")]
            true, found = (np.asanyarray(file.dataobj) > 0 for file in files)
            expected[case] = 2 * (true & found).sum() / (true.sum() + found.sum())
        rows = SCORES_CSV.read(tmp_path / "out/scores.csv")
        assert {row["case"]: row["dice"] for row in rows} == pytest.approx(expected)
        assert 0 < summary.find("pancreas", "hd95_mm").value < 20
        assert 0.5 < summary.find("pancreas", "surface_dice").value < 1

    @pytest.mark.slow
    @pytest.mark.parametrize("model", ["pred_CE", "pred_DiceCE"])
    def test_all_21(self, model, real_data, tmp_path):
        masks = real_data / "pancreas-masks"
        summary = medseg3d.evaluate(
            masks / model, masks / "gt", tmp_path / "out", class_names=["pancreas"], slices=True
        )
        dice = summary.find("pancreas", "dice")
        assert 0.7 < dice.low < dice.value < dice.high < 0.95
        assert summary.find("pancreas", "dice", "slices").value < dice.value
        assert [each.n for each in summary.cases] == [21, 7, 7, 7]
