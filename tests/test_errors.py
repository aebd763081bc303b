from __future__ import annotations

import ast
import io
import pickle
import subprocess
import sys
from collections import defaultdict

import pytest
from commands import ROOT

from medseg3d.errors import UsageError, UserError, error_hook, escape_names, find_user_error


def test_an_error_is_one_line_even_with_a_newline_in_the_file_name():
    error = UserError("EMPTY", "a\nb.nii.gz", "0 bytes", "a volume", "copy it again")
    assert str(error) == "EMPTY a\\nb.nii.gz: 0 bytes, expected a volume. Hint: copy it again"


def test_an_error_survives_the_way_between_processes():
    error = UserError("EMPTY", "a.nii.gz", "0 bytes")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.subject, str(copy)) == ("EMPTY", "a.nii.gz", str(error))


def test_the_error_behind_wrapped_errors_is_found():
    error, middle, outer = (
        UserError("EMPTY", "a.nii.gz", "0 bytes"),
        RuntimeError("applying"),
        RuntimeError("instantiating"),
    )
    middle.__cause__, outer.__cause__ = error, middle
    assert find_user_error(outer) is error
    assert find_user_error(RuntimeError("a bug")) is None


def test_the_hook_prints_errors_and_interruptions_in_one_line_and_leaves_bugs_alone(capsys):
    left_alone = []
    hook = error_hook(lambda *args: left_alone.append(args))
    with pytest.raises(SystemExit, match="1"):
        hook(UserError, UserError("EMPTY", "a.nii.gz", "0 bytes"), None)
    hook(KeyboardInterrupt, KeyboardInterrupt(), None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: EMPTY a.nii.gz: 0 bytes"
    assert lines[1].startswith("interrupted")
    assert "--resume true" in lines[1]
    assert len(lines) == 2
    bug = ValueError("a bug")
    hook(ValueError, bug, None)
    assert left_alone == [(ValueError, bug, None)]
    assert sys.excepthook is not hook


@pytest.mark.parametrize(("kind", "code"), [(UserError, 1), (UsageError, 2)])
def test_the_class_of_an_error_is_the_exit_code_of_the_process(kind, code):
    words = f"import sys; from medseg3d.errors import *; sys.excepthook = error_hook(None); raise {kind.__name__}"
    ended = subprocess.run([sys.executable, "-c", f"{words}('CODE', 'a', 'b')"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (code, "error: CODE a: b\n")


def errors_of_the_package():
    """Every call of a `UserError` whose code is written there, with the file and the line of it."""
    for path in (ROOT / "medseg3d").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if called in ("UserError", "UsageError") and node.args and isinstance(node.args[0], ast.Constant):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_code_belongs_to_one_class_of_errors():
    classes = defaultdict(set)
    for _, node in errors_of_the_package():
        classes[node.args[0].value].add(node.func.id)
    assert len(classes) > 50
    assert [code for code, names in classes.items() if len(names) > 1] == []


def test_a_refusal_says_what_to_do_next():
    # of a value out of its range the range says it
    without = [
        where for where, node in errors_of_the_package() if len(node.args) < 5 and node.args[0].value != "BAD_VALUE"
    ]
    assert without == []


def test_what_the_log_has_said_is_not_said_again(capsys):
    error = UserError("EMPTY", "a.nii.gz", "0 bytes")
    error.said = True
    with pytest.raises(SystemExit, match="1"):
        error_hook(lambda *args: None)(UserError, error, None)
    assert capsys.readouterr().err == ""


def test_names_that_stdout_cannot_encode_are_escaped(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    escape_names()
    print("[1/1] 肝 \udcb8.png", flush=True)
    assert written.getvalue() == rb"[1/1] \u809d \udcb8.png" + b"\n"
