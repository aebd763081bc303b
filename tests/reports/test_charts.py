import numpy as np
import pytest
from report_runs import make_pictures, make_run

from medseg3d.reports.charts import draw_sizes, draw_thresholds
from medseg3d.reports.runs import read_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [read_run(make_pictures(folder / name, {"a": i, "b": 2, "c": 0})) for i, name in enumerate("xy")]


def test_thresholds_show_both_means_of_one_run_and_mark_the_one_used(runs):
    axes = draw_thresholds(runs[:1]).axes[0]
    mean, mark, pooled, _ = axes.lines
    assert [text.get_text() for text in axes.get_legend().texts] == ["mean over cases", "pooled"]
    assert mean.get_xdata() == pytest.approx(np.arange(1, 100) / 100)
    # foreground is 0.875 and background 0.25: below, all is foreground
    assert mean.get_ydata()[50] == pytest.approx((1 + 7 / 9 + 1) / 3)
    assert pooled.get_ydata()[10] == pytest.approx(2 * 245 / (245 + 4800))
    assert mark.get_xydata().tolist() == [[0.5, pytest.approx((1 + 7 / 9 + 1) / 3)]]


def test_thresholds_of_several_runs_are_named_after_them(runs):
    axes = draw_thresholds(runs).axes[0]
    assert [text.get_text() for text in axes.get_legend().texts] == ["x", "y"]


def test_sizes_show_every_case_and_the_edges(runs):
    axes = draw_sizes(runs[:1], "polyp").axes[0]
    points, low, high = axes.lines
    assert points.get_xydata().tolist() == [[4.0, 1.0], [81 / 16, pytest.approx(7 / 9)], [6.25, 1.0]]
    assert [line.get_xdata()[0] for line in (low, high)] == list(runs[0].strata("polyp").edges)
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "size of the ground truth, % of the image"
    assert axes.get_legend() is None


def test_runs_differ_by_colour_and_by_mark(runs):
    axes = draw_sizes(runs, "polyp").axes[0]
    first, second = axes.lines[:2]
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()


def test_class_that_is_nowhere_has_no_figure(tmp_path):
    make_run(tmp_path / "run", {"a": 1}, class_names=("pancreas", "cancer", "duct"))
    assert draw_sizes([read_run(tmp_path / "run")], "duct") is None
