from __future__ import annotations

import csv

from medseg3d.experiments.trials import TrialRecord, best_record, trials_markdown, write_trials

RECORDS = [
    TrialRecord(0, "complete", 0.5, 2, 3, 60.04, {"learning_rate": 1e-3}, "/runs/trial_0000"),
    TrialRecord(1, "pruned", 0.9, 1, 1, 20.0, {"learning_rate": 1e-5}, "/runs/trial_0001"),
    TrialRecord(2, "diverged", None, 0, 0, 5.0, {"learning_rate": 1e-2}, "/runs/trial_0002", "LOSS_NOT_FINITE"),
    TrialRecord(4, "running", None, 0, 0, None, {}),
    TrialRecord(3, "complete", 0.7, 3, 3, 61.0, {"learning_rate": 2e-3}, "/runs/trial_0003"),
]


def test_the_best_is_complete_and_the_earlier_one_of_equals():
    assert best_record(RECORDS).number == 3
    assert best_record(RECORDS[1:3]) is None
    equal = [TrialRecord(number, "complete", 0.5, 1, 1, 1.0) for number in (2, 1)]
    assert best_record(equal).number == 1


def test_the_table_has_the_best_first():
    lines = trials_markdown(RECORDS, "val_dice_mean", ["learning_rate"]).splitlines()
    assert lines[0] == "| trial | learning_rate | val_dice_mean | epoch | state | s |"
    assert lines[2] == "| 3 | 0.002 | 0.7000 | 3 of 3 | complete | 61 |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["3", "0", "1", "2", "4"]
    assert lines[-1] == "| 4 |  |  |  | running |  |"


def test_trials_csv_holds_what_is_known_of_every_trial_in_their_order(tmp_path):
    write_trials(tmp_path / "trials.csv", RECORDS, "val_dice_mean", ["learning_rate"])
    with open(tmp_path / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[0] == {
        **{"trial": "0", "state": "complete", "val_dice_mean": "0.5", "best_epoch": "2", "last_epoch": "3"},
        **{"seconds": "60.0", "folder": "/runs/trial_0000", "reason": "", "learning_rate": "0.001"},
    }
    assert (rows[2]["val_dice_mean"], rows[2]["reason"]) == ("", "LOSS_NOT_FINITE")
    assert (rows[4]["learning_rate"], rows[4]["seconds"]) == ("", "")
