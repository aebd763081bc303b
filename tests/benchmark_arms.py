"""Arms for the tests of the benchmark harness, in a file of their own: its processes import them from here."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

MIB = 2**20


def note(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(line + "\n")


def noting(log: Path, name: str):
    note(log, f"{name} setup {os.getpid()}")
    return partial(note, log, f"{name} call {os.getpid()}")


def filled(mebibytes: int) -> bytes:
    return b"x" * (mebibytes * MIB)


def filling(mebibytes: int):
    return lambda: len(filled(mebibytes))


def many_small_blocks(mebibytes: int) -> list[bytes]:
    return [bytes([i % 256]) * 1000 for i in range(mebibytes * MIB // 1000)]


def filling_after_a_larger_setup(mebibytes: int):
    # too small to be handed back one by one, and below the last one, which stays: the allocator keeps them for reuse
    last = many_small_blocks(4 * mebibytes)[-1]
    return lambda: last in many_small_blocks(mebibytes)[:1]


def returning(value: object):
    return lambda: value


def thread_count():
    return lambda: int(os.environ["OMP_NUM_THREADS"])


def failing():
    return lambda: [][7]


def dying():
    return partial(os._exit, 3)
