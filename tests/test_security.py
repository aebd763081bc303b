"""Nothing that a user hands in as data is run: no such call is in the package, and planted code stays words."""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path

import pytest
from report_runs import make_run

from medseg3d.cli import main

PACKAGE = Path(__file__).parent.parent / "medseg3d"
MODULES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path"),
    *("pickle.load", "pickle.loads", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load", "torch.hub.load"),
    *("dill.load", "dill.loads", "joblib.load", "cloudpickle.load", "cloudpickle.loads"),
}
SAFE_LOADS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
PARSERS = {"bundle.py": 1, "reports/parameters.py": 1}
"""Calls of ConfigParser: one for the bundle files that a user has named, one for the package's list of networks."""


@functools.cache  # for both tests of each module
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """(dotted name as it is written, call) of every call in a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def unsafe_calls(path: Path) -> list[str]:
    found = []
    for name, call in calls(path):
        keywords = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
        wanted = SAFE_LOADS.get(name.replace("numpy.", "np."))
        if name in FORBIDDEN_CALLS or keywords.get("shell") or (wanted and keywords.get(wanted[0]) is not wanted[1]):
            found.append(f"{path.name}:{call.lineno} {name}")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "run(x, shell=True)",
        "os.system(x)",
    ],
)
def test_an_unsafe_call_is_found(tmp_path, line):
    (tmp_path / "module.py").write_text(line)
    assert unsafe_calls(tmp_path / "module.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_runs_or_unpickles_what_it_reads(path):
    assert unsafe_calls(path) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_config_parser_meets_bundle_files_only(path):
    parsers = [name for name, _ in calls(path) if name == "ConfigParser"]
    assert len(parsers) == PARSERS.get(path.relative_to(PACKAGE).as_posix(), 0)


@pytest.fixture
def planted(tmp_path):
    """An evaluated run whose every file that is JSON holds code in every place that a reader might resolve."""
    folder = tmp_path / "run" / "evaluation_test"
    folder.parent.mkdir()
    make_run(folder, {"a": 1, "b": 3}, with_curves=False, with_files=False)
    touch = f"$__import__('pathlib').Path({str(tmp_path / 'pwned')!r}).touch() or 8"
    call = {"_target_": "pathlib.Path.touch", "self": f"$__import__('pathlib').Path({str(tmp_path / 'pwned')!r})"}
    code = {
        **{"bundle_root": "bundles/pancreas_nl", "dataset_dir": touch, "init_filters": touch, "roi_size": touch},
        **{"network_def": {"_target_": "medseg3d.networks.SegResNetNL", "init_filters": touch}, "run": call},
        **{"strategy": touch, "backbone": touch, "imports": [touch], "initialize": [call], "window_hu": None},
    }
    for config in (folder / "config.json", folder.parent / "config.json"):
        config.write_text(json.dumps(code))
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "network": code["network_def"], "threshold": None}))
    return folder


@pytest.mark.parametrize("door", ["report", "params"])
def test_code_in_a_run_folder_is_never_run(planted, tmp_path, monkeypatch, capsys, door):
    monkeypatch.chdir(PACKAGE.parent)
    words = {
        "report": ["report", str(planted), "-o", str(tmp_path / "page")],
        "params": ["params", "--paper", "resunetpp", "--figure", str(tmp_path / "f.png"), "--runs", str(planted)],
    }[door]
    code = main(words)
    assert not (tmp_path / "pwned").exists()
    if door == "params":
        assert code != 0
        assert "SCORE_FILE" in capsys.readouterr().err
