from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import ROOT

from medseg3d.child import run_child, run_workers

MODULE = """
import json, os, sys, time
from pathlib import Path
Path("told.json").write_text(json.dumps([os.getpid(), __name__, sys.argv, sys.stdin.isatty()]))
print("out"); print("err", file=sys.stderr)
if sys.argv[1] == "wait":
    time.sleep(600)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def folder(tmp_path):
    """A current directory with a module that tells of itself, and waits or exits."""
    (tmp_path / "telling.py").write_text(MODULE)
    return tmp_path


def told(folder: Path) -> list:
    """What the module has told, once it has."""
    for _ in range(600):
        if (folder / "told.json").exists() and (text := (folder / "told.json").read_text()):
            return json.loads(text)
        time.sleep(0.05)
    raise AssertionError("the child has not begun")


def gone(pid: int) -> bool:
    """Whether a process has ended, within half a minute."""
    for _ in range(600):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_child_is_what_python_would_run(folder):
    with open(folder / "log", "w") as log:
        code = run_child(
            ["-m", "telling", "3", "--x"], cwd=folder, environment=dict(os.environ), output=log, errors=log
        )
    _, name, argv, _ = told(folder)
    assert (code, name) == (3, "__main__")
    assert argv == [str(folder / "telling.py"), "3", "--x"]
    assert sorted((folder / "log").read_text().split()) == ["err", "out"]


def test_its_errors_may_go_elsewhere(folder):
    with open(folder / "log", "w") as log, open(folder / "errors", "w") as errors:
        run_child(["-m", "telling", "0"], cwd=folder, environment=dict(os.environ), output=log, errors=errors)
    assert [(folder / name).read_text().split() for name in ("log", "errors")] == [["out"], ["err"]]


def test_no_child_outlives_a_parent_that_is_killed(folder):
    code = "import os; from medseg3d.child import run_child; "
    code += "run_child(['-m', 'telling', 'wait'], cwd='.', environment=dict(os.environ))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment, stderr=subprocess.PIPE) as parent:
        pid = told(folder)[0]
        assert psutil.pid_exists(pid)
        parent.send_signal(signal.SIGKILL)
        assert gone(pid)
        assert b"the process that started this one is gone" in parent.stderr.read()


def test_an_interruption_ends_the_child(folder, monkeypatch):
    def interrupted(process, timeout=None):
        if not (folder / "told.json").exists():
            told(folder)
            raise KeyboardInterrupt
        return wait(process, timeout)

    wait = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_child(["-m", "telling", "wait"], cwd=folder, environment={**os.environ, "PYTHONPATH": str(ROOT)})
    assert gone(told(folder)[0])


WORKERS = """
import signal
from medseg3d.child import run_workers
import telling_worker
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    run_workers(telling_worker.tell, 60.0, number=1)
"""

WORKER = """
import json, os, sys, time
from pathlib import Path
def tell(seconds):
    Path("told.json").write_text(json.dumps([os.getpid()]))
    time.sleep(seconds)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_a_caller_that_is_ended(folder, how):
    (folder / "telling_worker.py").write_text(WORKER)
    (folder / "workers.py").write_text(WORKERS)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    command = [sys.executable, "workers.py"]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE) as caller:
        try:
            pid = told(folder)[0]
            assert psutil.pid_exists(pid)
            caller.send_signal(how)
            assert gone(pid)
            assert caller.wait(timeout=30) == -how
        finally:
            caller.kill()


def test_workers_side_by_side_tell_how_they_ended():
    assert run_workers(sys.exit, 3, number=2) == [3, 3]
