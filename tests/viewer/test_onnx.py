"""What `medseg3d export` writes computes the same in a browser, by onnxruntime-web."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT, knobs, weights_of

from medseg3d.bundle import read_config
from medseg3d.bundle_folders import config_files, source_folder
from medseg3d.cli import main
from medseg3d.inference import load_weights
from medseg3d.viewer.server import PageServer

ONNXRUNTIME_WEB = "onnxruntime-web@1.30.0"
PARTS = {
    "ort.js": "ort.wasm.min.js",
    "loader.js": "ort-wasm-simd-threaded.mjs",
    "ort.wasm": "ort-wasm-simd-threaded.wasm",
}
NAME, SMALL = "polyp_resunetpp", {"features": [8, 8, 16], "picture_size": [32, 32]}
RUN = """
const place = (name) => new URL(name, location.href).href;
Object.assign(ort.env.wasm, { numThreads: 1, wasmPaths: { mjs: place("loader.js"), wasm: place("ort.wasm") } });
const image = new Float32Array(await (await fetch("image.bin")).arrayBuffer());
const session = await ort.InferenceSession.create(place("model.onnx"));
const { pred } = await session.run({ image: new ort.Tensor("float32", image, arguments[0]) });
return [pred.dims.map(Number), Array.from(pred.data)];
"""


@pytest.fixture(scope="module")
def onnxruntime_web(tmp_path_factory) -> dict[str, bytes]:
    """Its files, from npm's registry; the test is skipped where that does not answer."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm to fetch onnxruntime-web with")
    folder = tmp_path_factory.mktemp("npm")
    done = subprocess.run([npm, "pack", "-q", ONNXRUNTIME_WEB], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot fetch {ONNXRUNTIME_WEB}: {done.stderr.strip().splitlines()[-1:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return {name: archive.extractfile(f"package/dist/{part}").read() for name, part in PARTS.items()}


@pytest.mark.slow
def test_the_onnx_file_gives_the_numbers_of_torch_in_a_browser(browser, onnxruntime_web, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(ROOT)
    weights = weights_of(tmp_path, NAME, **SMALL)
    path = tmp_path / "model.onnx"
    words = ["--to", "onnx", "--weights", str(weights), "-o", str(path), *knobs(**SMALL)]
    assert main(["export", NAME, *words]) == 0
    image = torch.rand(2, 3, 48, 64)  # another batch and size than it was exported with
    network = read_config(config_files(source_folder(NAME), "train.json"), SMALL).get_parsed_content("network_def")
    with torch.inference_mode():
        wanted = load_weights(network, weights).eval()(image).numpy()
    page = {"index.html": b'<!doctype html><link rel="icon" href="data:,"><script src="ort.js"></script>'}
    page |= {**onnxruntime_web, "model.onnx": path.read_bytes(), "image.bin": image.numpy().tobytes()}
    with closing(PageServer(page)) as server:
        browser.open(server.url)
        shape, found = browser.run(RUN, list(image.shape))
    assert shape == list(wanted.shape)
    np.testing.assert_allclose(np.reshape(found, shape), wanted, atol=1e-4)
