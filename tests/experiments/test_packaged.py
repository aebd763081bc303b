from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import ROOT, knobs
from experiment_runs import SMALL, Commands, empty_pictures

from medseg3d.cli import experiment as verb
from medseg3d.cli import main
from medseg3d.errors import UserError
from medseg3d.evaluation import Score, Summary
from medseg3d.evaluation.files import SCORES_CSV, score_row
from medseg3d.experiments.definition import packaged
from medseg3d.metrics import ConfusionCounts

NL = str(ROOT / "bundles" / "pancreas_nl")


@pytest.fixture
def phantoms(tmp_path):
    """A data set of volumes without content: enough to be split."""
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "data" / folder / f"case_{number}.nii.gz").touch()
    pairs = [{"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"} for n in range(6)]
    described = {"labels": {"0": "background", "1": "pancreas"}, "training": pairs, "test": []}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(described))
    return knobs(dataset_dir=tmp_path / "data", split_file=tmp_path / "split.json", test_cases=2, val_cases=1)


@pytest.fixture
def commands(monkeypatch):
    """What MONAI's command is called with; an evaluation gives more blocks and higher seeds a higher Dice."""
    calls, real = [], verb.run_experiment

    def command(run_id, bundle, overlays, words, run, show):
        calls.append((run_id, bundle.name, tuple(overlays), dict(words)))
        if run_id == "evaluating":
            value = 0.5 + 0.01 * words["nonlocal_blocks"] + 0.1 * words["seed"]
            scores = [Score("pancreas", name, "cases", value, 2) for name in ("dice", "recall", "specificity")]
            folder = Path(run) / f"evaluation_{words['part']}"
            folder.mkdir(parents=True)
            split = json.loads(Path(words["split_file"]).read_text())["hash"]
            summary = Summary(scores, context={"split_hash": split})
            (folder / "summary.json").write_text(json.dumps(summary.as_json()))
            row = {**score_row("a", "pancreas", ConfusionCounts(tp=1)), "dice": value}
            SCORES_CSV.write(folder / "scores.csv", [row])
        return 1.0

    def run_experiment(*args, **how):
        return real(*args, **{**how, "command": command})

    monkeypatch.setattr(verb, "run_experiment", run_experiment)
    return calls


def test_the_ablation_differs_in_blocks_and_seed_and_tables_the_gain(commands, phantoms, tmp_path, capsys):
    call = ["ablation", NL, "-o", str(tmp_path / "out"), "--blocks", "0", "2", "--seeds", "0", "1", *phantoms]
    assert main(call) == 0
    trained = [words for run_id, *_, words in commands if run_id == "training"]
    varied = [(words.pop("seed"), words.pop("nonlocal_blocks")) for words in trained]
    assert varied == [(0, 0), (0, 2), (1, 0), (1, 2)]
    assert all(words == trained[0] for words in trained)
    out = capsys.readouterr().out
    assert "| 2 | 57.00 ± 7.07 | 2 | 4,767,090 |" in out
    assert "| 2 − 0 | +3.68 | +2.00 | 1 / 0 | +2.00 ± 0.00 |" in out
    assert (tmp_path / "out" / "ablation.md").read_text().strip() in out


def test_an_overlay_without_non_local_blocks_has_no_ablation(commands, phantoms, tmp_path, capsys):
    assert main(["ablation", NL, "-o", str(tmp_path / "out"), "--config-overlay", "unetr", *phantoms]) == 2
    assert "BAD_VALUE factor nonlocal_blocks" in capsys.readouterr().err
    assert commands == []


def test_a_bundle_without_blocks_has_no_ablation(commands, tmp_path, capsys):
    assert main(["ablation", str(ROOT / "bundles" / "polyp_ann"), "-o", str(tmp_path / "out")]) == 2
    assert "UNKNOWN_KNOB --nonlocal_blocks" in capsys.readouterr().err


CRIS = ["reproduce", "cris", "--bundle", str(ROOT / "bundles" / "polyp_cris")]
SMALL_WORDS = knobs(**SMALL)


@pytest.fixture
def cris(monkeypatch, tmp_path):
    """The verb on images that hold nothing, and the commands that it gives."""
    commands, tuned, real = Commands(), [], verb.run_experiment

    def tune(plan, run):
        tuned.append({**plan.experiment.tune, "storage": plan.storage})
        return {"values": {"learning_rate": 0.01}, "best_score": 0.5, "trials": {"complete": 3}, "seconds": 1.0}

    def run_experiment(*args, **how):
        return real(*args, **{**how, "command": commands, "tune": tune})

    monkeypatch.setattr(verb, "run_experiment", run_experiment)
    data = str(empty_pictures(tmp_path / "data"))

    def call(*words):
        commands.code = main([*CRIS, "-o", str(tmp_path / "out"), "--data", f"own={data}", *words, *SMALL_WORDS])
        return commands

    commands.tuned, call.commands = tuned, commands
    return call


def test_reproducing_cris_runs_its_grid_on_one_split_with_the_tuned_rate(cris, tmp_path, capsys):
    words = ["--backbones", "unet", "segnet", "--strategies", "fcn", "cris", "--trials", "3", "--tune-epochs", "2"]
    commands = cris(*words, "--storage", "sqlite:///x.db", "--threshold-part", "val")
    assert commands.code == 0
    grid = [(knobs["backbone"], knobs["strategy"]) for knobs in commands.trained]
    assert grid == [("unet", "fcn"), ("unet", "cris"), ("segnet", "fcn"), ("segnet", "cris")]
    assert {(knobs["learning_rate"], knobs["split_file"], knobs["seed"]) for knobs in commands.trained} == {
        (0.01, str(tmp_path / "out" / "split_own.json"), 0)
    }
    (tune, *others) = commands.tuned
    assert (tune["trials"], tune["knobs"], tune["storage"], len(others)) == (3, {"epochs": 2}, "sqlite:///x.db", 3)
    assert [knobs["part"] for run_id, knobs in commands.calls[:3] if run_id == "evaluating"] == ["val", "test"]
    text = (tmp_path / "out" / "cris.md").read_text()
    assert "4 of 4 runs" in text
    assert "Tuned: learning_rate log:1e-6:1e-2, 3 trials, of epochs 2, on the validation set." in text
    assert text in capsys.readouterr().out


def test_the_paper_s_defaults_are_the_paper_s():
    definition = packaged("cris")
    assert definition["factors"]["backbone"] == ["unet", "unet_plus_plus", "segnet"]
    assert definition["factors"]["strategy"] == ["backbone", "fcn", "crf", "cris"]
    assert definition["tune"] == {"search": {"learning_rate": "log:1e-6:1e-2"}, "trials": 20}
    assert (definition["threshold"]["part"], definition["part"]) == ("train", "test")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbones", "resnet"], "BAD_VALUE --backbone"),
        (["--strategies", "cris", "cris"], "BAD_VALUE factor strategy"),
        (["--trials", "0", "--tune-epochs", "4"], "BAD_VALUE --tune-epochs"),
        (["--trials", "-1"], "BAD_VALUE trials"),
        (["--learning_rate", "0.1"], "BAD_VALUE --learning_rate"),
        (["--threshold-part", "test"], "TEST_PART"),
        (["--split", "other=a.json"], "BAD_VALUE --split other"),
        (["--strategy", "crf"], "BAD_VALUE --strategy"),
        (["--dataset_dir", "elsewhere"], "BAD_VALUE --dataset_dir"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_runs(cris, words, message, tmp_path, capsys):
    commands = cris(*words)
    assert (commands.code, commands.calls) == (2, [])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "cris.json").exists()


def test_a_failed_combination_ends_the_verb_with_3(cris):
    cris.commands.wrong = {"fcn": UserError("LOSS_NOT_FINITE", "epoch 1", "nan")}
    assert cris("--backbones", "unet", "--strategies", "fcn", "cris", "--trials", "0").code == 3


def test_the_demo_replaces_only_a_demo(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    assert main(["demo", "-o", str(tmp_path), "--overwrite"]) == 2
    assert "NOT_EMPTY" in capsys.readouterr().err
    (tmp_path / "demo.json").touch()
    assert main(["demo", "-o", str(tmp_path)]) == 2
    assert ": an earlier demo, expected" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").exists()


def test_the_quick_demo_finds_polyps_with_the_shipped_weights_and_ends_with_its_page(tmp_path, capsys):
    folder = tmp_path / "quick"
    assert main(["demo", "--quick", "-o", str(folder), "--num-cases", "2"]) == 0
    said = capsys.readouterr()
    page = Path(said.out.splitlines()[-1])
    assert page == folder / "report.html"
    assert "2 generated frames" in page.read_text()
    assert len(list((folder / "masks").glob("*_seg.png"))) == 2
    assert said.err == ""


@pytest.mark.slow
def test_the_demo_trains_scores_segments_and_reports(tmp_path, capfd):
    folder = tmp_path / "demo"
    assert main(["demo", "-o", str(folder), "--cases", "7", "--epochs", "1"]) == 1  # too short to find a pancreas
    said, log = capfd.readouterr(), (folder / "run_seed_0" / "run.log").read_text()
    assert said.err == ""  # no bar where nobody watches, no log, and no warning of MONAI's
    assert [line for line in said.out.splitlines() if "INFO" in line or line.startswith("$")] == []
    steps = ("training", "evaluating", "inferring")
    assert [run_id in said.out and f"$ python -m monai.bundle run {run_id} " in log for run_id in steps] == [True] * 3
    assert "INFO epoch 1: val_dice_mean" in log
    assert len(list((folder / "run_seed_0" / "evaluation_test" / "masks").glob("*.nii.gz"))) == 3
    assert len(list((folder / "run_seed_0" / "masks").glob("*_seg.nii.gz"))) == 2
    assert "Baselines" in (folder / "report.html").read_text()
