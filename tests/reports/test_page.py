import json
import re
from dataclasses import replace

import numpy as np
import pytest
from report_runs import SHAPE, Page, make_pictures, make_run, save, undrawn_figures
from torch.utils.tensorboard import SummaryWriter

from medseg3d.errors import UserError
from medseg3d.reports.document import Text
from medseg3d.reports.run_report import Remarks, write_report
from medseg3d.reports.runs import read_run, read_runs

pytestmark = pytest.mark.usefixtures("undrawn")

HOSTILE = "<img src=x onerror=alert(1)>&\"'"


REMARKS = Remarks(
    opening=[Text("Three boxes.", style="soft")],
    baselines=[("fixed mask", 0.9, 3, "One for all."), ("untrained", 0.01, 2, "Before training.")],
    facts=[("data", "three boxes"), ("time for training", "5 min 41 s")],
)


def page_of(*folders, output=None, changes=None, **options):
    runs = [replace(read_run(folder), **(changes or {})) for folder in folders]
    options = {"title": "A demo", "with_networks": False, "cases": 0} | options
    page = write_report(runs, output or folders[0] / "report", **options)
    return Page(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    make_run(folder, {"ct_a": 1, "ct_b": 3, "ct_c": 0})
    return folder


@pytest.fixture(scope="module")
def page(run):
    with undrawn_figures():
        return page_of(run, cases=3, remarks=REMARKS)


def test_page_is_one_file_that_asks_for_nothing_from_outside(page):
    assert {"script", "link", "iframe", "object"}.isdisjoint(page.tags)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert not re.search(r"https?:|@import|url\(", page.html)
    assert "default-src 'none'" in page.html


def test_links_of_the_page_lead_somewhere(page):
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_headline_is_the_mean_dice_with_its_n_range_and_convention(page):
    # Dice 0.75, 0.25 and 1
    assert "0.667 mean Dice of pancreas, 3 cases, from 0.250 to 1.000" in page.text
    assert "a case empty in both ground truth and prediction is left out; on the original grid" in page.text


def test_score_tables_give_value_spread_n_and_convention(page):
    means, pooled = page.tables["scores"][1:3]
    assert means[0] == ["score", "value", "95 % interval", "sd", "n", "left out", "how it is computed"]
    # of 0.75, 0.25, 1: sd = sqrt((0.0833**2 + 0.4167**2 + 0.3333**2) / 2)
    assert [*means[1][:2], *means[1][3:]] == [
        *("Dice", "0.667", "0.382", "3", "0", "a case empty in both ground truth and prediction is left out"),
    ]
    # boxes of 96 voxels: hits 72 + 24 + 96 of 288 in truth and in prediction
    assert [*pooled[1][:2], *pooled[1][3:]] == ["Dice", "0.667", "3", "one score from the counts summed over all cases"]
    assert [row[0] for row in means[1:]] == ["Dice", "IoU", "Recall", "Specificity", "Precision", "Accuracy"]


def test_every_case_is_listed_worst_first(page):
    (table,) = page.tables["cases"]
    assert table[0] == [
        *("case", "Dice", "IoU", "recall", "specificity", "precision", "accuracy"),
        *("truth ml", "predicted ml", "TP", "FP", "FN"),
    ]
    assert [row[0] for row in table[1:]] == ["ct_b", "ct_a", "ct_c"]
    # 24 of 96 voxels of 0.02 ml; 1792 voxels in all
    assert table[1] == ["ct_b", "0.250", "0.143", "0.250", "0.958", "0.250", "0.920", "1.9", "1.9", "24", "72", "72"]


def test_undefined_scores_are_called_so_and_classes_are_kept_together(tmp_path):
    make_run(tmp_path / "run", {"ct_a": 1}, class_names=("pancreas", "cancer", "duct"))
    page = page_of(tmp_path / "run")
    (table,) = page.tables["cases"]
    assert table[0][:2] == ["case", "class"]
    assert [row[1:3] for row in table[1:]] == [
        *(["pancreas", "0.750"], ["cancer", "1.000"], ["duct", "undefined"], ["foreground", "0.875"]),
    ]
    # of the duct's case recall has no answer, specificity has
    means = page.tables["scores"][5]
    assert means[1][:4] == ["Dice", "undefined", "0", "1"]
    assert means[4][:4] == ["Specificity", "1.000", "1", "0"]


def test_what_was_run_states_command_seed_split_versions_and_time(page):
    said = (
        "python -m monai.bundle run evaluating --output_dir 'a b'",
        "data three boxes",
        "time for training 5 min 41 s",
        "seed 17",
        "split hash abc123",
        "versions torch 2.13.0",
    )
    assert [words for words in said if words not in page.text] == []


@pytest.mark.parametrize(("reference", "phantoms"), [("medseg3d phantom", True), ("a hospital", False)])
def test_phantoms_are_called_phantoms_by_what_their_data_set_says(tmp_path, reference, phantoms):
    make_run(tmp_path / "run", {"ct_a": 1}, with_curves=False, with_files=False)
    (tmp_path / "dataset.json").write_text(json.dumps({"reference": reference}))
    page = page_of(tmp_path / "run", changes={"config": {"dataset_dir": str(tmp_path)}})
    assert ("generated phantoms, not patients" in page.text) is phantoms
    assert ("says nothing about accuracy on patients" in page.text) is phantoms
    assert "not for clinical use" in page.text


def test_comparison_is_ordered_by_dice_and_marks_this_run(page):
    (table,) = page.tables["comparison"]
    assert [[row[0], row[1], row[3], row[4]] for row in table[1:]] == [
        ["fixed mask", "0.900", "3", "One for all."],
        ["this run", "0.667", "3", "the network of this report"],
        ["untrained", "0.010", "2", "Before training."],
    ]


def test_a_comparison_needs_baselines(run):
    page = page_of(run, remarks=Remarks([Text("Because.", lead="Goal missed:")]))
    assert "Goal missed: Because." in page.text
    assert "comparison" not in page.tables
    assert "#comparison" not in page.addresses


def test_worst_median_and_best_case_are_shown_with_words_for_those_who_cannot_see(page):
    alts = [image["alt"] for image in page.images]
    sizes, curve, thresholds, training, *cases = alts
    assert "Dice of pancreas over the size of the ground truth" in sizes
    assert "average precision" in curve
    assert "Threshold 0.5 was used" in thresholds
    assert "Training loss over 1 iteration, 1.500 to 1.500." in training
    assert [alt.split(",")[0] for alt in cases] == ["ct_b: pancreas", "ct_a: pancreas", "ct_c: pancreas"]
    headings = ("Worst: ct_b, Dice 0.250", "Median: ct_a, Dice 0.750", "Best: ct_c, Dice 1.000")
    assert [heading for heading in headings if heading not in page.text] == []
    assert "they are not of one run" not in page.text


def test_mask_that_is_not_the_one_that_was_scored_is_pointed_out(tmp_path):
    files = make_run(tmp_path / "run", {"ct_a": 1})
    save(files["ct_a"]["pred"], np.zeros(SHAPE, np.uint8))
    page = page_of(tmp_path / "run", cases=3)
    assert "The mask on disk has a Dice of 0.000, scores.csv says 0.750" in page.text


@pytest.mark.parametrize(("name", "dice"), [("pancreas", "0.750"), ("cancer", "1.000")])
def test_case_is_drawn_by_the_label_of_its_class(tmp_path, name, dice):
    make_run(tmp_path / "run", {"ct_a": 1}, class_names=("pancreas", "cancer", "duct"))
    page = page_of(tmp_path / "run", class_name=name, cases=3)
    assert page.images[-1]["alt"].startswith(f"ct_a: {name}, Dice {dice}")
    assert "they are not of one run" not in page.text


def test_class_that_is_in_no_case_has_no_pictures(tmp_path):
    make_run(tmp_path / "run", {"ct_a": 1}, class_names=("pancreas", "cancer", "duct"), with_curves=False)
    page = page_of(tmp_path / "run", class_name="duct", cases=3)
    assert "undefined mean Dice of duct, 0 cases" in page.text
    assert page.images == []


def test_what_an_evaluation_of_masks_lacks_is_said_to_be_missing(tmp_path):
    make_run(tmp_path / "run", {"ct_a": 1}, with_curves=False, with_files=False)
    page = page_of(tmp_path / "run", cases=3)
    said = (
        "there is no pr.npz",
        "there is no thresholds.csv",
        "no TensorBoard events were found",
        "no images were given",
        "No 95 % intervals: too few cases.",
    )
    assert [words for words in said if words not in page.text] == []
    (image,) = page.images
    assert image["alt"].split(",")[0] == "Dice of pancreas over the size of the ground truth"


def test_events_are_found_in_the_run_around_its_evaluation(tmp_path):
    make_run(tmp_path / "evaluation_test", {"ct_a": 1}, with_curves=False)
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("train_loss", 1.5, 1)
    assert "Training loss over 1 iteration" in page_of(tmp_path / "evaluation_test").text


def test_training_that_was_evaluated_on_two_parts_is_drawn_once(tmp_path):
    for part in ("test", "val"):
        make_run(tmp_path / f"evaluation_{part}", {"ct_a": 1}, with_curves=False)
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("train_loss", 1.5, 1)
    page = page_of(tmp_path / "evaluation_test", tmp_path / "evaluation_val")
    assert page.text.count("raining loss over 1 iteration") == 1
    assert "evaluation_test, " in page.text


def test_parts_of_one_training_go_by_the_name_of_its_run(tmp_path):
    (tmp_path / "net").mkdir()
    for part in ("test", "val"):
        make_run(tmp_path / "net" / f"evaluation_{part}", {"ct_a": 1}, with_curves=False)
    with SummaryWriter(str(tmp_path / "net")) as writer:
        writer.add_scalar("train_loss", 1.5, 1)
    page = write_report(read_runs([tmp_path / "net"]), tmp_path, title="A", with_networks=False, cases=0)
    assert "net: training loss over 1 iteration" in Page(page.read_text(encoding="utf-8")).text


def test_everything_from_outside_is_escaped(tmp_path):
    make_run(tmp_path / "run", {HOSTILE: 1})
    page = page_of(
        tmp_path / "run",
        title=HOSTILE,
        cases=1,
        remarks=Remarks([Text(HOSTILE)], [(HOSTILE, 0.1, 1, HOSTILE)], [(HOSTILE, HOSTILE)]),
        changes={"name": HOSTILE, "bundle": HOSTILE},
    )
    assert page.tables["cases"][0][1][0] == HOSTILE
    assert page.tables["comparison"][0][2][0] == HOSTILE
    assert all(image["src"].startswith("data:") for image in page.images)
    assert [set(image) for image in page.images] == [{"src", "alt"}] * 5


def test_figures_have_names_of_their_own_whatever_the_cases_are_called(tmp_path):
    make_run(tmp_path / "run", {"../../outside": 1})
    page_of(tmp_path / "run", cases=1)
    figures = sorted(file.name for file in (tmp_path / "run" / "report" / "figures").iterdir())
    assert figures == ["case_01.png", "pr.png", "sizes.png", "thresholds.png", "training.png"]


def test_page_of_equal_files_is_equal_bytes(run, tmp_path, drawn):
    first, second = (page_of(run, output=tmp_path / name, cases=1).html for name in "ab")
    assert first == second


def test_unknown_class_is_refused_with_the_known_ones(run):
    with pytest.raises(ValueError, match=r"class_name must be one of \['pancreas'\].*'liver'"):
        page_of(run, class_name="liver")


def test_scores_without_cases_are_an_error(tmp_path):
    make_run(tmp_path / "run", {"ct_a": 1}, with_curves=False)
    header = (tmp_path / "run" / "scores.csv").read_text().splitlines()[0]
    (tmp_path / "run" / "scores.csv").write_text(header + "\n")
    with pytest.raises(UserError, match=r"SCORE_FILE .*no case in it"):
        page_of(tmp_path / "run")


@pytest.fixture(scope="module")
def two_pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    shifts = {"a": 0, "b": 2, "c": 4, "d": 1}
    first = make_pictures(folder / "first", shifts, part="test")
    second = make_pictures(folder / "second", {case: shift + 2 for case, shift in shifts.items()}, part="test")
    with undrawn_figures():
        return page_of(first, second, output=folder / "report", cases=3)


def test_several_runs_stand_side_by_side(two_pages):
    (headline,) = two_pages.tables["opening"]
    assert [row[0] for row in headline[1:]] == ["first", "second"]
    means = two_pages.tables["scores"][1]
    assert means[0] == ["score", "first", "second", "how it is computed"]
    # a square of side n shifted by s pixels has Dice (n - s) / n; sides 8, 9, 10, 11
    assert means[1][1].startswith(f"{(1 + 7 / 9 + 6 / 10 + 10 / 11) / 4:.3f} ")
    assert means[1][2].startswith(f"{(6 / 8 + 5 / 9 + 4 / 10 + 8 / 11) / 4:.3f} ")
    assert means[1][1].endswith(", n 4")


def test_runs_on_the_same_cases_are_compared_case_by_case(two_pages):
    (table,) = two_pages.tables["differences"]
    gain = -(2 / 8 + 2 / 9 + 2 / 10 + 2 / 11) / 4
    assert table[1][:2] == ["second against first", f"{gain:+.3f}"]
    assert table[1][3:] == ["4", "0", "0", "4", "lower on these cases: the interval lies below 0"]


def test_curves_of_all_runs_are_in_one_figure_with_a_table(two_pages):
    assert [row[0] for row in two_pages.tables["pr"][0][1:]] == ["first", "second"]
    assert sum("Precision over recall" in image["alt"] for image in two_pages.images) == 1


def test_every_run_shows_the_same_cases(two_pages):
    # by Dice of the first run c 0.6, b 0.778, d 0.909, a 1
    assert re.findall(r"<h4>(.*?)</h4>", two_pages.html) == [
        "Worst: c, first, Dice 0.600",
        "Worst: c, second, Dice 0.400",
        "Median: b, first, Dice 0.778",
        "Median: b, second, Dice 0.556",
        "Best: a, first, Dice 1.000",
        "Best: a, second, Dice 0.750",
    ]


def test_threshold_that_was_used_is_set_against_the_best_on_these_cases(two_pages):
    assert "first: threshold 0.5 was used; on these cases the mean Dice is highest" in two_pages.text
    assert "inflates the score" in two_pages.text
