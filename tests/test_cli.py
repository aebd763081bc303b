from __future__ import annotations

import subprocess
import sys

import pytest
from commands import ROOT

from medseg3d import __version__
from medseg3d.cli import RENAMED_VERBS, VERBS, build_parser, main, parse_overrides, split_knobs
from medseg3d.errors import UserError


def test_help_imports_nothing_heavy():
    code = (
        "import sys, medseg3d.cli; medseg3d.cli.build_parser();"
        "print(sorted({'torch', 'monai', 'numpy', 'nibabel', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_data_needs_simpleitk_only_to_draw_phantoms():
    code = "import sys, medseg3d.data; print('SimpleITK' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert "usage: medseg3d " + verb in capsys.readouterr().out


def test_the_package_runs_as_a_module_too():
    command = [sys.executable, "-m", "medseg3d"]
    assert subprocess.run([*command, "predict"], capture_output=True, check=False).returncode == 2
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert helped.stdout == build_parser().format_help()


def test_an_earlier_name_of_a_verb_is_not_shown():
    assert (build_parser().parse_args(["study", "cris", "-o", "a"]).paper, RENAMED_VERBS["study"]) == (
        "cris",
        "reproduce",
    )
    assert "study" not in build_parser().format_help()


def test_the_help_says_what_it_is_not_for(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "not for clinical use" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["nonsense"], ["version", "--foo"], ["predict", "bundles/pancreas_nl"]])
def test_a_wrong_call_ends_with_2(words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_version_names_what_the_numbers_depend_on(capsys):
    assert main(["version"]) == 0
    out = capsys.readouterr().out
    assert f"medseg3d         {__version__}" in out
    assert [package for package in ("monai", "torch", "numpy", "GPU") if package not in out] == []


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["--a", "1e-3", "--b", "text", "--c"], {"a": 0.001, "b": "text", "c": True}),
        (["--a=[1,2]", "--b=x=y"], {"a": [1, 2], "b": "x=y"}),
        (["--flag", "false", "--nothing", "none"], {"flag": False, "nothing": None}),
        (["--shift", "-3"], {"shift": -3}),
        (["--path", "/data/run 1"], {"path": "/data/run 1"}),
    ],
)
def test_values_are_literals_where_they_parse_as_one(tokens, expected):
    assert parse_overrides(tokens) == expected


def test_a_value_without_a_knob_is_refused():
    with pytest.raises(UserError, match="UNKNOWN_KNOB 5: a value without a name"):
        parse_overrides(["--a", "1", "5"])


def test_knobs_may_stand_anywhere():
    words, knobs = split_knobs(["check", "--epochs", "2", "bundles/x", "--config-overlay", "phantom", "--seed=1"])
    assert words == ["check", "bundles/x", "--config-overlay", "phantom"]
    assert knobs == ["--epochs", "2", "--seed=1"]


def test_a_verb_without_knobs_keeps_its_words():
    assert split_knobs(["demo", "--cases", "3", "--foo"]) == (["demo", "--cases", "3", "--foo"], [])


def test_an_error_is_one_line_and_a_bug_keeps_its_traceback(monkeypatch, capsys):
    def refuse(args):
        raise RuntimeError("applying transform") from UserError("EMPTY", "ct.nii.gz", "0 bytes")

    monkeypatch.setattr("medseg3d.cli.version.run", refuse)
    assert main(["version"]) == 1
    assert capsys.readouterr().err == "error: EMPTY ct.nii.gz: 0 bytes\n"
    with pytest.raises(RuntimeError):
        main(["--traceback", "version"])

    def fail(args):
        raise ZeroDivisionError

    monkeypatch.setattr("medseg3d.cli.version.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["version"])


def test_the_parser_has_every_verb():
    modules = (ROOT / "medseg3d" / "cli").glob("*.py")
    assert set(VERBS) == {path.stem for path in modules if "\ndef run(" in path.read_text()}
    assert build_parser().prog == "medseg3d"


@pytest.mark.parametrize(
    ("call", "option", "words", "name", "value"),
    [
        ("evaluate --pred a --truth b -o c", "--labels", ["x", "y"], "class_names", ["x", "y"]),
        ("evaluate --pred a --truth b -o c", "--tolerance", ["3"], "surface_tolerance_mm", 3.0),
        ("evaluate --pred a --truth b -o c", "--group", ["x"], "group_pattern", "x"),
        ("report a -o b", "--cases", ["2"], "draw_cases", 2),
        ("predict a b", "--overlays", ["c"], "save_overlays", "c"),
        ("predict a b", "--overlay", ["c", "d"], "config_overlay", ["c", "d"]),
        ("check a", "--overlay", ["c"], "config_overlay", ["c"]),
        ("phantom a", "--cases", ["2"], "num_cases", 2),
        ("data verify a", "--cases", ["2"], "expect_cases", 2),
        ("data split a", "--split_file", ["b"], "output", "b"),
        ("data split a", "--test_cases", ["2"], "test_cases", 2),
    ],
)
def test_options_of_earlier_versions_and_with_underscores_are_accepted_but_not_shown(
    call, option, words, name, value, capsys
):
    assert getattr(build_parser().parse_args([*call.split(), option, *words]), name) == value
    with pytest.raises(SystemExit):
        build_parser().parse_args([*call.split(), "--help"])
    assert f"{option} " not in capsys.readouterr().out
