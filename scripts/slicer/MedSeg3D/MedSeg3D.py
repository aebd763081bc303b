"""Module of 3D Slicer: the mask that `medseg3d predict` makes of the volume shown, as a segmentation.

medseg3d runs as a program of its own, in its own environment, because Slicer's Python has neither torch nor MONAI; this
file needs nothing but Slicer. How to add it to Slicer: docs/slicer.md.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
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
PROGRAM = "MedSeg3D/Program"
"""Where Slicer's settings remember the program."""

COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")
"""Of the labels 1, 2, ..., in turn, as medseg3d draws them elsewhere."""


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
        self.program.currentPath = slicer.util.settingsValue(PROGRAM, shutil.which("medseg3d") or "")
        self.weights = ctk.ctkPathLineEdit()
        self.options = qt.QLineEdit()
        self.options.placeholderText = "--config-overlay phantom"
        self.button = qt.QPushButton(_("Segment"))
        self.button.clicked.connect(self.onSegment)
        self.said = qt.QLabel()
        self.said.wordWrap = True
        panel = qt.QFormLayout()
        panel.addRow(_("CT volume:"), self.volume)
        panel.addRow(_("Bundle:"), self.bundle)
        panel.addRow(_("Program medseg3d:"), self.program)
        panel.addRow(_("Weights (empty: the bundle's):"), self.weights)
        panel.addRow(_("More options of predict:"), self.options)
        panel.addRow(self.button)
        panel.addRow(self.said)
        self.layout.addLayout(panel)
        self.layout.addStretch(1)

    def onSegment(self) -> None:  # noqa: N802
        """Segment the chosen volume and show what came of it, or why nothing did."""
        with slicer.util.tryWithErrorDisplay(_("medseg3d made no mask."), waitCursor=True):
            weights = ["--model_file", self.weights.currentPath] if self.weights.currentPath else []
            options = [*weights, *shlex.split(self.options.text)]
            program, bundle = self.program.currentPath, self.bundle.currentText
            self.logic.segment(self.volume.currentNode(), bundle, program, options, self._say)
            qt.QSettings().setValue(PROGRAM, program)

    def _say(self, line: str) -> None:
        self.said.text = line
        slicer.app.processEvents()


class MedSeg3DLogic(ScriptedLoadableModuleLogic):
    """From a volume node to a segmentation node."""

    def segment(
        self, volume: Any, bundle: str, program: str, options: Sequence[str] = (), say: Callable[[str], None] = print
    ) -> Any:
        """Run `medseg3d predict` on a volume and load the mask; the segmentation node.

        Args:
            volume: a vtkMRMLScalarVolumeNode; what transforms move it is left aside, as in its own file.
            bundle: name or folder.
            program: the `medseg3d` of an environment where it is installed.
            options: others of `medseg3d predict`.
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
            command = [program, "predict", bundle, str(scan), "-o", folder, *options]
            run(command, slicer.util.startupEnvironment(), say)
            node = slicer.util.loadSegmentation(str(Path(folder) / "scan_seg.nii.gz"))
            record = json.loads((Path(folder) / "scan_seg.json").read_text(encoding="utf-8"))
        node.SetName(f"{volume.GetName()} {bundle}")
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        for number in range(node.GetSegmentation().GetNumberOfSegments()):
            segment = node.GetSegmentation().GetNthSegment(number)
            segment.SetName(class_name(record, segment.GetLabelValue()))
            segment.SetColor(*colour(segment.GetLabelValue()))
        say(summary(record))
        return node


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


def class_name(record: Mapping[str, Any], label: int) -> str:
    """What a label stands for, as the record beside the mask says."""
    names = record["class_names"]
    return names[label - 1] if label <= len(names) else f"label {label}"


def colour(label: int) -> tuple[float, ...]:
    """Red, green and blue of a label, in 0 to 1."""
    code = COLOURS[(label - 1) % len(COLOURS)]
    return tuple(int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))


def summary(record: Mapping[str, Any]) -> str:
    """What was found, in words."""
    found = [f"{class_name(record, int(label))} {of['ml']:.1f} ml" for label, of in record["labels"].items()]
    return f"{', '.join(found) or 'Nothing found'}. Research only, not for clinical use."
