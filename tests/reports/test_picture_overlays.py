import numpy as np
import pytest
from PIL import Image
from report_runs import shown_masks

from medseg3d.errors import UserError
from medseg3d.pictures.writing import write_grey, write_picture_mask
from medseg3d.reports.overlays import (
    PictureCase,
    draw_picture_case,
    enlarged_view,
    read_picture_case,
)
from medseg3d.reports.painter import ERROR_STYLES

SHAPE = (60, 100)  # rows, columns


def square(rows, columns):
    mask = np.zeros(SHAPE, bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


TRUTH = square((10, 20), (30, 40))  # 100 of 6000 pixels
PRED = square((10, 20), (32, 42))  # 80 of them


def picture_case(pred=PRED, truth=TRUTH, image=True):
    return PictureCase("a", np.full((*SHAPE, 3), 9, np.uint8) if image else None, pred, truth, "polyp")


def test_title_states_dice_and_how_much_of_the_picture_is_filled():
    assert picture_case().title == "a: polyp, Dice 0.800, ground truth 1.7 %, prediction 1.7 % of the image"
    no_truth = picture_case(truth=None).title
    assert no_truth == "a: polyp, no ground truth to compare with, prediction 1.7 % of the image"
    nothing = np.zeros(SHAPE, bool)
    assert "Dice undefined (absent in both), ground truth 0 %" in picture_case(nothing, nothing).title


def test_columns_are_picture_borders_and_errors():
    figure = draw_picture_case(picture_case())
    assert [axes.get_title() for axes in figure.axes] == ["image", "contours", "errors", "", "", ""]
    expected = {ERROR_STYLES[value].colour.lower(): count for value, count in {1: 80, 2: 20, 3: 20}.items()}
    assert shown_masks(figure.axes[2]) == shown_masks(figure.axes[5]) == expected
    labels = [text.get_text() for legend in figure.legends for text in legend.texts]
    assert labels == ["ground truth", "prediction", "TP 1.3 %", "FN 0.3 %", "FP 0.3 %"]


def test_picture_keeps_its_proportion():
    axes = draw_picture_case(picture_case()).axes[0]
    width, height = axes.get_window_extent().size
    assert width / height == pytest.approx(100 / 60, rel=1e-6)
    assert axes.get_ylim() == (59.5, -0.5)  # row 0 is on top


def test_border_of_the_truth_lies_on_the_edges_of_its_pixels():
    truth, pred = draw_picture_case(picture_case()).axes[1].collections
    x, y = truth.get_paths()[0].vertices.T
    assert (x.min(), x.max(), y.min(), y.max()) == (29.5, 39.5, 9.5, 19.5)
    assert truth.get_linestyle() != pred.get_linestyle()


def test_enlarged_view_is_twice_the_truth_in_the_proportion_of_the_picture():
    # 10 of 60 rows: a third of the image, around the ground truth's middle
    expected = (35 - 50 / 3 - 0.5, 35 + 50 / 3 - 0.5, 24.5, 4.5)
    assert enlarged_view(picture_case()) == pytest.approx(expected)
    assert enlarged_view(picture_case(pred=square((0, 60), (0, 100)))) == pytest.approx(expected)


@pytest.mark.parametrize("truth", [None, np.zeros(SHAPE, bool)], ids=["no truth", "empty"])
def test_enlarged_view_is_of_the_prediction_where_nothing_is_true(truth):
    nothing = np.zeros(SHAPE, bool)
    assert enlarged_view(picture_case(TRUTH, truth)) == enlarged_view(picture_case(nothing, TRUTH))


def test_enlarged_view_stays_inside_the_picture():
    left, _, _, top = enlarged_view(picture_case(square((0, 5), (0, 5)), square((0, 5), (0, 5))))
    assert (left, top) == (-0.5, -0.5)


@pytest.mark.parametrize("mask", [np.zeros(SHAPE, bool), square((5, 55), (10, 90))])
def test_nothing_is_enlarged_where_masks_are_empty_or_large(mask):
    case = picture_case(mask, mask)
    assert enlarged_view(case) is None
    assert len(draw_picture_case(case).axes) == 3


def test_case_without_truth_has_no_errors_and_one_without_picture_no_picture():
    assert [axes.get_title() for axes in draw_picture_case(picture_case(truth=None)).axes[:2]] == ["image", "contours"]
    assert [axes.get_title() for axes in draw_picture_case(picture_case(image=False)).axes[:2]] == [
        "contours",
        "errors",
    ]
    assert "image not given" in picture_case(image=False).title


@pytest.fixture
def files(tmp_path):
    Image.fromarray(np.full((*SHAPE, 3), 9, np.uint8)).save(tmp_path / "image.png")
    write_picture_mask(tmp_path / "truth.png", TRUTH)
    write_picture_mask(tmp_path / "pred.png", PRED)
    return [tmp_path / name for name in ("image.png", "truth.png", "pred.png")]


def test_files_are_read_as_they_are(files):
    case = read_picture_case(*files, name="a", target="polyp")
    assert case.image.shape == (*SHAPE, 3)
    assert case.dice == 0.8
    assert case.title.startswith("a: polyp")


def test_map_of_probabilities_is_cut_at_the_threshold(files):
    write_grey(files[2], np.where(PRED, 0.7, np.where(TRUTH, 0.4, 0.1)))
    assert read_picture_case(*files).dice == 0.8
    assert read_picture_case(*files, threshold=0.3).pred.sum() == 120


def test_mask_of_another_size_is_refused_by_name(files):
    write_picture_mask(files[1], TRUTH[:-1])
    with pytest.raises(UserError, match=r"PAIR_GEOMETRY .*truth\.png.*100 x 59 pixels"):
        read_picture_case(*files)
