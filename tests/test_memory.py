from __future__ import annotations

import sys

import psutil
import pytest

from medseg3d.memory import available_memory

GIB = 1 << 30


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that writes files of a machine with 64 GiB free, and gives its root."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * GIB})())
    if sys.platform != "win32":
        monkeypatch.setattr("resource.getrlimit", lambda kind: (-1, -1))

    def write(files):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return tmp_path

    return write


def group(folder, limit, used, cached, names=("memory.max", "memory.current", "inactive_file")):
    return {
        f"{folder}/{names[0]}": f"{limit}\n",
        f"{folder}/{names[1]}": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\n{names[2]} {cached}\n",
    }


def test_without_control_groups_it_is_the_machines(machine):
    assert available_memory(machine({})) == 64 * GIB


def test_the_files_that_a_group_has_cached_can_be_given_back(machine):
    files = {"proc/self/cgroup": "0::/job\n", **group("sys/fs/cgroup/job", 8 * GIB, 5 * GIB, 2 * GIB)}
    assert available_memory(machine(files)) == 5 * GIB


def test_a_group_around_it_counts_too(machine):
    inner = group("sys/fs/cgroup/user/job", "max", 5 * GIB, 0)
    outer = group("sys/fs/cgroup/user", 6 * GIB, 5 * GIB, 0)
    assert available_memory(machine({"proc/self/cgroup": "0::/user/job\n", **inner, **outer})) == GIB


def test_within_a_container_its_group_is_the_root(machine):
    files = {"proc/self/cgroup": "0::/docker/4f1a\n", **group("sys/fs/cgroup", 3 * GIB, GIB, 0)}
    assert available_memory(machine(files)) == 2 * GIB


def test_groups_of_version_1_are_asked_as_well(machine):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    lines = "5:cpu:/job\n4:memory:/job\n0::/\n"
    files = {"proc/self/cgroup": lines, **group("sys/fs/cgroup/memory/job", 4 * GIB, GIB, 0, names)}
    assert available_memory(machine(files)) == 3 * GIB


def test_a_group_beyond_its_limit_leaves_nothing(machine):
    files = {"proc/self/cgroup": "0::/job\n", **group("sys/fs/cgroup/job", GIB, 2 * GIB, 0)}
    assert available_memory(machine(files)) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no ulimit")
def test_ulimit_counts(machine, monkeypatch):
    used = psutil.Process().memory_info().vms
    monkeypatch.setattr("resource.getrlimit", lambda kind: (used + GIB, used + GIB))
    assert available_memory(machine({})) == pytest.approx(GIB, abs=GIB // 4)
