from __future__ import annotations

import json

from medseg3d.cli import main


def printed(capsys, *words: str) -> str:
    assert main(["params", *words]) == 0
    return capsys.readouterr().out


def test_without_a_bundle_the_networks_of_a_paper_are_counted(capsys):
    out = printed(capsys, "--paper", "resunetpp")
    assert [figure for figure in ("4,062,993", "8,223,809") if figure not in out] == []


def test_a_bundle_stands_beside_the_networks_of_its_paper(capsys):
    words = ["--picture_size", "[32,32]", "--features", "[8,8,8,16]", "--format", "json"]
    rows = json.loads(printed(capsys, "bundles/polyp_resunetpp", *words))
    assert [row["network"] for row in rows] == ["polyp_resunetpp, this config", "ResUNet++", "ResUNet", "U-Net"]
    assert rows[0]["input_shape"] == [3, 32, 32]


def test_a_comparison_without_a_bundle_is_with_pancreas_nl(capsys):
    words = ["--compare", "phantom", "--paper", "resunetpp", "--roi_size", "[16,16,16]", "--format", "json"]
    names = [row["network"] for row in json.loads(printed(capsys, *words))]
    assert names == ["pancreas_nl, this config", "pancreas_nl, phantom", "ResUNet++", "ResUNet", "U-Net"]


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
