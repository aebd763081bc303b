"""The papers' tables: the digits, the flags that the digits themselves give, and ours beside them."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from paper_checks import (
    below_blank,
    dice_of_iou,
    impossible,
    iou_of_dice,
    least_accuracy,
    split_two_classes,
    with_foreground,
)

from medseg3d.networks import SegResNetNL
from medseg3d.reports.document import Cell
from medseg3d.reports.paper_table import Column, Flag, PaperTable, as_block
from medseg3d.reports.papers import TABLES

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


KVASIR_FOREGROUND = 0.156
"""Part of the pixels of Kvasir-SEG that is polyp, measured on 880 of its 1000 masks; mean over images 0.154."""

SEGRESNET_2D = 6_299_106
"""Parameters of MONAI's SegResNet in the setting of the pancreas paper: 2-D, 3 channels in, 2 out, 32 filters."""

NONLOCAL_BLOCK_2D = 131_712
"""Parameters of one non-local block at its bottleneck: 256 channels, inner width 128, biases."""

SAID = {  # flags that rest on a paper's text or code, not on its digits
    "tells nothing": "the pancreas fills so little that hardly a mask has less than 99.9 %",
    "not found again": "the count of its public code depends on the image size: 39.12 M for 256, 39.38 M for 288",
    "not comparable with any IoU": "its code takes Keras' MeanIoU of probabilities, which casts them to integers "
    "(tensorflow #32875, #39173), over background and polyp",
}


def flagged(name: str) -> set[tuple[str, str]]:
    return {cell for flag in TABLES[name].flags for cell in flag.cells}


@pytest.fixture
def table() -> PaperTable:
    columns = (
        Column("net", "Network"),
        Column("dice", "Dice", "high", score="dice", over=("cases",)),
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


def number(name: str, row: str, column: str) -> float:
    value = TABLES[name].value(row, column)
    assert value is not None
    return value


def half_digit(*texts: str | None) -> float:
    """Half of the last digit of the coarsest: what rounding may have changed."""
    return max(0.5 * 10.0 ** -len(str(text).partition(".")[2]) for text in texts)


def impossible_pairs(name: str, scale: float = 1) -> list[Flag]:
    """A flag for each row whose Dice and IoU cannot belong together."""
    flags = []
    for row_name, row in zip(TABLES[name].row_names, TABLES[name].rows, strict=True):
        d, j = (number(name, row_name, key) / scale for key in ("dice", "iou"))
        if statement := impossible(d, j, half_digit(row["dice"], row["iou"]) / scale):
            why = (
                f"one count with that IoU has Dice {dice_of_iou(j):.4f}, one with that Dice has IoU "
                f"{iou_of_dice(d):.4f}; a mean over cases of IoU lies between that and the mean Dice"
            )
            flags.append(Flag(((row_name, "dice"), (row_name, "iou")), statement, why))
    return flags


def of_pancreas_table_2() -> list[Flag]:
    why = "the text says that Dice rises with the number of blocks; no seeds and no spread are given"
    return [
        Flag(((more, "dice"),), f"lower than with {fewer} blocks", why)
        for fewer, more in pairwise(TABLES["pancreas_table_2"].row_names)
        if number("pancreas_table_2", more, "dice") < number("pancreas_table_2", fewer, "dice")
    ]


def of_pancreas_table_3() -> list[Flag]:
    own = "SegResNet + 2 non-local"
    counted = SEGRESNET_2D + 2 * NONLOCAL_BLOCK_2D
    printed = {row: number("pancreas_table_3", row, "parameters") for row in (own, "SwinUNETR")}
    assert printed[own] == round(SEGRESNET_2D / 1e6, 2)
    assert number("pancreas_table_3", own, "counted") == round(counted / 1e6, 2)
    saved = 100 * (1 - printed[own] / printed["SwinUNETR"])
    assert saved <= 75
    return [
        Flag(
            ((own, "parameters"), (own, "counted")),
            f"{printed[own]:.2f} M is SegResNet without the two blocks",
            f"it has {SEGRESNET_2D:,} parameters, each block {NONLOCAL_BLOCK_2D:,} more, so with two {counted:,}",
        ),
        Flag(
            (("SwinUNETR", "parameters"),),
            f"{saved:.1f} % fewer parameters than this, by the printed counts",
            'the text says "over 75%" of the transformers',
        ),
    ]


def of_ann_epochs() -> list[Flag]:
    assert number("ann_epochs", "500", "mprecision") < number("ann_epochs", "100", "mprecision")
    closed = [(row, number("ann_epochs", row, "mdice_closed")) for row in TABLES["ann_epochs"].row_names]
    assert closed == [(row, number("ann_epochs", row, "mdice")) for row, _ in closed]
    return [
        Flag(
            tuple((row, key) for row, _ in closed for key in ("mdice", "miou")),
            "means over the classes background and polyp",
            "from the printed polyp IoU and mIoU, the mDice of pooled counts is the printed one to the last digit",
        ),
        Flag((("500", "mprecision"),), "lower than at epoch 100", 'the text says "goes up"'),
    ]


def of_ann_table_1() -> list[Flag]:
    iou = number("ann_epochs", "500", "iou_foreground") / 100
    why = f"shown by the paper's own epoch figures; the polyp alone has Dice {dice_of_iou(iou):.3f} and IoU {iou:.3f}"
    cells = (("Proposed", "dice"), ("Proposed", "iou"))
    return [Flag(cells, "means over background and polyp, beside numbers of the polyp alone", why)]


def of_deeplab_table_3() -> list[Flag]:
    rows = TABLES["deeplab_table_3"].row_names
    accuracy = number("deeplab_table_3", rows[0], "accuracy")
    iou, dice = (number("deeplab_table_2", "Test", key) for key in ("iou", "dice"))
    assert abs(accuracy - iou) <= 2e-4
    cells = tuple((row, "accuracy") for row in rows)
    least = least_accuracy(dice, KVASIR_FOREGROUND)
    why = f"polyps fill {KVASIR_FOREGROUND} of Kvasir-SEG; Table 2's Dice {dice:.3f}, if pooled, needs at least "
    why += f"{least:.3f}"
    return [
        *impossible_pairs("deeplab_table_3"),
        Flag(cells, below_blank(accuracy, KVASIR_FOREGROUND), why),
        Flag(cells, f"is the mean IoU of Table 2, {iou}, under another name", "equal but for rounding"),
    ]


def of_cris(name: str) -> list[Flag]:
    flags = []
    for column in TABLES[name].columns[1:]:
        best = TABLES[name].best(column)
        equal, others = "Proposed" in best, [row for row in best if row != "Proposed"]
        if others:
            statement = f"{', '.join(others)} is {'as good as' if equal else 'better than'} the proposed strategy"
            said = "prints the latter alone in bold" if equal else None
            why = f"the paper {said}" if said else 'the text says "consistently outperforms"'
            flags.append(Flag(tuple((row, column.key) for row in best), statement, why))
    return flags


RECOMPUTED = {
    "pancreas_table_2": of_pancreas_table_2,
    "pancreas_table_3": of_pancreas_table_3,
    "ann_table_1": of_ann_table_1,
    "ann_epochs": of_ann_epochs,
    "resunetpp_original": lambda: impossible_pairs("resunetpp_original", scale=100),
    "deeplab_table_2": lambda: impossible_pairs("deeplab_table_2"),
    "deeplab_table_3": of_deeplab_table_3,
    "cris_table_1": lambda: of_cris("cris_table_1"),
    "cris_table_2": lambda: of_cris("cris_table_2"),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_flag_follows_from_the_printed_digits_or_is_said_by_the_paper(name):
    computed = RECOMPUTED[name]()
    said = [flag for flag in TABLES[name].flags if SAID.get(flag.statement) == flag.why]
    assert [flag for flag in TABLES[name].flags if flag not in said] == computed


@pytest.mark.parametrize("row", TABLES["ann_epochs"].row_names)
def test_derived_columns_of_the_ann_paper_follow_from_its_printed_ones(row):
    iou, miou, mdice = (number("ann_epochs", row, key) / 100 for key in ("iou_foreground", "miou", "mdice"))
    classes = with_foreground(iou, miou)
    derived = {
        "dice_foreground": classes.dice_foreground,
        "iou_background": classes.iou_background,
        "dice_background": classes.dice_background,
        "mdice_closed": classes.mdice,
    }
    assert {key: number("ann_epochs", row, key) for key in derived} == {
        key: round(100 * value, 2) for key, value in derived.items()
    }
    rounding = (-5e-5, 5e-5)
    ious = [split_two_classes(mdice + a, miou + b).iou_foreground for a in rounding for b in rounding]
    note = f"put the polyp's IoU between {100 * min(ious):.1f} and {100 * max(ious):.1f};"
    assert any(each.startswith(f"Epoch {row}:") and note in each for each in TABLES["ann_epochs"].notes)


def test_the_polyp_alone_has_its_place_among_the_others():
    table = TABLES["ann_table_1"]
    others = [row for row in table.row_names if row != "Proposed"]
    derived = {key: number("ann_table_1", "Proposed", f"{key}_foreground") for key in ("dice", "iou")}
    places = {key: 1 + sum(number("ann_table_1", row, key) > derived[key] for row in others) for key in derived}
    gaps = {
        row: number("ann_table_1", row, "iou") - iou_of_dice(number("ann_table_1", row, "dice"))
        for row in table.row_names
    }
    own = gaps.pop("Proposed")
    assert f"number {places['dice']} by Dice and {derived['iou']:.3f} number {places['iou']} by IoU" in table.notes[0]
    assert f"{min(gaps.values()):.3f} to {max(gaps.values()):.3f} in the others' rows, {own:.3f}" in table.notes[1]


def test_the_deeplab_papers_dice_is_one_minus_its_loss():
    rows = TABLES["deeplab_table_2"].row_names
    losses = [number("deeplab_table_2", row, "dice_loss") for row in rows]
    assert [number("deeplab_table_2", row, "dice") for row in rows] == [round(1 - loss, 4) for loss in losses]


@pytest.mark.parametrize("name", ["cris_table_1", "cris_table_2"])
def test_where_an_fcn_alone_does_harm_is_said(name):
    nets = {"unet": "UNet", "unetpp": "UNet++", "segnet": "SegNet"}
    fcn, backbone = ({key: number(name, row, f"{key}_dice") for key in nets} for row in ("Backbone+FCN", "Backbone"))
    worse = [nets[key] for key in nets if fcn[key] < backbone[key]]
    said = (f"The added FCN alone lowers the Dice of {' and '.join(worse)}.",) if worse else ()
    assert tuple(TABLES[name].notes) == said


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
    empty = [
        column.key
        for column in table.columns[1:]
        if [table.value(row, column.key) for row in table.row_names] == [None] * len(table.rows)
    ]
    assert empty == []


@pytest.mark.parametrize("name", TABLES)
def test_every_flag_is_seen_at_its_cell_and_spelled_out_below(name):
    table = TABLES[name]
    block = as_block(table)
    seen = {(row[0].text, mark) for row in block.cells for cell in row if cell.mark for mark in cell.mark.split(", ")}
    assert block.marks == {letter: str(flag) for letter, flag in table.marks.items()}
    assert {(row, letter) for letter, flag in table.marks.items() for row, _ in flag.cells} == seen


def test_the_deeplab_papers_table_3_cannot_be_and_its_table_2_can():
    pairs = {("Table 3", "iou"), ("Table 3", "dice"), ("Text", "iou"), ("Text", "dice")}
    assert pairs <= flagged("deeplab_table_3")
    statements = [flag.statement for flag in TABLES["deeplab_table_3"].flags]
    assert statements[0].startswith("IoU 0.8039 is above Dice 0.4524")
    assert statements[1].startswith("IoU 0.2282 is below 0.4197")
    assert statements[2].startswith("pixel accuracy 0.7215 is below 0.844")
    assert statements[3].startswith("is the mean IoU of Table 2, 0.7216")
    assert TABLES["deeplab_table_2"].flags == []
    assert [TABLES["deeplab_table_2"].value(row, "dice") for row in ("Train", "Validation", "Test")] == [
        0.9095,
        0.8048,
        0.8314,
    ]


def test_nothing_of_ours_stands_beside_what_cannot_be():
    assert not any(column.score for column in TABLES["deeplab_table_3"].columns)
    assert not any(column.score for column in TABLES["resunetpp_original"].columns if column.key == "iou")


def test_the_ann_papers_polyp_is_derived_and_its_means_are_flagged():
    epochs = TABLES["ann_epochs"]
    derived = [[epochs.value(epoch, key) for key in ("dice_foreground", "iou_background")] for epoch in ("100", "500")]
    assert derived == [[86.95, 95.36], [91.12, 96.55]]
    closed, printed = ([epochs.value(epoch, key) for epoch in ("100", "500")] for key in ("mdice_closed", "mdice"))
    assert closed == printed
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
    assert TABLES["cris_table_1"].notes == []
    assert tuple(TABLES["cris_table_2"].notes) == ("The added FCN alone lowers the Dice of UNet++ and SegNet.",)


def test_runs_of_cris_find_their_place_by_backbone_strategy_and_data():
    first, second = TABLES["cris_table_1"], TABLES["cris_table_2"]
    assert {column.backbone for column in first.columns[1:]} == {"unet", "unet_plus_plus", "segnet"}
    assert list(first.levels.values()) == first.row_names
    assert [table.is_of("data/Kvasir-SEG") for table in (first, second)] == [True, False]
    assert [table.is_of("/mnt/cvc-clinicdb/") for table in (first, second)] == [False, True]
    assert not any(table.is_of(f"data/{name}") for table in (first, second) for name in ("Kvasir-Sessile", "ETIS"))
    with pytest.raises(ValueError, match=r"has no rows \['D'\] for levels"):
        dataclasses.replace(first, levels={"d": "D"})


def test_the_best_of_a_column_is_by_its_better_end(table):
    assert [table.best(column) for column in table.columns] == [[], ["B", "C"], ["B"], []]


def test_ours_stands_beside_what_it_compares_with(table):
    block = as_block(table, {"B": {"dice": "0.91"}})
    rows = block.cells
    assert [head for head, _ in block.heads] == ["Network", "Dice", "ours", "MSE", "F1 (derived)"]
    assert rows[1] == [
        Cell("B"),
        Cell("0.90", strong=True),
        Cell("0.91", own=True),
        Cell("0.1", strong=True),
        Cell("0.5"),
    ]
    assert rows[0][1].mark == "a, b"
    assert rows[0][2] == Cell("", own=True)


def test_a_table_that_does_not_fit_is_refused(table):
    with pytest.raises(ValueError, match="Table 7: a row must have the columns"):
        dataclasses.replace(table, rows=({"net": "A"},))
    with pytest.raises(ValueError, match="row names must differ"):
        dataclasses.replace(table, rows=(table.rows[0], table.rows[0]))
    with pytest.raises(ValueError, match=r"Table 7 has no cell \('D', 'dice'\) to flag"):
        dataclasses.replace(table, flags=(Flag((("D", "dice"),), "odd"),))
