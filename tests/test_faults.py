from __future__ import annotations

import pickle
import sys

from medseg3d.faults import Fault, fault_hook, find_fault


def test_a_fault_is_one_line_even_with_a_newline_in_the_file_name():
    fault = Fault("EMPTY", "a\nb.nii.gz", "0 bytes", "a volume", "copy it again")
    assert str(fault) == "EMPTY a\\nb.nii.gz: found 0 bytes; wanted a volume; next: copy it again"


def test_a_fault_survives_the_way_between_processes():
    fault = Fault("EMPTY", "a.nii.gz", "0 bytes")
    copy = pickle.loads(pickle.dumps(fault))
    assert (copy.code, copy.subject, str(copy)) == ("EMPTY", "a.nii.gz", str(fault))


def test_the_fault_behind_wrapped_errors_is_found():
    fault, middle, outer = (
        Fault("EMPTY", "a.nii.gz", "0 bytes"),
        RuntimeError("applying"),
        RuntimeError("instantiating"),
    )
    middle.__cause__, outer.__cause__ = fault, middle
    assert find_fault(outer) is fault
    assert find_fault(RuntimeError("a bug")) is None


def test_the_hook_prints_faults_and_interruptions_in_one_line_and_leaves_bugs_alone(capsys):
    left_alone = []
    hook = fault_hook(lambda *args: left_alone.append(args))
    for error in (Fault("EMPTY", "a.nii.gz", "0 bytes"), KeyboardInterrupt()):
        hook(type(error), error, None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: EMPTY a.nii.gz: found 0 bytes"
    assert lines[1].startswith("interrupted")
    assert "--resume true" in lines[1]
    assert len(lines) == 2
    bug = ValueError("a bug")
    hook(ValueError, bug, None)
    assert left_alone == [(ValueError, bug, None)]
    assert sys.excepthook is not hook
