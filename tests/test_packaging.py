"""Packages for MONAI's model zoo, by the checks that the zoo itself makes, and by MONAI's own commands."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT, knobs, monai_bundle, weights_of
from monai.bundle import (
    ConfigParser,
    ConfigWorkflow,
    ckpt_export,
    load,
    onnx_export,
    verify_metadata,
    verify_net_in_out,
)
from picture_runs import polyp_folder, shallow_encoders
from PIL import Image

from medseg3d.cli import main
from medseg3d.files.tensors import read_tensors
from medseg3d.phantoms.ct import write_phantom_dataset
from medseg3d.workflows import predict

NAMES = sorted(path.parent.name for path in ROOT.glob("bundles/*/train.json"))
URL = "https://example.org/model.pt"


@pytest.fixture(scope="module", autouse=True)
def shallow() -> Iterator[None]:
    """Weights of a few MB instead of hundreds."""
    with shallow_encoders():
        yield


@pytest.fixture(scope="module", params=NAMES)
def package(request, tmp_path_factory) -> Path:
    """The package of each bundle with random weights, in a folder with nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        weights = weights_of(folder, request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--weights", weights.name, "--weights-url", URL, "-o", "."]
        assert main(["package", request.param, *words]) == 0
    return folder / request.param


def config_of(package: Path, name: str) -> dict[str, object]:
    return json.loads((package / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def test_it_has_the_layout_of_the_model_zoo(package):
    files = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    configs = {f"configs/{name}" for name in ("train.json", "evaluate.json", "inference.json", "metadata.json")}
    assert files == configs | {
        *("configs/logging.conf", "docs/README.md", "models/model.pt", "LICENSE", "large_files.yml")
    }
    with zipfile.ZipFile(package.with_name(f"{package.name}_v0.1.0.zip")) as archive:
        zipped = {name for name in archive.namelist() if not name.endswith("/")}
    assert zipped == {f"{package.name}/{name}" for name in files - {"models/model.pt"}}


def test_weights_left_out_are_where_large_files_says(package):
    (entry,) = ConfigParser.load_config_file(package / "large_files.yml")["large_files"]
    sha256 = hashlib.sha256((package / "models" / "model.pt").read_bytes()).hexdigest()
    assert entry == {"path": "models/model.pt", "url": URL, "hash_val": sha256, "hash_type": "sha256"}


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_a_config_leads_nowhere_else(package, name):
    config = config_of(package, name)
    assert '"%' not in json.dumps(config)
    assert config["bundle_root"] == {"_target_": "medseg3d.bundle.running_root"}
    assert {"run", "network_def", "device", "inferer"} <= config.keys()


def test_other_programs_find_what_comes_before_and_after_the_network(package):
    assert {"preprocessing", "postprocessing"} <= config_of(package, "inference").keys()


def test_the_metadata_is_as_the_schema_wants_it(package, tmp_path):
    pytest.importorskip("jsonschema")
    schema = shutil.copy(ROOT / "tests" / "meta_schema_20240725.json", tmp_path)
    verify_metadata(meta_file=str(package / "configs" / "metadata.json"), filepath=str(schema))
    metadata = config_of(package, "metadata")
    assert metadata["version"] in metadata["changelog"]
    assert "shipped_weights" not in metadata


def arguments(package: Path) -> dict[str, str]:
    """As the verifier of the zoo calls MONAI."""
    configs = package / "configs"
    return {
        **{"net_id": "network_def", "config_file": str(configs / "inference.json")},
        **{"meta_file": str(configs / "metadata.json"), "bundle_root": str(package)},
    }


def test_the_network_takes_and_gives_what_the_metadata_says(package):
    verify_net_in_out(**arguments(package), device="cpu")


@pytest.mark.parametrize("workflow_type", ["train", "inference"])
def test_monai_loads_the_network_with_its_weights(package, workflow_type, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = load(package.name, bundle_dir=str(package.parent), workflow_type=workflow_type, device="cpu")
    weights = read_tensors(package.with_name(f"{package.name}.pt"))
    assert {name: torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items()} == dict.fromkeys(
        weights, True
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_torchscript_and_onnx_give_what_the_network_gives(package, tmp_path):
    import onnxruntime

    network = load(package.name, bundle_dir=str(package.parent), workflow_type="inference", device="cpu").eval()
    image = config_of(package, "metadata")["network_data_format"]["inputs"]["image"]
    shape = [1, image["num_channels"], *[32] * len(image["spatial_shape"])]
    picture = torch.rand(shape)
    model = {**arguments(package), "ckpt_file": str(package / "models" / "model.pt")}
    with torch.inference_mode():
        wanted = network(picture)
    ckpt_export(**model, filepath=str(tmp_path / "model.ts"))
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(picture), wanted, atol=1e-4, rtol=1e-3)
    onnx_export(**model, filepath=str(tmp_path / "model.onnx"), input_shape=shape)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: picture.numpy()})
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-3, rtol=1e-3)


class TestOfShippedWeights:
    """The package of polyp_resunetpp with the weights that come along."""

    @pytest.fixture(scope="class")
    def package(self, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("shipped")
        assert main(["package", "polyp_resunetpp", "-o", str(folder)]) == 0
        return folder / "polyp_resunetpp"

    def test_monai_runs_it_from_any_folder_to_the_mask_that_predict_gives(self, package, tmp_path, monkeypatch):
        picture = polyp_folder(tmp_path / "polyps") / "images" / "1.jpg"
        monkeypatch.chdir(tmp_path)
        predict("polyp_resunetpp", picture, "wanted", knobs={"device": "cpu"})
        inputs = {"inputs": [str(picture)], "device": "cpu"}
        workflow = ConfigWorkflow(str(package / "configs" / "inference.json"), workflow_type="infer", **inputs)
        workflow.initialize()
        assert workflow.check_properties() == []
        workflow.run()
        found = Image.open(package / "eval" / "masks" / "1_seg.png")
        assert np.array_equal(found, Image.open("wanted/1_seg.png"))

    def test_its_parts_make_that_mask_where_another_program_runs_them(self, package, tmp_path):
        picture = polyp_folder(tmp_path / "polyps") / "images" / "1.jpg"
        predict("polyp_resunetpp", picture, tmp_path, knobs={"device": "cpu"})
        parser = ConfigParser({**config_of(package, "inference"), "bundle_root": str(package), "device": "cpu"})
        network = parser.get_parsed_content("network_def").eval()
        network.load_state_dict(torch.load(package / "models" / "model.pt"))
        item = parser.get_parsed_content("preprocessing")({"image": str(picture)})
        with torch.inference_mode():
            item["pred"] = parser.get_parsed_content("inferer")(item["image"][None], network)[0]
        found = parser.get_parsed_content("postprocessing")(item)["pred"]
        assert np.array_equal(found[0] * 255, Image.open(tmp_path / "1_seg.png"))

    def test_the_zip_has_the_weights_and_their_card(self, package):
        with zipfile.ZipFile(package.with_name("polyp_resunetpp_v0.1.0.zip")) as archive:
            names = set(archive.namelist())
        assert {f"polyp_resunetpp/models/{name}" for name in ("model.pt", "README.md")} <= names
        assert "polyp_resunetpp/large_files.yml" not in names
        assert config_of(package, "inference")["picture_size"] == [128, 128]

    def test_its_page_says_what_it_needs(self, package):
        page = (package / "docs" / "README.md").read_text(encoding="utf-8")
        assert "`pip install medseg3d==0.1.0`" in page
        assert "model card of its weights is `models/README.md`" in page

    def test_a_package_is_replaced_by_nothing(self, package, capsys):
        assert main(["package", "polyp_resunetpp", "-o", str(package.parent)]) == 2
        assert "NOT_EMPTY" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["polyp_ann"], ["polyp_resunetpp", "--features", "[8,8,16]"]])
def test_without_weights_there_is_no_package(words, tmp_path, capsys):
    assert main(["package", *words, "-o", str(tmp_path / "out")]) == 1
    assert "MISSING_WEIGHTS --weights: none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_weights_are_no_knob(tmp_path, capsys):
    (tmp_path / "w.pt").touch()
    words = ["--weights", str(tmp_path / "w.pt"), "--model_file", "x.pt"]
    assert main(["package", "polyp_ann", *words, "-o", str(tmp_path / "out")]) == 2
    assert "BAD_VALUE --model_file" in capsys.readouterr().err


def test_metadata_follows_overlays_and_knobs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    own = {"num_classes": 3, "init_filters": 8, "neighbours": 0, "in_channels": 3}
    weights = weights_of(tmp_path, "pancreas_nl_2d", **own)
    assert main(["package", "pancreas_nl_2d", "--weights", str(weights), *knobs(**own), "-o", str(tmp_path)]) == 0
    tensors = config_of(tmp_path / "pancreas_nl_2d", "metadata")["network_data_format"]
    assert tensors["inputs"]["image"]["channel_def"] == {"0": "slice", "1": "slice", "2": "slice"}
    assert tensors["outputs"]["pred"]["num_channels"] == 3
    assert tensors["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "pancreas", "2": "tumour"}


def test_the_value_range_is_that_of_black_and_white_after_the_normalisation(package):
    image = config_of(package, "metadata")["network_data_format"]["inputs"]["image"]
    imagenet = package.name in ("polyp_ann", "polyp_deeplabv3plus")
    # (0 - 0.485) / 0.229 and (1 - 0.406) / 0.225, outwards
    assert image["value_range"] == ([-2.118, 2.64] if imagenet else [0, 1])


@pytest.mark.slow
def test_monai_trains_in_a_package(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    small = {"init_filters": 8, "spacing": [8, 8, 8], "roi_size": [16, 16, 16], "num_workers": 0}
    weights = weights_of(tmp_path, "pancreas_nl", **small)
    assert main(["package", "pancreas_nl", "--weights", str(weights), *knobs(**small), "-o", str(tmp_path)]) == 0
    write_phantom_dataset(tmp_path / "phantoms", cases=3, seed=0, spacing_mm=(5, 5, 8))
    config = tmp_path / "pancreas_nl" / "configs" / "train.json"
    run = {"dataset_dir": tmp_path / "phantoms", "split_file": tmp_path / "split.json", "output_dir": tmp_path / "run"}
    done = monai_bundle(
        *("training", "--config_file", str(config)),
        *knobs(**run, epochs=1, iterations_per_epoch=1, val_interval=1, test_cases=1, val_cases=1),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.pt").is_file()
