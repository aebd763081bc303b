from dataclasses import replace

import pytest
from report_runs import make_pictures

from medseg3d.reports.case_pictures import case_blocks, cases_by_score, cases_by_size
from medseg3d.reports.document import Picture, Subheading
from medseg3d.reports.runs import read_run

pytestmark = pytest.mark.usefixtures("undrawn")


def rows(**dice):
    return [{"case": case, "dice": value} for case, value in dice.items()]


@pytest.mark.parametrize(
    ("n", "picked"),
    [
        (0, []),
        (1, [("median", "c")]),
        (2, [("worst", "a"), ("best", "e")]),
        (3, [("worst", "a"), ("median", "c"), ("best", "e")]),
        (4, [("worst", "a"), ("rank 2 of 5", "b"), ("median", "c"), ("best", "e")]),
        (9, [("worst", "a"), ("rank 2 of 5", "b"), ("median", "c"), ("rank 4 of 5", "d"), ("best", "e")]),
    ],
)
def test_cases_are_at_even_steps_of_rank(n, picked):
    assert cases_by_score(rows(a=0.1, b=0.2, c=0.3, d=0.4, e=0.5), n) == picked


def test_two_cases_are_worst_and_best_and_none_is_shown_twice():
    assert cases_by_score(rows(a=0.5, b=0.4)) == [("worst", "b"), ("best", "a")]
    assert cases_by_score(rows(a=0.5)) == [("only", "a")]
    assert cases_by_score(rows(a=float("nan"))) == []


def test_four_cases_have_the_lower_middle_as_median():
    assert [case for _, case in cases_by_score(rows(a=0.1, b=0.4, c=0.3, d=0.2))] == ["a", "d", "b"]


SHIFTS = dict(zip("abcdefghi", (0, 1, 2, 3, 4, 5, 6, 7, 0), strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(make_pictures(tmp_path_factory.mktemp("run") / "run", SHIFTS))


def test_of_each_size_the_median_by_dice_is_shown(run):
    # sides 8..16; Dice 1 - shift / side falls from a to h, i is 1
    assert cases_by_size(run, "polyp") == [
        ("small, the median of 3 by Dice", "b"),
        ("medium, the median of 3 by Dice", "e"),
        ("large, the median of 3 by Dice", "g"),
    ]


def test_pictures_are_by_score_and_by_size_and_none_twice(run, tmp_path):
    blocks = case_blocks([run], "polyp", tmp_path, 5)
    heads = [block.heading.partition(", Dice")[0] for block in blocks if isinstance(block, Picture)]
    # by Dice: h g f e d c b a i; the typical small one, b, is shown already
    by_score = ["Worst: h", "Rank 3 of 9: f", "Median: d", "Rank 7 of 9: b", "Best: i"]
    assert heads == [*by_score, "Medium, the median of 3 by Dice: e", "Large, the median of 3 by Dice: g"]
    headings = [block.text for block in blocks if isinstance(block, Subheading)]
    assert headings == ["By score", "By size of the ground truth"]
    assert all(block.file.exists() for block in blocks if isinstance(block, Picture))


def test_none_are_drawn_where_none_are_asked_for_or_no_files_are_known(run, tmp_path):
    assert [block.text for block in case_blocks([run], "polyp", tmp_path, 0)] == ["None were requested."]
    (block,) = case_blocks([replace(run, files={})], "polyp", tmp_path, 3)
    assert "no images were given" in block.text


def test_run_without_files_is_named_and_the_others_are_drawn(run, tmp_path):
    other = replace(run, name="other", files={})
    blocks = case_blocks([other, run], "polyp", tmp_path, 1)
    assert "Without images, because no files were recorded: other." in [getattr(block, "text", "") for block in blocks]
    assert sum(isinstance(block, Picture) for block in blocks) == 4


def test_file_that_is_gone_is_said_and_the_others_are_drawn(run, tmp_path):
    gone = replace(run.files["h"], pred=tmp_path / "gone.png")
    blocks = case_blocks([replace(run, files={**run.files, "h": gone})], "polyp", tmp_path, 3)
    (words,) = [block.text for block in blocks if "Not drawn" in getattr(block, "text", "")]
    assert words.startswith("Worst: h. Not drawn: MISSING_FILE")
    assert sum(isinstance(block, Picture) for block in blocks) == 5
