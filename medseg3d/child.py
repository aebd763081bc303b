"""Processes that end with the one that started them, however that ends.

A process that is killed cannot end what it started, but its pipes close with it, on every platform. So a child holds
the reading end of a pipe as its standard input, and ends itself when that closes; a process of `multiprocessing` has
such a pipe already.

`python -m medseg3d.child -m MODULE WORDS ...` is `python -m MODULE WORDS ...` as such a child.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any


def end_with_parent(heard: Callable[[bytes], None] = lambda line: None) -> None:
    """Let this process end, with exit code 1, when its standard input closes; a thread has `heard` each line."""

    def listen() -> None:
        # unbuffered: at exit Python wants the lock that a thread waiting for a buffered line holds
        with open(0, "rb", buffering=0, closefd=False) as lines:
            for line in lines:
                heard(line)
        print("the process that started this one is gone: stopping", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()


def run_child(
    words: Sequence[str],
    *,
    cwd: str | Path,
    environment: Mapping[str, str],
    output: IO[str] | None = None,
    errors: IO[str] | None = None,
) -> int:
    """The exit code of `python -m MODULE WORDS ...`, run in a process that does not outlive this one.

    `words` begin with `-m`; `output` and `errors` are where it writes, None for where this process does.
    """
    command = [sys.executable, "-m", __name__, *words]
    with Popen(command, cwd=cwd, env=environment, stdin=PIPE, stdout=output, stderr=errors) as process:
        try:
            return process.wait()
        except BaseException:
            process.kill()
            raise


def run_workers(work: Callable[..., None], *arguments: Any, number: int) -> list[int | None]:
    """The exit codes of processes that run `work(*arguments)` side by side and do not outlive this one.

    `work` can be imported, `arguments` can be pickled.
    """
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work_with_parent, args=(work, arguments)) for _ in range(number)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except BaseException:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        raise
    return [worker.exitcode for worker in workers]


def _work_with_parent(work: Callable[..., None], arguments: Sequence[Any]) -> None:
    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    work(*arguments)


if __name__ == "__main__":
    end_with_parent()
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
