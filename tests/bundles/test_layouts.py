"""The phantoms as nnU-Net's folder of NRRD and as a datalist of MONAI: the same cases to the bundles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import SimpleITK as sitk  # noqa: N813

from medseg3d.cli import main
from medseg3d.data.msd import read_msd
from medseg3d.transforms import LoadVolumed


@pytest.fixture(scope="module")
def nnunet_dir(phantom_dir, tmp_path_factory) -> Path:
    """What SimpleITK makes of the phantoms, in the layout of nnU-Net v2."""
    folder = tmp_path_factory.mktemp("raw") / "Dataset007_Pancreas"
    dataset = read_msd(phantom_dir)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in dataset.cases:
        sitk.WriteImage(sitk.ReadImage(case["image"]), str(folder / f"imagesTr/{case['case']}_0000.nrrd"), True)
        sitk.WriteImage(sitk.ReadImage(case["label"]), str(folder / f"labelsTr/{case['case']}.nrrd"), True)
    content = {
        "channel_names": {"0": "CT"},
        "labels": {name: value for value, name in dataset.labels.items()},
        "numTraining": len(dataset.cases),
        "file_ending": ".nrrd",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def datalist(phantom_dir) -> Path:
    """A datalist of the phantoms, beside their own list."""
    entries = [
        {key: Path(case[key]).relative_to(phantom_dir).as_posix() for key in ("image", "label")}
        for case in read_msd(phantom_dir).cases
    ]
    path = phantom_dir / "datalist.json"
    path.write_text(json.dumps({"training": entries[:2], "validation": entries[2:3], "test": entries[3:]}))
    return path


@pytest.mark.parametrize("number", range(4))
def test_a_case_of_nnunets_is_the_msds_to_the_last_bit(phantom_dir, nnunet_dir, number):
    load = LoadVolumed(["image", "label"], labels=[0, 1, 2])
    msd, nnunet = (load(read_msd(folder).cases[number]) for folder in (phantom_dir, nnunet_dir))
    assert nnunet["case"] == msd["case"]
    assert [nnunet[key].equal(msd[key]) for key in ("image", "label")] == [True, True]
    assert nnunet["image"].affine.tolist() == msd["image"].affine.tolist()


@pytest.mark.parametrize("layout", ["nnunet_dir", "datalist"])
def test_a_bundle_finds_the_data_set_sound(layout, tmp_path, capsys, request):
    folder = request.getfixturevalue(layout)
    knobs = ["--dataset_dir", folder, "--split_file", tmp_path / "split.json", "--test_cases", 1, "--val_cases", 1]
    assert main([str(word) for word in ["check", "bundles/pancreas_nl", *knobs]]) == 0
    out = capsys.readouterr().out
    assert f"4 cases in {folder} are sound" in out
    assert "2 training, 1 validation, 1 test" in out
