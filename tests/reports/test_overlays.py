import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from report_runs import shown_masks

from medseg3d.errors import UserError
from medseg3d.reports.curves import save_figure
from medseg3d.reports.overlays import OverlayCase, draw_case, field_of_view_mm, read_case
from medseg3d.reports.painter import ERROR_STYLES, PRED_STYLE, TRUTH_STYLE

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])  # a voxel of 0.02 ml
SHAPE = (30, 28, 12)


def box(x, y, z):
    mask = np.zeros(SHAPE, bool)
    mask[x[0] : x[1], y[0] : y[1], z[0] : z[1]] = True
    return mask


TRUTH = box((10, 20), (10, 18), (4, 8))  # 320 voxels
PRED = box((12, 22), (10, 18), (4, 8))  # 256 of them, 64 beside


def overlay_case(pred=PRED, truth=TRUTH):
    return OverlayCase("ct_1", np.zeros(SHAPE, np.int16), pred, truth, "pancreas", AFFINE)


def save(path, array, orientation="RAS"):
    image = nib.Nifti1Image(array, AFFINE)
    target = nib.orientations.axcodes2ornt(orientation)
    nib.save(image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(AFFINE), target)), path)
    return path


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(-150, 200, SHAPE).astype(np.int16)
    return {
        "image_file": save(tmp_path / "ct_1.nii.gz", image),
        "truth_file": save(tmp_path / "truth.nii.gz", TRUTH.astype(np.uint8)),
        "pred_file": save(tmp_path / "pred.nii.gz", PRED.astype(np.uint8)),
    }


def grid_of(figure, rows):
    return np.array(figure.axes).reshape(rows, 3)


def test_title_states_case_dice_and_volumes_in_ml():
    # Dice 2 * 256 / (320 + 320)
    assert overlay_case().title == "ct_1: pancreas, Dice 0.800, ground truth 6.4 ml, prediction 6.4 ml"


def test_volumes_of_an_oblique_scan_are_those_of_its_voxels():
    turn = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    case = OverlayCase("ct_1", np.zeros(SHAPE, np.int16), PRED, TRUTH, "pancreas", turn @ AFFINE)
    assert case.size_of(1000) == "20.0 ml"


def test_title_without_truth_claims_no_dice():
    title = overlay_case(truth=None).title
    assert title == "ct_1: pancreas, no ground truth to compare with, prediction 6.4 ml"


def test_title_of_a_case_with_nothing_in_it_says_that_dice_is_undefined():
    nothing = np.zeros(SHAPE, bool)
    assert "Dice undefined" in overlay_case(pred=nothing, truth=nothing).title


def test_errors_of_the_axial_plane_are_the_hits_misses_and_false_alarms():
    axes = grid_of(draw_case(overlay_case()), rows=3)[2, 0]
    # in the axial plane truth and prediction are 10 x 8 boxes, 2 columns apart
    expected = {1: 64, 2: 16, 3: 16}
    assert shown_masks(axes) == {ERROR_STYLES[value].colour.lower(): n for value, n in expected.items()}


def test_legend_counts_errors_of_the_whole_volume_in_ml():
    figure = draw_case(overlay_case())
    labels = [text.get_text() for legend in figure.legends for text in legend.texts]
    assert labels == ["ground truth", "prediction", "TP 5.1 ml", "FN 1.3 ml", "FP 1.3 ml"]


def test_kinds_of_error_differ_by_more_than_colour():
    assert len({style.hatch for style in ERROR_STYLES.values()}) == 3
    assert len({style.line for style in ERROR_STYLES.values()}) == 3
    axes = grid_of(draw_case(overlay_case()), rows=3)[2, 0]
    hatches = {hatch for collection in axes.collections for hatch in getattr(collection, "hatches", []) if hatch}
    assert hatches == {ERROR_STYLES[2].hatch, ERROR_STYLES[3].hatch}


def test_borders_of_truth_and_prediction_differ_in_colour_and_dash():
    axes = grid_of(draw_case(overlay_case()), rows=3)[1, 0]
    truth, pred = axes.collections
    assert to_hex(truth.get_edgecolor()[0]) == TRUTH_STYLE[0].lower()
    assert to_hex(pred.get_edgecolor()[0]) == PRED_STYLE[0].lower()
    assert truth.get_linestyle() != pred.get_linestyle()


def test_border_surrounds_the_mask_in_mm():
    axes = grid_of(draw_case(overlay_case()), rows=3)[1, 0]
    x, y = axes.collections[0].get_paths()[0].vertices.T
    # voxels 10..19 and 10..17 of 2 mm; the border runs half a voxel outside their centres
    assert (x.min(), x.max(), y.min(), y.max()) == (19, 39, 19, 35)


def test_upper_row_shows_all_and_lower_rows_a_frame_around_the_truth():
    whole, near, errors = grid_of(draw_case(overlay_case()), rows=3)[:, 0]
    assert sorted(whole.get_xlim()) == [-1, 59]
    left, right = sorted(near.get_xlim())
    assert -1 < left < 19
    assert 39 < right < 59
    assert errors.get_xlim() == near.get_xlim()
    (frame,) = whole.patches
    assert sorted((frame.get_x(), frame.get_x() + frame.get_width())) == [left, right]


def test_one_stray_voxel_does_not_shrink_the_rest():
    stray = PRED.copy()
    stray[0, 0, 0] = True
    assert field_of_view_mm(overlay_case(pred=stray)) <= 1.25 * field_of_view_mm(overlay_case(pred=TRUTH))


def test_planes_go_through_the_truth_wherever_the_prediction_lies():
    figure = draw_case(overlay_case(pred=box((20, 22), (20, 22), (10, 11))))
    assert figure.axes[0].get_title() in ("axial, slice 5", "axial, slice 6")  # the ground truth's middle slices


def test_planes_go_through_the_prediction_where_there_is_no_truth():
    pred = box((20, 22), (20, 22), (9, 10))
    figure = draw_case(overlay_case(pred=pred, truth=None))
    assert len(figure.axes) == 6  # no row of errors
    assert figure.axes[0].get_title() == "axial, slice 9"


def test_case_with_two_empty_masks_is_drawn_whole():
    nothing = np.zeros(SHAPE, bool)
    case = overlay_case(pred=nothing, truth=nothing)
    assert field_of_view_mm(case) is None
    figure = draw_case(case)
    assert [text.get_text() for text in figure.legends[0].texts] == ["ground truth: empty", "prediction: empty"]
    assert all(shown_masks(axes) == {} for axes in grid_of(figure, rows=3)[2])


def test_orientation_on_disk_does_not_change_the_picture(tmp_path, files):
    arrays = {key: np.asarray(nib.load(file).dataobj) for key, file in files.items()}
    pictures = set()
    for codes in ("RAS", "LPS", "PIR", "ASL"):
        turned = {key: save(tmp_path / f"{key}_{codes}.nii.gz", array, codes) for key, array in arrays.items()}
        picture = save_figure(draw_case(read_case(**turned, name="ct_1")), tmp_path / f"{codes}.png")
        pictures.add(picture.read_bytes())
    assert len(pictures) == 1


def test_case_is_named_after_its_image_unless_told_otherwise(files):
    assert read_case(*files.values()).name == "ct_1"
    assert read_case(*files.values(), name="other").name == "other"


def test_one_label_of_several_is_looked_at(tmp_path, files):
    truth = TRUTH.astype(np.uint8)
    truth[10:13] *= 2
    save(files["truth_file"], truth)
    assert read_case(*files.values()).truth.sum() == 320
    assert read_case(*files.values(), label=2).truth.sum() == 3 * 8 * 4


def test_mask_of_another_grid_is_refused_by_name(files):
    save(files["pred_file"], PRED[:-1].astype(np.uint8))
    with pytest.raises(UserError, match=r"PAIR_GEOMETRY .*pred\.nii\.gz"):
        read_case(*files.values())


def test_mask_off_its_grid_is_drawn_where_the_evaluation_was_asked_to_take_it(files):
    half_a_voxel = nib.affines.from_matvec(np.eye(3), [0, 0, 0.5])
    pred = nib.load(files["pred_file"])
    nib.save(nib.Nifti1Image(pred.get_fdata().astype(np.uint8), pred.affine @ half_a_voxel), files["pred_file"])
    with pytest.raises(UserError, match=r"PAIR_GEOMETRY .*pred\.nii\.gz"):
        read_case(*files.values())
    assert read_case(*files.values(), grid_tolerance=0.6).pred.any()


def test_mask_with_fractions_is_refused(files):
    save(files["pred_file"], PRED.astype(np.float32) * 0.5)
    with pytest.raises(UserError, match=r"LABEL_SET .*pred\.nii\.gz"):
        read_case(*files.values())


def test_masks_without_an_image_are_drawn_on_black_and_say_so(files):
    case = read_case(None, files["truth_file"], files["pred_file"])
    assert case.name == "pred"
    assert case.title == "pred: foreground, Dice 0.800, ground truth 6.4 ml, prediction 6.4 ml, image not given"
    figure = draw_case(case)
    assert len(figure.axes) == 6  # borders and errors
    assert np.ptp(figure.axes[0].images[0].get_array()) == 0
    assert figure.axes[0].get_title().startswith("axial, slice")
    expected = {1: 64, 2: 16, 3: 16}
    errors = grid_of(figure, rows=2)[1, 0]
    assert shown_masks(errors) == {ERROR_STYLES[value].colour.lower(): n for value, n in expected.items()}


def test_map_of_probabilities_is_cut_at_the_threshold(files):
    save(files["pred_file"], np.where(PRED, 0.75, 0.25).astype(np.float32))
    assert read_case(*files.values(), threshold=0.5).dice == 0.8
    assert read_case(*files.values(), threshold=0.75).dice == 0.8
    assert read_case(*files.values(), threshold=0.8).pred.sum() == 0
