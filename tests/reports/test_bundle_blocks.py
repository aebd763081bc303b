from dataclasses import replace

import pytest
from report_runs import make_pictures, make_run

from medseg3d.networks import SegNet
from medseg3d.networks.costs import network_record
from medseg3d.reports.bundle_blocks import paper_blocks, parameter_blocks
from medseg3d.reports.document import Table
from medseg3d.reports.runs import read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ours"
    make_run(folder, {"a": 1, "b": 3}, with_curves=False, with_files=False)
    return read_run(folder, bundle="pancreas_nl")


def tables_of(blocks):
    return {block.lead.rpartition(". ")[2] or block.caption: block for block in blocks if isinstance(block, Table)}


def test_bundle_decides_whose_tables_are_shown(run):
    assert list(tables_of(paper_blocks([run]))) == ["Table 2.", "Table 3."]
    (words,) = paper_blocks([replace(run, bundle="")])
    assert "so the paper to compare with is unknown" in words.text


def test_ours_stand_below_the_papers_each_by_its_convention(run):
    table = tables_of(paper_blocks([run]))["Table 2."]
    rows = [[cell.text for cell in row] for row in table.cells]
    assert rows[2] == ["2", "99.98", "91.51", "91.97"]
    # Dice 0.75 and 0.25; 1696 of 1792 voxels are background, 24 and 72 of them wrong
    assert rows[5:] == [
        ["ours: ours, mean over cases", "97.17", "50.00", "50.00"],
        ["ours: ours, pooled", "97.17", "50.00", "50.00"],
    ]
    assert "The paper’s convention: 2-D slices" in table.caption
    assert table.note == (
        "Ours. Mean over cases: on the original grid. "
        "Pooled: one score from the counts summed over all cases; on the original grid."
    )


def test_what_cannot_be_right_in_a_paper_is_marked(tmp_path):
    run = read_run(make_pictures(tmp_path / "run", {"a": 1}), bundle="polyp_deeplabv3plus")
    table = tables_of(paper_blocks([run]))["Table 3 and text."]
    cells = {cell.text: cell for row in table.cells for cell in row}
    assert cells["0.8039"].mark
    assert table.marks[cells["0.45244"].mark.split(", ")[0]]
    assert table.note == "None of our scores use these conventions."


def test_scores_on_phantoms_are_not_set_beside_published_ones(run, tmp_path):
    (tmp_path / "dataset.json").write_text('{"reference": "medseg3d phantom"}')
    phantom = replace(run, config={"dataset_dir": str(tmp_path)})
    *blocks, words = paper_blocks([phantom])
    assert words.text == "Scores on phantoms are not compared with these: ours."
    assert not any(cell.own for table in tables_of(blocks).values() for row in table.cells for cell in row)


def test_two_class_scores_of_the_ann_paper_have_two_class_scores_beside_them(tmp_path):
    run = read_run(make_pictures(tmp_path / "run", {"a": 1}), bundle="polyp_ann")
    rows = {row[0].text: [cell.text for cell in row] for row in tables_of(paper_blocks([run]))["Table 1."].cells}
    # 56 of 64 pixels found, 8 false alarms, of 1600: Dice 0.875 and of the background 1528 / 1536
    own = rows["ours: run, two classes"]
    assert own[2] == f"{(0.875 + 1528 / 1536) / 2:.3f}"
    assert rows["ours: run, pooled"][4] == "0.875"


class TestCris:
    """Tables with a column for each backbone and a row for each strategy, one for each data set."""

    @pytest.fixture
    def made(self, tmp_path):
        def make(name: str, data: str, **knobs: str):
            folder = make_pictures(tmp_path / name, {"a": 1}, dataset_dir=f"data/{data}", **knobs)
            return read_run(folder, bundle="polyp_cris")

        return make

    def own(self, blocks) -> dict[str, list[list[str]]]:
        """Our rows in each table."""
        return {
            name: [[cell.text for cell in row] for row in table.cells if row[0].own]
            for name, table in tables_of(blocks).items()
        }

    def test_a_run_stands_under_its_backbone_beside_its_strategy(self, made):
        run = made("a", "Kvasir-SEG", backbone="unet_plus_plus", strategy="crf")
        by_picture, pooled = self.own(paper_blocks([run]))["Table 1."]
        assert by_picture[0] == "ours: a, Backbone+CRF, mean over cases"
        # 56 of 64 pixels found, 8 false alarms: Dice 0.875; probabilities of 0.875 and 0.25, 1600 pixels
        mse = (56 * 0.125**2 + 8 * 0.875**2 + 8 * 0.75**2 + 1528 * 0.25**2) / 1600
        assert by_picture[1:] == ["", "", "87.50", f"{mse:.3f}", "", ""]
        assert pooled == ["ours: a, Backbone+CRF, pooled", "", "", "87.50", "", "", ""]

    def test_a_run_stands_in_the_table_of_its_data(self, made):
        runs = [
            made("k", "kvasir-seg", backbone="unet", strategy="cris"),
            made("c", "CVC-ClinicDB", backbone="unet", strategy="cris"),
            made("x", "mine", backbone="unet", strategy="cris"),
        ]
        blocks = paper_blocks(runs)
        rows = {name: {row[0].split(",")[0] for row in found} for name, found in self.own(blocks).items()}
        assert rows == {"Table 1.": {"ours: k"}, "Table 2.": {"ours: c"}}
        assert blocks[-1].text == "Trained on data without a table here: x."

    def test_scores_on_the_training_part_stand_beside_no_test_scores(self, made):
        run = made("a", "Kvasir-SEG", backbone="unet", strategy="cris", part="train")
        blocks = paper_blocks([run])
        assert self.own(blocks) == {"Table 1.": [], "Table 2.": []}
        assert blocks[-1].text == "Scores on the training set are not compared with test scores: a."

    def test_a_run_of_no_recorded_backbone_stands_nowhere(self, made):
        assert self.own(paper_blocks([made("a", "Kvasir-SEG")])) == {"Table 1.": [], "Table 2.": []}


@pytest.mark.parametrize(("part", "rows"), [("train", 1), ("test", 1)])
def test_a_paper_that_has_scores_on_the_training_part_has_ours_beside(tmp_path, part, rows):
    folder = make_pictures(tmp_path / "run", {"a": 1}, dataset_dir="data/Kvasir-SEG", part=part)
    table = tables_of(paper_blocks([read_run(folder, bundle="polyp_deeplabv3plus")]))["Table 2."]
    assert len([row for row in table.cells if row[0].own]) == rows


def test_a_run_on_other_data_stands_beside_no_numbers_of_kvasir_seg(tmp_path):
    folder = make_pictures(tmp_path / "run", {"a": 1}, dataset_dir="data/CVC-ClinicDB")
    blocks = paper_blocks([read_run(folder, bundle="polyp_ann")])
    assert not any(row[0].own for table in tables_of(blocks).values() for row in table.cells)
    assert blocks[-1].text == "Trained on data without a table here: run."


def recorded(network, *input_shape: int) -> dict:
    """What an evaluation keeps of its network."""
    return {"network": network_record(network, input_shape[0], input_shape[1:])}


def test_network_of_a_run_is_counted_by_its_own_record(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("medseg3d.reports.bundle_blocks.paper_report", lambda papers: asked.extend(papers) or [])
    summary = replace(run.summary, context=recorded(SegNet(features=[4] * 5), 3, 64, 32))
    (row,) = tables_of(parameter_blocks([replace(run, summary=summary)], tmp_path)).popitem()[1].cells
    assert row[0].text.startswith("ours: pancreas_nl")
    parameters = sum(parameter.numel() for parameter in SegNet(features=[4] * 5).parameters())
    assert row[1].text == f"{parameters:,}"
    assert any(getattr(cell, "text", cell) == "3×64×32" for cell in row)
    assert asked == ["pancreas"]


def test_run_without_a_record_of_its_network_has_no_count_and_says_so(run, tmp_path):
    (words,) = parameter_blocks([replace(run, bundle="")], tmp_path)
    assert "its network could not be counted: SCORE_FILE" in words.text
