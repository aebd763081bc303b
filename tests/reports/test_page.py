import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from medseg3d.data.score_files import score_row, write_curve, write_scores, write_summary
from medseg3d.faults import Fault
from medseg3d.metrics import BinnedPRCurve, ConfusionCounts, summarise
from medseg3d.reports.page import Baseline, CaseFiles, Goal, case_table, common_parts, number, picked_cases, write_page

SHAPE = (16, 14, 8)
HOSTILE = "<img src=x onerror=alert(1)>&\"'"


class Page(HTMLParser):
    """Tables as lists of rows of cells, section by section; pictures; every address; all words."""

    def __init__(self, html):
        super().__init__()
        self.html = html
        self.tables, self.images, self.addresses, self.tags, self.ids = {}, [], [], [], []
        self.words, self._section, self._cell = [], "", None
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.addresses += [attrs[key] for key in ("src", "href", "srcset", "action", "data") if key in attrs]
        if tag == "section":
            self._section = attrs["id"]
        elif tag == "table":
            self.tables.setdefault(self._section, []).append([])
        elif tag == "tr":
            self.tables[self._section][-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""
        elif tag == "img":
            self.images.append(attrs)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[self._section][-1][-1].append(self._cell.strip())
            self._cell = None

    def handle_data(self, data):
        self.words.append(data)
        if self._cell is not None:
            self._cell += data


def save(path, array):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 5.0, 1.0])), path)
    return path


def make_run(folder, shifts, class_names=("pancreas",), with_curves=True):
    """A run on boxes of 4x6x4 voxels whose prediction is shifted by so many voxels: Dice 1 - shift / 4.

    A second class is another such box that is always predicted right; a third one is nowhere.
    """
    folder.mkdir()
    rows, counts, files, curve = [], {name: {} for name in class_names}, {}, BinnedPRCurve()
    for case, shift in shifts.items():
        truth = np.zeros(SHAPE, np.uint8)
        truth[4:8, 4:10, 2:6] = 1
        pred = np.roll(truth, shift, axis=0)
        if len(class_names) > 1:
            truth[12:16, 4:10, 2:6] = pred[12:16, 4:10, 2:6] = 2
        curve.update(np.where(pred, 2.0, -2.0), truth > 0)
        for value, name in enumerate(class_names, start=1):
            found = ConfusionCounts.from_masks(pred == value, truth == value)
            counts[name][case] = found
            rows.append(score_row(case, name, found, voxel_mm3=20.0))
        stem = f"case_{len(files)}"
        files[case] = CaseFiles(
            save(folder / "images" / f"{stem}.nii.gz", np.zeros(SHAPE, np.int16)),
            save(folder / "labels" / f"{stem}.nii.gz", truth),
            save(folder / "masks" / f"{stem}_seg.nii.gz", pred),
        )
    write_scores(folder / "scores.csv", rows)
    write_summary(
        folder / "summary.json",
        {
            "scores": {name: summarise(cases, "original grid") for name, cases in counts.items()},
            "seed": 17,
            "split_hash": "abc123",
            "command": ["python", "-m", "monai.bundle", "run", "evaluating", "--output_dir", "a b"],
            "versions": {"torch": "2.13.0"},
        },
    )
    if with_curves:
        write_curve(folder / "pr.npz", {"pancreas": curve})
        with SummaryWriter(str(folder)) as writer:
            writer.add_scalar("train_loss", 1.5, 1)
            writer.add_scalar("val_dice_mean", 0.625, 1)
    return files


def page_of(folder, files=None, **options):
    options = {"title": "A demo", "data": "three boxes", "phantoms": True} | options
    return Page(write_page(folder, folder / "report.html", case_files=files, **options).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, make_run(folder, {"ct_a": 1, "ct_b": 3, "ct_c": 0})


@pytest.fixture(scope="module")
def page(run):
    folder, files = run
    return page_of(folder, files)


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
    assert "a case empty in truth and prediction is left out; on the original grid" in page.text


def test_score_tables_give_value_spread_n_and_convention(page):
    means, pooled = page.tables["scores"]
    assert means[0] == ["score", "value", "sd", "n", "left out", "name in summary.json", "how it is taken"]
    # of 0.75, 0.25, 1: sd = sqrt((0.0833**2 + 0.4167**2 + 0.3333**2) / 2)
    assert means[1] == [
        "Dice",
        "0.667",
        "0.382",
        "3",
        "0",
        "dice_mean",
        "a case empty in truth and prediction is left out",
    ]
    # boxes of 96 voxels: hits 72 + 24 + 96 of 288 in truth and in prediction
    assert pooled[1] == ["Dice", "0.667", "3", "dice_pooled"]
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
    assert [row[1:3] for row in table[1:]] == [["pancreas", "0.750"], ["cancer", "1.000"], ["duct", "undefined"]]
    # of the duct's case recall has no answer, specificity has
    means = page.tables["scores"][4]
    assert means[1][:4] == ["Dice", "undefined", "0", "1"]
    assert means[4][:4] == ["Specificity", "1.000", "1", "0"]


def test_cases_without_a_dice_come_last():
    rows = [score_row("a", "duct", ConfusionCounts(tn=9)), score_row("b", "duct", ConfusionCounts(tp=1, tn=8))]
    assert [row[0] for row in case_table(rows, ["duct"])["rows"]] == ["b", "a"]


def test_what_was_run_states_command_seed_split_versions_and_time(run):
    page = page_of(run[0], seconds={"training": 341.0}, facts={"network": "SegResNetNL"})
    for words in (
        "python -m monai.bundle run evaluating --output_dir 'a b'",
        "data three boxes",
        "time for training 5 min 41 s",
        "network SegResNetNL",
        "seed 17",
        "split hash abc123",
        "versions torch 2.13.0",
    ):
        assert words in page.text


def test_own_command_replaces_that_of_the_summary(run):
    page = page_of(run[0], command="medseg3d demo")
    assert "medseg3d demo" in page.text
    assert "monai.bundle" not in page.text


@pytest.mark.parametrize("phantoms", [True, False])
def test_phantoms_are_called_phantoms_and_patients_are_not(run, phantoms):
    page = page_of(run[0], phantoms=phantoms)
    assert ("generated phantoms, not patients" in page.text) is phantoms
    assert ("says nothing about accuracy on patients" in page.text) is phantoms
    assert "not for clinical use" in page.text


def test_comparison_is_ordered_by_dice_and_marks_this_run(run):
    baselines = [Baseline("fixed mask", 0.9, 3, "One for all."), Baseline("untrained", 0.01, 2, "Before training.")]
    page = page_of(run[0], baselines=baselines)
    (table,) = page.tables["comparison"]
    assert [[row[0], row[1], row[3], row[4]] for row in table[1:]] == [
        ["fixed mask", "0.900", "3", "One for all."],
        ["this run", "0.667", "3", "the network of this report"],
        ["untrained", "0.010", "2", "Before training."],
    ]


def test_comparison_is_left_out_without_baselines(page):
    assert "comparison" not in page.tables
    assert "#comparison" not in page.addresses


@pytest.mark.parametrize(
    ("dice", "words"), [(0.6, "Goal reached: a mean Dice of at least 0.6. Because."), (0.7, "Goal missed:")]
)
def test_goal_is_judged(run, dice, words):
    assert words in page_of(run[0], goal=Goal(dice, "Because.")).text


def test_worst_median_and_best_case_are_shown_with_words_for_those_who_cannot_see(page):
    alts = [image["alt"] for image in page.images]
    assert len(alts) == 5
    assert "average precision" in alts[0]
    assert "Training loss over 1 iteration, from 1.500 to 1.500." in alts[1]
    assert [alt.split(",")[0] for alt in alts[2:]] == ["ct_b: pancreas", "ct_a: pancreas", "ct_c: pancreas"]
    for heading in ("Worst case: ct_b, Dice 0.250", "Median case: ct_a, Dice 0.750", "Best case: ct_c, Dice 1.000"):
        assert heading in page.text
    assert "they are not of one run" not in page.text


def test_mask_that_is_not_the_one_that_was_scored_is_pointed_out(tmp_path):
    files = make_run(tmp_path / "run", {"ct_a": 1})
    save(files["ct_a"].pred, np.zeros(SHAPE, np.uint8))
    page = page_of(tmp_path / "run", files)
    assert "The mask on disk has a Dice of 0.000, scores.csv says 0.750" in page.text


def test_case_is_drawn_by_the_label_of_its_class(tmp_path):
    files = make_run(tmp_path / "run", {"ct_a": 1}, class_names=("pancreas", "cancer", "duct"))
    for name, dice in (("pancreas", "0.750"), ("cancer", "1.000")):
        page = page_of(tmp_path / "run", files, class_name=name)
        assert page.images[-1]["alt"].startswith(f"ct_a: {name}, Dice {dice}")
        assert "they are not of one run" not in page.text


def test_class_that_is_in_no_case_has_no_pictures(tmp_path):
    files = make_run(tmp_path / "run", {"ct_a": 1}, class_names=("pancreas", "cancer", "duct"), with_curves=False)
    page = page_of(tmp_path / "run", files, class_name="duct")
    assert "undefined mean Dice of duct, 0 cases" in page.text
    assert page.images == []


def test_missing_curves_are_said_to_be_missing(tmp_path):
    make_run(tmp_path / "run", {"ct_a": 1}, with_curves=False)
    page = page_of(tmp_path / "run")
    assert "has no pr.npz" in page.text
    assert "no TensorBoard events were found" in page.text
    assert "no images were given" in page.text
    assert page.images == []


def test_events_may_lie_in_a_folder_of_their_own(tmp_path):
    make_run(tmp_path / "run", {"ct_a": 1}, with_curves=False)
    with SummaryWriter(str(tmp_path / "training")) as writer:
        writer.add_scalar("train_loss", 1.5, 1)
    assert "Training loss over 1 iteration" in page_of(tmp_path / "run", events_dir=tmp_path / "training").text


def test_everything_from_outside_is_escaped(tmp_path):
    files = make_run(tmp_path / "run", {HOSTILE: 1})
    page = page_of(
        tmp_path / "run",
        files,
        title=HOSTILE,
        data=HOSTILE,
        command=HOSTILE,
        facts={HOSTILE: HOSTILE},
        baselines=[Baseline(HOSTILE, 0.1, 1, HOSTILE)],
        goal=Goal(0.5, HOSTILE),
    )
    assert page.tables["cases"][0][1][0] == HOSTILE
    assert page.tables["comparison"][0][2][0] == HOSTILE
    assert all(image["src"].startswith("data:") for image in page.images)
    assert [set(image) for image in page.images] == [{"src", "alt"}] * 3


def test_figures_are_left_beside_the_page_under_names_of_their_own(tmp_path):
    files = make_run(tmp_path / "run", {"../../outside": 1})
    page_of(tmp_path / "run", files)
    figures = tmp_path / "run" / "report_figures"
    assert sorted(file.name for file in figures.iterdir()) == ["case_only.png", "pr.png", "training.png"]


def test_page_of_equal_files_is_equal_bytes(run):
    folder, files = run
    page_of(folder, files)
    first = (folder / "report.html").read_bytes()
    page_of(folder, files)
    assert (folder / "report.html").read_bytes() == first


def test_failed_page_leaves_the_older_one(run, tmp_path):
    folder, files = run
    page = tmp_path / "report.html"
    page.write_text("older")
    with pytest.raises(ValueError, match=r"case_files must hold every case of scores\.csv, 'ct_b' is missing"):
        write_page(folder, page, title="", data="", phantoms=True, case_files={"ct_a": files["ct_a"]})
    assert page.read_text() == "older"


def test_unknown_class_is_refused_with_the_known_ones(run):
    with pytest.raises(ValueError, match=r"class_name must be one of \['pancreas'\].*found 'liver'"):
        page_of(run[0], class_name="liver")


def test_scores_without_cases_are_a_fault(tmp_path):
    make_run(tmp_path / "run", {"ct_a": 1}, with_curves=False)
    header = (tmp_path / "run" / "scores.csv").read_text().splitlines()[0]
    (tmp_path / "run" / "scores.csv").write_text(header + "\n")
    with pytest.raises(Fault, match=r"SCORE_FILE .*no case in it"):
        page_of(tmp_path / "run")


def test_two_cases_are_worst_and_best_and_none_is_shown_twice():
    rows = [{"case": "a", "dice": 0.5}, {"case": "b", "dice": 0.4}]
    assert [(role, row["case"]) for role, row in picked_cases(rows)] == [("worst", "b"), ("best", "a")]
    assert [(role, row["case"]) for role, row in picked_cases(rows[:1])] == [("only", "a")]
    assert picked_cases([{"case": "a", "dice": float("nan")}]) == []


def test_four_cases_have_the_lower_middle_as_median():
    rows = [{"case": name, "dice": dice} for name, dice in zip("abcd", (0.1, 0.4, 0.3, 0.2), strict=True)]
    assert [row["case"] for _, row in picked_cases(rows)] == ["a", "d", "b"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.9995, "0.9995"),
        (0.99949, "0.999"),
        (1 - 1e-12, ">0.9999"),
        (0.0004, "0.0004"),
        (1e-12, "<0.0001"),
        (0, "0.000"),
    ],
)
def test_number_is_never_rounded_to_a_0_or_1_that_it_is_not(value, shown):
    assert number(value) == shown


def test_conventions_without_a_common_part_stay_whole():
    assert common_parts(["a; b", "c"]) == ("", ["a; b", "c"])
