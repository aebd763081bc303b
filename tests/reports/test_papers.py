"""The papers' tables: the digits, the flags that the digits themselves give, and ours beside them."""

from __future__ import annotations

import dataclasses

import pytest

from medseg3d.networks import SegResNetNL
from medseg3d.reports.paper_table import Column, Flag, PaperCell, PaperTable, as_markdown, side_by_side
from medseg3d.reports.papers import NONLOCAL_BLOCK_2D, SEGRESNET_2D, TABLES

RESULTS = {  # the figure each abstract or conclusion is about
    "pancreas_table_2": ("2", "dice", 91.51),
    "pancreas_table_3": ("SegResNet + 2 non-local", "recall", 91.97),
    "ann_table_1": ("Proposed", "dice", 0.947),
    "ann_epochs": ("500", "miou", 90.12),
    "resunetpp_original": ("Kvasir-SEG", "dice", 81.33),
    "deeplab_table_2": ("Test", "iou", 0.7216),
    "deeplab_table_3": ("Table 3", "accuracy", 0.7215),
    "cris_table_1": ("Proposed", "segnet_dice", 86.88),
    "cris_table_2": ("Proposed", "segnet_mse", 0.008),
}


def flagged(name: str) -> set[tuple[str, str]]:
    return {cell for flag in TABLES[name].flags for cell in flag.cells}


@pytest.fixture
def table() -> PaperTable:
    columns = (
        Column("net", "Network"),
        Column("dice", "Dice", "high", ours=("dice_mean",)),
        Column("mse", "MSE", "low"),
        Column("f1", "F1", "high", derived=True),
    )
    rows = (
        {"net": "A", "dice": "0.80", "mse": "0.2", "f1": "0.5"},
        {"net": "B", "dice": "0.90", "mse": "0.1", "f1": "0.5"},
        {"net": "C", "dice": "0.9", "mse": None, "f1": None},
    )
    flags = (Flag((("A", "dice"), ("A", "mse")), "odd", "so it is"), Flag((("A", "dice"),), "very odd"))
    return PaperTable("p", "Table 7", "Three networks.", "Mean over cases.", columns, rows, ("A note.",), flags)


def test_every_table_has_its_result():
    assert {name: TABLES[name].value(row, column) for name, (row, column, _) in RESULTS.items()} == {
        name: value for name, (_, _, value) in RESULTS.items()
    }
    assert list(RESULTS) == list(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_every_number_stands_under_a_convention(name):
    table = TABLES[name]
    assert table.caption
    assert table.convention
    for column in table.columns[1:]:
        assert [table.value(row, column.key) for row in table.row_names] != [None] * len(table.rows)


@pytest.mark.parametrize("name", TABLES)
def test_every_flag_is_seen_at_its_cell_and_spelled_out_below(name):
    table = TABLES[name]
    lines = as_markdown(table).splitlines()
    for letter, flag in table.marks.items():
        assert f"- [{letter}] {flag}" in lines
        for row, _ in flag.cells:
            (line,) = [line for line in lines if line.startswith(f"| {row} ")]
            assert letter in {mark for cell in line.split("[")[1:] for mark in cell.split("]")[0].split(", ")}
    assert all(f"- {note}" in lines for note in table.notes)


def test_the_deeplab_papers_table_3_cannot_be_and_its_table_2_can():
    pairs = {("Table 3", "iou"), ("Table 3", "dice"), ("Text", "iou"), ("Text", "dice")}
    assert pairs <= flagged("deeplab_table_3")
    statements = [flag.statement for flag in TABLES["deeplab_table_3"].flags]
    assert statements[0].startswith("IoU 0.8039 is above Dice 0.4524")
    assert statements[1].startswith("IoU 0.2282 is below 0.4197")
    assert statements[2].startswith("pixel accuracy 0.7215 is below 0.844")
    assert statements[3].startswith("is the mean IoU of Table 2, 0.7216")
    assert TABLES["deeplab_table_2"].flags == ()
    assert [TABLES["deeplab_table_2"].value(row, "dice") for row in ("Train", "Validation", "Test")] == [
        0.9095,
        0.8048,
        0.8314,
    ]


def test_nothing_of_ours_stands_beside_what_cannot_be():
    assert not any(column.ours for column in TABLES["deeplab_table_3"].columns)
    assert not any(column.ours for column in TABLES["resunetpp_original"].columns if column.key == "iou")


def test_the_ann_papers_polyp_is_derived_and_its_means_are_flagged():
    epochs = TABLES["ann_epochs"]
    for epoch, dice, background in (("100", 86.95, 95.36), ("500", 91.12, 96.55)):
        assert epochs.value(epoch, "dice_foreground") == dice
        assert epochs.value(epoch, "iou_background") == background
        assert epochs.value(epoch, "mdice_closed") == epochs.value(epoch, "mdice")
    first = TABLES["ann_table_1"]
    assert (first.value("Proposed", "dice_foreground"), first.value("Proposed", "iou_foreground")) == (0.911, 0.837)
    assert flagged("ann_table_1") == {("Proposed", "dice"), ("Proposed", "iou")}
    assert "number 9 by Dice and 0.837 number 11 by IoU" in first.notes[0]
    assert "0.007 to 0.032 in the others' rows, 0.002 in the last" in first.notes[1]
    assert "between 83.4 and 83.8; 83.69 is printed" in epochs.notes[1]


def test_the_original_resunetpps_second_pair_cannot_be():
    (pair, _) = TABLES["resunetpp_original"].flags
    assert pair.cells == (("CVC-612", "dice"), ("CVC-612", "iou"))


def test_the_pancreas_papers_parameters_are_those_without_the_blocks():
    settings = {"spatial_dims": 2, "init_filters": 32, "in_channels": 3, "out_channels": 2}
    counts = [sum(p.numel() for p in SegResNetNL(**settings, nonlocal_blocks=blocks).parameters()) for blocks in (0, 2)]
    assert counts == [SEGRESNET_2D, SEGRESNET_2D + 2 * NONLOCAL_BLOCK_2D]
    table = TABLES["pancreas_table_3"]
    assert table.value("SegResNet + 2 non-local", "parameters") == round(counts[0] / 1e6, 2) == 6.30
    assert table.value("SegResNet + 2 non-local", "counted") == round(counts[1] / 1e6, 2) == 6.56
    assert "74.9 % fewer parameters" in str(table.marks["c"])


def test_the_ablations_fall_at_three_blocks_is_flagged():
    assert TABLES["pancreas_table_2"].marks["a"].cells == (("3", "dice"),)


def test_where_cris_is_not_the_best_is_flagged():
    assert flagged("cris_table_1") == {("Backbone+FCN", "unet_mse")}
    assert flagged("cris_table_2") == {
        ("Backbone+FCN", "unet_mse"),
        ("Proposed", "unet_mse"),
        ("Backbone+CRF", "unetpp_dice"),
    }
    assert TABLES["cris_table_1"].notes == ()
    assert TABLES["cris_table_2"].notes == ("The added FCN alone lowers the Dice of UNet++ and SegNet.",)


def test_runs_of_cris_find_their_place_by_backbone_strategy_and_data():
    first, second = TABLES["cris_table_1"], TABLES["cris_table_2"]
    assert {column.backbone for column in first.columns[1:]} == {"unet", "unet_plus_plus", "segnet"}
    assert list(first.strategies.values()) == first.row_names
    assert [table.is_of("data/Kvasir-SEG") for table in (first, second)] == [True, False]
    assert [table.is_of("/mnt/cvc-clinicdb/") for table in (first, second)] == [False, True]
    assert not any(table.is_of(f"data/{name}") for table in (first, second) for name in ("Kvasir-Sessile", "ETIS"))
    with pytest.raises(ValueError, match=r"has no rows \['D'\] for strategies"):
        dataclasses.replace(first, strategies={"d": "D"})


def test_the_best_of_a_column_is_by_its_better_end(table):
    assert [table.best(column) for column in table.columns] == [[], ["B", "C"], ["B"], []]


def test_ours_stands_beside_what_it_compares_with(table):
    headings, rows = side_by_side(table, {"B": {"dice": "0.91"}})
    assert headings == ["Network", "Dice", "ours", "MSE", "F1 (derived)"]
    assert rows[1] == [
        PaperCell("B"),
        PaperCell("0.90", best=True),
        PaperCell("0.91", own=True),
        PaperCell("0.1", best=True),
        PaperCell("0.5"),
    ]
    assert rows[0][1].mark == "a, b"
    assert rows[0][2] == PaperCell("", own=True)


def test_markdown_has_marks_flags_and_notes(table):
    assert as_markdown(table, {"B": {"dice": "0.91 | n 3"}}).splitlines() == [
        "**Table 7.** Three networks. Mean over cases.",
        "",
        "| Network | Dice | ours | MSE | F1 (derived) |",
        "|---|---:|---:|---:|---:|",
        "| A | 0.80 [a, b] |  | 0.2 [a] | 0.5 |",
        "| B | **0.90** | 0.91 \\| n 3 | **0.1** | 0.5 |",
        "| C | **0.9** |  |  |  |",
        "",
        "- [a] odd: so it is",
        "- [b] very odd",
        "- A note.",
    ]


def test_ours_of_no_row_or_no_comparable_column_is_refused(table):
    with pytest.raises(ValueError, match=r"rows \['A', 'B', 'C'\] of Table 7, found 'D'"):
        side_by_side(table, {"D": {"dice": "0.9"}})
    with pytest.raises(ValueError, match=r"columns \['dice'\] of Table 7, found 'mse'"):
        as_markdown(table, {"A": {"mse": "0.9"}})


def test_a_table_that_does_not_fit_is_refused(table):
    with pytest.raises(ValueError, match="Table 7: a row must have the columns"):
        dataclasses.replace(table, rows=({"net": "A"},))
    with pytest.raises(ValueError, match="row names must differ"):
        dataclasses.replace(table, rows=(table.rows[0], table.rows[0]))
    with pytest.raises(ValueError, match=r"Table 7 has no cell \('D', 'dice'\) to flag"):
        dataclasses.replace(table, flags=(Flag((("D", "dice"),), "odd"),))
