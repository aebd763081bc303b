"""The memory that this process may still take: of the machine, of its control group, of its own limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_FILES = (  # limit, use, the key of what is in use and can be given back at once; of version 2 and 1 of control groups
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory(root: str | Path = "/") -> int:
    """Bytes that can be allocated before something else has to give way, the swap left alone.

    psutil asks the machine, which in a container or a batch job is far larger than what the process gets; the control
    groups that it is in, and those around them, are asked as well.

    Args:
        root: where `proc` and `sys` are.

    Example:
        >>> 0 < available_memory() <= psutil.virtual_memory().total
        True
    """
    return max(0, min([psutil.virtual_memory().available, *_left_in_groups(Path(root)), *_left_by_limit()]))


def _left_in_groups(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        place, limit, use, given_back = _FILES[0 if number == "0" else 1]
        group = Path(path.lstrip("/"))
        # within a container its own group is the root, whatever the path says
        for each in (group, *group.parents):
            folder = root / place / each
            try:
                most, used = (folder / limit).read_text(), int((folder / use).read_text())
                stat = dict(each.split() for each in (folder / "memory.stat").read_text().splitlines())
            except OSError:
                continue
            if most.strip() != "max":
                yield int(most) - used + int(stat.get(given_back, 0))


def _left_by_limit() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    most = resource.getrlimit(resource.RLIMIT_AS)[0]  # ulimit -v, as some batch systems set it
    if most != resource.RLIM_INFINITY:
        yield most - psutil.Process().memory_info().vms
