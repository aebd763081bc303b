import math

import pytest
from report_runs import make_pictures

from medseg3d.evaluation import Score, Summary
from medseg3d.evaluation.files import score_row
from medseg3d.evaluation.records import CaseCount, Settings
from medseg3d.evaluation.wording import WORDS
from medseg3d.metrics import BinnedPRCurve, ConfusionCounts
from medseg3d.reports.curves import pr_series
from medseg3d.reports.runs import EvaluatedRun, read_run
from medseg3d.reports.tables import (
    MOST_CASES,
    case_table,
    common_parts,
    convention_table,
    curve_table,
    difference_table,
    emptiness_notes,
    score_tables,
    shared_case_table,
    strata_table,
)


def run_of(dice, name="run", **tables):
    """A run whose cases have these Dice, as TP of 100 and as many FP as FN; None is an empty case."""
    rows = []
    for case, value in dice.items():
        tp = 0 if value is None else round(100 * value)
        counts = ConfusionCounts(tn=900) if value is None else ConfusionCounts(tp, 100 - tp, 100 - tp, 800)
        rows.append(score_row(case, "polyp", counts))
    return EvaluatedRun(name, None, Summary(**tables), rows)


def texts(table):
    return [[cell.text for cell in row] for row in table.cells]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [read_run(make_pictures(folder / name, {"a": i, "b": i + 1, "c": 0})) for i, name in enumerate("xy")]


def test_conventions_without_a_common_part_stay_whole():
    assert common_parts(["a; b", "c"]) == ("", ["a; b", "c"])


def test_every_way_to_take_a_score_has_a_table_of_its_own(pictures):
    assert [table.lead for table in score_tables(pictures[:1])] == [
        "polyp, mean over cases:",
        "polyp, pooled:",
        "polyp, errors and ranking of the probabilities, mean over cases:",
        "polyp, two classes, background and foreground, as mmsegmentation:",
    ]


def test_every_number_of_the_summary_is_in_exactly_one_table(pictures):
    in_tables = [row[0].text for table in score_tables(pictures[:1]) for row in table.cells]
    assert sorted(in_tables) == sorted(WORDS[score.score].label for score in pictures[0].summary.whole.scores)


def test_runs_with_other_conventions_are_told_apart():
    runs = [run_of({}, name, scores=[Score("polyp", "dice", "cases", 0.5, 3, grid=f"grid {name}")]) for name in "ab"]
    (table,) = score_tables(runs)
    taken = "mean over cases, a case empty in both ground truth and prediction is left out"
    assert table.caption == f"a: {taken}, on the grid a; b: {taken}, on the grid b."


def test_score_that_a_run_lacks_is_not_recorded(pictures):
    table = score_tables([pictures[0], run_of({}, scores=[Score("polyp", "iou", "cases", 0.5, 3)])])[0]
    assert texts(table)[0][1:3] == ["0.963", "not recorded"]


def test_difference_is_taken_case_by_case_and_counts_wins():
    # b - a: +0.1, -0.2, 0; d is in one run alone, e is empty
    first = run_of({"x": 0.5, "y": 0.8, "z": 0.4, "d": 0.1, "e": None}, "a")
    second = run_of({"x": 0.6, "y": 0.6, "z": 0.4, "e": None}, "b")
    table = difference_table([first, second], "polyp")
    row = texts(table)[0]
    assert row[:2] == ["b against a", "-0.033"]
    assert row[3:7] == ["3", "1", "1", "1"]
    assert row[-1] == "undecided: the interval holds 0"


@pytest.mark.parametrize(
    ("gain", "words"), [(0.1, "higher on these cases"), (-0.1, "lower on these cases"), (0.0, "undecided")]
)
def test_verdict_follows_the_interval(gain, words):
    first = {case: 0.5 for case in "abcd"}
    second = {case: 0.5 + gain for case in "abcd"}
    table = difference_table([run_of(first, "a"), run_of(second, "b")], "polyp")
    assert texts(table)[0][-1].startswith(words)


def test_runs_without_a_case_in_common_are_not_compared():
    row = texts(difference_table([run_of({"x": 0.5}, "a"), run_of({"y": 0.5}, "b")], "polyp"))[0]
    assert row[1:4] == ["undefined", "", "0"]
    assert row[-1] == "too few cases for an interval"


def test_one_run_has_no_differences():
    assert difference_table([run_of({"x": 0.5})], "polyp") is None


def test_interval_of_a_difference_resamples_groups_where_there_are_any():
    first, second = ({case: dice for case in "abcd"} for dice in (0.5, 0.6))
    runs = [run_of(first, "x"), run_of(second, "y")]
    for run in runs:
        for row in run.rows:
            row["group"] = "one patient"
    table = difference_table(runs, "polyp")
    assert texts(table)[0][2] == ""  # one group has no spread
    assert "a bootstrap over groups of cases" in table.note


def test_dice_is_tabled_by_every_convention_that_was_recorded(pictures):
    table = convention_table(pictures, "polyp")
    rows = {row[0]: row[1:] for row in texts(table)}
    assert list(rows) == ["mean over cases", "pooled", "two classes, background and foreground"]
    # run x: shifts 0, 1, 0 of sides 8, 9, 10; 9 pixels missed and 9 too many of 245 true ones
    assert rows["mean over cases"][0] == number_of((1 + 8 / 9 + 1) / 3)
    assert rows["pooled"][0] == number_of(236 / 245)
    assert rows["two classes, background and foreground"][0] == number_of((236 / 245 + 1 - 9 / 4555) / 2)
    assert rows["pooled"][-1].startswith("one score from the counts summed over all cases")


def test_strata_have_n_interval_and_edges(pictures):
    table = strata_table(pictures, "polyp")
    assert [row[:3] for row in texts(table)] == [
        [run, size, "1"] for run in "xy" for size in ("small", "medium", "large")
    ]
    assert texts(table)[1][3] == number_of(8 / 9)
    assert table.note == "Small is below 4.708 % of the image, large is at least 5.458 % of the image."


def number_of(value):
    return f"{value:.3f}"


def test_stratum_without_a_case_is_not_recorded():
    bounds = {"from_size": 20, "below_size": 80}
    counts = [CaseCount("polyp", 0, 0, 0, 0, size=size) for size in ("small", "large")]
    counts.insert(1, CaseCount("polyp", 2, 0, 0, 0, size="medium", **bounds))
    scores = [Score("polyp", "dice", "cases", 0.5, 2, size="medium")]
    run = run_of({"a": 0.5}, scores=scores, cases=counts, settings=Settings(size_unit="ml"))
    table = strata_table([run], "polyp")
    assert [row[:3] for row in texts(table)] == [
        ["small", "0", "not recorded"],
        ["medium", "2", "0.500"],
        ["large", "0", "not recorded"],
    ]
    assert table.note == "Small is below 20 ml, large is at least 80 ml."


def test_cases_without_a_dice_come_last_and_pictures_have_no_volumes():
    table = case_table(run_of({"a": None, "b": 0.2}))
    assert [row[0] for row in texts(table)] == ["b", "a"]
    assert [name for name, _ in table.heads][-3:] == ["TP", "FP", "FN"]
    assert not any("ml" in name for name, _ in table.heads)
    assert "pixels" in table.caption


def test_long_tables_show_the_worst_and_say_so():
    table = case_table(run_of({f"{i:03d}": i / 100 for i in range(MOST_CASES + 1)}))
    assert len(table.rows) == MOST_CASES
    assert table.cells[0][0].text == "000"
    assert table.note == f"The {MOST_CASES} worst of {MOST_CASES + 1} lines; all of them are in scores.csv."


def test_shared_cases_are_ordered_by_their_mean_and_what_is_missing_is_said():
    table = shared_case_table([run_of({"a": 0.9, "b": 0.2}, "x"), run_of({"a": 0.1, "c": 0.3}, "y")], "polyp")
    assert texts(table) == [["b", "0.200", "not scored"], ["c", "not scored", "0.300"], ["a", "0.900", "0.100"]]


def test_curve_table_gives_the_operating_point_and_the_flattered_best(pictures):
    series = pr_series("x", pictures[1].curve)
    row = texts(curve_table([series]))[0]
    # truths 64 + 81 + 100, shifted by 1, 2, 0 pixels: found 56 + 63 + 100; at 0.875 as at 0.5
    assert row[:1] + row[2:6] == ["x", "0.5", *[number_of(219 / 245)] * 3]
    assert row[6] == f"{245 / 4800:.2g}"
    assert row[7].endswith("chosen with the ground truth")


def test_curve_of_nothing_has_no_best():
    assert texts(curve_table([pr_series("x", BinnedPRCurve())]))[0][-1] == "undefined"


def test_empty_and_missed_cases_are_told(pictures):
    (note,) = emptiness_notes(pictures[:1])
    assert note == "polyp: of 3 cases 0 empty in the ground truth, 0 empty in the prediction, 0 completely missed."
    assert emptiness_notes(pictures)[1].startswith("y, polyp: of 3 cases")


def test_distances_have_one_decimal():
    score = Score("polyp", "hd95_mm", "cases", 12.345, 3, low=10.0, high=math.pi)
    (table,) = score_tables([run_of({}, scores=[score])])
    assert texts(table)[0][:3] == ["HD95, mm", "12.3", "10.0 to 3.1"]
