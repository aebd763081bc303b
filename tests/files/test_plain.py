"""JSON and CSV give back what was written, and say what is wrong when they cannot."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from medseg3d.errors import UserError
from medseg3d.evaluation.files import SCORES_CSV, SLICES_CSV, read_curve, read_files, read_summary, score_row
from medseg3d.files.plain import read_json, write_json
from medseg3d.metrics import ConfusionCounts

PANCREAS = ConfusionCounts(tp=1, fp=1, fn=2, tn=5)
EMPTY = ConfusionCounts(tn=9)


def rows() -> list[dict]:
    return [
        score_row("ct_1", "pancreas", PANCREAS, voxel_mm3=0.7),
        score_row("ct_1", "tumour", EMPTY, voxel_mm3=0.7),
        score_row('a "quoted", name\nin three\r\nlines µ', "pancreas", PANCREAS),
    ]


def assert_same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for key, value in expected.items():
        both_nan = isinstance(value, float) and math.isnan(value) and math.isnan(found[key])
        assert both_nan or (found[key] == value and type(found[key]) is type(value)), key


def test_scores_come_back_to_the_last_bit(tmp_path):
    SCORES_CSV.write(tmp_path / "scores.csv", rows())
    found = SCORES_CSV.read(tmp_path / "scores.csv")
    assert len(found) == 3
    for row, expected in zip(found, rows(), strict=True):
        assert_same(row, expected)


def test_scores_are_plain_csv_with_empty_cells_for_nan(tmp_path):
    SCORES_CSV.write(tmp_path / "scores.csv", rows())
    assert (tmp_path / "scores.csv").read_bytes().count(b"\r") == 1  # the one in a name
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        tumour = list(csv.DictReader(file))[1]
    assert (tumour["dice"], tumour["recall"], tumour["accuracy"], tumour["tn"]) == ("", "", "1.0", "9")


def test_no_rows_leave_the_header(tmp_path):
    SCORES_CSV.write(tmp_path / "scores.csv", [])
    assert SCORES_CSV.read(tmp_path / "scores.csv") == []


def test_further_columns_follow_and_come_back(tmp_path):
    more = [{"hd95_mm": value, **row} for value, row in zip([1.5, math.nan, 2.0], rows(), strict=True)]
    SCORES_CSV.write(tmp_path / "scores.csv", more)
    header = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith(",pred_ml,hd95_mm")
    assert SCORES_CSV.read(tmp_path / "scores.csv")[0]["hd95_mm"] == 1.5
    assert math.isnan(SCORES_CSV.read(tmp_path / "scores.csv")[1]["hd95_mm"])


def test_the_group_of_a_case_is_a_text(tmp_path):
    SCORES_CSV.write(tmp_path / "scores.csv", [{**rows()[0], "group": "007"}])
    assert SCORES_CSV.read(tmp_path / "scores.csv")[0]["group"] == "007"


def test_scores_saved_by_a_spreadsheet_are_read(tmp_path):
    SCORES_CSV.write(tmp_path / "scores.csv", rows())
    saved = "\ufeff" + (tmp_path / "scores.csv").read_text(encoding="utf-8").replace("\n", "\r\n")
    (tmp_path / "scores.csv").write_bytes(saved.encode())
    assert_same(SCORES_CSV.read(tmp_path / "scores.csv")[0], rows()[0])


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
def test_damaged_scores_are_an_error_that_names_the_place(tmp_path, old, new, found):
    path = tmp_path / "scores.csv"
    SCORES_CSV.write(path, rows())
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=rf"SCORE_FILE .*scores\.csv: {found}"):
        SCORES_CSV.read(path)


@pytest.mark.parametrize("read", [SCORES_CSV.read, read_json, read_summary, read_curve, read_files, SLICES_CSV.read])
def test_absent_files_are_an_error(tmp_path, read):
    with pytest.raises(UserError, match=r"SCORE_FILE .*absent: no such file"):
        read(tmp_path / "absent")


@pytest.mark.parametrize("read", [SCORES_CSV.read, read_json, read_summary, read_curve, read_files, SLICES_CSV.read])
def test_empty_files_are_an_error(tmp_path, read):
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match=r"SCORE_FILE .*empty: no"):
        read(tmp_path / "empty")


def test_pipe_in_the_place_of_scores_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "scores.csv")
    with pytest.raises(UserError, match="NOT_A_FILE"):
        SCORES_CSV.read(tmp_path / "scores.csv")


def test_summary_names_a_folder_whose_name_is_no_text(tmp_path):
    folder = os.fsdecode(b"/data/\xb8\xce")
    write_json(tmp_path / "summary.json", {"pred_dir": folder})
    assert read_json(tmp_path / "summary.json") == {"pred_dir": folder}


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
    write_json(tmp_path / "summary.json", summary)
    assert read_json(tmp_path / "summary.json") == {
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


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"loss": math.inf}, ValueError, r"summary\.loss must be finite or NaN, found inf"),
        ({"loss": {1: 2}}, TypeError, r"keys of summary\.loss must be str, found 1"),
        ({"model": object()}, TypeError, r"summary\.model must be a number, text, list or dict, found object"),
    ],
)
def test_what_a_summary_must_not_hold_is_refused_and_nothing_is_written(tmp_path, bad, error, message):
    with pytest.raises(error, match=message):
        write_json(tmp_path / "summary.json", bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "found"), [(b"{half", "no JSON"), (b"\xff", "no JSON"), (b"[1]", "a JSON list")])
def test_damaged_summaries_are_an_error(tmp_path, content, found):
    (tmp_path / "summary.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"SCORE_FILE .*summary\.json: {found}"):
        read_json(tmp_path / "summary.json")


def test_a_failed_write_keeps_the_files_that_were_there(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"seed": 1})
    with pytest.raises(TypeError):
        write_json(path, {"seed": object()})
    assert json.loads(path.read_text()) == {"seed": 1}
