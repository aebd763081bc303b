from __future__ import annotations

import json

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from medseg3d.cli import main
from medseg3d.data.splits import make_split, write_split
from medseg3d.evaluation import Score, Summary
from medseg3d.evaluation.files import SCORES_CSV, score_row, write_curve
from medseg3d.evaluation.records import VERSION
from medseg3d.metrics import BinnedPRCurve, ConfusionCounts
from medseg3d.reports.cris_study_conditions import conditions, differences
from medseg3d.reports.cris_study_gains import conclusion, gains, gains_markdown
from medseg3d.reports.cris_study_results import read_study
from medseg3d.reports.cris_study_table import draw_study, ours, paper_table, study_markdown

DATA = {
    **{"split_file": "split.json", "split_hash": "0123456789abcdef0123"},
    **{"cases": {"train": 700, "val": 150, "test": 150}, "phantom": False},
}


def write_row(folder, backbone, strategy, seed, dice_mean, mse_mean, data="kvasir-seg"):
    name = f"{data}_{backbone}_{strategy}_seed_{seed}"
    scores = [
        Score("polyp", "dice", "cases", dice_mean, 150, low=0.5, high=0.9),
        Score("polyp", "dice", "pooled", dice_mean + 0.1, 150),
        Score("polyp", "mse", "cases", mse_mean, 150),
        Score("polyp", "average_precision", "pooled", 0.9, 150),
    ]
    row = {
        **{"data": data, "backbone": backbone, "strategy": strategy, "seed": seed},
        "evaluation": Summary(scores).as_json(),
        **{"scores_at_half": {"dice_mean": 0.25, "dice_pooled": 0.125}, "threshold": 0.35, "learning_rate": 0.00123},
        **{"epochs": 80, "parameters": 29519778, "seconds": {"training": 61.0}, "resumed": False, "run_dir": name},
        **{"versions": {"torch": "2.13.0"}, "tuning": {"trials": {"complete": 15, "pruned": 5}, "seconds": 600.0}},
    }
    evaluation = folder / name / "evaluation_test"
    evaluation.mkdir(parents=True)
    (folder / name / "row.json").write_text(json.dumps(row))
    (folder / name / "threshold.json").write_text('{"value": 0.875}')
    # a picture of 100 pixels and one of 300, around the means
    pictures = {"a": (100, dice_mean - 0.1, mse_mean - 0.01), "b": (300, dice_mean + 0.1, mse_mean + 0.01)}
    SCORES_CSV.write(
        evaluation / "scores.csv",
        [
            {**score_row(case, "polyp", ConfusionCounts(tp=1, tn=pixels - 1)), "dice": dice, "mse": mse}
            for case, (pixels, dice, mse) in pictures.items()
        ],
    )
    curve = BinnedPRCurve()
    curve.update(np.array([-3.0, -1.0, 0.5, 2.0]), np.array([0, 1, 0, 1]))
    write_curve(evaluation / "pr.npz", curve)


def write_record(folder, data=None, conditions=None, trials=20, tune_epochs=None, threshold_part="train"):
    grid = [("unet", "backbone"), ("unet", "cris"), ("segnet", "cris"), ("segnet", "crf")]
    record = {
        **{"version": VERSION, "name": "study", "bundle": "polyp_cris", "knobs": {}, "part": "test"},
        "tune": {"trials": trials, "knobs": {"epochs": tune_epochs} if tune_epochs else {}} if trials else None,
        "threshold": {"part": threshold_part, "score": "dice_mean"},
        "factors": {"data": {"kvasir-seg": {"dataset_dir": "/data/Kvasir-SEG"}}},
        "data": {"/data/Kvasir-SEG": {**DATA, **(data or {})}},
        "conditions": {"picture_size": [128, 128], "epochs": 80, "batch_size": 4, **(conditions or {})},
        "command": ["/venv/bin/medseg3d", "study", "cris", "-o", "runs/my study"],
        **{"jobs": 2, "machine": "a machine without a GPU"},
        "asked": [
            {
                **{"data": "kvasir-seg", "backbone": backbone, "strategy": strategy, "seed": seed},
                "run_dir": f"kvasir-seg_{backbone}_{strategy}_seed_{seed}",
            }
            for backbone, strategy in grid
            for seed in (0, 1)
        ],
    }
    (folder / "study.json").write_text(json.dumps(record))


@pytest.fixture
def folder(tmp_path):
    write_row(tmp_path, "unet", "cris", 0, 0.8, 0.04)
    write_row(tmp_path, "unet", "cris", 1, 0.82, 0.05)
    write_row(tmp_path, "segnet", "cris", 0, 0.7, 0.0614)
    for seed in (0, 1):
        (tmp_path / f"kvasir-seg_unet_backbone_seed_{seed}").mkdir()
        (tmp_path / f"kvasir-seg_unet_backbone_seed_{seed}" / "failure.json").write_text('{"reason": "LOSS: nan"}')
    write_record(tmp_path)
    return tmp_path


def test_ours_stand_by_row_and_column_with_the_spread_over_seeds(folder):
    study = read_study(folder)
    cells = ours(study, "kvasir-seg", paper_table(study, "kvasir-seg"), "cases")
    assert cells["Proposed"] == {
        **{"unet_dice": "81.00 ± 1.41", "unet_mse": "0.045 ± 0.007", "unetpp_dice": "–", "unetpp_mse": "–"},
        **{"segnet_dice": "70.00 (1 of 2 seeds)", "segnet_mse": "0.061 (1 of 2 seeds)"},
    }


def test_the_pooled_error_weighs_a_picture_by_its_pixels(folder):
    study = read_study(folder)
    cells = ours(study, "kvasir-seg", paper_table(study, "kvasir-seg"), "pooled")
    # (100 x (0.04 - 0.01) + 300 x (0.04 + 0.01)) / 400 = 0.045, and 0.055 for the other seed
    assert cells["Proposed"]["unet_mse"] == "0.050 ± 0.007"


def test_what_has_failed_says_so_in_the_table_and_why_below_it(folder):
    study = read_study(folder)
    assert ours(study, "kvasir-seg", paper_table(study, "kvasir-seg"), "cases")["Backbone"]["unet_dice"] == "failed"
    text = study_markdown(study)
    assert "- kvasir-seg_unet_backbone_seed_0 failed: LOSS: nan" in text
    assert "- kvasir-seg, 3 not finished: segnet_cris_seed_1, segnet_crf_seed_0, segnet_crf_seed_1" in text


def test_the_papers_numbers_stand_beside_in_both_conventions(folder):
    lines = study_markdown(read_study(folder)).splitlines()
    per_picture, pooled = (line for line in lines if line.startswith("| Proposed |"))
    assert per_picture.startswith("| Proposed | **85.99** | 81.00 ± 1.41 | 0.035")
    assert pooled.startswith("| Proposed | **85.99** | 91.00 ± 1.41 | 0.035 | 0.050 ± 0.007 | **86.05** | – |")


def test_every_run_has_its_scores_at_both_thresholds(folder):
    scores = "70.00 | 50.00 to 90.00 | 25.00 | 80.00 | 12.50 | 0.0614 | 0.0664 | 0.9000"
    assert f"| segnet | cris | 0 | 0.35 | {scores} |" in study_markdown(read_study(folder)).splitlines()


def log(run, validation, iterations):
    with SummaryWriter(str(run)) as writer:
        for step in range(iterations):
            writer.add_scalar("train_loss", 1.0, step + 1)
        for step, value in validation.items():
            writer.add_scalar("val_dice_mean", value, step)


def test_every_training_says_what_it_kept_and_what_chose_the_threshold(folder):
    # 160 iterations, 80 epochs: two in each; the best validation came after the third
    log(folder / "kvasir-seg_segnet_cris_seed_0", {2: 0.5, 6: 0.75, 160: 0.625}, 160)
    lines = study_markdown(read_study(folder)).splitlines()
    trained = "0.00123 | 15 complete, 5 pruned | 80 | 3 | 75.00 | 87.50 | 29,519,778 | 600 | 61 | 0"
    assert f"| segnet | cris | 0 | {trained} |" in lines
    assert any(line.startswith("| unet | cris | 0 |") and "| 80 | unknown |" in line for line in lines)


@pytest.mark.parametrize(("selection", "kept"), [("best", (1, 0.75)), ("last", (80, 0.5))])
def test_the_selection_decides_what_was_kept(folder, selection, kept):
    log(folder / "kvasir-seg_segnet_cris_seed_0", {1: 0.75, 80: 0.5}, 80)
    record = json.loads((folder / "study.json").read_text())
    record["conditions"]["selection"] = selection
    (folder / "study.json").write_text(json.dumps(record))
    assert read_study(folder).kept == {"kvasir-seg_segnet_cris_seed_0": kept}


def test_trainings_that_were_still_rising_are_counted(folder):
    write_record(folder, conditions={"selection": "best"})
    log(folder / "kvasir-seg_segnet_cris_seed_0", {80: 0.5}, 80)
    log(folder / "kvasir-seg_unet_cris_seed_0", {40: 0.5, 80: 0.25}, 80)
    assert "**1 of 2 trainings were best in their last epoch**" in conditions(read_study(folder))


def test_differences_are_taken_picture_by_picture_and_seed_by_seed(folder):
    write_row(folder, "unet", "fcn", 0, 0.7, 0.05)
    write_row(folder, "unet", "fcn", 1, 0.73, 0.05)
    write_row(folder, "segnet", "fcn", 0, 0.75, 0.05)
    study = read_study(folder)
    table = paper_table(study, "kvasir-seg")
    unet, segnet, both = gains(study, "kvasir-seg", table)
    assert unet.dice.pairs == pytest.approx([0.1, 0.09])
    assert (unet.dice.value, unet.mse.value) == pytest.approx((0.095, -0.005))
    assert unet.paper == pytest.approx(85.99 - 85.46)
    assert (segnet.one, segnet.other, segnet.backbones) == ("cris", "fcn", ("segnet",))
    # seed 0 alone is of both: 0.1 and -0.05
    assert both.backbones == ("unet", "segnet")
    assert both.dice.pairs == pytest.approx([0.025])
    assert both.paper == pytest.approx((85.99 - 85.46 + 86.88 - 73.88) / 2)
    lines = gains_markdown(study, "kvasir-seg", table).splitlines()
    assert lines[2].startswith("| UNet | CRIS − FCN | +0.53 | +9.50 | +9.50 to +9.50 | 2 / 0 | +9.50 ± 0.71, n=2 |")
    assert lines[3].startswith("| SegNet | CRIS − FCN | +13.00 | -5.00 | -5.00 to -5.00 | 0 / 2 | -5.00, n=1 |")
    assert lines[4].startswith("| mean of 2 |")


def test_the_conclusion_names_what_is_higher_lower_and_undecided(folder):
    write_row(folder, "unet", "fcn", 0, 0.7, 0.05)
    write_row(folder, "unet", "fcn", 1, 0.95, 0.05)
    write_row(folder, "segnet", "fcn", 0, 0.75, 0.05)
    write_row(folder, "segnet", "crf", 0, 0.5, 0.05)
    study = read_study(folder)
    table = paper_table(study, "kvasir-seg")
    assert conclusion(gains(study, "kvasir-seg", table), table) == (
        "**CRIS, Dice per picture:** Against the same refinement without turns (FCN): lower with SegNet (-5.0); "
        "undecided with UNet (-1.5). Against CRF: higher with SegNet (+20.0)."
    )


def test_without_two_strategies_of_a_backbone_no_difference_is_given(folder):
    assert "No two strategies of one backbone are finished." in study_markdown(read_study(folder))


def test_the_conditions_name_split_time_versions_and_command(folder):
    split = make_split([str(n) for n in range(20)], 3, 3, seed=7)
    write_split(folder / "split.json", split)
    write_record(folder, {"split_file": str(folder / "split.json")})
    text = conditions(read_study(folder))
    assert "- kvasir-seg: 700 train, 150 val, 150 test; split 0123456789abcdef (seed 7), split.json" in text
    assert "summed over 3 runs: training 3 min 3 s, tuning 30 min 0 s; 2 at a time, on a machine without a GPU." in text
    assert "Versions: torch 2.13.0." in text
    assert "\nmedseg3d study cris -o 'runs/my study'\n" in text


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
    assert "85.99" not in text
    assert "| Proposed | 81.00 ± 1.41 | 0.045 ± 0.007 | – | – | 70.00 (1 of 2 seeds) | 0.061 (1 of 2 seeds) |" in text


def test_the_figure_has_a_panel_for_each_backbone_and_a_style_for_each_strategy(folder):
    write_row(folder, "segnet", "fcn", 0, 0.6, 0.07)
    figure = draw_study(read_study(folder), "kvasir-seg")
    lines = [
        {line.get_label().partition(",")[0]: line for line in axes.get_lines() if ", AP" in str(line.get_label())}
        for axes in figure.axes
    ]
    assert [axes.get_title() for axes in figure.axes] == ["UNet", "UNet++", "SegNet"]
    assert figure.get_suptitle() == "kvasir-seg, part test, 150 pictures"
    assert [list(each) for each in lines] == [["CRIS (proposed)"], [], ["CRIS (proposed)", "Backbone+FCN"]]
    unet, segnet = lines[0]["CRIS (proposed)"], lines[2]["CRIS (proposed)"]
    assert unet.get_color() == segnet.get_color() != lines[2]["Backbone+FCN"].get_color()
    # scores 2 and 0.5: of the four pixels, those from 0.5 up hold one of two true ones
    assert (0.5, 1.0) in set(zip(*unet.get_data(), strict=True))


def test_every_seed_has_a_line_and_the_legend_their_mean(folder):
    axes = draw_study(read_study(folder), "kvasir-seg").axes[0]
    curves = [line for line in axes.get_lines() if line.get_drawstyle() == "steps-post"]
    assert len(curves) == 2
    assert len({line.get_color() for line in curves}) == 1
    assert axes.get_legend().get_texts()[0].get_text() == "CRIS (proposed), AP 0.833 ± 0.000, 2 seeds"
    assert len([line for line in axes.get_lines() if line.get_marker() == "o"]) == 2


def test_the_verb_writes_tables_and_figures_and_ends_with_3_after_a_failure(folder, capsys):
    assert main(["study", "cris", "-o", str(folder), "--table"]) == 3
    assert (folder / "study.md").read_text() in capsys.readouterr().out
    assert (folder / "pr_kvasir-seg.png").stat().st_size > 10_000


@pytest.mark.parametrize("words", [["kvasir-seg"], ["a=b", "a=c"], ["=b"]])
def test_data_without_a_name_is_refused(words, tmp_path, capsys):
    assert main(["study", "cris", "-o", str(tmp_path), "--data", *words]) == 2
    assert "BAD_VALUE --data" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_a_study_is_refused(name, tmp_path, capsys):
    assert main(["study", "cris", "-o", str(tmp_path / name), "--table"]) == 1
    assert "run medseg3d study cris first" in capsys.readouterr().err


def test_a_study_that_has_only_begun_has_no_table_and_says_what_is_missing(tmp_path, capsys):
    write_record(tmp_path)
    assert main(["study", "cris", "-o", str(tmp_path), "--table"]) == 0
    text = capsys.readouterr().out
    assert "0 of 8 combinations" in text
    assert "No run is finished." in text
    assert not list(tmp_path.glob("*.png"))


def test_every_data_set_has_its_own_tables_and_picture(folder):
    record = json.loads((folder / "study.json").read_text())
    record["factors"]["data"]["my polyps"] = {"dataset_dir": "/data/own"}
    record["data"]["/data/own"] = DATA
    record["asked"].append(
        {
            **{"data": "my polyps", "backbone": "unet", "strategy": "cris", "seed": 0},
            "run_dir": "my polyps_unet_cris_seed_0",
        }
    )
    (folder / "study.json").write_text(json.dumps(record))
    write_row(folder, "unet", "cris", 0, 0.6, 0.1, data="my polyps")
    text = study_markdown(read_study(folder))
    assert "**my polyps.** Not in the paper.\n" in text
    assert "| Proposed | 60.00 (1 of 2 seeds) | 0.100 (1 of 2 seeds) | – | – | – | – |" in text
    assert "](pr_my%20polyps.png)" in text
