import json

import pytest
from report_runs import Page, make_pictures

from medseg3d.cli import main
from medseg3d.errors import UserError
from medseg3d.evaluation import Score, Summary
from medseg3d.evaluation.records import VERSION
from medseg3d.reports import run_report
from medseg3d.reports.run_report import report, write_report
from medseg3d.reports.runs import read_run

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("run") / "evaluation_test", {"a": 1, "b": 2})


DATA = {"split_file": "a.json", "split_hash": "0", "cases": {"train": 6, "val": 2, "test": 2}, "phantom": False}


@pytest.fixture
def ablation(tmp_path):
    """Two seeds with 0 and 1 blocks: Dice 0.5 and 0.6, 0.7 and 0.7."""
    scores = {(0, 0): 0.5, (1, 0): 0.6, (0, 1): 0.7, (1, 1): 0.7}
    names = ("dice", "recall", "specificity")
    content = {
        **{
            "version": VERSION,
            "bundle": "pancreas_nl",
            "overlays": [],
            "knobs": {},
            "part": "test",
            "tune": None,
            "threshold": None,
            "failures": {},
            "data": {"/data/ct": DATA},
            "reference": {"nonlocal_blocks": [0]},
            "factors": {"nonlocal_blocks": {"0": {"nonlocal_blocks": 0}, "1": {"nonlocal_blocks": 1}}},
        },
        "conditions": {"epochs": 2},
        "rows": [
            {
                "nonlocal_blocks": blocks,
                "seed": seed,
                "evaluation": Summary([Score("pancreas", name, "cases", dice, 2) for name in names]).as_json(),
                "parameters": 100 + 20 * blocks,
                "run_dir": f"blocks_{blocks}_seed_{seed}",
                **{"seconds": {"training": 1.0}, "resumed": False, "epochs": None, "learning_rate": 0.1},
                **{"tuning": None, "versions": {}},
            }
            for (blocks, seed), dice in scores.items()
        ],
    }
    content["asked"] = content["rows"]
    folder = tmp_path / "ablation"
    folder.mkdir()
    (folder / "ablation.json").write_text(json.dumps(content))
    return folder


def pngs(folder):
    return sorted(file.name for file in (folder / "figures").iterdir())


def test_page_markdown_and_figures_are_written_and_nothing_else(run, tmp_path):
    page = write_report([read_run(run)], tmp_path / "out", title="T", cases=1, with_networks=False)
    assert page == tmp_path / "out" / "report.html"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["figures", "report.html", "report.md"]
    markdown = (tmp_path / "out" / "report.md").read_text()
    html = Page(page.read_text())
    assert len(html.images) == len(pngs(tmp_path / "out"))
    assert [name for name in pngs(tmp_path / "out") if f"](figures/{name})" not in markdown] == []


def test_older_report_is_replaced_whole(run, tmp_path):
    write_report([read_run(run)], tmp_path, title="first", cases=1, with_networks=False)
    before = pngs(tmp_path)
    write_report([read_run(run)], tmp_path, title="second", cases=0, with_networks=False)
    assert "<title>second</title>" in (tmp_path / "report.html").read_text()
    assert [name for name in before if not name.startswith("case")] == pngs(tmp_path)


def test_report_that_fails_leaves_the_older_one(run, tmp_path, monkeypatch):
    write_report([read_run(run)], tmp_path, title="first", cases=0, with_networks=False)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def broken(*_):
        raise OSError("no more")

    monkeypatch.setattr(run_report, "as_markdown", broken)
    with pytest.raises(OSError, match="no more"):
        write_report([read_run(run)], tmp_path, title="second", cases=0, with_networks=False)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_figures_of_somebody_else_are_not_touched(run, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"NOT_EMPTY .*but no report\.html"):
        write_report([read_run(run)], tmp_path, title="T", with_networks=False)
    assert (tmp_path / "figures" / "mine.png").read_bytes() == b"mine"


def test_output_that_is_a_file_is_an_error(run, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="NOT_WRITABLE"):
        write_report([read_run(run)], tmp_path / "out", title="T", with_networks=False)


def test_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="NO_INPUT"):
        report([], tmp_path)
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path, title="T")


def test_ablation_alone_is_reported_beside_the_paper(ablation, tmp_path):
    page = Page(report([ablation], tmp_path / "out").read_text())
    conditions, paper, differences, *_ = page.tables["experiment_1_1"]
    assert [row[:2] for row in conditions[1:]] == [["0", "60.00 ± 14.14"], ["1", "65.00 ± 7.07"]]
    assert paper[1][:5] == ["0", "99.98 b", "60.00 ± 14.14", "87.83", "60.00 ± 14.14"]
    assert differences[1][:4] == ["1 − 0", "+1.37", "+5.00", "+5.00 ± 7.07"]
    assert "The same for all runs: epochs 2." in page.text
    assert [image["alt"].partition(":")[0] for image in page.images] == ["Dice of pancreas"]
    assert "scores" not in page.tables


def test_command_line_writes_the_report_and_names_it(run, tmp_path, capsys):
    assert main(["report", f"ours={run}", "-o", str(tmp_path / "out"), "--draw-cases", "0", "--title", "Polyps"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/report.html\n{tmp_path}/out/report.md\n"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<title>Polyps</title>" in page
    assert "None were requested." in page
    assert "so the paper to compare with is unknown" in page


def test_class_that_no_run_has_and_run_without_evaluation_are_calls_at_fault(run, tmp_path, capsys):
    assert main(["report", str(run), "-o", str(tmp_path / "out"), "--class", "liver"]) == 2
    assert "--class liver: no class of these runs, expected one of polyp" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "NO_EVALUATION" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
