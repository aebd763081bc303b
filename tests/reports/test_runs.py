import json

import pytest
from report_runs import make_pictures, make_run

from medseg3d.errors import UserError
from medseg3d.phantoms.ct import write_phantom_dataset
from medseg3d.phantoms.polyps import write_polyp_phantoms
from medseg3d.reports.runs import find_evaluations, is_phantom_data, read_run, read_runs


def test_run_is_found_by_its_evaluations_and_an_evaluation_by_itself(tmp_path):
    for part in ("test", "val"):
        make_pictures(tmp_path / "run" / f"evaluation_{part}", {"a": 1})
    assert [folder.name for folder in find_evaluations(tmp_path / "run")] == ["evaluation_test", "evaluation_val"]
    assert find_evaluations(tmp_path / "run" / "evaluation_val") == [tmp_path / "run" / "evaluation_val"]
    assert [run.name for run in read_runs([tmp_path / "run"])] == ["run (test)", "run (val)"]


def test_run_without_an_evaluation_is_refused_with_what_to_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"bundle_root": "bundles/polyp_ann"}))
    with pytest.raises(
        UserError, match=r"NO_EVALUATION .*run evaluating --config_file bundles/polyp_ann/evaluate\.json"
    ):
        find_evaluations(tmp_path)


def test_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"MISSING_FILE .*no such folder"):
        read_runs([tmp_path / "nowhere"])


@pytest.mark.parametrize("name", ["ablation", "cris", "study", "experiment"])
def test_an_experiment_is_no_run_without_an_evaluation(name, tmp_path):
    (tmp_path / f"{name}.json").write_text("{}")
    assert find_evaluations(tmp_path) == []


def test_one_folder_named_twice_is_one_run(tmp_path):
    folder = make_pictures(tmp_path / "run" / "evaluation_test", {"a": 1})
    assert len(read_runs([tmp_path / "run", folder / ".." / folder.name])) == 1


def test_names_are_given_or_made_and_differ(tmp_path):
    folders = [make_pictures(tmp_path / name / "run" / "evaluation_test", {"a": 1}) for name in "xy"]
    assert [run.name for run in read_runs(folders)] == ["x/run (test)", "y/run (test)"]
    assert [run.name for run in read_runs([f"ours={folders[0]}", folders[1]])] == ["ours", "y/run (test)"]
    with pytest.raises(UserError, match=r"NAME_COLLISION .*ours"):
        read_runs([f"ours={folder}" for folder in folders])


def test_bundle_is_what_was_recorded_unless_told_otherwise(tmp_path):
    folder = make_pictures(tmp_path / "run" / "evaluation_test", {"a": 1})
    assert read_run(folder).bundle == ""
    (tmp_path / "run" / "config.json").write_text(json.dumps({"bundle_root": "bundles/polyp_ann"}))
    assert read_run(folder).bundle == "polyp_ann"
    assert read_run(folder, bundle="polyp_cris").bundle == "polyp_cris"


def test_everything_that_an_evaluation_leaves_is_read(tmp_path):
    run = read_run(make_pictures(tmp_path / "evaluation", {"a": 1, "b": 2}, threshold=0.5))
    assert run.classes == ["polyp"]
    assert run.curve.histogram.sum() == 2 * 40 * 40
    assert len(run.thresholds) == 99
    assert run.files["b"].is_picture
    assert run.files["b"].pred.name == "1.png"
    assert run.files["b"].image is None
    assert run.threshold == 0.5
    assert run.training == {}


def test_what_an_evaluation_of_masks_lacks_is_empty(tmp_path):
    make_run(tmp_path / "run", {"a": 1}, with_curves=False, with_files=False)
    run = read_run(tmp_path / "run")
    assert (run.curve, run.thresholds, run.files, run.config, run.training) == (None, (), {}, {}, {})


def test_files_are_found_again_after_the_run_was_moved(tmp_path):
    folder = tmp_path / "evaluation"
    make_pictures(folder, {"a": 1})
    (folder / "files.json").write_text(json.dumps({"a": {"pred": "pred/0.png", "truth": "/gone/0.png"}}))
    files = read_run(folder).files["a"]
    assert files.pred == folder / "pred" / "0.png"
    assert str(files.truth) == "/gone/0.png"


def test_sizes_are_in_the_unit_of_the_evaluation(tmp_path):
    pictures = read_run(make_pictures(tmp_path / "pictures", {"a": 0, "b": 0, "c": 0}))
    assert pictures.sizes("polyp", "percent") == {"a": 4.0, "b": 81 / 16, "c": 6.25}
    assert pictures.strata("polyp").cases == {"small": ["a"], "medium": ["b"], "large": ["c"]}
    make_run(tmp_path / "volumes", {"a": 1})
    volumes = read_run(tmp_path / "volumes")
    assert volumes.sizes("pancreas", "ml") == pytest.approx({"a": 96 * 0.02})
    assert volumes.sizes("pancreas", "voxels") == {"a": 96}


def test_label_of_a_class_is_its_place_and_all_if_it_is_alone(tmp_path):
    make_run(tmp_path / "one", {"a": 1})
    make_run(tmp_path / "three", {"a": 1}, class_names=("pancreas", "cancer"))
    assert read_run(tmp_path / "one").label("pancreas") is None
    run = read_run(tmp_path / "three")
    assert [run.label(name) for name in run.classes] == [1, 2, None]
    assert run.region == "foreground"


def test_generated_images_of_either_kind_are_known_as_such(tmp_path):
    write_phantom_dataset(tmp_path / "volumes", cases=1, test_images=0, spacing_mm=(6, 6, 10))
    write_polyp_phantoms(tmp_path / "pictures", cases=1, size=(64, 64))
    (tmp_path / "others").mkdir()
    assert [is_phantom_data(tmp_path / each) for each in ("volumes", "pictures", "others")] == [True, True, False]
