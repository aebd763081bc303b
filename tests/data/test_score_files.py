"""The files of scores give back what was written, and say what is wrong when they cannot."""

from __future__ import annotations

import csv
import json
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medseg3d.data.score_files import (
    GROUP_COLUMNS,
    SCORE_COLUMNS,
    SLICE_COLUMNS,
    THRESHOLD_COLUMNS,
    read_curve,
    read_files,
    read_groups,
    read_scores,
    read_slices,
    read_summary,
    read_thresholds,
    score_row,
    write_curve,
    write_files,
    write_groups,
    write_scores,
    write_slices,
    write_summary,
    write_thresholds,
)
from medseg3d.faults import Fault
from medseg3d.metrics import BinnedPRCurve, ConfusionCounts, summarise

PANCREAS = ConfusionCounts(tp=1, fp=1, fn=2, tn=5)
EMPTY = ConfusionCounts(tn=9)


def rows() -> list[dict]:
    return [
        score_row("ct_1", "pancreas", PANCREAS, voxel_mm3=0.7),
        score_row("ct_1", "tumour", EMPTY, voxel_mm3=0.7),
        score_row('a "quoted", name\nin three\r\nlines µ', "pancreas", PANCREAS),
    ]


def curve(seed: int = 0) -> BinnedPRCurve:
    rng = np.random.default_rng(seed)
    truth = rng.random(500) < 0.3
    curve = BinnedPRCurve()
    curve.update(rng.normal(size=500) + truth, truth)
    return curve


def assert_same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for key, value in expected.items():
        both_nan = isinstance(value, float) and math.isnan(value) and math.isnan(found[key])
        assert both_nan or (found[key] == value and type(found[key]) is type(value)), key


def test_a_row_by_hand():
    assert_same(
        score_row("ct_1", "pancreas", PANCREAS, voxel_mm3=500.0),
        {
            "case": "ct_1",
            "class": "pancreas",
            "dice": 2 / 5,
            "iou": 1 / 4,
            "recall": 1 / 3,
            "specificity": 5 / 6,
            "precision": 1 / 2,
            "accuracy": 6 / 9,
            "tp": 1,
            "fp": 1,
            "fn": 2,
            "tn": 5,
            "truth_ml": 1.5,
            "pred_ml": 1.0,
        },
    )


def test_columns_are_those_of_the_table():
    assert ",".join(SCORE_COLUMNS) == (
        "case,class,dice,iou,recall,specificity,precision,accuracy,tp,fp,fn,tn,truth_ml,pred_ml"
    )
    assert tuple(score_row("a", "b", EMPTY)) == SCORE_COLUMNS


def test_scores_come_back_to_the_last_bit(tmp_path):
    write_scores(tmp_path / "scores.csv", rows())
    found = read_scores(tmp_path / "scores.csv")
    assert len(found) == 3
    for row, expected in zip(found, rows(), strict=True):
        assert_same(row, expected)


def test_scores_are_plain_csv_with_empty_cells_for_nan(tmp_path):
    write_scores(tmp_path / "scores.csv", rows())
    assert (tmp_path / "scores.csv").read_bytes().count(b"\r") == 1  # the one in a name
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        tumour = list(csv.DictReader(file))[1]
    assert (tumour["dice"], tumour["recall"], tumour["accuracy"], tumour["tn"]) == ("", "", "1.0", "9")


def test_no_rows_leave_the_header(tmp_path):
    write_scores(tmp_path / "scores.csv", [])
    assert read_scores(tmp_path / "scores.csv") == []


def test_further_columns_follow_and_come_back(tmp_path):
    more = [{"hd95_mm": value, **row} for value, row in zip([1.5, math.nan, 2.0], rows(), strict=True)]
    write_scores(tmp_path / "scores.csv", more)
    header = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith(",pred_ml,hd95_mm")
    assert read_scores(tmp_path / "scores.csv")[0]["hd95_mm"] == 1.5
    assert math.isnan(read_scores(tmp_path / "scores.csv")[1]["hd95_mm"])


def test_the_group_of_a_case_is_a_text(tmp_path):
    write_scores(tmp_path / "scores.csv", [{**rows()[0], "group": "007"}])
    assert read_scores(tmp_path / "scores.csv")[0]["group"] == "007"


TABLES = {
    "slices": (write_slices, read_slices, SLICE_COLUMNS, {"case": "ct_1", "class": "pancreas", "slice": 3}),
    "groups": (write_groups, read_groups, GROUP_COLUMNS, {"group": "007", "class": "pancreas", "n_cases": 2}),
    "thresholds": (write_thresholds, read_thresholds, THRESHOLD_COLUMNS, {"threshold": 0.25, "n_cases": 2}),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_other_tables_come_back_and_refuse_a_line_twice(name, tmp_path):
    write, read, columns, identity = TABLES[name]
    row = {**{column: 1 if column in {"tp", "fp", "fn", "tn"} else 0.1 for column in columns}, **identity}
    write(tmp_path / "table.csv", [row])
    assert (tmp_path / "table.csv").read_text().splitlines()[0] == ",".join(columns)
    (found,) = read(tmp_path / "table.csv")
    assert_same(found, row)
    with pytest.raises(ValueError, match="must come once"):
        write(tmp_path / "table.csv", [row, row])
    write_curve(tmp_path / "pr.npz", {"pancreas": curve()})
    with pytest.raises(Fault, match=r"SCORE_FILE .*pr\.npz"):
        read(tmp_path / "pr.npz")


def test_files_come_back_and_hold_nothing_else(tmp_path):
    files = {"a": {"image": "a.jpg", "truth": "a.png", "pred": "out/a.png"}, "b µ": {"truth": "b.png"}, "c": {}}
    write_files(tmp_path / "files.json", files)
    assert read_files(tmp_path / "files.json") == files
    with pytest.raises(ValueError, match="files of a must be image, truth, pred, found label"):
        write_files(tmp_path / "files.json", {"a": {"label": "a.png"}})
    (tmp_path / "files.json").write_text('{"a": ["a.png"]}')
    with pytest.raises(Fault, match=r"SCORE_FILE .*files\.json: \['a\.png'\] for a"):
        read_files(tmp_path / "files.json")


def test_scores_saved_by_a_spreadsheet_are_read(tmp_path):
    write_scores(tmp_path / "scores.csv", rows())
    saved = "\ufeff" + (tmp_path / "scores.csv").read_text(encoding="utf-8").replace("\n", "\r\n")
    (tmp_path / "scores.csv").write_bytes(saved.encode())
    assert_same(read_scores(tmp_path / "scores.csv")[0], rows()[0])


def test_rows_that_make_no_table_are_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "scores.csv"
    row = rows()[0]
    with pytest.raises(ValueError, match=r"found one without dice$"):
        write_scores(path, [{key: value for key, value in row.items() if key != "dice"}])
    with pytest.raises(ValueError, match="all rows must have the same columns"):
        write_scores(path, [row, {**rows()[1], "hd95_mm": 1.0}])
    with pytest.raises(ValueError, match=r"found \('ct_1', 'pancreas'\) twice"):
        write_scores(path, [row, row])
    with pytest.raises(ValueError, match="truth_ml of ct_1 must be finite or NaN, found inf"):
        write_scores(path, [{**row, "truth_ml": math.inf}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("iou,", "", "no column iou"),
        ("0.25", "a quarter", "'a quarter' in column iou, line 2"),
        (",1,1,2,5,", ",1,1,2,,", "'' in column tn, line 2"),
        ("0.25,", "", "13 cells in line 2, expected 14 cells"),
        ("µ", "\udcff", "bytes that are no UTF-8 text"),
    ],
)
def test_damaged_scores_are_a_fault_that_names_the_place(tmp_path, old, new, found):
    path = tmp_path / "scores.csv"
    write_scores(path, rows())
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("utf-8", "surrogateescape"))
    with pytest.raises(Fault, match=rf"SCORE_FILE .*scores\.csv: {found}"):
        read_scores(path)


@pytest.mark.parametrize("read", [read_scores, read_summary, read_curve, read_files, read_slices])
def test_absent_files_are_a_fault(tmp_path, read):
    with pytest.raises(Fault, match=r"SCORE_FILE .*absent: no such file"):
        read(tmp_path / "absent")


@pytest.mark.parametrize("read", [read_scores, read_summary, read_curve, read_files, read_slices])
def test_empty_files_are_a_fault(tmp_path, read):
    (tmp_path / "empty").touch()
    with pytest.raises(Fault, match=r"SCORE_FILE .*empty: no"):
        read(tmp_path / "empty")


def test_pipe_in_the_place_of_scores_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "scores.csv")
    with pytest.raises(Fault, match="NOT_A_FILE"):
        read_scores(tmp_path / "scores.csv")


def test_summary_names_a_folder_whose_name_is_no_text(tmp_path):
    folder = os.fsdecode(b"/data/\xb8\xce")
    write_summary(tmp_path / "summary.json", {"pred_dir": folder})
    assert read_summary(tmp_path / "summary.json") == {"pred_dir": folder}


def test_summary_comes_back(tmp_path):
    summary = {"seed": 3, "versions": {"torch": "2.13.0"}, "scores": {"pancreas": summarise({"a": PANCREAS})}}
    write_summary(tmp_path / "summary.json", summary)
    assert read_summary(tmp_path / "summary.json") == summary


def test_summary_takes_what_scientists_have_at_hand(tmp_path):
    summary = {
        "value": np.float32(0.5),
        "n": np.int64(3),
        "undefined": np.nan,
        "spacing": np.array([0.5, math.nan]),
        "shape": (2, 3),
        "model": Path("runs") / "model.pt",
        "resumed": False,
        "split": None,
        "name": "µ",
    }
    write_summary(tmp_path / "summary.json", summary)
    assert read_summary(tmp_path / "summary.json") == {
        "value": 0.5,
        "n": 3,
        "undefined": None,
        "spacing": [0.5, None],
        "shape": [2, 3],
        "model": str(Path("runs") / "model.pt"),
        "resumed": False,
        "split": None,
        "name": "µ",
    }
    assert '\n  "n": 3,\n' in (tmp_path / "summary.json").read_text(encoding="utf-8")


def test_a_summary_may_hold_the_knob_precision(tmp_path):
    write_summary(tmp_path / "summary.json", {"knobs": {"precision": "bfloat16"}})
    assert read_summary(tmp_path / "summary.json") == {"knobs": {"precision": "bfloat16"}}


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"scores": {"dice": 0.9}}, ValueError, r"summary\.scores\.dice must say what mean it is, as dice_mean"),
        ({"list": [{"recall": 0.9}]}, ValueError, r"summary\.list\[0\]\.recall must say"),
        ({"loss": math.inf}, ValueError, r"summary\.loss must be finite or NaN, found inf"),
        ({"loss": {1: 2}}, TypeError, r"keys of summary\.loss must be str, found 1"),
        ({"model": object()}, TypeError, r"summary\.model must be a number, text, list or dict, found object"),
    ],
)
def test_what_a_summary_must_not_hold_is_refused_and_nothing_is_written(tmp_path, bad, error, message):
    with pytest.raises(error, match=message):
        write_summary(tmp_path / "summary.json", bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "found"), [(b"{half", "no JSON"), (b"\xff", "no JSON"), (b"[1]", "a JSON list")])
def test_damaged_summaries_are_a_fault(tmp_path, content, found):
    (tmp_path / "summary.json").write_bytes(content)
    with pytest.raises(Fault, match=rf"SCORE_FILE .*summary\.json: {found}"):
        read_summary(tmp_path / "summary.json")


def test_curves_come_back_by_class(tmp_path):
    curves = {"pancreas": curve(0), "tumour": curve(1), "nothing seen": BinnedPRCurve()}
    write_curve(tmp_path / "pr.npz", curves)
    assert read_curve(tmp_path / "pr.npz") == curves
    assert curves["pancreas"] != curves["tumour"]


def test_curves_can_be_plotted_with_numpy_alone(tmp_path):
    write_curve(tmp_path / "pr.npz", {"pancreas": curve()})
    precision, recall, threshold = curve().curve()
    with np.load(tmp_path / "pr.npz") as arrays:
        np.testing.assert_array_equal(arrays["pancreas/precision"], precision)
        np.testing.assert_array_equal(arrays["pancreas/recall"], recall)
        np.testing.assert_array_equal(arrays["pancreas/threshold"], threshold)


def test_equal_curves_are_equal_files(tmp_path):
    write_curve(tmp_path / "a.npz", {"pancreas": curve()})
    write_curve(tmp_path / "b.npz", {"pancreas": curve()})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_curves_need_names(tmp_path):
    with pytest.raises(TypeError, match="curves must map class names to curves, found BinnedPRCurve"):
        write_curve(tmp_path / "pr.npz", curve())
    with pytest.raises(ValueError, match="curves must hold at least one class"):
        write_curve(tmp_path / "pr.npz", {})
    with pytest.raises(ValueError, match=r"a class name must not be empty .*'pancreas/tumour'"):
        write_curve(tmp_path / "pr.npz", {"pancreas/tumour": curve()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1], lambda b: b"<html>"])
def test_truncated_curves_are_a_fault(tmp_path, damage):
    path = tmp_path / "pr.npz"
    write_curve(path, {"pancreas": curve()})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Fault, match=r"SCORE_FILE .*pr\.npz: no curves in it"):
        read_curve(path)


def test_a_flipped_byte_never_changes_a_curve_in_silence(tmp_path):
    path = tmp_path / "pr.npz"
    written = {"pancreas": curve()}
    write_curve(path, written)
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), len(content) // 150):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            assert read_curve(path) == written, position  # dates and the like do not matter
        except Fault:
            refused += 1
    assert refused > 100


def test_archives_of_something_else_are_a_fault(tmp_path):
    path = tmp_path / "pr.npz"
    np.savez(path, weight=np.zeros(3))
    with pytest.raises(Fault, match=r"no curves in it .*missing"):
        read_curve(path)
    np.savez(path, **{"pancreas/bins": np.array([object()])})
    with pytest.raises(Fault, match=r"no curves in it \(pickled objects\)"):
        read_curve(path)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg3d.data.score_files._CURVE_SIZE_LIMIT", 10**6)
    path = tmp_path / "pr.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/bins.npy", bytes(2 * 10**6))
    assert path.stat().st_size < 10**4
    with pytest.raises(Fault, match="2000000 bytes when unpacked, expected at most 1000000"):
        read_curve(path)


def test_a_failed_write_keeps_the_files_that_were_there(tmp_path):
    path = tmp_path / "summary.json"
    write_summary(path, {"seed": 1})
    with pytest.raises(TypeError):
        write_summary(path, {"seed": object()})
    assert json.loads(path.read_text()) == {"seed": 1}
