from __future__ import annotations

import json

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from medseg3d.cli import main
from medseg3d.errors import UserError
from medseg3d.evaluation import Score, Summary
from medseg3d.evaluation.files import SCORES_CSV, score_row, write_curve
from medseg3d.evaluation.records import VERSION
from medseg3d.metrics import BinnedPRCurve, ConfusionCounts
from medseg3d.reports.charts import draw_levels
from medseg3d.reports.comparison import read_comparison
from medseg3d.reports.comparison_blocks import ours, paper_tables, write_comparison

pytestmark = pytest.mark.usefixtures("undrawn")

DATA = {
    **{"split_file": "split.json", "split_hash": "0123456789abcdef0123"},
    **{"cases": {"train": 700, "val": 150, "test": 150}, "phantom": False},
}
KVASIR = "kvasir-seg"


def write_row(folder, backbone, strategy, seed, dice_mean, mse_mean, data=KVASIR):
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
    (evaluation / "summary.json").write_text(json.dumps(Summary(scores).as_json()))
    # an image of 100 pixels and one of 300, around the means
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


def asked(data, *grid):
    return [
        {
            **{"data": data, "backbone": backbone, "strategy": strategy, "seed": seed},
            "run_dir": f"{data}_{backbone}_{strategy}_seed_{seed}",
        }
        for seed in (0, 1)
        for backbone, strategy in grid
    ]


def write_record(folder, data=None, **changes):
    grid = [(b, s) for b in ("unet", "segnet") for s in ("backbone", "fcn", "crf", "cris")]
    record = {
        **{"version": VERSION, "name": "cris", "bundle": "polyp_cris", "overlays": [], "knobs": {}, "part": "test"},
        "tune": {"search": {"learning_rate": "log:1e-6:1e-2"}, "trials": 20, "knobs": {}},
        "threshold": {"part": "train", "score": "dice_mean"},
        "factors": {"data": {KVASIR: {"dataset_dir": "/data/Kvasir-SEG"}}, "backbone": {}, "strategy": {}},
        "reference": {"strategy": ["backbone", "fcn", "crf"]},
        "data": {"/data/Kvasir-SEG": {**DATA, **(data or {})}},
        "conditions": {"picture_size": [128, 128], "epochs": 80, "batch_size": 4},
        "command": ["/venv/bin/medseg3d", "reproduce", "cris", "-o", "runs/my cris"],
        **{"jobs": 2, "machine": "a machine without a GPU", "asked": asked(KVASIR, *grid)},
    }
    (folder / "cris.json").write_text(json.dumps({**record, **changes}))


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


def cells(folder, over):
    comparison = read_comparison(folder, "cris")
    (table,) = paper_tables(comparison, KVASIR)
    return ours(comparison, KVASIR, table, over)


def rows_of(folder, *begin):
    lines = write_comparison(folder, "cris").splitlines()
    return [line for line in lines if line.startswith(f"| {' | '.join(begin)} |")]


def test_ours_stand_by_row_and_column_with_the_spread_over_seeds(folder):
    assert cells(folder, "cases")["Proposed"] == {
        **{"unet_dice": "81.00 ± 1.41", "unet_mse": "0.045 ± 0.007"},
        **{"segnet_dice": "70.00 (1 of 2 seeds)", "segnet_mse": "0.061 (1 of 2 seeds)"},
    }


def test_the_pooled_error_weighs_a_picture_by_its_pixels(folder):
    # (100 x (0.04 - 0.01) + 300 x (0.04 + 0.01)) / 400 = 0.045, and 0.055 for the other seed
    assert cells(folder, "pooled")["Proposed"]["unet_mse"] == "0.050 ± 0.007"


def test_what_has_failed_says_so_in_the_table_and_why_below_it(folder):
    found = cells(folder, "cases")
    assert (found["Backbone"]["unet_dice"], found["Backbone+FCN"]["unet_dice"]) == ("failed", "–")
    text = write_comparison(folder, "cris")
    assert "- kvasir-seg_unet_backbone_seed_0 failed: LOSS: nan" in text
    assert "- Not finished: kvasir-seg_unet_fcn_seed_0, kvasir-seg_unet_crf_seed_0, kvasir-seg_segnet_backbone" in text


def test_the_papers_numbers_stand_beside_in_both_conventions(folder):
    per_picture, pooled = rows_of(folder, "Proposed")
    assert per_picture.startswith("| Proposed | **85.99** | 81.00 ± 1.41 | 0.035")
    assert pooled.startswith("| Proposed | **85.99** | 91.00 ± 1.41 | 0.035 | 0.050 ± 0.007 | **86.05** |")


def test_every_run_has_its_scores_at_both_thresholds(folder):
    scores = "70.00 | 50.00 to 90.00 | 25.00 | 80.00 | 12.50 | 0.0614 | 0.0664 | 0.9000"
    assert f"| segnet | cris | 0 | 0.35 | {scores} |" in rows_of(folder, "segnet", "cris", "0")


def log(run, validation, iterations):
    with SummaryWriter(str(run)) as writer:
        for step in range(iterations):
            writer.add_scalar("train_loss", 1.0, step + 1)
        for step, value in validation.items():
            writer.add_scalar("val_dice_mean", value, step)


def test_every_training_says_what_it_kept_and_what_chose_the_threshold(folder):
    # 160 iterations, 80 epochs: two in each; the best validation came after the third
    log(folder / "kvasir-seg_segnet_cris_seed_0", {2: 0.5, 6: 0.75, 160: 0.625}, 160)
    _, trained = rows_of(folder, "segnet", "cris", "0")
    assert trained.endswith("| 0 | 0.00123 | complete 15, pruned 5 | 80 | 3 | 75.00 | 87.50 | 600 | 61 | 0 |")


@pytest.mark.parametrize("knob", ["checkpoint_selection", "selection"])
@pytest.mark.parametrize(("selection", "kept"), [("best", (1, 0.75)), ("last", (80, 0.5))])
def test_the_checkpoint_selection_decides_what_was_kept(folder, knob, selection, kept):
    log(folder / "kvasir-seg_segnet_cris_seed_0", {1: 0.75, 80: 0.5}, 80)
    write_record(folder, conditions={knob: selection})
    assert read_comparison(folder, "cris").kept == {"kvasir-seg_segnet_cris_seed_0": kept}


def test_trainings_that_were_still_rising_are_counted(folder):
    log(folder / "kvasir-seg_segnet_cris_seed_0", {80: 0.5}, 80)
    log(folder / "kvasir-seg_unet_cris_seed_0", {40: 0.5, 80: 0.25}, 80)
    assert "- 1 of 2 trainings were best in their last epoch" in write_comparison(folder, "cris")


def test_differences_are_taken_picture_by_picture_and_seed_by_seed(folder):
    write_row(folder, "unet", "fcn", 0, 0.7, 0.05)
    write_row(folder, "unet", "fcn", 1, 0.73, 0.05)
    write_row(folder, "segnet", "fcn", 0, 0.75, 0.05)
    unet, _, both = read_comparison(folder, "cris").gains(KVASIR)
    assert unet.pairs == [((KVASIR, "unet", "cris"), (KVASIR, "unet", "fcn"))]
    assert unet.scores["dice"].pairs == pytest.approx([0.1, 0.09])
    assert unet.by_seed["pooled"] == pytest.approx([0.1, 0.09])
    assert [unet.scores[score].value for score in ("dice", "mse")] == pytest.approx([0.095, -0.005])
    # seed 0 alone is of both: 0.1 and -0.05
    assert [one[1] for one, _ in both.pairs] == ["unet", "segnet"]
    assert both.scores["dice"].pairs == pytest.approx([0.025])
    (line,) = [line for line in rows_of(folder, "unet") if "cris − fcn" in line]
    seeds = "+9.50 ± 0.71 | +9.50 ± 0.71"
    assert line.startswith(f"| unet | cris − fcn | +0.53 | +9.50 | +9.50 to +9.50 | 2 / 0 | {seeds} | -0.0050 |")
    # the paper's: 85.99 - 85.46 and 86.88 - 73.88
    assert rows_of(folder, "mean of 2")[0].startswith("| mean of 2 | cris − fcn | +6.77 | +2.50 |")


def test_the_later_of_two_references_is_compared_with_the_earlier(folder):
    write_row(folder, "segnet", "fcn", 0, 0.75, 0.05)
    write_row(folder, "segnet", "crf", 0, 0.5, 0.05)
    names = [(gain.pairs[0][0][2], gain.pairs[0][1][2]) for gain in read_comparison(folder, "cris").gains(KVASIR)]
    assert names == [("crf", "fcn"), ("cris", "fcn"), ("cris", "crf")]


def test_the_record_alone_has_means_and_differences_by_seed(folder, tmp_path_factory):
    write_row(folder, "unet", "fcn", 0, 0.7, 0.05)
    write_row(folder, "unet", "fcn", 1, 0.73, 0.05)
    record = read_comparison(folder, "cris").record
    rows = [{**row, "evaluation": row["evaluation"].as_json()} for row in record["rows"]]
    alone = tmp_path_factory.mktemp("alone")
    (alone / "cris.json").write_text(json.dumps({**record, "rows": rows}))
    (gain,) = read_comparison(alone, "cris").gains(KVASIR)
    assert gain.scores["dice"].value == pytest.approx(0.095)
    assert gain.scores["dice"].verdict == "higher for every seed; the cases are not available"
    (line,) = [line for line in rows_of(alone, "unet") if "cris − fcn" in line]
    assert line.startswith("| unet | cris − fcn | +0.53 | +9.50 | +9.50 ± 0.71 |")


def test_the_conditions_name_split_time_versions_and_command(folder):
    text = write_comparison(folder, "cris")
    assert "- Kvasir-SEG: 700 train, 150 val, 150 test; split 0123456789abcdef, split.json" in text
    assert (
        "summed over 3 runs: training 3 min 3 s, tuning 30 min 0 s; 2 in parallel, on a machine without a GPU." in text
    )
    assert "Versions: torch 2.13.0." in text
    assert "- Last command: medseg3d reproduce cris -o 'runs/my cris'\n" in text


def test_what_is_tuned_is_not_called_equal_for_all(folder):
    write_record(folder, conditions={"epochs": 80, "batch_size": 4, "learning_rate": 0.001})
    text = write_comparison(folder, "cris")
    assert "The same for all runs: epochs 80, batch_size 4.\n" in text
    assert "Tuned: learning_rate log:1e-6:1e-2, 20 trials, on the validation set." in text


def test_nothing_is_said_of_the_papers_conditions_where_they_are_ours(folder):
    assert "Conditions that differ from the paper's" not in write_comparison(folder, "cris")


@pytest.mark.parametrize(
    ("data", "changes", "said"),
    [
        ({"cases": {"train": 616, "val": 132, "test": 132}}, {}, "cases 880, not 1000"),
        ({"cases": {"train": 800, "val": 100, "test": 100}}, {}, "split 80/10/10, not 70/15/15"),
        ({}, {"tune": None}, "trials 0, not 20"),
        ({}, {"threshold": {"part": "val", "score": "dice_mean"}}, "threshold chosen on val, not train"),
        ({}, {"conditions": {"batch_size": 8}}, "batch_size 8, not 4"),
    ],
)
def test_other_conditions_than_the_papers_are_named(folder, data, changes, said):
    write_record(folder, data, **changes)
    assert f"**Conditions that differ from the paper's:** {said}." in write_comparison(folder, "cris")


def test_scores_on_phantoms_do_not_stand_beside_published_ones(folder):
    write_record(folder, {"phantom": True})
    text = write_comparison(folder, "cris")
    assert "85.99" not in text
    assert "| unet | cris | 81.00 ± 1.41 | 91.00 ± 1.41 | 2 | 29,519,778 |" in text
    assert "which say nothing about patients" in text


def test_the_curves_have_a_panel_for_each_backbone_and_a_line_for_each_strategy(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr("medseg3d.reports.comparison_blocks.draw_pr_panels", lambda *args: drawn.append(args))
    monkeypatch.setattr("medseg3d.reports.comparison_blocks.save_figure", lambda figure, path: path)
    write_comparison(folder, "cris")
    ((panels, title),) = drawn
    assert title == "Precision and recall, kvasir-seg, test set"
    assert {name: [[each.name for each in line] for line in lines] for name, lines in panels.items()} == {
        "unet": [[], [], [], ["cris", "cris"]],
        "segnet": [[], [], [], ["cris"]],
    }
    assert panels["unet"][3][0].threshold == 0.35


def test_the_figure_has_a_point_for_every_run_and_a_line_for_every_combination(folder):
    write_row(folder, "unet", "fcn", 1, 0.73, 0.05)
    (axes,) = draw_levels(read_comparison(folder, "cris"), KVASIR).axes
    lines = {line.get_label(): line.get_data() for line in axes.get_lines()}
    assert {name: [list(each) for each in data] for name, data in lines.items()} == {
        "unet": [[0, 1], pytest.approx([73, 81])],
        "segnet": [[1], pytest.approx([70])],
    }
    points = [points.get_offsets().tolist() for points in axes.collections]
    assert points[:2] == [[[1, pytest.approx(80)]], [[0, pytest.approx(73)], [1, pytest.approx(82)]]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["fcn", "cris"]


def test_the_verb_writes_tables_and_figures_and_ends_with_3_after_a_failure(folder, capsys, drawn):
    assert main(["reproduce", "cris", "-o", str(folder), "--table"]) == 3
    assert (folder / "cris.md").read_text() in capsys.readouterr().out
    assert (folder / "pr_kvasir-seg.png").stat().st_size > 10_000
    assert (folder / "scores_kvasir-seg.png").stat().st_size > 10_000


def test_the_earlier_name_of_the_verb_and_of_its_record_are_accepted(folder, capsys):
    (folder / "cris.json").rename(folder / "study.json")
    assert main(["study", "cris", "-o", str(folder), "--table"]) == 3
    assert (folder / "study.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize("words", [["kvasir-seg"], ["a=b", "a=c"], ["=b"]])
def test_data_without_a_name_is_refused(words, tmp_path, capsys):
    assert main(["reproduce", "cris", "-o", str(tmp_path), "--data", *words]) == 2
    assert "BAD_VALUE --data" in capsys.readouterr().err


VERBS = {"cris": "reproduce cris", "study": "reproduce cris", "ablation": "ablation", "mine": "experiment FILE"}


@pytest.mark.parametrize(("name", "verb"), VERBS.items())
def test_a_folder_without_an_experiment_says_what_to_run(name, verb, tmp_path):
    with pytest.raises(UserError, match=rf"no {name}\.json, expected .*. Hint: run medseg3d {verb} first"):
        read_comparison(tmp_path, name)


def test_an_experiment_of_an_earlier_version_is_an_error(folder):
    (folder / "cris.json").write_text('{"bundle": "polyp_cris", "budget": {}, "rows": [{}]}')
    with pytest.raises(UserError, match=r"cris\.json: scores in format 1 or older, expected format 2"):
        read_comparison(folder, "cris")


def test_an_experiment_that_has_only_begun_has_no_table_and_says_what_is_missing(tmp_path, capsys):
    write_record(tmp_path)
    assert main(["reproduce", "cris", "-o", str(tmp_path), "--table"]) == 0
    text = capsys.readouterr().out
    assert "0 of 16 runs" in text
    assert "No run is finished." in text
    assert not list(tmp_path.glob("*.png"))


def test_every_data_set_has_its_own_tables_and_picture(folder):
    record = json.loads((folder / "cris.json").read_text())
    record["factors"]["data"]["my polyps"] = {"dataset_dir": "/data/own"}
    record["data"]["/data/own"] = DATA
    record["asked"] += asked("my polyps", ("unet", "cris"))
    (folder / "cris.json").write_text(json.dumps(record))
    write_row(folder, "unet", "cris", 0, 0.6, 0.1, data="my polyps")
    text = write_comparison(folder, "cris")
    first, own = text.split("## my polyps")
    assert "Table 1" in first
    assert "Table" not in own
    assert "| unet | cris | 60.00 (1 of 2 seeds) | 70.00 (1 of 2 seeds) | 1 | 29,519,778 |" in own
    assert "](pr_my%20polyps.png)" in own


DICE = {0: (0.50, 0.60, 0.70), 1: (0.51, 0.59, 0.72), 2: (0.54, 0.64, 0.75)}
"""Dice by blocks and seed: one block is up and down, two are 4, 4 and 5 points up."""


@pytest.fixture
def ablation(tmp_path):
    """The record alone of an ablation."""
    names = ("dice", "recall", "specificity")
    rows = [
        {
            **{"nonlocal_blocks": blocks, "seed": seed, "run_dir": f"nonlocal_blocks_{blocks}_seed_{seed}"},
            "evaluation": Summary([Score("pancreas", name, "cases", value, 9) for name in names]).as_json(),
            **{"parameters": 10 + blocks, "seconds": {"training": 1.0}, "resumed": False, "epochs": None},
            **{"learning_rate": 0.1, "tuning": None, "versions": {}},
        }
        for blocks, values in DICE.items()
        for seed, value in enumerate(values)
    ]
    record = {
        **{"bundle": "pancreas_nl_2d", "overlays": ["pictures"], "part": "test", "knobs": {}, "failures": {}},
        **{"version": VERSION, "asked": rows, "tune": None, "threshold": None, "data": {"/data/slices": DATA}},
        "factors": {"nonlocal_blocks": {str(n): {"nonlocal_blocks": n} for n in DICE}},
        **{"reference": {"nonlocal_blocks": [0]}, "conditions": {"epochs": 3}},
    }
    (tmp_path / "ablation.json").write_text(json.dumps({**record, "rows": rows}))
    return tmp_path


def test_the_ablation_has_the_papers_table_2_beside_mean_and_spread_of_ours(ablation):
    text = write_comparison(ablation, "ablation")
    lines = [line for line in text.splitlines() if line.startswith("| 2 | ")]
    assert lines[0] == "| 2 | 64.33 ± 10.50 | 3 | 12 |"
    assert lines[1].startswith("| 2 | 99.98 **[b]** | 64.33 ± 10.50 | 91.51 | 64.33 ± 10.50 | 91.97 | 64.33")


def test_gains_are_paired_by_seed_and_called_so_only_where_all_agree(ablation):
    one, two = read_comparison(ablation, "ablation").gains("")
    # 1, -1, 2 and 4, 4, 5: means 0.67 and 4.33, far below the 10 points that seeds differ by
    assert one.by_seed["cases"] == pytest.approx([0.01, -0.01, 0.02])
    assert (one.scores["dice"].sign, two.scores["dice"].sign) == (0, 1)


def test_one_seed_allows_no_conclusion(ablation):
    record = json.loads((ablation / "ablation.json").read_text())
    record["rows"] = [row for row in record["rows"] if row["seed"] == 0]
    (ablation / "ablation.json").write_text(json.dumps(record))
    assert [gain.scores["dice"].sign for gain in read_comparison(ablation, "ablation").gains("")] == [0, 0]


def test_a_score_without_a_value_is_left_out_of_mean_and_pairs(ablation):
    record = json.loads((ablation / "ablation.json").read_text())
    record["rows"][0]["evaluation"]["scores"][0]["value"] = None  # Dice, 0 blocks, seed 0
    (ablation / "ablation.json").write_text(json.dumps(record))
    comparison = read_comparison(ablation, "ablation")
    assert comparison.values((0,), "dice") == {1: 0.6, 2: 0.7}
    assert comparison.gains("")[1].by_seed["cases"] == pytest.approx([0.04, 0.05])


def test_numbers_are_in_their_order_on_the_axis(ablation):
    record = json.loads((ablation / "ablation.json").read_text())
    (ablation / "ablation.json").write_text(json.dumps({**record, "asked": record["asked"][::-1]}))
    (axes,) = draw_levels(read_comparison(ablation, "ablation"), "").axes
    (line,) = axes.get_lines()
    assert [list(each) for each in line.get_data()] == [[0, 1, 2], pytest.approx([60, 60 + 2 / 3, 64 + 1 / 3])]


def test_the_verb_tables_what_is_there_without_training(ablation, capsys):
    assert main(["ablation", "bundles/pancreas_nl_2d", "--table", "-o", str(ablation)]) == 0
    assert (ablation / "ablation.md").read_text() in capsys.readouterr().out
    assert (ablation / "scores.png").read_bytes().startswith(b"\x89PNG")
