"""Module of 3D Slicer: the mask that `medseg3d predict` makes of the volume shown, as a segmentation.

medseg3d runs as a program of its own, in its own environment, because Slicer's Python has neither torch nor MONAI; this
file needs nothing but Slicer. How to add it to Slicer: docs/slicer.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)

BUNDLES = ("pancreas_nl_2d", "pancreas_nl")
SEGMENTS = {1: ("pancreas", (0.337, 0.706, 0.914)), 2: ("tumour", (0.835, 0.369, 0.0))}
"""Name and colour, red to blue in 0 to 1, of each label of these bundles; colours after Okabe & Ito (2008)."""


class MedSeg3D(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "MedSeg3D"
        self.parent.categories = ["Segmentation"]
        self.parent.helpText = _("Segments a CT with medseg3d predict. Research only, not for clinical use.")
        self.parent.acknowledgementText = _("Weights and papers: see the pages of the bundles of medseg3d.")


class MedSeg3DWidget(ScriptedLoadableModuleWidget):
    """The panel: a volume, a bundle, the program, weights, one button."""

    def setup(self) -> None:
        """Build the panel; Slicer calls this."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = MedSeg3DLogic()
        self.volume = slicer.qMRMLNodeComboBox()
        self.volume.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.volume.addEnabled = self.volume.removeEnabled = False
        self.volume.setMRMLScene(slicer.mrmlScene)
        self.bundle = qt.QComboBox()
        self.bundle.editable = True
        self.bundle.addItems(list(BUNDLES))
        self.program = ctk.ctkPathLineEdit()
        self.program.currentPath = shutil.which("medseg3d") or ""
        self.program.settingKey = "MedSeg3D/Program"
        self.weights = ctk.ctkPathLineEdit()
        self.button = qt.QPushButton(_("Segment"))
        self.button.clicked.connect(self.onSegment)
        self.said = qt.QLabel()
        self.said.wordWrap = True
        panel = qt.QFormLayout()
        panel.addRow(_("CT volume:"), self.volume)
        panel.addRow(_("Bundle:"), self.bundle)
        panel.addRow(_("Program medseg3d:"), self.program)
        panel.addRow(_("Weights (empty: the bundle's):"), self.weights)
        panel.addRow(self.button)
        panel.addRow(self.said)
        self.layout.addLayout(panel)
        self.layout.addStretch(1)

    def onSegment(self) -> None:  # noqa: N802
        """Segment the chosen volume and show what came of it, or why nothing did."""
        with slicer.util.tryWithErrorDisplay(_("medseg3d made no mask."), waitCursor=True):
            self.logic.segment(
                self.volume.currentNode(),
                self.bundle.currentText,
                self.program.currentPath,
                self.weights.currentPath,
                self._say,
            )

    def _say(self, line: str) -> None:
        self.said.text = line
        slicer.app.processEvents()


class MedSeg3DLogic(ScriptedLoadableModuleLogic):
    """From a volume node to a segmentation node."""

    def segment(
        self, volume: Any, bundle: str, program: str, weights: str = "", say: Callable[[str], None] = print
    ) -> Any:
        """Run `medseg3d predict` on a volume and load the mask; the segmentation node.

        Args:
            volume: a vtkMRMLScalarVolumeNode; what transforms move it is left aside, as in its own file.
            bundle: name or folder.
            program: the `medseg3d` of an environment where it is installed.
            weights: a file; empty for those that the bundle ships.
            say: called with each line that the program prints.

        Raises:
            ValueError: no volume, or no such program.
            RuntimeError: the program refused, in its own words.
        """
        if volume is None:
            raise ValueError("choose a CT volume")
        if not Path(program).is_file():
            raise ValueError(f"{program or 'no file'} is no program: name the medseg3d of its environment")
        with tempfile.TemporaryDirectory(prefix="medseg3d-") as folder:
            scan = Path(folder) / "scan.nii.gz"
            if not slicer.util.exportNode(volume, str(scan)):
                raise RuntimeError(f"Slicer could not write {volume.GetName()} to {scan}")
            command = predict_command(program, bundle, scan, Path(folder) / "masks", weights)
            run(command, slicer.util.startupEnvironment(), say)
            mask = Path(folder) / "masks" / "scan_seg.nii.gz"
            node = slicer.util.loadSegmentation(str(mask))
            labels = labels_of(mask)
        node.SetName(f"{volume.GetName()} {bundle}")
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        for number in range(node.GetSegmentation().GetNumberOfSegments()):
            segment = node.GetSegmentation().GetNthSegment(number)
            name, colour = SEGMENTS.get(segment.GetLabelValue(), (f"label {segment.GetLabelValue()}", None))
            segment.SetName(name)
            if colour:
                segment.SetColor(*colour)
        say(f"{summary(labels)}. Research only, not for clinical use.")
        return node


def predict_command(program: str, bundle: str, scan: Path, output: Path, weights: str) -> list[str]:
    """The call of medseg3d for one scan."""
    own = ["--model_file", weights] if weights else []
    return [program, "predict", bundle, str(scan), "-o", str(output), *own]


def run(command: list[str], environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Run a program, handing on each of its lines.

    Args:
        command: the program and its arguments.
        environment: the variables that Slicer was started with, without those that it sets for its own Python.
        say: called with each line.

    Raises:
        RuntimeError: its exit code was not 0; with its last lines.
    """
    lines = []
    with subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            say(lines[-1])
    if process.returncode:
        raise RuntimeError("\n".join(lines[-5:]) or f"{command[0]}: exit code {process.returncode}")


def labels_of(mask: Path) -> dict[int, float]:
    """The labels in a mask and their millilitres, from the record beside it."""
    record = json.loads(mask.with_name(mask.name.replace(".nii.gz", ".json")).read_text(encoding="utf-8"))
    return {int(label): found["ml"] for label, found in record["labels"].items()}


def summary(labels: Mapping[int, float]) -> str:
    """What was found, in words."""
    found = [f"{SEGMENTS.get(label, (f'label {label}', None))[0]} {ml:.1f} ml" for label, ml in labels.items()]
    return ", ".join(found) or "nothing found"
