from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medseg3d.machine import cache_folder


@pytest.mark.parametrize(
    ("platform", "variable", "wanted"),
    [
        ("linux", "MEDSEG3D_CACHE", "named"),
        ("linux", "XDG_CACHE_HOME", "named/medseg3d"),
        ("linux", None, "home/.cache/medseg3d"),
        ("darwin", None, "home/Library/Caches/medseg3d"),
        ("win32", "LOCALAPPDATA", "named/medseg3d"),
    ],
)
def test_the_cache_lies_where_the_system_has_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, variable: str | None, wanted: str
) -> None:
    for name in ("MEDSEG3D_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / "named"))
    assert cache_folder() == tmp_path / wanted
