from __future__ import annotations

import json

import numpy as np
import pytest

from medseg3d.cli import main
from medseg3d.data.score_files import write_curve
from medseg3d.faults import Fault
from medseg3d.metrics import BinnedPRCurve
from medseg3d.reports import cris_study
from medseg3d.reports.cris_study_table import differences, draw_study, ours, paper_table, read_study, study_markdown

DATA = {
    **{"dataset_dir": "data/Kvasir-SEG", "split_file": "split.json", "split_hash": "0123456789abcdef0123"},
    **{"cases": {"train": 700, "val": 150, "test": 150}, "phantom": False},
}
SETTINGS = {
    **{"bundle": "polyp_cris", "knobs": {}, "trials": 20, "tune_epochs": None},
    **{"threshold_part": "train", "part": "test"},
}


def write_row(folder, backbone, strategy, seed, dice_mean, mse_mean, data="kvasir-seg"):
    name = f"{data}_{backbone}_{strategy}_seed_{seed}"
    scores = {"dice_mean": dice_mean, "dice_pooled": dice_mean + 0.1, "mse_mean": mse_mean, "average_precision": 0.9}
    row = {
        **{"data": data, "backbone": backbone, "strategy": strategy, "seed": seed, "scores": scores},
        **{"scores_at_half": {"dice_mean": 0.25, "dice_pooled": 0.125}, "threshold": 0.35, "learning_rate": 0.00123},
        **{"conventions": {"dice_mean": "mean over cases; n=150", "mse_mean": "mean", "dice_pooled": "summed"}},
        **{"epochs": 80, "parameters": 29519778, "seconds": {"training": 61.0}, "resumed": False, "run_dir": name},
        **{"versions": {"torch": "2.13.0"}},
    }
    (folder / name / "evaluation_test").mkdir(parents=True)
    (folder / name / "row.json").write_text(json.dumps(row))
    curve = BinnedPRCurve()
    curve.update(np.array([-3.0, -1.0, 0.5, 2.0]), np.array([0, 1, 0, 1]))
    write_curve(folder / name / "evaluation_test" / "pr.npz", {"polyp": curve})


def write_record(folder, data=None, **settings):
    grid = [("unet", "backbone"), ("unet", "cris"), ("segnet", "cris"), ("segnet", "crf")]
    record = {
        **{"study": "cris", "settings": {**SETTINGS, **settings}, "data": {"kvasir-seg": {**DATA, **(data or {})}}},
        **{"conditions": {"picture_size": [128, 128], "epochs": 80, "batch_size": 4, "learning_rate": 0.001}},
        **{"asked": [["kvasir-seg", *cell, seed] for cell in grid for seed in (0, 1)]},
    }
    (folder / "study.json").write_text(json.dumps(record))


@pytest.fixture
def folder(tmp_path):
    write_row(tmp_path, "unet", "cris", 0, 0.8, 0.04)
    write_row(tmp_path, "unet", "cris", 1, 0.82, 0.05)
    write_row(tmp_path, "segnet", "cris", 0, 0.7, 0.0614)
    for seed in (0, 1):
        (tmp_path / f"kvasir-seg_unet_backbone_seed_{seed}").mkdir()
        (tmp_path / f"kvasir-seg_unet_backbone_seed_{seed}" / "failure.json").write_text(
            '{"reason": "LOSS: found nan"}'
        )
    write_record(tmp_path)
    return tmp_path


def test_ours_stand_by_row_and_column_with_the_spread_over_seeds(folder):
    study = read_study(folder)
    cells = ours(study, "kvasir-seg", paper_table(study, "kvasir-seg"), "dice_mean")
    assert cells["Proposed"] == {
        **{"unet_dice": "81.00 ± 1.41", "unet_mse": "0.045 ± 0.007", "unetpp_dice": "–", "unetpp_mse": "–"},
        **{"segnet_dice": "70.00", "segnet_mse": "0.061"},
    }


def test_what_has_failed_says_so_in_the_table_and_why_below_it(folder):
    study = read_study(folder)
    assert ours(study, "kvasir-seg", paper_table(study, "kvasir-seg"), "dice_mean")["Backbone"]["unet_dice"] == "failed"
    text = study_markdown(study)
    assert "- kvasir-seg_unet_backbone_seed_0 failed: LOSS: found nan" in text
    assert "- kvasir-seg_segnet_crf_seed_1 is not finished" in text


def test_the_papers_numbers_stand_beside_in_both_conventions(folder):
    lines = study_markdown(read_study(folder)).splitlines()
    per_picture, pooled = (line for line in lines if line.startswith("| Proposed |"))
    assert per_picture.startswith("| Proposed | **85.99** | 81.00 ± 1.41 | 0.035")
    assert pooled == "| Proposed | **85.99** | 91.00 ± 1.41 | **86.05** | – | **86.88** | 80.00 |"


def test_every_run_has_its_scores_at_both_thresholds(folder):
    row = "segnet | cris | 0 | 0.00123 | 80 | 0.35 | 70.00 | 25.00 | 80.00 | 12.50 | 0.0614 | 0.9000 | 29,519,778 | 61"
    assert f"| {row} |" in study_markdown(read_study(folder)).splitlines()


def test_the_papers_conditions_are_said_to_be_the_papers(folder):
    (said,) = differences(read_study(folder))
    assert said.startswith("Where the paper states a condition, ours is the same.")


@pytest.mark.parametrize(
    ("data", "settings", "said"),
    [
        ({"cases": {"train": 616, "val": 132, "test": 132}}, {}, "880 pictures of kvasir-seg, not 1000"),
        ({"cases": {"train": 800, "val": 100, "test": 100}}, {}, "kvasir-seg split 80/10/10, not 70/15/15"),
        ({}, {"trials": 0}, "no trials of the learning rate, not 20"),
        ({}, {"tune_epochs": 5}, "trials of 5 epochs, trainings of 80"),
        ({}, {"threshold_part": "val"}, "the threshold chosen on the part val, not train"),
        ({"phantom": True}, {}, "kvasir-seg is generated"),
    ],
)
def test_other_conditions_than_the_papers_are_named(folder, data, settings, said):
    write_record(folder, data, **settings)
    assert f"**Not the paper's conditions:** {said}. " in differences(read_study(folder))[0]


def test_scores_on_phantoms_do_not_stand_beside_published_ones(folder):
    write_record(folder, {"phantom": True})
    text = study_markdown(read_study(folder))
    assert "81.00 ± 1.41" in text
    assert "85.99" not in text


def test_the_figure_has_a_panel_for_each_backbone_and_a_style_for_each_strategy(folder):
    write_row(folder, "segnet", "fcn", 0, 0.6, 0.07)
    figure = draw_study(read_study(folder), "kvasir-seg")
    lines = [
        {line.get_label().partition(",")[0]: line for line in axes.get_lines() if ", AP" in str(line.get_label())}
        for axes in figure.axes
    ]
    assert [axes.get_title() for axes in figure.axes] == ["UNet", "UNet++", "SegNet"]
    assert [list(each) for each in lines] == [["Proposed"], [], ["Backbone+FCN", "Proposed"]]
    assert lines[0]["Proposed"].get_color() == lines[2]["Proposed"].get_color() != lines[2]["Backbone+FCN"].get_color()
    # scores 2 and 0.5: of the four pixels, those from 0.5 up hold one of two true ones
    assert (0.5, 1.0) in set(zip(*lines[0]["Proposed"].get_data(), strict=True))


def test_the_verb_writes_tables_and_figures_and_ends_with_3_after_a_failure(folder, capsys):
    assert main(["study", "cris", "-o", str(folder), "--table"]) == 3
    assert (folder / "study.md").read_text() in capsys.readouterr().out
    assert (folder / "pr_kvasir-seg.png").stat().st_size > 10_000
    record = json.loads((folder / "study.json").read_text())
    assert (len(record["rows"]), len(record["failures"])) == (3, 2)


def test_the_verb_hands_on_options_and_knobs(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(cris_study, "run_cris_study", lambda *args, **settings: calls.append((args, settings)))
    words = "--data kvasir-seg=a clinicdb=b --split clinicdb=c.json --strategies fcn --trials 0 --picture_size [64,64]"
    main(["study", "cris", "-o", str(folder), *words.split(), "--tune-epochs", "4", "--jobs", "2"])
    ((args, settings),) = calls
    assert args == (str(folder), {"kvasir-seg": "a", "clinicdb": "b"})
    assert settings["splits"] == {"clinicdb": "c.json"}
    assert settings["knobs"] == {"picture_size": [64, 64]}
    assert (settings["strategies"], len(settings["backbones"])) == (["fcn"], 3)
    assert (settings["trials"], settings["tune_epochs"], settings["jobs"]) == (0, 4, 2)


@pytest.mark.parametrize("words", [["kvasir-seg"], ["a=b", "a=c"], ["=b"]])
def test_data_without_a_name_is_refused(words, tmp_path, capsys):
    assert main(["study", "cris", "-o", str(tmp_path), "--data", *words]) == 2
    assert "BAD_VALUE --data" in capsys.readouterr().err


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(Fault, match="SCORE_FILE"):
        read_study(tmp_path)
