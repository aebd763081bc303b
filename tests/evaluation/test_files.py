"""The files of an evaluation give back what was written, and refuse what is damaged or of another version."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from medseg3d.errors import UserError
from medseg3d.evaluation import Evaluation, Summary
from medseg3d.evaluation.files import (
    GROUPS_CSV,
    SCORES_CSV,
    SLICES_CSV,
    THRESHOLDS_CSV,
    read_curve,
    read_files,
    read_summary,
    score_row,
    write_curve,
)
from medseg3d.evaluation.records import VERSION
from medseg3d.files.plain import write_json
from medseg3d.metrics import BinnedPRCurve, ConfusionCounts

PANCREAS = ConfusionCounts(tp=1, fp=1, fn=2, tn=5)


def summary() -> Summary:
    evaluation = Evaluation(["pancreas"], grid="original grid")
    evaluation.add("a", np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]]), data_set="one")
    evaluation.add("b", np.array([[0, 0, 0, 0]]), np.array([[0, 0, 0, 0]]), data_set="two")
    return replace(evaluation.summary(), context={"part": "val", "warnings": ["odd"]})


def test_a_summary_comes_back_with_what_else_it_states(tmp_path):
    write_json(tmp_path / "summary.json", summary().as_json())
    assert read_summary(tmp_path / "summary.json") == summary()
    assert json.loads((tmp_path / "summary.json").read_text())["part"] == "val"


def test_its_scores_are_one_table(tmp_path):
    rows = summary().as_json()["scores"]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    dice = next(row for row in rows if (row["score"], row["over"], row["size"]) == ("dice", "cases", ""))
    assert dice["value"] == pytest.approx(2 / 3)
    assert (dice["class_name"], dice["n"], dice["left_out"], dice["grid"]) == ("pancreas", 1, 1, "original grid")


def test_the_whole_is_without_parts_and_context():
    whole = summary().whole
    assert {(score.size, score.data_set) for score in whole.scores} == {("", "")}
    assert whole.context == {}
    assert whole.find("pancreas", "dice") == summary().find("pancreas", "dice")


@pytest.mark.parametrize(("version", "found"), [(None, "1 or older"), (1, "1"), (VERSION + 1, str(VERSION + 1))])
def test_a_summary_of_another_version_is_refused_with_what_to_do(version, found, tmp_path):
    content = {**summary().as_json(), "version": version}
    if version is None:
        del content["version"]
    write_json(tmp_path / "summary.json", content)
    said = f"SCORE_FILE .*scores in format {found}, expected format {VERSION}. Hint: run the evaluation again"
    with pytest.raises(UserError, match=said):
        read_summary(tmp_path / "summary.json")


@pytest.mark.parametrize("change", [{"scores": [{"class_name": "pancreas"}]}, {"settings": {"grid": ""}}, {"cases": 3}])
def test_a_summary_of_another_form_is_refused(change, tmp_path):
    write_json(tmp_path / "summary.json", {**summary().as_json(), **change})
    with pytest.raises(UserError, match=r"SCORE_FILE .*summary\.json: scores of another form"):
        read_summary(tmp_path / "summary.json")


TABLES = {
    "slices": (SLICES_CSV, {"case": "ct_1", "class": "pancreas", "slice": 3}),
    "groups": (GROUPS_CSV, {"group": "007", "class": "pancreas", "n_cases": 2}),
    "thresholds": (THRESHOLDS_CSV, {"threshold": 0.25, "n_cases": 2}),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_other_tables_come_back_and_refuse_other_files(name, tmp_path):
    table, identity = TABLES[name]
    row = {**{column: 1 if column in {"tp", "fp", "fn", "tn"} else 0.1 for column in table.columns}, **identity}
    table.write(tmp_path / "table.csv", [row])
    assert (tmp_path / "table.csv").read_text().splitlines()[0] == ",".join(table.columns)
    assert table.read(tmp_path / "table.csv") == [row]
    write_curve(tmp_path / "pr.npz", curve())
    with pytest.raises(UserError, match=r"SCORE_FILE .*pr\.npz"):
        table.read(tmp_path / "pr.npz")


def curve(seed: int = 0) -> BinnedPRCurve:
    rng = np.random.default_rng(seed)
    truth = rng.random(500) < 0.3
    curve = BinnedPRCurve()
    curve.update(rng.normal(size=500) + truth, truth)
    return curve


def test_a_row_by_hand():
    assert score_row("ct_1", "pancreas", PANCREAS, voxel_mm3=500.0) == {
        **{"case": "ct_1", "class": "pancreas", "dice": 2 / 5, "iou": 1 / 4, "recall": 1 / 3, "specificity": 5 / 6},
        **{"precision": 1 / 2, "accuracy": 6 / 9, "tp": 1, "fp": 1, "fn": 2, "tn": 5, "truth_ml": 1.5, "pred_ml": 1.0},
    }


def test_files_come_back_and_hold_paths_alone(tmp_path):
    files = {"a": {"image": "a.jpg", "truth": "a.png", "pred": "out/a.png"}, "b µ": {"truth": "b.png"}, "c": {}}
    write_json(tmp_path / "files.json", files)
    assert read_files(tmp_path / "files.json") == files
    (tmp_path / "files.json").write_text('{"a": ["a.png"]}')
    with pytest.raises(UserError, match=r"SCORE_FILE .*files\.json: \['a\.png'\] for a"):
        read_files(tmp_path / "files.json")


def test_curves_can_be_plotted_with_numpy_alone(tmp_path):
    write_curve(tmp_path / "pr.npz", curve())
    precision, recall, threshold = curve().curve()
    with np.load(tmp_path / "pr.npz") as arrays:
        np.testing.assert_array_equal(arrays["foreground/precision"], precision)
        np.testing.assert_array_equal(arrays["foreground/recall"], recall)
        np.testing.assert_array_equal(arrays["foreground/threshold"], threshold)


def test_equal_curves_are_equal_files(tmp_path):
    write_curve(tmp_path / "a.npz", curve())
    write_curve(tmp_path / "b.npz", curve())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1], lambda b: b"<html>"])
def test_truncated_curves_are_an_error(tmp_path, damage):
    path = tmp_path / "pr.npz"
    write_curve(path, curve())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"SCORE_FILE .*pr\.npz: no curve in it"):
        read_curve(path)


def test_a_flipped_byte_never_changes_a_curve_in_silence(tmp_path):
    path = tmp_path / "pr.npz"
    written = curve()
    write_curve(path, written)
    content = path.read_bytes()
    refused, changed = 0, []
    for position in range(0, len(content), len(content) // 150):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            changed += [position] if read_curve(path) != written else []  # dates and the like do not matter
        except UserError:
            refused += 1
    assert changed == []
    assert refused > 100


def test_archives_of_something_else_are_an_error(tmp_path):
    path = tmp_path / "pr.npz"
    np.savez(path, weight=np.zeros(3))
    with pytest.raises(UserError, match=r"no curve in it .*missing"):
        read_curve(path)
    np.savez(path, **{"foreground/bins": np.array([object()])})
    with pytest.raises(UserError, match=r"no curve in it \(pickled objects\)"):
        read_curve(path)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg3d.evaluation.files._CURVE_SIZE_LIMIT", 10**6)
    path = tmp_path / "pr.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("foreground/bins.npy", bytes(2 * 10**6))
    assert path.stat().st_size < 10**4
    with pytest.raises(UserError, match="2000000 bytes when unpacked, expected at most 1000000"):
        read_curve(path)


def test_columns_are_those_of_the_table():
    assert ",".join(SCORES_CSV.columns) == (
        "case,class,dice,iou,recall,specificity,precision,accuracy,tp,fp,fn,tn,truth_ml,pred_ml"
    )
    assert tuple(score_row("a", "b", PANCREAS)) == SCORES_CSV.columns
