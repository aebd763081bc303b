"""Predictions on the real Ray, in a process of their own.

Ray leaves its own stack for signals on the thread that has used it, and SIGSEGV at its default: faulthandler would say
nothing of a later crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import psutil


class Told(NamedTuple):
    """What a prediction tells the program that calls it."""

    exit_code: int
    done: list[str]
    failed: list[str]
    progress: list[tuple[int, int]]


@contextmanager
def own_process() -> Iterator[Callable[..., Any]]:
    """Context with a function that calls others, which can be imported, all in one new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result()


def predicted(bundle: Path, images: Path, output: str, knobs: dict[str, Any], cluster: str | None) -> Told:
    """What `medseg3d.predict` tells."""
    from medseg3d import predict

    progress: list[tuple[int, int]] = []
    report = predict(
        bundle,
        images,
        output,
        knobs=knobs,
        cluster=cluster,
        progress=lambda done, total, item: progress.append((done, total)),
    )
    return Told(report.exit_code, [each["case"] for each in report.done], list(map(str, report.failed)), progress)


def ray_processes() -> list[str]:
    """Ray's processes among those that this one has started."""
    children = psutil.Process().children(recursive=True)
    return [child.name() for child in children if child.name().startswith(("ray", "gcs_server"))]
