"""The real server of MONAI Label, asked by the client of its Slicer extension, in an environment of its own.

MEDSEG3D_MONAILABEL names that environment's Python; docs/slicer.md says how it is made.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from commands import ROOT, TINY, knobs
from picture_runs import polyp_folder

from medseg3d.cli import main
from medseg3d.phantoms.ct import write_phantom_dataset

PYTHON = os.environ.get("MEDSEG3D_MONAILABEL", "")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
OWN = knobs(init_filters=TINY["init_filters"], roi_size=TINY["roi_size"], spacing=[4.0, 4.0, 4.0])

# what the Segmentation section of the extension does, with the parameters that it adds
SLICER = """
import json, pathlib, shutil, sys
from monailabel.client import MONAILabelClient
server, model, image, output = sys.argv[1:]
client = MONAILabelClient(server, tmpdir=pathlib.Path(output).parent)  # not the server's, which it clears
session = client.create_session(image)["session_id"]
parameters = {**client.info()["models"][model]["config"], "result_extension": ".nrrd", "result_dtype": "uint8"}
mask, answer = client.infer(model, "volume", parameters, session_id=session)
client.remove_session(session)
shutil.move(mask, output)
print(json.dumps(answer["label_names"]))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="MEDSEG3D_MONAILABEL names no Python with MONAI Label: see docs/slicer.md"),
]


def label_python(*words: object) -> str:
    """What the environment's Python prints."""
    call = [PYTHON, *map(str, words)]
    done = subprocess.run(call, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def app(tiny_ct_weights, tmp_path_factory) -> Path:
    """The app `monaibundle` with three packages: a tiny 3-D network, and the weights that come along."""
    folder = tmp_path_factory.mktemp("apps")
    label_python("-m", "monailabel.main", "apps", "--download", "--name", "monaibundle", "--output", folder)
    models = folder / "monaibundle" / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for words in (
            ["pancreas_nl", "--weights", str(tiny_ct_weights), *OWN],
            ["pancreas_nl_2d"],
            ["polyp_resunetpp"],
        ):
            assert main(["package", *words, "-o", str(models)]) == 0
    return folder / "monaibundle"


@pytest.fixture(scope="module")
def server(app, tmp_path_factory) -> Iterator[str]:
    """The address of a server of that app."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    studies = tmp_path_factory.mktemp("studies")
    names = ",".join(path.parent.name for path in app.glob("model/*/configs"))
    options = {"--app": app, "--studies": studies, "--host": "127.0.0.1", "--port": port}
    words = [PYTHON, "-m", "monailabel.main", "start_server", *(str(word) for pair in options.items() for word in pair)]
    words += ["--conf", "models", names, "--conf", "zoo_source", "ngc", "--conf", "skip_trainers", "true"]
    with open(studies.parent / "server.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(words, env=ENVIRONMENT, cwd=app, stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address, process, Path(log.name))
            yield address
        finally:
            process.terminate()
            process.wait(60)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/info/", timeout=10):
                return
        except urllib.error.URLError:
            time.sleep(1)
    pytest.fail(log.read_text(encoding="utf-8"))


@pytest.fixture
def answer(server, tmp_path) -> Callable[[str, Path], tuple[SimpleITK.Image, dict[str, int]]]:
    """Asks the server for the mask of an image, as Slicer would; the mask, and its labels by name."""

    def ask(model: str, image: Path) -> tuple[SimpleITK.Image, dict[str, int]]:
        labels = json.loads(label_python("-c", SLICER, server, model, image, tmp_path / "mask.nrrd"))
        return SimpleITK.ReadImage(str(tmp_path / "mask.nrrd")), labels

    return ask


def assert_same_volume(found: SimpleITK.Image, wanted: SimpleITK.Image) -> None:
    voxels = SimpleITK.GetArrayFromImage(wanted)
    assert voxels.any()
    assert np.array_equal(SimpleITK.GetArrayFromImage(found), voxels)
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(found, name)(), getattr(wanted, name)(), atol=1e-5)


def test_a_volume_gets_the_mask_that_predict_gives(answer, tiny_ct_weights, tmp_path):
    write_phantom_dataset(tmp_path / "phantoms", cases=1, seed=0)
    (scan,) = (tmp_path / "phantoms" / "imagesTr").glob("*.nii.gz")
    found, labels = answer("pancreas_nl", scan)
    weights = ["--model_file", tiny_ct_weights, *OWN]
    label_python("-m", "medseg3d", "predict", "pancreas_nl", scan, "-o", tmp_path, *weights)
    assert labels == {"pancreas": 1}
    assert_same_volume(found, SimpleITK.ReadImage(str(tmp_path / scan.name.replace(".nii", "_seg.nii"))))


def test_a_real_ct_gets_the_mask_that_predict_gives(answer, real_data, tmp_path):
    scan = shutil.copy(real_data / "nih-pancreas-ct" / "small" / "image_0001.nii.gz", tmp_path)
    found, labels = answer("pancreas_nl_2d", scan)
    label_python("-m", "medseg3d", "predict", "pancreas_nl_2d", scan, "-o", tmp_path)
    assert labels == {"pancreas": 1}
    assert_same_volume(found, SimpleITK.ReadImage(str(tmp_path / "image_0001_seg.nii.gz")))


def test_a_picture_gets_its_mask_as_a_volume_of_one_slice(answer, tmp_path):
    picture = polyp_folder(tmp_path / "polyps") / "images" / "1.jpg"
    found, _ = answer("polyp_resunetpp", picture)
    label_python("-m", "medseg3d", "predict", "polyp_resunetpp", picture, "-o", tmp_path)
    wanted = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "1_seg.png"))) > 0
    assert wanted.any()
    # MONAI Label writes (1, rows, columns) as x, y, z
    assert np.array_equal(SimpleITK.GetArrayFromImage(found).transpose()[0], wanted)
