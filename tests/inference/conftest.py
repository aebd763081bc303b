"""A cache folder for the tests' engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg3d.machine import CACHE_VARIABLE


@pytest.fixture(scope="session")
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def no_cache_of_the_users(engine_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(engine_cache))
