"""The house: a module imports only from its own folder or from a lower floor."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "medseg3d"
FLOORS = {
    **{"errors": 0, "child": 0, "knobs": 0, "ranks": 0, "networks": 0, "metrics": 0},
    **{"limits": 0, "memory": 0, "machine": 0, "files": 0},
    **{"volumes": 1, "pictures": 1, "phantoms": 1, "bundle_folders": 1, "precision": 1},
    "dicom": 2,
    "data": 3,
    **{"transforms": 4, "postprocessing": 4, "evaluation": 4},
    "inference": 5,
    **{"training": 6, "bundle": 6},
    **{"experiments": 7, "reports": 7, "viewer": 7},
    **{"bench": 8, "checks": 8, "doctor": 8, "packaging": 8, "workflows": 8},
    "cli": 9,
    "__main__": 10,
}
DOORS_OF_PYPLOT = {"reports"}


def room_of(path: Path) -> str:
    """`networks` for medseg3d/networks/x.py, `bundle` for medseg3d/bundle.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in a file, functions included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def wrong_doors(path: Path) -> list[str]:
    room = room_of(path)
    wrong = []
    for line, name in imported_modules(path):
        parts = name.split(".")
        other = parts[1] if parts[0] == "medseg3d" and len(parts) > 1 and parts[1] in FLOORS else room
        if other not in (room, "errors") and FLOORS[other] >= FLOORS[room]:
            wrong.append(f"{path.name}:{line} ({room}, floor {FLOORS[room]}) imports {name} (floor {FLOORS[other]})")
        if parts[0] == "matplotlib" and room not in DOORS_OF_PYPLOT:
            wrong.append(f"{path.name}:{line} ({room}) imports {name}: figures belong to reports")
    return wrong


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_opens_no_door_upwards(path):
    assert room_of(path) in FLOORS, f"{path} is in no room of the house"
    assert wrong_doors(path) == []


def test_a_wrong_door_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "data").mkdir()
    module = tmp_path / "data" / "cases.py"
    module.write_text("import matplotlib.pyplot\n\ndef f():\n    from medseg3d.training import BestModel\n")
    assert wrong_doors(module) == [
        "cases.py:1 (data) imports matplotlib.pyplot: figures belong to reports",
        "cases.py:4 (data, floor 3) imports medseg3d.training.BestModel (floor 6)",
    ]


def test_nobody_names_a_module_utils():
    assert [path for path in PACKAGE.rglob("*util*.py")] == []


def test_the_plan_of_the_house_names_only_what_is_there():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z0-9_]+/)*[a-z0-9_]+(?:\.py|/))`", text))
    places = (PACKAGE, PACKAGE.parent)
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()
    assert len(named) > 25


TESTS = sorted(Path(__file__).parent.rglob("test_*.py"))


def looping_asserts(path: Path) -> list[str]:
    """Asserts in the loops of test functions, which hide what comes after a failure and pass where nothing comes."""
    functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    tests = [node for node in functions if node.name.startswith("test")]
    loops = [(test.name, node) for test in tests for node in ast.walk(test) if isinstance(node, ast.For | ast.While)]
    found = {(test, node.lineno) for test, loop in loops for node in ast.walk(loop) if isinstance(node, ast.Assert)}
    return [f"{path.name}:{line} {test}" for test, line in sorted(found)]


def test_no_test_asserts_in_a_loop():
    assert len(TESTS) > 100
    assert [found for path in TESTS for found in looping_asserts(path)] == []


def test_an_assert_in_a_loop_is_named(tmp_path):
    module = tmp_path / "test_x.py"
    module.write_text(
        "def test_a():\n    for n in range(2):\n        if n:\n            assert n\n    assert all([n])\n"
    )
    assert looping_asserts(module) == ["test_x.py:4 test_a"]
