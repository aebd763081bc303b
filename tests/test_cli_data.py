from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT
from matplotlib.image import imread
from PIL import Image

from medseg3d.bundle_folders import bundle_folder
from medseg3d.cli import main
from medseg3d.data.msd import read_msd
from medseg3d.data.splits import read_split

SMALL = ["--num-cases", "3", "--test-images", "1", "--spacing", "9", "9", "12"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "phantoms"
    assert main(["phantom", str(path), *SMALL]) == 0
    return path


def test_phantom_writes_a_data_set_and_a_picture_and_says_what_is_next(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["phantom", str(tmp_path / "my set"), *SMALL]) == 0
    assert read_msd(tmp_path / "my set").ids == ["phantom_001", "phantom_002", "phantom_003"]
    picture = tmp_path / "my set" / "planes.png"
    assert imread(picture).std() > 0.05
    text = capsys.readouterr().out
    assert str(picture) in text
    line = (
        "next: python -m monai.bundle run training "
        "--config_file \"['bundles/pancreas_nl/train.json','bundles/pancreas_nl/phantom.json']\""
        f" --dataset_dir '{tmp_path}/my set'"
    )
    assert line in text.splitlines()


def test_phantom_where_the_overlay_looks_needs_no_folder_in_the_next_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["phantom", "data/phantom_pancreas", *SMALL]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith("phantom.json']\"")
    assert f"['{bundle_folder('pancreas_nl').as_posix()}/train.json'," in said  # it works here, not in the clone alone


def test_phantom_refuses_a_folder_in_use_unless_told(folder, capsys):
    before = (folder / "dataset.json").read_text()
    assert main(["phantom", str(folder), *SMALL, "--seed", "1"]) != 0
    assert "NOT_EMPTY" in capsys.readouterr().err
    assert (folder / "dataset.json").read_text() == before


def test_phantom_overwrites_on_request(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    first = (tmp_path / "set" / "imagesTr" / "phantom_001.nii.gz").read_bytes()
    assert main(["phantom", str(tmp_path / "set"), *SMALL, "--seed", "1", "--overwrite"]) == 0
    assert (tmp_path / "set" / "imagesTr" / "phantom_001.nii.gz").read_bytes() != first


@pytest.mark.parametrize(
    "arguments",
    [
        ["phantom"],
        ["phantom", "x", "--num-cases", "0"],
        ["phantom", "x", "--test-images", "-1"],
        ["phantom", "x", "--seed", "-1"],
        ["phantom", "x", "--spacing", "1", "1", "0"],
        ["data"],
        ["data", "fetch", "liver"],
        ["data", "split", "x", "--val-cases", "-1"],
        ["data", "split", "x", "--test-cases", "1.5"],
        ["data", "split", "x", "--test-cases", "nan"],
    ],
)
def test_a_wrong_call_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_verify_says_that_all_is_well(folder, capsys):
    assert main(["data", "verify", str(folder)]) == 0
    *warnings, last = capsys.readouterr().out.splitlines()
    # the phantoms of these tests are coarse: 12 mm from slice to slice
    assert all(": SLICE_GAP: " in line for line in warnings)
    values = "0 in 3, 1 in 3, 2 in 1"
    assert last == f"{folder}: 3 labelled and 1 unlabelled cases, label values {values}, 0 errors, 4 warnings"


def test_verify_lists_every_error_and_exits_1(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set" / "labelsTr" / "phantom_001.nii.gz").write_bytes(b"")
    (tmp_path / "set" / "imagesTr" / "phantom_002.nii.gz").unlink()
    capsys.readouterr()
    assert main(["data", "verify", str(tmp_path / "set"), "--expect-cases", "4"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("error:")] == ["CASE_COUNT", "MISSING_FILE", "EMPTY"]
    assert "3 errors" in lines[-1]


def test_verify_of_nothing_is_one_line_with_the_remedy(tmp_path, capsys):
    assert main(["data", "verify", str(tmp_path / "nothing")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: MISSING_DATA {tmp_path / 'nothing'}")
    assert "medseg3d data fetch pancreas" in line


def test_split_writes_the_manifest_once(folder, tmp_path, capsys):
    call = ["data", "split", str(folder), "--output", str(tmp_path / "split.json"), "--test-cases", "1"]
    assert main([*call, "--val-cases", "1"]) == 0
    split = read_split(tmp_path / "split.json")
    assert len(split.train) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}/split.json: 1 train, 1 val, 1 test, hash {split.hash[:12]}\n")
    assert f"--split_file {tmp_path}/split.json" in out
    assert main([*call, "--val-cases", "0"]) == 1
    assert "SPLIT_MISMATCH" in capsys.readouterr().err
    assert read_split(tmp_path / "split.json") == split


def test_split_of_too_few_cases_has_a_remedy_and_writes_nothing(folder, tmp_path, capsys):
    assert main(["data", "split", str(folder), "--output", str(tmp_path / "split.json")]) == 1
    assert "TOO_FEW_CASES PhantomPancreas: 3 cases" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_split_goes_to_data_splits_by_default(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "split", str(folder), "--test-cases", "1", "--val-cases", "1", "--seed", "4"]) == 0
    assert json.loads((tmp_path / "data" / "splits" / "phantoms_seed4.json").read_text())["name"] == "PhantomPancreas"


def test_fetch_hands_its_arguments_on(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("medseg3d.cli.data.fetch_pancreas", lambda *args, **kwargs: calls.append((args, kwargs)))
    assert main(["data", "fetch", "pancreas", "--root", str(tmp_path), "--keep-archive"]) == 0
    assert calls == [((str(tmp_path),), {"keep_archive": True})]


@pytest.mark.parametrize("verb", ["phantom", "data"])
def test_help_imports_nothing_heavy(verb):
    code = (
        "import sys\nfrom medseg3d.cli import main\n"
        f"try: main(['{verb}', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'monai', 'numpy', 'nibabel', 'SimpleITK', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def frames(tmp_path):
    """Fifty frames in the layout of CVC-ClinicDB: sequences 1 and 2."""
    for part in ("Original", "Ground Truth"):
        (tmp_path / "frames" / part).mkdir(parents=True)
    for frame in range(1, 51):
        grey = np.full((8, 8), frame, np.uint8)
        Image.fromarray(grey).convert("RGB").save(tmp_path / "frames" / "Original" / f"{frame}.tif")
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "frames" / "Ground Truth" / f"{frame}.tif")
    return tmp_path / "frames"


def test_pictures_are_split_by_shares_and_checked_for_leaks(frames, tmp_path, capsys):
    manifest = str(tmp_path / "split.json")
    assert main(["data", "split", str(frames), "--val-cases", "0.2", "--output", manifest]) == 0
    assert capsys.readouterr().out.startswith(f"{manifest}: 35 train, 10 val, 5 test, hash")
    call = ["data", "verify", str(frames), "--split-file", manifest, "--group-pattern", "clinicdb-sequence"]
    assert main([*call, "--expect-cases", "50"]) == 0
    out = capsys.readouterr().out
    assert f"warning: {manifest}: LEAKAGE: 2 patients or sequences are in more than one part, 5 of 5" in out
    assert "50 labelled and 0 unlabelled cases, label values 0 in 50, 1 in 50, 0 errors, 1 warnings" in out
    assert main([*call, "--expect-cases", "612"]) == 1


def test_pictures_are_split_by_sequence_and_by_a_list(frames, tmp_path, capsys):
    call = ["data", "split", str(frames), "--val-cases", "0"]
    by_group = ["--test-cases", "1", "--group-pattern", "clinicdb-sequence", "--output", str(tmp_path / "a.json")]
    assert main([*call, *by_group]) == 0
    assert {int(case) // 26 for case in read_split(tmp_path / "a.json").test} in ({0}, {1})
    (tmp_path / "train.txt").write_text("\n".join(map(str, range(1, 41))))
    assert main([*call, "--train-list", str(tmp_path / "train.txt"), "--output", str(tmp_path / "b.json")]) == 0
    assert sorted(map(int, read_split(tmp_path / "b.json").test)) == list(range(41, 51))


def test_options_of_pictures_are_not_passed_over_with_volumes(folder, capsys):
    assert main(["data", "verify", str(folder), "--group-pattern", "x"]) == 2
    assert "BAD_VALUE --group-pattern" in capsys.readouterr().err


def test_clinicdb_is_not_downloaded_but_explained(tmp_path, capsys):
    assert main(["data", "fetch", "cvc-clinicdb", "--root", str(tmp_path)]) == 1
    assert "polyp.grand-challenge.org" in capsys.readouterr().err


def test_fetch_of_kvasir_hands_its_arguments_on(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("medseg3d.cli.data.fetch_kvasir_seg", lambda *args, **kwargs: calls.append((args, kwargs)))
    assert main(["data", "fetch", "kvasir-seg", "--root", str(tmp_path)]) == 0
    assert calls == [((str(tmp_path),), {"keep_archive": False})]


def test_phantom_writes_frames_with_polyps(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    calls = []
    monkeypatch.setattr(
        "medseg3d.cli.phantom.write_polyp_phantoms",
        lambda *args, **kwargs: calls.append((args, kwargs)) or tmp_path / "p q",
    )
    assert main(["phantom", "p q", "--kind", "polyp", "--seed", "3"]) == 0
    assert calls == [(("p q", 60, 3), {"overwrite": False})]
    line = (
        "next: python -m monai.bundle run training "
        "--config_file \"['bundles/polyp_resunetpp/train.json','bundles/polyp_resunetpp/phantom.json']\""
    )
    assert capsys.readouterr().out.splitlines()[-1] == f"{line} --dataset_dir 'p q'"
    assert main(["phantom", "data/phantom_polyps", "--kind", "polyp"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == line


@pytest.mark.parametrize("option", [["--spacing", "2", "2", "4"], ["--test-images", "0"]])
def test_options_of_volumes_are_not_passed_over_with_polyps(tmp_path, capsys, option):
    assert main(["phantom", str(tmp_path / "set"), "--kind", "polyp", *option]) == 2
    assert "BAD_VALUE --" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
