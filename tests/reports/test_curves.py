import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from torch.utils.tensorboard import SummaryWriter

from medseg3d.metrics import BinnedPRCurve
from medseg3d.reports.curves import (
    draw_pr,
    draw_training,
    line_style,
    pr_series,
    read_training_curves,
    running_mean,
    save_figure,
)

STEPS = {tag: (np.arange(1, 4), np.array([0.5, 0.25, 0.75])) for tag in ("train_loss", "val_dice_mean")}
PNG = b"\x89PNG\r\n\x1a\n"


def curve_of(scores, truth):
    curve = BinnedPRCurve()
    curve.update(np.asarray(scores, np.float64), np.asarray(truth))
    return curve


@pytest.fixture
def noisy_curve():
    rng = np.random.default_rng(0)
    truth = rng.random(500) < 0.2
    return curve_of(rng.normal(size=500) + 1.5 * truth, truth)


def line_by_label(axes, start):
    (line,) = [line for line in axes.lines if str(line.get_label()).startswith(start)]
    return line


def test_pr_series_of_four_voxels_by_hand():
    series = pr_series("pancreas", curve_of([-3, -1, 0.5, 2], [0, 1, 0, 1]), operating_threshold=0.5)
    assert series.recall.tolist() == [1.0, 1.0, 0.5, 0.5, 0.0]
    assert series.precision == pytest.approx([1 / 2, 2 / 3, 1 / 2, 1, 1])
    assert series.average_precision == pytest.approx(5 / 6)
    assert series.prevalence == 0.5
    assert series.operating_point == (0.5, 0.5)
    assert series.dice == 0.5  # one hit, one miss, one false alarm
    assert series.best == pytest.approx((1 / (1 + np.exp(1)), 0.8), abs=1e-4)  # two hits, one false alarm at -1


def test_operating_point_follows_the_threshold():
    curve = curve_of([-3, -1, 0.5, 2], [0, 1, 0, 1])
    series = pr_series("a", curve, operating_threshold=0.25)
    assert series.operating_point == pytest.approx((1, 2 / 3))
    assert series.prevalence == 0.5  # not of what is predicted, which is 3 / 4


def test_area_under_the_drawn_steps_is_the_average_precision_of_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.random(300) < 0.3
    scores = np.round(rng.normal(size=300) + truth, 2)  # with ties
    line = line_by_label(draw_pr([pr_series("a", curve_of(scores, truth))]).axes[0], "a, AP")
    assert line.get_drawstyle() == "steps-post"
    x, y = line.get_xdata(), line.get_ydata()
    # steps-post: the height of a point holds up to the next point
    assert np.sum(-np.diff(x) * y[:-1]) == pytest.approx(average_precision_score(truth, scores), abs=1e-3)


def test_pr_axes_show_curve_prevalence_operating_point_and_ap(noisy_curve):
    series = pr_series("pancreas", noisy_curve)
    axes = draw_pr([series]).axes[0]
    assert line_by_label(axes, "guessing").get_ydata() == pytest.approx([series.prevalence] * 2)
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert [(mark.get_xdata()[0], mark.get_ydata()[0]) for mark in marks] == [series.operating_point]
    assert [text.get_text() for text in axes.texts if not text.get_text().startswith("F1")] == [
        f"threshold 0.5\nrecall {series.operating_point[0]:.3f}, precision {series.operating_point[1]:.3f}"
    ]
    assert axes.get_legend().texts[0].get_text() == f"pancreas, AP {series.average_precision:.3f}"
    assert axes.get_xlabel().startswith("recall")
    assert axes.get_ylabel().startswith("precision")


def test_lines_of_several_classes_differ_in_colour_and_in_dash(noisy_curve):
    axes = draw_pr([pr_series(name, noisy_curve) for name in ("pancreas", "cancer", "duct")]).axes[0]
    curves = [line_by_label(axes, f"{name}, AP") for name in ("pancreas", "cancer", "duct")]
    assert len({line.get_color() for line in curves}) == 3
    assert len({line.get_linestyle() for line in curves}) == 3


def test_class_without_truth_is_named_and_not_drawn():
    axes = draw_pr([pr_series("cancer", curve_of([-1, 1], [0, 0]))]).axes[0]
    assert [text.get_text() for text in axes.get_legend().texts] == ["cancer: no true foreground"]
    assert all(len(line.get_xdata()) == 0 for line in axes.lines if line.get_gid() != "equal F1")


def test_threshold_above_every_score_has_no_mark():
    # nothing is predicted, so that precision has no value
    axes = draw_pr([pr_series("a", curve_of([-3, -1], [0, 1]), operating_threshold=0.9)]).axes[0]
    assert [line for line in axes.lines if line.get_marker() == "o"] == []


def test_every_point_of_a_level_line_has_that_f1(noisy_curve):
    axes = draw_pr([pr_series("a", noisy_curve)]).axes[0]
    levels = [line.get_xydata().T for line in axes.lines if line.get_gid() == "equal F1"]
    scores = [2 * precision * recall / (precision + recall) for recall, precision in levels]
    assert [(each.min(), each.max()) for each in scores] == [pytest.approx((f1, f1)) for f1 in (0.2, 0.4, 0.6, 0.8)]


def test_runs_on_the_same_cases_share_one_line_of_guessing(noisy_curve):
    labels = [text.get_text() for text in draw_pr([pr_series(n, noisy_curve) for n in "ab"]).axes[0].get_legend().texts]
    assert [label[:8] for label in labels] == ["a, AP 0.", "b, AP 0.", "guessing"]


@pytest.mark.parametrize("kind", ["precision and recall", "training"])
def test_long_names_leave_the_curves_their_room(noisy_curve, kind):
    names = [f"data_set_unet_plus_plus_strategy_seed_{n} (test)" * 2 for n in range(3)]
    if kind == "training":
        figure = draw_training(dict.fromkeys(names, STEPS))
    else:
        figure = draw_pr([pr_series(name, noisy_curve) for name in names])
    figure.draw_without_rendering()
    width, _ = figure.canvas.get_width_height()
    legend = figure.axes[-1].get_legend().get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= width
    assert all(axes.get_window_extent().width > 0.7 * width for axes in figure.axes)


def test_no_curve_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one curve"):
        draw_pr([])


def test_twelve_lines_all_differ():
    assert len({line_style(index) for index in range(12)}) == 12


def test_equal_curves_are_equal_bytes(tmp_path, noisy_curve):
    first, second = (save_figure(draw_pr([pr_series("a", noisy_curve)]), tmp_path / f"{name}.png") for name in "ab")
    assert first.read_bytes().startswith(PNG)
    assert first.read_bytes() == second.read_bytes()


def test_no_figure_is_left_with_pyplot(noisy_curve):
    from matplotlib import pyplot

    draw_pr([pr_series("a", noisy_curve)])
    assert pyplot.get_fignums() == []


@pytest.fixture
def events_dir(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step, loss in enumerate([2.0, 1.0, 0.5], start=1):
            writer.add_scalar("train_loss", loss, step)
        for step, dice in ((2, 0.25), (3, 0.75)):
            writer.add_scalar("val_dice_mean", dice, step)
    return tmp_path


def test_training_curves_are_read_by_tag(events_dir):
    curves = read_training_curves(events_dir)
    assert sorted(curves) == ["train_loss", "val_dice_mean"]
    assert [column.tolist() for column in curves["train_loss"]] == [[1, 2, 3], [2.0, 1.0, 0.5]]
    assert [column.tolist() for column in curves["val_dice_mean"]] == [[2, 3], [0.25, 0.75]]


def test_every_iteration_of_a_long_training_is_read(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(10_500):  # TensorBoard keeps 10,000 drawn at random unless told otherwise
            writer.add_scalar("train_loss", 1.0, step)
    assert read_training_curves(tmp_path)["train_loss"][0].tolist() == list(range(10_500))


def test_steps_repeated_by_a_resumed_run_count_once_and_the_later_value(tmp_path):
    # killed after iteration 3, resumed from a checkpoint of iteration 1
    for start, values, hour in ((1, [2.0, 1.0, 9.0], 1), (2, [1.5, 0.5], 2)):
        with SummaryWriter(str(tmp_path), filename_suffix=f".{hour}") as writer:
            for step, value in enumerate(values, start=start):
                writer.add_scalar("train_loss", value, step, walltime=3600.0 * hour + step)
    steps, values = read_training_curves(tmp_path)["train_loss"]
    assert steps.tolist() == [1, 2, 3]
    assert values.tolist() == [2.0, 1.5, 0.5]


def test_a_folder_without_events_has_no_curves(tmp_path):
    assert read_training_curves(tmp_path) == {}


def test_training_panels_show_what_was_logged_and_mark_the_best(events_dir):
    loss_axes, score_axes = draw_training({"run": read_training_curves(events_dir)}).axes
    assert loss_axes.lines[0].get_xydata().tolist() == [[1, 2.0], [2, 1.0], [3, 0.5]]
    assert score_axes.lines[0].get_xydata().tolist() == [[2, 0.25], [3, 0.75]]
    assert line_by_label(score_axes, "best: 0.750 at iteration 3").get_xydata().tolist() == [[3, 0.75]]
    assert score_axes.get_xlabel() == "iteration"
    assert "Dice" in score_axes.get_ylabel()


def test_long_training_is_smoothed_without_shift():
    steps = np.arange(1, 1001)
    loss_axes, _ = draw_training({"run": {"train_loss": (steps, 5.0 - 0.004 * steps)}}).axes
    raw, smooth = loss_axes.lines
    # the running mean of a straight line is the line, but for the ends
    assert smooth.get_ydata()[50:-50] == pytest.approx(raw.get_ydata()[50:-50])


def test_training_without_validation_leaves_the_lower_panel_empty():
    loss_axes, score_axes = draw_training({"run": {"train_loss": (np.array([1]), np.array([2.0]))}}).axes
    assert len(loss_axes.lines[0].get_xdata()) == 1
    assert len(score_axes.lines[0].get_xdata()) == 0


def test_of_several_trainings_only_the_means_are_drawn_each_in_a_style_of_its_own():
    steps = np.arange(1, 101)
    runs = {name: {"train_loss": (steps, np.full(100, loss))} for name, loss in (("a", 1.0), ("b", 2.0))}
    loss_axes, _ = draw_training(runs).axes
    assert [line.get_label() for line in loss_axes.lines] == [f"{name}, mean over 5 iterations" for name in "ab"]
    assert [line.get_ydata()[0] for line in loss_axes.lines] == [1.0, 2.0]
    assert len({(line.get_color(), line.get_linestyle()) for line in loss_axes.lines}) == 2


def test_losses_that_take_turns_are_drawn_each_by_itself():
    turns = {"backbone": np.r_[1:51, 101:151], "final": np.r_[51:101, 151:201]}
    curves = {f"train_loss_{name}": (steps, np.full(100, float(len(name)))) for name, steps in turns.items()}
    curves["train_loss"] = (np.arange(1, 201), np.ones(200))
    loss_axes, _ = draw_training({"run": curves}).axes
    labels = [f"{name}, {what}" for name in turns for what in ("each iteration", "mean over 5 iterations")]
    assert [line.get_label() for line in loss_axes.lines] == labels
    assert [line.get_ydata()[0] for line in loss_axes.lines] == [8.0, 8.0, 5.0, 5.0]
    assert loss_axes.lines[1].get_color() != loss_axes.lines[3].get_color()
    loss_axes, score_axes = draw_training({"run": curves, "other": {"train_loss": curves["train_loss"]}}).axes
    labels = ["run, backbone", "run, final", "other"]
    assert [line.get_label().partition(", mean over")[0] for line in loss_axes.lines] == labels
    assert [line.get_color() for line in loss_axes.lines[1:]] == [line.get_color() for line in score_axes.lines]


@pytest.mark.parametrize("window", [0, 2])
def test_running_mean_refuses_a_window_that_shifts(window):
    with pytest.raises(ValueError, match="window must be odd"):
        running_mean(np.zeros(3), window)
