from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from medseg3d.bundle import complete_config, monai_command_line, monai_words, read_config, run_monai, start_run
from medseg3d.bundle_folders import bundle_directory, bundle_folder, completed
from medseg3d.cli import main
from medseg3d.errors import UsageError, UserError, find_user_error
from medseg3d.knobs import BOUNDS, refuse_impossible
from medseg3d.precision import check_device

ROOT = Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("from_the_root")


def test_an_override_reaches_what_refers_to_it():
    parser = read_config(["bundles/pancreas_nl/train.json"], {"num_classes": 3, "output_dir": "/tmp/run"})
    parser.parse()
    assert parser.get_parsed_content("label_classes") == [0, 1, 2]
    assert parser.get_parsed_content("class_names") == ["pancreas", "tumour"]
    assert parser.get_parsed_content("model_file") == "/tmp/run/model.pt"


def test_merged_labels_are_the_default():
    parser = read_config(["bundles/pancreas_nl/train.json"])
    parser.parse()
    assert parser.get_parsed_content("label_classes") == [0, 1, 1]
    assert parser.get_parsed_content("class_names") == ["pancreas"]


def test_a_later_file_wins():
    parser = read_config(["bundles/pancreas_nl/train.json", "bundles/pancreas_nl/phantom.json"])
    assert parser["roi_size"] == json.loads(Path("bundles/pancreas_nl/phantom.json").read_text())["roi_size"]


@pytest.mark.parametrize(
    ("knob", "suggestion"),
    [
        *(("epochz", "--epochs"), ("learning-rate", "--learning_rate"), ("roi", "")),
        *(("pictures", "one of --tensorboard_images"), ("selection", "one of --checkpoint_selection")),
    ],
)
@pytest.mark.parametrize("config", ["train.json", "evaluate.json", "inference.json"])
def test_a_misspelt_knob_is_refused_and_the_right_one_suggested(config, knob, suggestion):
    with pytest.raises(UserError, match=f"UNKNOWN_KNOB --{knob}: .*{suggestion}"):
        read_config([f"bundles/pancreas_nl/{config}"], {knob: 1})


@pytest.mark.parametrize("config", ["train.json", "evaluate.json", "inference.json"])
@pytest.mark.parametrize("knob", ["epochs", "init_filters", "val_interval"])
def test_a_knob_of_the_training_is_known_to_all_three(config, knob):
    assert read_config([f"bundles/pancreas_nl/{config}"], {knob: 8})[knob] == 8


def test_a_renamed_knob_in_an_overlay_is_refused_with_its_name_of_today(tmp_path):
    (tmp_path / "own.json").write_text('{"selection": "last"}')
    with pytest.raises(UserError, match=r"UNKNOWN_KNOB --selection: .*one of --checkpoint_selection"):
        read_config(["bundles/pancreas_nl/train.json", tmp_path / "own.json"])


@pytest.mark.parametrize("knob", ["network_def#act", "train::trainer::max_epochs"])
def test_an_override_may_go_deep(knob):
    assert read_config(["bundles/pancreas_nl/train.json"], {knob: 1})[knob] == 1


def test_a_deep_override_of_the_training_serves_the_evaluation_too():
    assert read_config(["bundles/pancreas_nl/evaluate.json"], {"network_def#act": "relu"})["network_def#act"] == "relu"


def test_a_deep_override_where_monai_finds_no_place_for_it_is_refused():
    with pytest.raises(UserError, match="UNKNOWN_KNOB --image_chain#transforms#0#labels"):
        read_config(["bundles/pancreas_nl/evaluate.json"], {"image_chain#transforms#0#labels": []})


DEEP = {
    "train#trainer#max_epochs": 7,
    "train#trainer#compile": "$1 == 1",
    "train#dataset#data": ["a case"],
    "train#dataloader#num_workers": 3,
    "validate#evaluator#epoch_length": 1,
    "network_def#act": "LEAKYRELU",
    "inferer#overlap": 0.125,
    "image_chain#transforms": [],
    "validate#best_model#metric_name": "val_iou_mean",
}


@pytest.mark.parametrize(("knob", "value"), DEEP.items(), ids=list(DEEP))
def test_monai_itself_takes_a_deep_override_of_what_bundles_share(knob, value):
    workflow = ConfigWorkflow("bundles/pancreas_nl/train.json", logging_file=False, **{knob: value})
    workflow.parser.parse()
    parent, _, argument = knob.rpartition("#")
    assert workflow.parser[parent][argument] == value


@pytest.mark.parametrize(
    "knob", ["train#dataset#fraction", "train#trainer#max_epoch", "inferer#overlapp", "network_def#acti"]
)
def test_a_deep_override_that_its_component_does_not_take_is_refused(knob):
    with pytest.raises(UserError, match=f"^BAD_ARGUMENT --{knob}: argument .*, expected one of "):
        read_config(["bundles/pancreas_nl/train.json"], {knob: 1})


class TestBase:
    """A config that MONAI runs, with what it stands on."""

    @pytest.mark.parametrize("name", ["evaluate", "inference"])
    def test_a_run_of_it_reads_what_is_below_and_keeps_what_is_overridden(self, name):
        files = [f"bundles/pancreas_nl/{name}.json", "bundles/pancreas_nl/phantom.json"]
        knobs = {"overlap": 0.125, "network_def#act": "LEAKYRELU"}
        workflow = ConfigWorkflow(files, logging_file=False, **knobs)
        workflow.initialize()
        whole = read_config(files, knobs)
        for parser in (workflow.parser, whole):
            parser.parse()
        config = whole.get()
        assert workflow.parser.get() == {**config, "_meta_": workflow.parser["_meta_"]}
        assert (config["network_def"]["_target_"], config["network_def"]["act"]) == (
            "medseg3d.networks.SegResNetNL",
            "LEAKYRELU",
        )
        assert (config["overlap"], config["epochs"]) == (0.125, json.loads(Path(files[1]).read_text())["epochs"])

    def test_a_component_replaces_and_any_other_object_adds_as_deep_as_it_goes(self, tmp_path):
        below = {"a": {"b": {"_target_": "x", "c": 1}, "d": [1]}, "e": 1}
        (tmp_path / "below.json").write_text(json.dumps({"part": below, "other": 1}))
        config = {"base": ["below.json::part"], "a": {"b": {"f": 2}, "d": [2]}, "e": {}}
        assert completed(config, tmp_path) == {"a": {"b": {"_target_": "x", "c": 1, "f": 2}, "d": [2]}, "e": {}}
        config["a"] = {"b": {"_target_": "y"}}
        assert completed(config, tmp_path)["a"] == {"b": {"_target_": "y"}, "d": [1]}

    def test_a_base_may_have_one_itself_and_a_later_one_wins(self, tmp_path):
        (tmp_path / "shared").mkdir()
        files = {"shared/engine.json": {"a": 1, "b": 1}, "shared/ct.json": {"base": ["engine.json"], "b": 2, "c": 2}}
        for name, content in files.items():
            (tmp_path / name).write_text(json.dumps(content))
        assert completed({"base": ["shared/ct.json"], "c": 3}, tmp_path) == {"a": 1, "b": 2, "c": 3}
        assert completed({"base": ["shared/ct.json", "shared/engine.json"]}, tmp_path) == {"a": 1, "b": 1, "c": 2}

    @pytest.mark.parametrize(("base", "found"), [("lost.json", "lost.json"), ("below.json::lost", "lost")])
    def test_a_base_that_leads_nowhere_is_one_line(self, base, found, tmp_path, monkeypatch):
        (tmp_path / "below.json").write_text("{}")
        steps = [{"_target_": "medseg3d.bundle.complete_config"}]
        (tmp_path / "train.json").write_text(json.dumps({"base": [base], "initialize": steps}))
        with pytest.raises(UserError, match=f"^BAD_CONFIG .*{found}"):
            read_config([tmp_path / "train.json"])
        with pytest.raises(RuntimeError) as error:
            ConfigWorkflow(str(tmp_path / "train.json"), logging_file=False).initialize()
        assert find_user_error(error.value).code == "BAD_CONFIG"

    def test_nothing_else_can_be_completed(self):
        with pytest.raises(RuntimeError, match="called by a config"):
            complete_config()


def test_a_branch_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="UNKNOWN_KNOB --train#traner#max_epochs"):
        read_config(["bundles/pancreas_nl/train.json"], {"train#traner#max_epochs": 1})


def test_a_config_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"BAD_CONFIG .*broken\.json"):
        read_config([tmp_path / "broken.json"])
    (tmp_path / "lost.json").write_text('{"a": "%bundles/pancreas_nl/train.json::no_such_key"}')
    with pytest.raises(UserError, match=r"BAD_CONFIG .*lost\.json.*no_such_key"):
        read_config([tmp_path / "lost.json"])


def test_away_from_the_root_a_config_is_the_same_and_the_error_of_a_macro_says_where_to_go(monkeypatch, tmp_path):
    config = read_config(["bundles/pancreas_nl_2d/evaluate.json"]).get()
    monkeypatch.chdir(tmp_path)
    folder = ROOT / "bundles/pancreas_nl_2d"
    assert read_config([folder / "evaluate.json"]).get() == config
    with pytest.raises(UserError, match=r"BAD_CONFIG .*run from the root of the repository"):
        read_config([folder / "evaluate.json", folder / "image_folder.json"])


def test_a_folder_that_is_no_bundle_is_refused_with_those_that_are():
    with pytest.raises(UserError, match=r"MISSING_BUNDLE bundles/pancreas: .*pancreas_nl"):
        bundle_folder("bundles/pancreas")


def test_the_current_directory_comes_back_also_after_an_error(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    inside = []

    def fail():
        with bundle_directory(ROOT / "bundles" / "pancreas_nl") as root:
            inside.extend([root, Path.cwd()])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [ROOT, ROOT]
    assert Path.cwd() == tmp_path


MAIN = os.path.join("site-packages", "monai", "bundle", "__main__.py")


def test_the_command_line_is_read_as_monai_reads_it():
    words = ["run", "training", "--config_file", "['a.json','b.json']", "--epochs", "2", "--network_def#act=relu"]
    files, overrides = monai_command_line([MAIN, *words, "--logging_file", "x.conf"])
    assert files == ["a.json", "b.json"]
    assert overrides == {"epochs": 2, "network_def#act": "relu"}


def test_an_args_file_counts(tmp_path):
    (tmp_path / "args.json").write_text('{"config_file": "a.json", "epochs": 3, "seed": 1}')
    files, overrides = monai_command_line([MAIN, "run", "--args_file", str(tmp_path / "args.json"), "--epochs", "5"])
    assert (files, overrides) == (["a.json"], {"epochs": 5, "seed": 1})


def test_another_program_is_left_alone(monkeypatch, tmp_path):
    assert monai_command_line(["pytest", "run"]) is None
    hook = sys.excepthook
    start_run(tmp_path)
    assert sys.excepthook is hook
    assert list(tmp_path.iterdir()) == []


def test_a_run_records_its_config_with_every_override(monkeypatch, tmp_path):
    config = "bundles/pancreas_nl/train.json"
    monkeypatch.setattr(sys, "argv", [MAIN, "run", "training", "--config_file", config, "--epochs", "7"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    start_run(tmp_path)
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert recorded["epochs"] == 7
    assert recorded["image_chain"]["_target_"] == "Compose"  # `%` paths are resolved


def test_a_folder_that_is_refused_keeps_its_config_and_a_wrong_knob_is_refused_before(monkeypatch, tmp_path):
    def claim():
        raise UserError("RUN_EXISTS", tmp_path, "a finished run")

    words = [MAIN, "run", "training", "--config_file", "bundles/pancreas_nl/train.json"]
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UserError, match="RUN_EXISTS"):
        start_run(tmp_path, claim)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(sys, "argv", [*words, "--epochz", "7"])
    with pytest.raises(UserError, match="UNKNOWN_KNOB"):
        start_run(tmp_path, claim)


def test_a_run_refuses_a_misspelt_knob(monkeypatch):
    config = "bundles/pancreas_nl/train.json"
    monkeypatch.setattr(sys, "argv", [MAIN, "run", "training", "--config_file", config, "--epochz", "7"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(UserError, match="UNKNOWN_KNOB --epochz"):
        start_run()


def test_a_monai_command_that_fails_is_an_error_with_the_last_line_of_its_log(monkeypatch, tmp_path):
    def fail(words, *, output, **_):
        output.write("a line\nerror: UNKNOWN_KNOB --epochz\n")
        return 2

    monkeypatch.setattr("medseg3d.bundle.run_child", fail)
    wanted = r"^RUN_FAILED training: exit code 2.*ends: error: UNKNOWN_KNOB --epochz"
    with pytest.raises(UserError, match=wanted):
        run_monai("training", ["bundles/pancreas_nl/train.json"], root=ROOT, log_file=tmp_path / "run.log")
    log = (tmp_path / "run.log").read_text()
    assert log.startswith("$ python -m monai.bundle run training --config_file")


@pytest.mark.slow
def test_a_misspelt_knob_ends_a_command_with_one_line_and_nothing_left_behind(tmp_path):
    log, knobs = tmp_path / "run.log", {"epochz": 1, "output_dir": str(tmp_path / "run")}
    with pytest.raises(UserError, match="RUN_FAILED training: exit code 2"):
        run_monai("training", ["bundles/pancreas_nl/train.json"], knobs, root=ROOT, log_file=log)
    text = log.read_text()
    (error,) = (line for line in text.splitlines() if line.startswith("error: "))
    assert error.startswith("error: UNKNOWN_KNOB --epochz")
    assert "--epochs" in error
    assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


IMPOSSIBLE = [
    *(("pancreas_nl", "epochs", value) for value in (0, 1.0, "1e0x", None, True)),
    *(("pancreas_nl", "seed", value) for value in ("none", None, -1)),
    *(("pancreas_nl", "num_workers", value) for value in (-1, 0.5)),
    *(("pancreas_nl", "val_interval", value) for value in (0, [1])),
    *(("pancreas_nl", "sw_batch_size", value) for value in (0, "two")),
    *(("pancreas_nl", "init_filters", value) for value in (-8, 0, 12)),
    *(("pancreas_nl", "overlap", value) for value in (1.5, 1, -0.1, [0.5, 1.0, 0.5], float("nan"))),
    *(("pancreas_nl", "roi_size", value) for value in ("abc", [96], [96, 96, 0], 96)),
    *(("pancreas_nl", "window_hu", value) for value in ([240, -100], [0, 0], [0], 240, [0, float("inf")])),
    *(("pancreas_nl", "spacing", value) for value in ([1.5, 1.5], [0, 1, 1], [-1, 1, 1], [1, 1, 0], [1, 1, -2], "1")),
    *(("polyp_resunetpp", "picture_size", value) for value in ([0, 0], 0, [352], [352.0, 352])),
    *(("polyp_resunetpp", "channel_std", value) for value in ([0, 0, 0], [1, 1], [1, 1, -1])),
]


@pytest.mark.parametrize("config", ["train.json", "evaluate.json", "inference.json"])
@pytest.mark.parametrize(("bundle", "knob", "value"), IMPOSSIBLE, ids=str)
def test_an_impossible_value_is_refused_at_every_door_naming_the_option(bundle, knob, value, config):
    with pytest.raises(UsageError, match=f"BAD_VALUE --{knob}: {re.escape(repr(value))}, expected "):
        read_config([f"bundles/{bundle}/{config}"], {knob: value})


def test_an_impossible_value_in_a_file_is_refused_like_one_of_the_command_line(tmp_path):
    (tmp_path / "mine.json").write_text('{"epochs": 0}')
    with pytest.raises(UsageError, match="BAD_VALUE --epochs: 0"):
        read_config(["bundles/pancreas_nl/train.json", tmp_path / "mine.json"])


def test_every_number_of_every_bundle_has_bounds_and_keeps_them():
    unbounded = set()
    for path in Path("bundles").glob("[a-z]*/*.json"):
        knobs = json.loads(path.read_text()) if path.name != "metadata.json" else {}
        refuse_impossible({name: value for name, value in knobs.items() if not str(value).startswith("%")})
        for name, value in knobs.items():
            first = value[0] if isinstance(value, list) and value else value
            unbounded |= {name} - BOUNDS.keys() if isinstance(first, (int, float)) else set()
    assert unbounded == set()


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--device", "cuda:77"], ["--device", "gpu"]])
def test_check_and_training_end_with_2_and_one_line(words, monkeypatch, capsys, tmp_path):
    assert main(["check", "bundles/pancreas_nl", "--config-overlay", "phantom", *words]) == 2
    said = capsys.readouterr().err.splitlines()
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    run = ["run", "training", "--config_file", "bundles/pancreas_nl/train.json", "--output_dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["/monai/bundle/__main__.py", *run, *words])
    with pytest.raises(UsageError) as caught:
        start_run(tmp_path / "run")
    assert said == [f"error  {caught.value}"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["cuda:77", "gpu", "tpu", "meta", "cuda:-1"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(device):
    with pytest.raises(UsageError, match=f"DEVICE --device {device}: .*expected one of cpu"):
        check_device(device)


class TestResume:
    """A run that goes on with other settings."""

    def start(self, folder: Path, monkeypatch, *words: str) -> dict:
        run = ["run", "training", "--config_file", "bundles/pancreas_nl/train.json", "--output_dir", str(folder)]
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        monkeypatch.setattr(sys, "argv", ["/monai/bundle/__main__.py", *run, *words])
        start_run(folder)
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "epoch_00004.pt").touch()
        return json.loads((folder / "config.json").read_text())

    def test_a_description_of_the_config_is_no_setting(self, tmp_path, monkeypatch):
        self.start(tmp_path, monkeypatch)
        config = self.start(tmp_path, monkeypatch, "--resume", "true", "--_desc_", "in two processes")
        assert config["_desc_"] == "in two processes"

    @pytest.mark.parametrize("words", [["--learning_rate", "0.5"], ["--init_filters", "8"], ["--spacing", "[1,1,1]"]])
    def test_what_is_learnt_cannot_change_and_the_config_stays_true(self, words, tmp_path, monkeypatch):
        before = self.start(tmp_path, monkeypatch, "--epochs", "4")
        with pytest.raises(UsageError, match=rf"RESUME {words[0]}: .*, expected .*, with which this run began"):
            self.start(tmp_path, monkeypatch, "--epochs", "8", "--resume", "true", *words)
        assert json.loads((tmp_path / "config.json").read_text()) == before

    def test_a_knob_that_was_renamed_since_the_run_began_cannot_change_either(self, tmp_path, monkeypatch):
        before = self.start(tmp_path, monkeypatch)
        before["selection"] = before.pop("checkpoint_selection")
        (tmp_path / "config.json").write_text(json.dumps(before))
        with pytest.raises(UsageError, match=r"RESUME --checkpoint_selection: 'last', expected 'best'"):
            self.start(tmp_path, monkeypatch, "--resume", "true", "--checkpoint_selection", "last")

    def test_how_long_and_where_may_change_and_both_are_recorded(self, tmp_path, monkeypatch, caplog):
        self.start(tmp_path, monkeypatch, "--epochs", "4")
        config = self.start(tmp_path, monkeypatch, "--epochs", "8", "--resume", "true")
        assert (config["epochs"], config["_resumed_"]) == (8, [{"epochs": [4, 8]}])
        assert "--epochs 8 from here on; so far this run had 4" in caplog.text
        config = self.start(tmp_path, monkeypatch, "--epochs", "9", "--resume", "true")
        assert config["_resumed_"] == [{"epochs": [4, 8]}, {"epochs": [8, 9]}]


@pytest.mark.parametrize("path", ["/data/out#1", "/it's/a\\b#@c", "#"])
def test_a_path_with_a_number_sign_comes_out_as_it_is(path):
    parser = read_config(["bundles/pancreas_nl/train.json"], {"output_dir": path, "dataset_dir": [path, "/b"]})
    parser.parse()
    assert parser.get_parsed_content("output_dir") == path
    assert parser.get_parsed_content("model_file") == os.path.join(path, "model.pt")
    assert parser.get_parsed_content("dataset_dir") == [path, "/b"]


def test_monais_own_command_refuses_the_sign_and_takes_the_spelling_that_it_is_told(monkeypatch, tmp_path):
    words = ["/monai/bundle/__main__.py", "run", "training", "--config_file", "bundles/pancreas_nl/train.json"]
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", [*words, "--output_dir", f"{tmp_path}/a#1"])
    with pytest.raises(UsageError, match=r"BAD_VALUE --output_dir: .*whose # MONAI takes for ::") as caught:
        start_run()
    spelling = caught.value.wanted.removeprefix('--output_dir "').removesuffix('"')
    assert spelling in monai_words("training", [], {"output_dir": f"{tmp_path}/a#1"})
    parser = read_config(*monai_command_line([*words, "--output_dir", spelling]))
    parser.parse()
    assert parser.get_parsed_content("output_dir") == f"{tmp_path}/a#1"
