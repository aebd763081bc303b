from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg3d.cli import build_parser, main
from medseg3d.errors import UserError
from medseg3d.limits import PIXELS, VOXELS, limits

VERBS = {
    "predict": ["predict", "bundle", "ct.nii"],
    "evaluate": ["evaluate", "--pred", "a", "--truth", "b", "-o", "c"],
    "verify": ["verify", "masks"],
    "check": ["check", "bundle"],
    "report": ["report", "run", "-o", "page"],
    "data verify": ["data", "verify", "folder"],
}


@pytest.fixture
def folders(tmp_path):
    """Predictions and ground truth, a volume of 60 voxels each and a 2-D image of 20 pixels each."""
    for side in ("pred", "truth"):
        for kind in ("volumes", "pictures"):
            (tmp_path / kind / side).mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4)), tmp_path / f"volumes/{side}/ct.nii.gz")
        Image.new("L", (4, 5), 255).save(tmp_path / f"pictures/{side}/polyp.png")
    return tmp_path


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_every_verb_that_reads_images_takes_both_limits(words):
    args = build_parser().parse_args([*words, "--max-voxels", "7", "--max-pixels", "8"])
    assert (args.max_voxels, args.max_pixels) == (7, 8)


@pytest.mark.parametrize(
    ("kind", "option", "most"), [("volumes", "--max-voxels", 60), ("pictures", "--max-pixels", 20)]
)
def test_evaluate_keeps_to_the_limit_and_names_the_option(folders, capsys, kind, option, most):
    sides = ["--pred", str(folders / kind / "pred"), "--truth", str(folders / kind / "truth")]
    command = ["evaluate", *sides, "-o", str(folders / "out"), option]
    assert main([*command, str(most)]) == 0
    capsys.readouterr()
    assert main([*command, str(most - 1)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: TOO_LARGE ")
    assert f"expected at most {most - 1}. Hint: " in line
    assert option in line


def test_the_environment_sets_the_limit_of_a_training(monkeypatch):
    monkeypatch.setenv("MEDSEG3D_MAX_VOXELS", "60")
    assert VOXELS.most == 60
    with limits(max_voxels=61):
        assert (VOXELS.most, PIXELS.most) == (61, PIXELS.default)
    assert VOXELS.most == 60


@pytest.mark.parametrize("text", ["0", "-1", "1e9", "many"])
def test_a_limit_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("MEDSEG3D_MAX_PIXELS", text)
    with pytest.raises(UserError, match=f"BAD_VALUE MEDSEG3D_MAX_PIXELS: '{text}'"):
        PIXELS.check("polyp.png", (1, 1))


def test_a_limit_below_one_is_refused(folders, capsys):
    assert main(["data", "verify", str(folders), "--max-voxels", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: BAD_VALUE --max-voxels: 0, expected a number of voxels")
