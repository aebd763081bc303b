"""Several ways to do one thing, measured side by side in one run: time, extra peak memory, ratios to a baseline.

A benchmark is a list of arms. Each `Arm` runs in a fresh process of its own, so that nothing one arm imports, caches
or leaves in the allocator helps or hurts another:

1. `setup()` is called once and returns the function that is measured. What it loads and warms up is not counted.
2. The function's first call warms it up, gives a result for `compare`, and the extra peak memory: the highest
   resident memory during the call less that just before it. What is freed meanwhile goes back to the system at once;
   with the allocator's own ideas of what to keep, the same call took 18 MiB one time and 33 the next.
3. The function is then timed in rounds: every arm of the case once per round, one at a time, in turns. What else
   the machine does meanwhile hits all arms alike, and the ratio to the baseline is taken within each round.

Arms with the same `case` are compared with each other. Write a benchmark so (see nonlocal_block.py):

    def reading(path):               # at the top level of the script: the processes import it from there
        data = Path(path)            # setup
        return data.read_bytes       # what is measured, called without arguments

    if __name__ == "__main__":       # or every process would start the benchmark again
        arguments = argument_parser(__doc__).parse_args()
        arms = [Arm("one way", partial(reading, "a")), Arm("another", partial(reading, "b"))]
        run_benchmark("Reading", arms, baseline="one way", **vars(arguments))
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from medseg3d import __version__
from medseg3d.machine import processor

VERSIONS_OF = ("torch", "monai", "numpy", "nibabel", "SimpleITK")
"""Packages whose versions go into the report beside Python's and this one's, where installed."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",  # torch obeys this one too
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
MIB = 2**20


@dataclass(frozen=True)
class Arm:
    """One way of doing the thing.

    Args:
        name: the arm's name in the table; the baseline is chosen by it.
        setup: prepares everything and returns the function to measure. Must be picklable: a function at the top level
            of a module, or a `functools.partial` of one.
        case: what is done (a size, a file); only arms of one case are compared.
    """

    name: str
    setup: Callable[[], Callable[[], object]]
    case: str = ""

    def __str__(self) -> str:
        return f"arm {self.name!r}" + (f" in case {self.case!r}" if self.case else "")


@dataclass
class Row:
    """What was measured of one arm. Ratios are "times better than the baseline": above 1 is faster, or less memory."""

    case: str
    arm: str
    seconds: list[float]
    """One per round, by the clock on the wall."""
    cpu_seconds: list[float]
    """One per round, of all threads together: on a busy machine steadier than the clock."""
    median_s: float
    speedup: float
    """Median over the rounds of the baseline's seconds by the arm's, both of the same round."""
    median_cpu_s: float
    cpu_saving: float
    """The same ratio of `cpu_seconds`."""
    peak_extra_mib: float
    """Highest resident memory during the first call, less that just before it."""
    memory_saving: float
    comparison: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A ratio that an arm must reach: `quantity` is `"speedup"`, `"cpu_saving"` or `"memory_saving"`."""

    case: str
    arm: str
    quantity: str
    at_least: float


@dataclass
class Report:
    """All rows of a run, with what is needed to read and repeat it."""

    title: str
    description: str
    command: str
    date: str
    baseline: str
    repeats: int
    threads: int | None
    machine: dict[str, Any]
    versions: dict[str, str]
    memory_method: str
    rows: list[Row]
    targets: list[dict[str, Any]]

    def markdown(self) -> str:
        """The report as a page: how it was run, the table, the targets."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row.comparison))
        with_case = any(row.case for row in self.rows)
        head = ["case"] * with_case + [
            "arm",
            "median s",
            "range s",
            "faster",
            "CPU s",
            "less CPU",
            "extra peak MiB",
            "less memory",
            *columns,
        ]
        lines = [
            f"# {self.title}",
            "",
            *([self.description, ""] if self.description else []),
            f"    {self.command}",
            "",
            f"{self.date}, {self.machine['cpu']}, {self.machine['cores']} cores, "
            f"load {self.machine['load_before']:.1f} before and {self.machine['load_after']:.1f} after, "
            f"{'default number of threads' if self.threads is None else f'threads: {self.threads}'}, "
            + ", ".join(f"{name} {version}" for name, version in self.versions.items())
            + ".",
            "",
            f"Each arm ran in its own process, interleaved with the others in {self.repeats} "
            f"round{'s' * (self.repeats != 1)}. *faster*: time of *{self.baseline}* divided by that of the arm, median "
            f"over the rounds; *less CPU*: the same for CPU time. *extra peak*: {self.memory_method}.",
            "",
            _table_line(head),
            _table_line(["---"] * len(head)),
        ]
        for row in self.rows:
            lines.append(
                _table_line(
                    [row.case] * with_case
                    + [
                        row.arm,
                        f"{row.median_s:.3g}",
                        f"{min(row.seconds):.3g}-{max(row.seconds):.3g}",
                        f"{row.speedup:.2f}x",
                        f"{row.median_cpu_s:.3g}",
                        f"{row.cpu_saving:.2f}x",
                        f"{row.peak_extra_mib:.1f}",
                        f"{row.memory_saving:.1f}x",
                        *(f"{row.comparison[name]:.3g}" if name in row.comparison else "" for name in columns),
                    ]
                )
            )
        if self.targets:
            lines += ["", "Targets:", ""]
        for target in self.targets:
            where = " ".join(part for part in (target["arm"], target["case"]) if part)
            lines.append(
                f"- {where}: {target['quantity'].replace('_', ' ')} {target['reached']:.2f}x, "
                f"target at least {target['at_least']}x: **{'met' if target['met'] else 'missed'}**"
            )
        return "\n".join(lines) + "\n"

    def save(self, path: Path) -> None:
        """Write the page to `path` and the same numbers, all rounds included, beside it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.markdown(), encoding="utf-8")
        path.with_suffix(".json").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def argument_parser(description: str | None = None) -> argparse.ArgumentParser:
    """The options every benchmark has; their names are those of `run_benchmark`'s arguments."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds of timing (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of each arm (default: what the libraries choose)")
    parser.add_argument("--output", type=Path, help="Markdown file to write, with a .json beside it")
    return parser


def run_benchmark(
    title: str,
    arms: Sequence[Arm],
    *,
    baseline: str,
    repeats: int = 5,
    threads: int | None = None,
    output: Path | None = None,
    compare: Callable[[object, object], Mapping[str, float]] | None = None,
    targets: Sequence[Target] = (),
    description: str = "",
) -> Report:
    """Measure the arms, print the table, write it where `output` says, and return it.

    Args:
        title: heading of the page.
        arms: what is compared; every case holds one arm named `baseline`. Arms run in the order given.
        baseline: name of the arm that the ratios refer to.
        repeats: rounds of timing, after the first call that measures memory.
        threads: threads of each arm; None leaves it to the libraries.
        output: Markdown file; the JSON goes beside it.
        compare: called with the first results of the baseline and of each arm; its numbers become columns (a largest
            difference, a Dice). Results travel between processes by pickle: return a path rather than a volume.
        targets: ratios to check and state.
        description: what is done, for the reader of the page.

    Raises:
        ValueError: no arms, a case without the baseline, two arms of one name, a target for an arm that is not there,
            `repeats` or `threads` below 1.
        RuntimeError: an arm failed; the message holds its traceback.
    """
    _check(arms, baseline, repeats, threads, targets)
    load_before = os.getloadavg()[0]
    rows: list[Row] = []
    for case in dict.fromkeys(arm.case for arm in arms):
        rows += _measure_case([arm for arm in arms if arm.case == case], baseline, repeats, threads, compare)
    report = Report(
        title=title,
        description=description.strip(),
        command=shlex.join(["python", *sys.argv]),
        date=datetime.date.today().isoformat(),
        baseline=baseline,
        repeats=repeats,
        threads=threads,
        machine={
            "cpu": processor(),
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "load_before": load_before,
            "load_after": os.getloadavg()[0],
        },
        versions=_versions(),
        memory_method=_MEMORY_METHODS[_reset_peak()],
        rows=rows,
        targets=[_judge(target, rows) for target in targets],
    )
    print(report.markdown())
    if output is not None:
        report.save(output)
    return report


def _check(arms: Sequence[Arm], baseline: str, repeats: int, threads: int | None, targets: Sequence[Target]) -> None:
    if not arms:
        raise ValueError("arms must not be empty")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    known = [(arm.case, arm.name) for arm in arms]
    for pair in known:
        if known.count(pair) > 1:
            raise ValueError(f"arms of one case must have different names, got {pair} twice")
        if (pair[0], baseline) not in known:
            raise ValueError(
                f"every case must have an arm named as the baseline {baseline!r}, case {pair[0]!r} has none"
            )
    for target in targets:
        if (target.case, target.arm) not in known:
            raise ValueError(f"target names an arm that is not measured: {(target.case, target.arm)}")
        if target.quantity not in ("speedup", "cpu_saving", "memory_saving"):
            raise ValueError(f"target quantity must be speedup, cpu_saving or memory_saving, got {target.quantity!r}")


def _measure_case(
    arms: Sequence[Arm],
    baseline: str,
    repeats: int,
    threads: int | None,
    compare: Callable[[object, object], Mapping[str, float]] | None,
) -> list[Row]:
    with contextlib.ExitStack() as stack:
        workers: dict[str, _Worker] = {}
        first: dict[str, _Call] = {}
        for arm in arms:  # one after the other, so that only one at a time is at its peak
            _say(f"{arm}: set up, first call")
            workers[arm.name] = stack.enter_context(_worker(arm, threads))
            first[arm.name] = workers[arm.name].call(keep_result=compare is not None)
        calls: dict[str, list[_Call]] = {arm.name: [] for arm in arms}
        for round_number in range(repeats):
            _say(f"round {round_number + 1} of {repeats}")
            for arm in arms:
                calls[arm.name].append(workers[arm.name].call())
    seconds = {name: [call.seconds for call in own] for name, own in calls.items()}
    cpu_seconds = {name: [call.cpu_seconds for call in own] for name, own in calls.items()}
    return [
        Row(
            case=arm.case,
            arm=arm.name,
            seconds=seconds[arm.name],
            cpu_seconds=cpu_seconds[arm.name],
            median_s=statistics.median(seconds[arm.name]),
            speedup=_median_ratio(seconds[baseline], seconds[arm.name]),
            median_cpu_s=statistics.median(cpu_seconds[arm.name]),
            cpu_saving=_median_ratio(cpu_seconds[baseline], cpu_seconds[arm.name]),
            peak_extra_mib=first[arm.name].peak_extra / MIB,
            memory_saving=max(first[baseline].peak_extra, 1) / max(first[arm.name].peak_extra, 1),
            comparison={} if compare is None else dict(compare(first[baseline].result, first[arm.name].result)),
        )
        for arm in arms
    ]


def _median_ratio(base: Sequence[float], own: Sequence[float]) -> float:
    # a call too short for the clock counts as a nanosecond
    return statistics.median(max(b, 1e-9) / max(o, 1e-9) for b, o in zip(base, own, strict=True))


@dataclass
class _Call:
    seconds: float
    cpu_seconds: float
    peak_extra: int  # bytes
    result: object


class _Worker:
    """The process of one arm, seen from the parent: one call at a time."""

    def __init__(self, arm: Arm, process: multiprocessing.process.BaseProcess, connection: Connection) -> None:
        self.arm = arm
        self.process = process
        self.connection = connection

    def call(self, keep_result: bool = False) -> _Call:
        """What one call took; the first one also sets the arm up."""
        try:
            self.connection.send(keep_result)
            done, answer = self.connection.recv()
        except (EOFError, OSError):  # BrokenPipeError, ConnectionResetError: it is gone
            self.process.join(10)
            raise RuntimeError(
                f"{self.arm} died with exit code {self.process.exitcode} "
                "(-9 is most often the machine running out of memory)"
            ) from None
        if not done:
            raise RuntimeError(f"{self.arm} failed:\n{answer}")
        return answer


@contextlib.contextmanager
def _worker(arm: Arm, threads: int | None) -> Iterator[_Worker]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(arm, theirs), daemon=True)
    with _environment({} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))):
        process.start()  # before its first import, so that every library sees the variables
    theirs.close()  # or its end would stay open here, and a dead process could not be told from a slow one
    try:
        yield _Worker(arm, process, ours)
    finally:
        ours.close()  # the process leaves its loop
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(arm: Arm, connection: Connection) -> None:
    """The process of one arm, seen from inside."""
    function: Callable[[], object] | None = None
    while True:
        try:
            keep_result = connection.recv()
        except EOFError:
            return
        try:
            if function is None:
                function = arm.setup()
                with _freed_memory_given_back():
                    answer = _measure(function, keep_result)
            else:
                answer = _measure(function, keep_result)
            connection.send((True, answer))
        except Exception:
            connection.send((False, traceback.format_exc()))


def _measure(function: Callable[[], object], keep_result: bool) -> _Call:
    gc.collect()
    resident_before = _resident() if _reset_peak() else _peak()
    cpu_start, start = time.process_time(), time.perf_counter()
    result = function()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return _Call(seconds, cpu_seconds, _peak() - resident_before, result if keep_result else None)


@contextlib.contextmanager
def _freed_memory_given_back() -> Iterator[None]:
    """Let glibc keep nothing of what is freed, and after that whatever it likes; elsewhere do nothing."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        malloc_trim, mallopt = libc.malloc_trim, libc.mallopt
    except (OSError, AttributeError):
        yield
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    mallopt(mmap_threshold, 64 * 1024)
    gc.collect()
    malloc_trim(0)
    yield
    # where glibc's own thresholds end up in a process that has freed large blocks
    mallopt(mmap_threshold, 32 * MIB)
    mallopt(trim_threshold, 64 * MIB)


_MEMORY_METHODS = {
    True: "peak resident memory during the first call minus that just before it",
    False: "by how much the first call raised the peak resident memory of its process",
}
"""What is measured where the peak can be reset, and where not."""


def _reset_peak() -> bool:
    """Let the highest resident memory count anew from here; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak() -> int:
    with contextlib.suppress(OSError):
        return _proc_status("VmHWM")
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


def _resident() -> int:
    return _proc_status("VmRSS")


def _proc_status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _judge(target: Target, rows: Sequence[Row]) -> dict[str, Any]:
    (row,) = (row for row in rows if (row.case, row.arm) == (target.case, target.arm))
    reached = getattr(row, target.quantity)
    return {**asdict(target), "reached": reached, "met": reached >= target.at_least}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "medseg3d": __version__}
    for name in VERSIONS_OF:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
