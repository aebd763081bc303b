"""`medseg3d predict --pseudonym`: no name of a file, of a folder or of a tag in anything that comes out."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_series import PLANTED, write_series

from medseg3d.cli import main
from medseg3d.data.pseudonyms import read_pseudonyms

NAME = "Plantedname"


def plant(tags, index):
    """Names where a scanner has them, and where a technician may have typed them."""
    for keyword, value in PLANTED.items():
        setattr(tags, keyword, value)
    tags.SeriesDescription = f"Abdomen {NAME} 1947"


@pytest.fixture
def scans(tmp_path) -> Path:
    """Two scans that can be segmented and one of each of several that cannot, all under planted names."""
    scans = tmp_path / "in"
    write_series(scans / f"{NAME}_Erika/ct", change=plant)
    for folder in ("two series", "a gap", "cut"):
        write_series(scans / f"{NAME} {folder}", change=plant, name=f"{NAME}_{{:03}}.dcm".format)
    write_series(scans / f"{NAME} two series/other", number=2, change=plant)
    (scans / f"{NAME} a gap/{NAME}_003.dcm").unlink()
    last = scans / f"{NAME} cut/{NAME}_005.dcm"
    last.write_bytes(last.read_bytes()[:-200])
    voxels = np.random.default_rng(0).integers(-1000, 1200, (16, 14, 6)).astype(np.int16)
    for name, affine in (("ct", np.diag([0.8, 0.8, 2.5, 1])), ("metres", np.diag([0.0008, 0.0008, 0.0025, 1]))):
        nib.save(nib.Nifti1Image(voxels, affine), scans / f"{name}_{NAME}.nii.gz")
    (scans / f"{NAME}.mnc").touch()  # is not read
    return scans


def cases(scans: Path) -> list[Path]:
    return [*sorted(scans.glob("*/")), *sorted(scans.glob("*.nii.gz"))]


def everything_in(folder: Path) -> bytes:
    """Names and content of all files, unpacked."""
    content = []
    for path in sorted(folder.rglob("*")):
        content.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            content.append(path.read_bytes())
            if path.suffix == ".gz":
                content.append(gzip.decompress(path.read_bytes()))
    return b"\n".join(content)


def test_no_planted_name_is_in_anything_that_comes_out(predict, scans, capsys):
    words = [*cases(scans), "--pseudonym", "private/names.csv", "--probabilities", "maps"]
    assert predict(*words) == 3
    said = "".join(capsys.readouterr())
    codes = [line.split()[1] for line in said.splitlines() if line.startswith("error: ")]
    assert sorted(codes) == ["SERIES", "SLICE_GAP", "SPACING_RANGE", "TRUNCATED"]
    assert len(list(Path("masks").glob("case-*_seg.nii.gz"))) == len(list(Path("maps").glob("case-*_prob.nii.gz"))) == 2
    came_out = (said.encode() + everything_in(Path("masks")) + everything_in(Path("maps"))).lower()
    assert b"planted" not in came_out
    assert b"erika" not in came_out
    assert b"4711" not in came_out
    assert sorted(read_pseudonyms("private/names.csv").values()) == sorted(map(str, cases(scans)))


def test_the_same_command_finds_its_masks_again_and_so_does_verify(predict, scans, capsys):
    good = [scans / f"{NAME}_Erika", scans / f"ct_{NAME}.nii.gz"]
    assert predict(*good, "--pseudonym", "names.csv") == 0
    capsys.readouterr()
    assert predict(*good, "--pseudonym", "names.csv") == 0
    assert "2 skipped: the mask exists" in capsys.readouterr().out
    verify = ["verify", "masks", "--images", str(scans), "--pseudonym", "names.csv"]
    assert main(verify) == 0
    shutil.copy(scans / f"metres_{NAME}.nii.gz", good[1])
    capsys.readouterr()
    assert main(verify) == 1
    said = capsys.readouterr().out
    assert said.startswith("CHECKSUM      case-")
    assert "planted" not in said.lower()


@pytest.mark.parametrize(
    ("inputs", "code"), [(["missing"], "MISSING_FILE"), (["empty"], "NO_INPUT"), (["ct", "missing"], "MISSING_FILE")]
)
def test_a_wrong_call_says_no_name_either(predict, scans, capsys, inputs, code):
    (scans / f"{NAME}_empty").mkdir()
    paths = {"missing": f"{NAME}_missing", "empty": f"{NAME}_empty", "ct": f"ct_{NAME}.nii.gz"}
    assert predict(*(scans / paths[name] for name in inputs), "--pseudonym", "names.csv") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {code} ")
    assert NAME not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "dicom-seg"], "--format dicom-seg: given with --pseudonym"),
        (["--pseudonym", "masks/names.csv"], "--pseudonym .*masks/names.csv: a file inside a folder of results"),
    ],
)
def test_names_and_results_are_kept_apart(predict, scans, capsys, words, said):
    assert predict(scans / f"{NAME}_Erika", "--pseudonym", "names.csv", *words) == 2
    assert "BAD_VALUE" in (err := capsys.readouterr().err)
    assert re.search(said, err)
