"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spread the whole suite over the cores; what is named on the command line runs in this process."""
    option = config.option
    named = config.args_source is not pytest.Config.ArgsSource.TESTPATHS or option.keyword
    if not named and getattr(option, "numprocesses", 0) is None:
        option.numprocesses, option.maxprocesses, option.dist = "logical", 4, "worksteal"
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker each is what a core can do


@pytest.fixture(autouse=True)
def seed() -> None:
    """Begin every test with the same random numbers, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images named by MEDSEG3D_DATA; the test is skipped where there is none."""
    folder = os.environ.get("MEDSEG3D_DATA")
    if not folder:
        pytest.skip("MEDSEG3D_DATA is not set: no real images to test on")
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"MEDSEG3D_DATA names {path}, which is not a folder")
    return path
