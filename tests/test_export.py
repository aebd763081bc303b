"""`medseg3d export`: the networks of the bundles with their weights, in the forms of other programs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from commands import ROOT, knobs, weights_of

from medseg3d.bundle import read_config
from medseg3d.bundle_folders import config_files, shipped_weights, source_folder
from medseg3d.cli import main
from medseg3d.inference import load_weights

SMALL = {
    "pancreas_nl": {"init_filters": 8, "roi_size": [16, 16, 16]},
    "polyp_resunetpp": {"features": [8, 8, 16], "picture_size": [32, 32]},
}
LARGE = {
    "pancreas_nl_2d": {"roi_size": [64, 64]},
    **{name: {"picture_size": [64, 64]} for name in ("polyp_ann", "polyp_cris", "polyp_deeplabv3plus")},
}


def torchscript(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    return torch.jit.load(path)


def onnx(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    session = onnxruntime.InferenceSession(str(path))
    return lambda image: torch.from_numpy(session.run(["pred"], {"image": image.numpy()})[0])


def exported_program(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    return torch.export.load(path).module()


FORMS = {"torchscript": torchscript, "onnx": onnx, "torch.export": exported_program}


SLOW = [*itertools.product(LARGE, FORMS), *itertools.product(SMALL, ("onnx", "torch.export"))]
CASES = [
    pytest.param(name, own, form, marks=[pytest.mark.slow] if (name, form) in SLOW else [], id=f"{name}-{form}")
    for name, own in {**SMALL, **LARGE}.items()
    for form in FORMS
]


pytestmark = pytest.mark.usefixtures("from_the_root")


def sizes(said: str) -> list[str]:
    """The shape that the program has said."""
    return said[said.rindex("(") + 1 : said.rindex(")")].split(", ")


@pytest.mark.parametrize(("name", "own", "form"), CASES)
def test_the_outputs_are_those_of_the_network_for_every_free_size(name, own, form, tmp_path, capsys):
    weights = weights_of(tmp_path, name, **own)
    path = tmp_path / "model"
    words = ["--to", form, "--weights", str(weights), "-o", str(path), *knobs(**own)]
    assert main(["export", name, *words]) == 0
    shape = sizes(capsys.readouterr().out)
    assert shape[0] == "batch"
    free = {"batch": 3, **dict.fromkeys(("height", "width"), 96), **dict.fromkeys("xyz", 24)}
    image = torch.rand([free[size] if size in free else int(size) for size in shape])
    parser = read_config(config_files(source_folder(name), "train.json"), own)
    network = load_weights(parser.get_parsed_content("network_def"), weights).eval()
    with torch.inference_mode():
        wanted = network(image)
    with torch.no_grad():
        found = FORMS[form](path)(image)
    assert found.shape == wanted.shape
    assert (found - wanted).norm() <= 1e-4 * wanted.norm()


def test_without_more_words_the_shipped_weights_are_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "polyp_resunetpp", "--to", "torchscript"]) == 0
    assert capsys.readouterr().out.endswith("input: float32 of shape (batch, 3, height, width)\n")
    weights = shipped_weights(source_folder("polyp_resunetpp"))
    monkeypatch.chdir(ROOT)
    parser = read_config(config_files(source_folder("polyp_resunetpp"), "inference.json", [weights.overlay]))
    network = load_weights(parser.get_parsed_content("network_def"), weights.file).eval()
    image = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        np.testing.assert_allclose(torchscript(tmp_path / "polyp_resunetpp.ts")(image), network(image), atol=1e-5)


def test_a_form_that_is_none_is_a_wrong_call():
    with pytest.raises(SystemExit):
        main(["export", "polyp_resunetpp", "--to", "tflite"])
