from __future__ import annotations

import itertools

import pytest
from PIL import Image

from medseg3d.networks.costs import NetworkCosts
from medseg3d.reports.curves import save_figure
from medseg3d.reports.papers import CLINIC, KVASIR, PANCREAS, PAPERS, data_of
from medseg3d.reports.parameter_figure import Point, draw_parameters, panels_of
from medseg3d.reports.parameters import ParameterRow


def row(network: str, paper: str, parameters: int, printed: float | None = None) -> ParameterRow:
    costs = NetworkCosts(parameters, parameters, 0, 0, 0, 0, ())
    return ParameterRow(network, PAPERS[paper], (3, 8, 8), costs, printed)


SEGRESNET = row("SegResNet + 2 non-local blocks (2-D, 32 filters)", "pancreas", 6_562_530, 6.30)
UNETR = row("UNETR (2-D, 96×96)", "pancreas", 87_558_402, 87.56)
ANN = row("asymmetric non-local net", "ann", 46_196_292)
UNET = row("U-Net", "cris", 31_113_217)
RUN = Point(PANCREAS, "pancreas_nl", "", 4.76709, 0.8, "mean over cases")


def test_points_are_the_papers_numbers_as_fractions():
    points = panels_of([SEGRESNET, UNETR])[PANCREAS]
    assert [point.parameters for point in points] == [6.56253, 87.558402]
    assert [point.dice for point in points] == pytest.approx([0.9151, 0.911])
    assert "2-D slices" in points[0].convention


def test_a_count_that_is_printed_otherwise_is_shown_beside():
    first, second = panels_of([SEGRESNET, UNETR])[PANCREAS]
    assert first.printed == pytest.approx((6.30, 0.9151))
    assert second.printed is None


def test_a_mean_over_background_and_polyp_is_shown_beside_the_polyp_s_own():
    (point,) = panels_of([ANN])[KVASIR]
    assert point.dice == 0.911
    assert point.printed == (46.196292, 0.947)


def test_what_has_no_dice_is_left_out():
    ours = row("SegResNet + 2 non-local blocks (3-D, 16 filters)", "pancreas", 4_767_090)
    bundle = ParameterRow(
        "pancreas_nl, this config", "bundle pancreas_nl", (1, 8, 8, 8), NetworkCosts(5, 5, 0, 0, 0, 0, ())
    )
    assert panels_of([ours, bundle]) == {}
    with pytest.raises(ValueError, match="at least one network with a Dice"):
        draw_parameters({})


def test_runs_stand_in_the_panel_of_their_data():
    panels = panels_of([UNETR, ANN], [RUN])
    assert [point.name for point in panels[PANCREAS]] == ["UNETR (2-D, 96×96)", "pancreas_nl"]
    assert [point.name for point in panels[KVASIR]] == ["asymmetric non-local net"]


def test_a_run_stands_among_the_papers_numbers_of_its_own_data_alone():
    runs = [
        Point(data_of("cris", folder), name, "", 31.113217, 0.8, "mean over cases")
        for name, folder in (("k", "data/Kvasir-SEG"), ("c", "data/CVC-ClinicDB"), ("s", "data/Kvasir-Sessile"))
    ]
    panels = {data: [(point.name, point.dice) for point in points] for data, points in panels_of([UNET], runs).items()}
    assert panels == {
        KVASIR: [("U-Net", 0.7669), ("k", 0.8)],
        CLINIC: [("U-Net", 0.9158), ("c", 0.8)],
        "polyps in colonoscopy, Kvasir-Sessile": [("s", 0.8)],
    }


def test_every_convention_is_in_the_legend_and_parameters_are_on_a_log_axis():
    (axes,) = draw_parameters(panels_of([SEGRESNET, UNETR], [RUN])).axes
    words = [" ".join(text.get_text().split()) for text in axes.get_legend().get_texts()]
    assert len(words) == 3
    assert "whether the mean is over slices, volumes or all pixels" in words[0]
    assert words[1] == "ours: mean over cases"
    assert words[2].startswith("hollow: as the paper prints it")
    assert axes.get_xscale() == "log"


def test_names_cover_neither_each_other_nor_a_point():
    crowd = [Point("polyps", f"network {n}", "cris", 30 + n % 3, 0.85 + n / 200, "mean") for n in range(4)]
    crowd.append(Point("polyps", "far away", "cris", 9, 0.4, "mean"))
    figure = draw_parameters({"polyps": crowd})
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    places = axes.transData.transform([(point.parameters, point.dice) for point in crowd])
    assert not any(box.contains(*place) for box in boxes for place in places)


def test_the_file_is_a_picture(tmp_path):
    path = save_figure(draw_parameters(panels_of([SEGRESNET, ANN], [RUN])), tmp_path / "new" / "figure.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.height > picture.width  # two panels, one above the other
