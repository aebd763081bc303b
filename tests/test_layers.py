"""The layers of CONTRIBUTING.md: a module imports only from its own folder or from a lower layer."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "medseg3d"
TABLE = re.findall(r"^\| (\d+) \| (.+?) \|", (PACKAGE.parent / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
LAYERS = {name: int(layer) for layer, names in TABLE for name in re.findall(r"`(\w+)(?:\.py|/)`", names)}
DRAWING = {"reports"}


def module_of(path: Path) -> str:
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


def wrong_imports(path: Path) -> list[str]:
    own = module_of(path)
    wrong = []
    for line, name in imported_modules(path):
        parts = name.split(".")
        other = parts[1] if parts[0] == "medseg3d" and len(parts) > 1 and parts[1] in LAYERS else own
        if other not in (own, "errors") and LAYERS[other] >= LAYERS[own]:
            wrong.append(f"{path.name}:{line} ({own}, layer {LAYERS[own]}) imports {name} (layer {LAYERS[other]})")
        if parts[0] == "matplotlib" and own not in DRAWING:
            wrong.append(f"{path.name}:{line} ({own}) imports {name}: figures belong to reports")
    return wrong


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_nothing_from_above(path):
    assert module_of(path) in LAYERS, f"{path} is in no layer"
    assert wrong_imports(path) == []


def test_a_wrong_import_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "data").mkdir()
    module = tmp_path / "data" / "cases.py"
    module.write_text("import matplotlib.pyplot\n\ndef f():\n    from medseg3d.training import BestModel\n")
    assert wrong_imports(module) == [
        "cases.py:1 (data) imports matplotlib.pyplot: figures belong to reports",
        "cases.py:4 (data, layer 3) imports medseg3d.training.BestModel (layer 6)",
    ]


def test_the_table_names_only_what_is_there():
    assert [name for name in LAYERS if not any((PACKAGE / each).exists() for each in (name, f"{name}.py"))] == []


def test_nobody_names_a_module_utils():
    assert [path for path in PACKAGE.rglob("*util*.py")] == []


def test_the_architecture_names_only_what_is_there():
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
