"""The command lines that tests run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent

TINY = {"init_filters": 8, "roi_size": [16, 16, 16], "spacing": [1.5, 1.5, 2.5], "device": "cpu"}
"""Knobs of a pancreas_nl that a processor has run in a moment."""


def knobs(**overrides: object) -> list[str]:
    """`--key value` for every override."""
    return [word for name, value in overrides.items() for word in (f"--{name}", str(value))]


def monai_bundle(*words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`python -m monai.bundle run ...` from the root of the repository."""
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def wait_until(reached: Callable[[], object], process: subprocess.Popen, timeout: float = 200) -> None:
    """Return as soon as a process, which must not end before, has reached something."""
    deadline = time.monotonic() + timeout
    while not reached():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def torchrun(*words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Two processes that train together, from the root of the repository."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def weights_of(folder: Path, name: str, *overlays: str, **own: object) -> Path:
    """Random weights of a bundle's network, in a file."""
    import torch

    from medseg3d.bundle import read_config
    from medseg3d.bundle_folders import config_files, source_folder

    torch.manual_seed(0)
    parser = read_config(config_files(source_folder(name), "train.json", overlays), own)
    path = folder / f"{name}.pt"
    torch.save(parser.get_parsed_content("network_def").state_dict(), path)
    return path
