from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg3d.faults import Fault
from medseg3d.reports.parameters import as_json, as_markdown, count_parameters, parameter_report

BUNDLE = Path(__file__).parent.parent.parent / "bundles" / "pancreas_nl"


@pytest.fixture(scope="module")
def rows():
    return {row.network: row for row in parameter_report(BUNDLE, ["unetr", "swinunetr"])}


def test_the_ablation_is_counted_block_by_block(rows):
    counts = [rows[f"pancreas_nl, {n} non-local block{'s' * (n != 1)}"].parameters for n in range(5)]
    assert counts == [4_700_914, 4_734_002, 4_767_090, 4_800_178, 4_833_266]
    assert rows["pancreas_nl (this config)"].parameters == 4_767_090


def test_table_3_is_met_to_its_last_digit_where_it_can_be(rows):
    counts = {name: (row.parameters, row.paper_millions) for name, row in rows.items() if row.paper_millions}
    assert counts == {
        "SegResNet, no non-local block (2-D, 32 filters)": (6_299_106, 6.30),
        "SegResNet + 2 non-local blocks (2-D, 32 filters)": (6_562_530, 6.30),
        "UNETR (2-D, 96×96)": (87_558_402, 87.56),
        "SwinUNETR (2-D)": (25_139_324, 25.14),
    }
    assert "without them" in rows["SegResNet, no non-local block (2-D, 32 filters)"].note


def test_compared_networks_are_counted_in_3d(rows):
    assert round(rows["pancreas_nl, unetr"].parameters / 1e6, 2) == 92.80
    assert round(rows["pancreas_nl, swinunetr"].parameters / 1e6, 2) == 62.19


def test_weights_in_mib_are_four_bytes_a_parameter(rows):
    row = rows["pancreas_nl (this config)"]
    assert row.checkpoint_mib == pytest.approx(row.parameters * 4 / 2**20)  # GroupNorm has no buffers


def test_frozen_parameters_are_not_trainable():
    row = count_parameters({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}, "linear")
    assert (row.parameters, row.trainable) == (8, 8)


def test_an_override_counts():
    rows = parameter_report(BUNDLE, overrides={"init_filters": 32, "num_classes": 3, "nonlocal_blocks": 0})
    assert rows[0].parameters == 18_796_035


def test_an_overlay_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(Fault, match=r"MISSING_OVERLAY unet: .*one_volume, phantom, swinunetr, unetr"):
        parameter_report(BUNDLE, ["unet"])


def test_both_forms_hold_every_row(rows):
    table, items = as_markdown(list(rows.values())), json.loads(as_json(list(rows.values())))
    assert len(items) == len(rows) == len(table.splitlines()) - 2
    assert "| 4,767,090 | 4.77 |" in table
