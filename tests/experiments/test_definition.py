from __future__ import annotations

import pytest
from commands import ROOT

from medseg3d.errors import UserError
from medseg3d.experiments.definition import parse_experiment, read_definition

BUNDLE = str(ROOT / "bundles" / "polyp_cris")
SEARCH = {"learning_rate": "log:1e-6:1e-2"}


def runs(**content):
    return parse_experiment({"bundle": BUNDLE, **content}).runs


def test_a_factor_is_a_list_of_values_of_a_knob_or_an_object_of_named_settings():
    found = runs(
        knobs={"epochs": 2},
        overlays=["phantom"],
        factors={
            "network": {
                "unet": {"backbone": "unet", "overlays": ["clinicdb"]},
                "ours": {"bundle": str(ROOT / "bundles" / "polyp_ann")},
            },
            "batch_size": [4, 8],
        },
        seeds=[7],
    )
    assert [str(run) for run in found] == [
        f"{network}_batch_size_{size}_seed_7" for network in ("unet", "ours") for size in (4, 8)
    ]
    assert found[0].knobs == {"epochs": 2, "backbone": "unet", "batch_size": 4}
    assert (found[0].overlays, found[0].bundle.name) == (("phantom", "clinicdb"), "polyp_cris")
    assert (found[3].overlays, found[3].bundle.name) == (("phantom",), "polyp_ann")
    assert (found[3].knobs, found[3].levels) == ({"epochs": 2, "batch_size": 8}, {"network": "ours", "batch_size": 8})


def test_paths_start_from_the_current_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (run,) = runs(knobs={"split_file": "a.json"}, factors={"data": {"own": {"dataset_dir": "pictures"}}})
    assert run.knobs == {"split_file": str(tmp_path / "a.json"), "dataset_dir": str(tmp_path / "pictures")}


def test_without_factors_there_is_a_run_for_each_seed():
    assert [str(run) for run in runs(seeds=[2, 0])] == ["run_seed_2", "run_seed_0"]


def test_no_trials_are_no_tuning():
    assert parse_experiment({"bundle": BUNDLE, "tune": {"search": SEARCH, "trials": 0}}).tune is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"knob": {}}, r"BAD_DEFINITION knob: .*did you mean knobs\?"),
        ({"bundle": "nosuch"}, "MISSING_BUNDLE nosuch"),
        ({"seeds": []}, "BAD_VALUE seeds"),
        ({"seeds": [1, 1]}, "BAD_VALUE seeds"),
        ({"seeds": [-1]}, "BAD_VALUE seeds"),
        ({"factors": {"epochs": []}}, "BAD_VALUE factor epochs"),
        ({"factors": {"epochs": [2, 2]}}, "BAD_VALUE factor epochs"),
        ({"factors": {"picture_size": [[64, 64]]}}, "BAD_VALUE factor picture_size"),
        ({"factors": {"data": {}}}, "BAD_VALUE factor data: no level"),
        ({"factors": {"data": {"a/b": {}}}}, "BAD_VALUE factor data: 'a/b'"),
        ({"factors": {"data": {"a": "folder"}}}, "BAD_DEFINITION data a"),
        ({"factors": {"epochs": [2]}, "knobs": {"epochs": 4}}, "BAD_VALUE --epochs: set by the factor epochs"),
        ({"factors": {"a": {"x": {"epochs": 2}}, "epochs": [2]}}, "BAD_VALUE --epochs: set by the factor"),
        ({"factors": {"a": {"x_y": {}, "x": {}}, "b": {"z": {}, "y_z": {}}}}, "two runs named x_y_z_seed_0"),
        ({"knobs": {"seed": 3}}, "BAD_VALUE --seed"),
        ({"knobs": {"output_dir": "runs/x"}}, "BAD_VALUE --output_dir"),
        ({"tune": {"search": SEARCH}, "knobs": {"learning_rate": 0.1}}, "BAD_VALUE --learning_rate: .*the tuning"),
        ({"tune": {"search": SEARCH, "trial": 3}}, r"BAD_DEFINITION trial: .*did you mean trials\?"),
        ({"tune": {"search": SEARCH, "trials": -1}}, "BAD_VALUE trials"),
        ({"tune": {"trials": 3}}, "BAD_DEFINITION tune"),
        ({"threshold": {"part": "test", "score": "dice_mean"}}, "TEST_PART threshold"),
        ({"threshold": {"part": "val"}}, "BAD_VALUE threshold score"),
        ({"threshold": {"part": "all", "score": "dice_mean"}}, "BAD_VALUE threshold part"),
        ({"part": "all"}, "BAD_VALUE part"),
        ({"reference": {"epochs": 2}}, "BAD_DEFINITION reference epochs"),
        ({"reference": {"epochs": [2]}}, "BAD_DEFINITION reference epochs"),
        ({"factors": {"epochs": [2]}, "reference": {"epochs": 3}}, "BAD_DEFINITION reference epochs: 3"),
    ],
)
def test_a_definition_that_cannot_be_meant_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        parse_experiment({"bundle": BUNDLE, **content})


def test_a_definition_names_its_bundle():
    with pytest.raises(UserError, match="BAD_DEFINITION bundle: none"):
        parse_experiment({})


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "file.json").write_text(text)
    with pytest.raises(UserError, match=r"BAD_DEFINITION .*file\.json"):
        read_definition(tmp_path / "file.json")
