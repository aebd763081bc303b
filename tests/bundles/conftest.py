"""Phantoms and a trained bundle that the tests of the bundles share."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import knobs, monai_bundle
from picture_runs import polyp_folder, split_knobs

from medseg3d.phantoms.ct import write_phantom_dataset

SMALL = {
    "spacing": [8, 8, 8],
    "roi_size": [16, 16, 16],
    "init_filters": 8,
    "epochs": 2,
    "iterations_per_epoch": 3,
    "crops_per_case": 2,
    "val_interval": 1,
    "num_workers": 0,
    "test_cases": 1,
    "val_cases": 1,
}
"""Knobs of a training that takes seconds; its masks mean nothing."""


@pytest.fixture(autouse=True)
def _from_the_root(from_the_root):
    """Every test of this folder begins there."""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> dict[str, object]:
    """Overrides that name generated images and their split of 4, 1 and 1."""
    return split_knobs(polyp_folder(tmp_path_factory.mktemp("pictures") / "polyps"))


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory) -> Path:
    """Four phantoms in the MSD layout, and one without a label."""
    folder = tmp_path_factory.mktemp("phantoms") / "phantom_pancreas"
    write_phantom_dataset(folder, cases=4, seed=0, spacing_mm=(5, 5, 8))
    return folder


@pytest.fixture(scope="session")
def small_knobs(phantom_dir) -> dict[str, object]:
    """Overrides for a training of seconds on the phantoms."""
    return {**SMALL, "dataset_dir": phantom_dir, "split_file": phantom_dir / "split.json"}


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_knobs) -> Path:
    """The run folder of a training by the user's own command line, with the small knobs."""
    run = tmp_path_factory.mktemp("trained") / "run"
    done = monai_bundle(
        "training", "--config_file", "bundles/pancreas_nl/train.json", *knobs(**small_knobs, output_dir=run)
    )
    assert done.returncode == 0, done.stderr
    return run
