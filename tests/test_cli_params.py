from __future__ import annotations

import json

from medseg3d.cli import main


def printed(capsys, *words: str) -> str:
    assert main(["params", *words]) == 0
    return capsys.readouterr().out


def test_without_a_bundle_the_networks_of_a_paper_are_counted(capsys):
    out = printed(capsys, "--paper", "pancreas")
    for figure in ("6,299,106", "6,562,530", "4,767,090", "87,558,402", "25,139,324", "6.56 M"):
        assert figure in out


def test_a_bundle_stands_beside_the_networks_of_its_paper(capsys):
    rows = json.loads(printed(capsys, "bundles/pancreas_nl", "--roi_size", "[16,16,16]", "--format", "json"))
    assert rows[0]["network"] == "pancreas_nl, this config"
    assert rows[0]["input_shape"] == [1, 16, 16, 16]
    assert rows[1]["network"] == "SegResNet, no non-local block (2-D, 32 filters)"


def test_a_comparison_without_a_bundle_is_with_pancreas_nl(capsys):
    words = ["--compare", "unetr", "--roi_size", "[32,32,32]", "--format", "json"]
    names = [row["network"] for row in json.loads(printed(capsys, *words))]
    assert names[:2] == ["pancreas_nl, this config", "pancreas_nl, unetr"]


def test_a_table_can_go_to_a_file(capsys, tmp_path):
    file = tmp_path / "new" / "table.md"
    assert printed(capsys, "--paper", "resunetpp", "--format", "markdown", "-o", str(file)) == ""
    assert file.read_text(encoding="utf-8").startswith("| network | of |")


def test_a_misspelt_knob_is_refused(capsys):
    assert main(["params", "bundles/pancreas_nl", "--init_filter", "32"]) == 2
    assert "UNKNOWN_KNOB --init_filter" in capsys.readouterr().err


def test_a_figure_can_be_drawn(capsys, tmp_path):
    figure = tmp_path / "figure.png"
    out = printed(capsys, "--paper", "resunetpp", "--figure", str(figure))
    assert "4,062,993" in out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_runs_without_a_figure_are_refused(capsys):
    assert main(["params", "--runs", "runs/a"]) == 2
    assert "BAD_VALUE --runs: no figure to draw them in" in capsys.readouterr().err
