"""Bundles by name: self-contained, the same as those of the repository, in a clone and in a wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from commands import ROOT
from monai.bundle import ConfigWorkflow
from PIL import Image

from medseg3d import bundle_folders
from medseg3d.bundle import read_config, running_root
from medseg3d.bundle_folders import (
    bundle_directory,
    bundle_folder,
    bundle_names,
    bundle_root,
    config_files,
    copy_bundle,
    names_from_root,
    shipped_weights,
    source_folder,
)
from medseg3d.cli import main
from medseg3d.errors import UserError

NAMES = sorted(path.parent.name for path in ROOT.glob("bundles/*/train.json"))
OTHERS = {"train", "evaluate", "inference", "metadata"}
CONFIGS = [(name, config, ()) for name in NAMES for config in bundle_folders.CONFIGS]
CONFIGS += [
    (name, "train.json", (path.stem,))
    for name in NAMES
    for path in sorted((ROOT / "bundles" / name).glob("*.json"))
    if path.stem not in OTHERS
]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """The current directory: one that is not the repository's root."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """What a wheel holds, as setuptools builds it."""
    folder = tmp_path_factory.mktemp("built")
    words = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_a_name_is_a_bundle_in_any_folder(elsewhere):
    folders = [bundle_folder(name) for name in bundle_names()]
    assert [folder.name for folder in folders] == NAMES
    assert [bundle_root(folder) for folder in folders] == [elsewhere] * len(NAMES)
    assert bundle_folder("polyp_ann") == bundle_folder("polyp_ann")


def test_at_the_root_of_the_clone_a_name_is_the_bundle_of_the_clone(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert bundle_folder("polyp_ann") == ROOT / "bundles" / "polyp_ann"
    assert names_from_root(config_files(bundle_folder("polyp_ann"), "evaluate.json", ["phantom"])) == [
        *("bundles/polyp_ann/evaluate.json", "bundles/polyp_ann/phantom.json")
    ]


def test_a_folder_wins_over_a_name(elsewhere):
    mine = copy_bundle("polyp_ann", elsewhere)
    assert bundle_folder("polyp_ann") == mine == elsewhere / "polyp_ann"


def test_a_folder_that_is_no_bundle_does_not_hide_one(elsewhere):
    (elsewhere / "polyp_ann").mkdir()
    assert bundle_folder("polyp_ann").parent != elsewhere


@pytest.mark.parametrize("name", ["polyp", "pancreas", "nosuch", "bundles/pancreas_nl", "polyp_ann/docs"])
def test_what_is_no_name_is_answered_with_all_names(name, elsewhere):
    with pytest.raises(UserError, match=rf"^MISSING_BUNDLE {name}: .*one of {', '.join(NAMES)}"):
        bundle_folder(name)


@pytest.mark.parametrize(("name", "config", "overlays"), CONFIGS, ids=str)
def test_a_self_contained_config_is_what_monai_makes_of_the_one_in_the_repository(name, config, overlays, elsewhere):
    def content(folder: Path) -> dict[str, object]:
        config_of = read_config(config_files(folder, config, overlays)).get()
        begin = config_of.pop("begin", config_of["initialize"])
        text = json.dumps({**config_of, "initialize": begin, "bundle_root": None, "_desc_": None})
        return json.loads(text.replace("#", "::"))  # MONAI spells them alike in what it reads, not behind a `%`

    with bundle_directory(source_folder(name)):
        wanted = content(source_folder(name))
    assert content(bundle_folder(name)) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_it_leads_out_of_it(name, elsewhere):
    folder = bundle_folder(name)
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.json") if path.name != "metadata.json"]
    assert [text for text in texts if '"%' in text or "bundles/" in text.replace("bundles/_shared", "")] == []
    assert (folder / "logging.conf").is_file()


@pytest.mark.parametrize("name", ["evaluate", "inference"])
def test_monai_runs_it_from_any_folder_and_finds_its_root(name, elsewhere):
    folder = bundle_folder("polyp_resunetpp")
    files = [str(folder / f"{each}.json") for each in (name, "kvasir_clinicdb128")]
    workflow = ConfigWorkflow(files, logging_file=False, **{"network_def#features": [8, 8, 16]})
    workflow.initialize()
    assert Path(workflow.bundle_root) == folder
    assert Path(workflow.parser.get_parsed_content("model_file")) == shipped_weights(folder).file
    assert workflow.parser["network_def"]["features"] == [8, 8, 16]


def test_outside_of_a_run_the_root_has_to_be_said():
    with pytest.raises(RuntimeError, match="ConfigWorkflow of MONAI's"):
        running_root()


def test_a_copy_replaces_nothing(elsewhere, capsys):
    assert main(["bundles", "copy", "polyp_ann", "mine"]) == 0
    assert capsys.readouterr().out.endswith("--config_file mine/polyp_ann/train.json\n")
    assert main(["bundles", "copy", "polyp_ann", "mine"]) == 2
    assert "NOT_EMPTY" in capsys.readouterr().err


def test_a_clone_that_cannot_be_written_to_says_where_to_go(elsewhere, monkeypatch):
    monkeypatch.setattr(bundle_folders, "_sum_of", lambda *_: "0" * 64)

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(bundle_folders, "write_self_contained", refuse)
    with pytest.raises(UserError, match=f"NOT_WRITABLE .*read-only.*run from {ROOT}"):
        bundle_folder("polyp_ann")


def test_the_list_names_task_data_weights_and_dice(capsys):
    assert main(["bundles"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line and not line.startswith(" ")] == NAMES
    weights = [line.strip() for line in out.splitlines() if line.strip().startswith("weights  ")]
    assert {f"weights  {name}" for name in ("nih_slices, 3.1 MB", "kvasir_clinicdb128, 7.8 MB")} <= set(weights)
    assert "scores   0.815 Dice, mean over 88 test images of Kvasir-SEG; " in out


@pytest.mark.parametrize("folder", ["pancreas_nl", str(ROOT / "bundles" / "pancreas_nl")])
def test_the_options_of_a_training_are_its_own_and_those_of_what_it_stands_on(folder, elsewhere, capsys):
    assert main(["bundles", "options", folder]) == 0
    options = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert [options[name] for name in ("nonlocal_blocks", "grid_tolerance", "lr_factors")] == ["2", "0.25", "{}"]
    assert options.keys().isdisjoint({"train", "loss", "run", "begin", "base", "_meta_"})


@pytest.mark.parametrize(("name", "content"), [("inference.json", "{}"), ("train.json", "{")])
def test_options_of_a_training_that_is_not_there_or_no_json_are_refused_in_one_line(name, content, tmp_path, capsys):
    (tmp_path / name).write_text(content)
    assert main(["bundles", "options", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: BAD_CONFIG {tmp_path / 'train.json'}: ")


@pytest.mark.parametrize("name", [name for name in NAMES if shipped_weights(source_folder(name))])
def test_the_dice_in_the_metadata_is_that_of_the_model_card(name):
    card = (ROOT / "bundles" / name / "models" / "README.md").read_text(encoding="utf-8")
    metrics = json.loads((ROOT / "bundles" / name / "metadata.json").read_text())["eval_metrics"]
    assert [value for value in metrics.values() if str(value) not in card] == []


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_holds_what_a_name_finds_in_a_clone(name, built, elsewhere, monkeypatch):
    in_clone = contents(bundle_folder(name))
    monkeypatch.setattr(bundle_folders, "INSTALLED", built / "medseg3d" / "bundles")
    assert bundle_names() == NAMES
    assert bundle_folder(name) == built / "medseg3d" / "bundles" / name
    assert contents(bundle_folder(name)) == in_clone


def test_a_wheel_holds_the_page_of_the_viewer(built):
    page = Path("medseg3d/viewer/page")
    in_wheel = {path.name: path.read_bytes() for path in (built / page).iterdir()}
    assert in_wheel == {path.name: path.read_bytes() for path in (ROOT / page).iterdir()}
    assert {"index.html", "niivue.js", "niivue.LICENSE.txt"} <= in_wheel.keys()


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment_finds_the_polyps_of_a_picture_and_makes_a_package_that_does(
    tmp_path, monkeypatch
):
    words = ["wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    scheme = sysconfig.get_path("purelib", vars={"base": str(environment)})
    (wheel,) = tmp_path.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", scheme, str(wheel)]
    subprocess.run(install, check=True)
    # torch and its friends are those of this environment; its editable medseg3d stays out
    (Path(scheme) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 50).convert("RGB").save(tmp_path / "picture.jpg")
    python = (
        sysconfig.get_path("scripts", vars={"base": str(environment)}) + f"/python{sysconfig.get_config_var('EXE')}"
    )
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(*words: str, module: str = "medseg3d") -> str:
        return subprocess.run(
            [python, "-I", "-m", module, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert Path(run("bundles", "path", "polyp_resunetpp").strip()).parent == Path(scheme) / "medseg3d" / "bundles"
    assert "1 segmented, 0 skipped, 0 failed" in run("predict", "polyp_resunetpp", "picture.jpg", "--device", "cpu")
    with Image.open(tmp_path / "masks" / "picture_seg.png") as mask:
        assert mask.size == (64, 48)
        wanted = mask.tobytes()
    run("package", "polyp_resunetpp")
    config = "packages/polyp_resunetpp/configs/inference.json"
    inputs = ["--inputs", str(tmp_path / "picture.jpg"), "--device", "cpu"]
    run("run", "inferring", "--config_file", config, *inputs, module="monai.bundle")
    with Image.open(tmp_path / "packages/polyp_resunetpp/eval/masks/picture_seg.png") as mask:
        assert mask.tobytes() == wanted
