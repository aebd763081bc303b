"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from commands import ROOT, TINY

# torch and numpy are imported where they are used: the process that starts the workers can do without


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spread the whole suite over the cores; what is named on the command line runs in this process."""
    option = config.option
    if hasattr(config, "workerinput"):
        return  # a worker calls this hook too, and must not have workers of its own
    named = config.args_source is not pytest.Config.ArgsSource.TESTPATHS or option.keyword
    if not named and getattr(option, "numprocesses", 0) is None:
        option.numprocesses, option.maxprocesses, option.dist = "logical", 4, "worksteal"
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker each is what a core can do


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without looking for garbage: what is collected stays, and every look would go through all of it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def seed() -> None:
    """Begin every test with the same random numbers, whichever ran before it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Give torch back its number of threads: where they are more than the cores, they spin while they wait."""
    import torch

    number = torch.get_num_threads()
    yield
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """Give the log back what a benchmark silences in its own process."""
    logger = logging.getLogger("medseg3d")
    before = logger.level, logging.root.manager.disable
    yield
    logger.setLevel(before[0])
    logging.disable(before[1])


@pytest.fixture
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin in the root of the repository, where the bundles of a clone are run."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures are built, and a pixel is written instead of each: for tests of what is said around them."""
    from report_runs import undrawn_figures

    with nullcontext() if "drawn" in request.fixturenames else undrawn_figures():
        yield


@pytest.fixture
def drawn() -> None:
    """Figures are drawn, among tests that have none drawn."""


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


@pytest.fixture(scope="session")
def tiny_ct_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a tiny pancreas_nl, whose masks are neither empty nor full."""
    import torch

    from medseg3d.bundle import read_config
    from medseg3d.bundle_folders import bundle_directory

    torch.manual_seed(0)
    with bundle_directory(ROOT / "bundles/pancreas_nl"):
        network = read_config(["bundles/pancreas_nl/inference.json"], TINY).get_parsed_content("network_def").eval()
    with torch.inference_mode():
        medians = network(torch.rand(1, 1, 16, 16, 16)).flatten(2).median(2).values[0]
        [value for value in network.parameters() if value.shape == medians.shape][-1].sub_(medians)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def predict(tiny_ct_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`medseg3d predict bundles/pancreas_nl` with tiny weights, run in an empty folder; its exit code."""
    from medseg3d.cli import main

    monkeypatch.chdir(tmp_path)
    knobs = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]

    def run(*words: str | Path, within: Callable[..., int] | None = None) -> int:
        command = ["predict", ROOT / "bundles/pancreas_nl", *words, "--model_file", tiny_ct_weights, *knobs]
        call = [str(word) for word in command]
        return within(main, call) if within else main(call)

    return run
