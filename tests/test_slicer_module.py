"""The module of 3D Slicer, run without Slicer: a stand-in for Slicer's own modules, and nothing else."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import nibabel as nib
import numpy as np
import pytest
from commands import ROOT, TINY, knobs

from medseg3d.phantoms.ct import write_phantom_dataset
from medseg3d.pictures.colours import LABEL_COLOURS

MODULE = ROOT / "scripts" / "slicer" / "MedSeg3D" / "MedSeg3D.py"

# a medseg3d that says how it was called, and finds the labels 1 and 3
PROGRAM = """
import json, os, sys
from pathlib import Path
scan, masks = Path(sys.argv[3]), Path(sys.argv[5])
print("called with", *sys.argv[1:3], *sys.argv[6:], os.environ.get("PYTHONHOME"), scan.is_file())
(masks / "scan_seg.nii.gz").touch()
labels = {"1": {"voxels": 1000, "ml": 8.04}, "3": {"voxels": 9, "ml": 0.5}}
(masks / "scan_seg.json").write_text(json.dumps({"class_names": ["pancreas", "tumour"], "labels": labels}))
"""


class Segment(SimpleNamespace):
    """A vtkSegment: its label, and the name and colour that it gets."""

    def GetLabelValue(self) -> int:  # noqa: N802
        return self.label

    def SetName(self, name: str) -> None:  # noqa: N802
        self.name = name

    def SetColor(self, *colour: float) -> None:  # noqa: N802
        self.colour = colour


@pytest.fixture
def module(monkeypatch) -> ModuleType:
    """The module, in a Slicer whose volumes are files and whose Python sets PYTHONHOME."""
    slicer = MagicMock()
    slicer.util.exportNode = lambda node, path: bool(shutil.copy(node.file, path))
    slicer.util.startupEnvironment = lambda: {name: each for name, each in os.environ.items() if name != "PYTHONHOME"}
    widgets = SimpleNamespace(
        ScriptedLoadableModule=object, ScriptedLoadableModuleWidget=object, ScriptedLoadableModuleLogic=object
    )
    stubs = {"slicer.ScriptedLoadableModule": widgets, "slicer.i18n": SimpleNamespace(tr=str)}
    for name, stub in {"slicer": slicer, "ctk": MagicMock(), "qt": MagicMock(), **stubs}.items():
        monkeypatch.setitem(sys.modules, name, stub)
    monkeypatch.setenv("PYTHONHOME", "")
    spec = importlib.util.spec_from_file_location("MedSeg3D", MODULE)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    loaded.slicer.segments = []

    def load(path: str) -> Any:
        node = MagicMock()
        node.GetSegmentation().GetNumberOfSegments.return_value = len(loaded.slicer.segments)
        node.GetSegmentation().GetNthSegment = lambda number: loaded.slicer.segments[number]
        loaded.slicer.mask = Path(path).read_bytes()
        return node

    loaded.slicer.util.loadSegmentation = load
    return loaded


@pytest.fixture
def program(tmp_path) -> str:
    """A program of that name, as the system starts one."""
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    path = tmp_path / "medseg3d"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "program.py"}" "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def volume(tmp_path) -> Any:
    """A volume node of a small scan."""
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "ct.nii.gz")
    return SimpleNamespace(file=tmp_path / "ct.nii.gz", GetName=lambda: "patient 7")


def test_segments_have_the_names_and_colours_of_their_labels(module, program, volume):
    module.slicer.segments = [Segment(label=1, colour=None), Segment(label=3, colour=None)]
    said: list[str] = []
    options = ["--model_file", "own.pt"]
    node = module.MedSeg3DLogic().segment(volume, "pancreas_nl", program, options, said.append)
    assert [segment.name for segment in module.slicer.segments] == ["pancreas", "label 3"]
    assert [segment.colour for segment in module.slicer.segments] == [
        (0xE6 / 255, 0x9F / 255, 0.0),
        (0xCC / 255, 0x79 / 255, 0xA7 / 255),
    ]
    node.SetName.assert_called_once_with("patient 7 pancreas_nl")
    node.SetReferenceImageGeometryParameterFromVolumeNode.assert_called_once_with(volume)
    assert said == [
        "called with predict pancreas_nl --model_file own.pt None True",
        "pancreas 8.0 ml, label 3 0.5 ml. Research only, not for clinical use.",
    ]


def test_a_refusal_is_said_in_the_words_of_the_program(module, tmp_path, volume):
    refusing = tmp_path / "medseg3d"
    refusing.write_text("#!/bin/sh\necho 'DIMENSIONS scan.nii.gz: found 2 axes' >&2\nexit 1\n", encoding="utf-8")
    refusing.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"^DIMENSIONS scan\.nii\.gz: found 2 axes$"):
        module.MedSeg3DLogic().segment(volume, "pancreas_nl", str(refusing))


@pytest.mark.parametrize(("missing", "words"), [("volume", "choose a CT volume"), ("program", "no file is no program")])
def test_nothing_is_run_without(module, program, volume, missing, words):
    call = {"volume": volume, "program": program, missing: None if missing == "volume" else ""}
    with pytest.raises(ValueError, match=words):
        module.MedSeg3DLogic().segment(bundle="pancreas_nl", **call)


def test_an_empty_mask_is_said_to_be_empty(module):
    assert module.summary({"labels": {}}).startswith("Nothing found. ")


def test_the_colours_are_those_of_the_other_views(module):
    assert module.COLOURS == LABEL_COLOURS


def test_the_panel_hands_on_what_is_chosen_in_it(module):
    widget = module.MedSeg3DWidget()
    widget.logic = MagicMock()
    widget.volume, widget.bundle, widget.program = MagicMock(), MagicMock(currentText="b"), MagicMock(currentPath="p")
    widget.weights, widget.options = MagicMock(currentPath="w.pt"), MagicMock(text="--config-overlay 'a b'")
    widget.onSegment()
    options = ["--model_file", "w.pt", "--config-overlay", "a b"]
    widget.logic.segment.assert_called_once_with(widget.volume.currentNode(), "b", "p", options, widget._say)
    module.qt.QSettings().setValue.assert_called_once_with("MedSeg3D/Program", "p")


@pytest.mark.slow
def test_the_mask_is_that_of_the_real_program(module, tiny_ct_weights, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONHOME")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_phantom_dataset(tmp_path / "phantoms", cases=1, seed=0)
    (scan,) = (tmp_path / "phantoms" / "imagesTr").glob("*.nii.gz")
    path = tmp_path / "medseg3d"
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m medseg3d \"$@\"\n", encoding="utf-8")
    path.chmod(0o755)
    node = SimpleNamespace(file=scan, GetName=lambda: "phantom")
    said: list[str] = []
    options = ["--model_file", str(tiny_ct_weights), *knobs(**TINY)]
    module.MedSeg3DLogic().segment(node, "pancreas_nl", str(path), options, said.append)
    (tmp_path / "mask.nii.gz").write_bytes(module.slicer.mask)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.get_fdata().any()
    assert np.array_equal(mask.affine, nib.load(scan).affine)
    assert said[-1].startswith("pancreas ")
