from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from medseg3d.errors import UserError
from medseg3d.networks import UMambaEnc
from medseg3d.reports.parameters import bundle_report, paper_report, papers_of_bundle

BUNDLE = Path(__file__).parent.parent.parent / "bundles" / "pancreas_nl"


@pytest.fixture(scope="module")
def bundle_rows():
    rows = bundle_report(BUNDLE, ["unetr", "swinunetr"], ablation=True)
    return {row.network.removeprefix("pancreas_nl, "): row for row in rows}


@pytest.fixture(scope="module")
def pancreas_rows():
    return {row.network: row for row in paper_report(["pancreas"])}


def test_the_ablation_is_counted_block_by_block(bundle_rows):
    counts = [bundle_rows[f"{n} non-local block{'s' * (n != 1)}"].costs.parameters for n in range(5)]
    assert counts == [4_700_914, 4_734_002, 4_767_090, 4_800_178, 4_833_266]
    assert bundle_rows["this config"].costs.parameters == 4_767_090


def test_each_block_multiplies_as_its_projections_and_its_attention_do(bundle_rows):
    positions, channels = 12**3, 128  # the bottleneck of a 96×96×96 patch
    block = positions * 4 * channels * 64 + 2 * positions**2 * 64
    macs = [bundle_rows[f"{n} non-local block{'s' * (n != 1)}"].costs.macs for n in range(5)]
    assert [b - a for a, b in itertools.pairwise(macs)] == [block] * 4


def test_table_3_is_met_to_its_last_digit_where_it_can_be(pancreas_rows):
    counts = {
        name: (row.costs.parameters, row.paper_millions) for name, row in pancreas_rows.items() if row.paper_millions
    }
    assert counts == {
        "SegResNet, no non-local block (2-D, 32 filters)": (6_299_106, 6.30),
        "SegResNet + 2 non-local blocks (2-D, 32 filters)": (6_562_530, 6.30),
        "UNETR (2-D, 96×96)": (87_558_402, 87.56),
        "SwinUNETR (2-D)": (25_139_324, 25.14),
        "UMambaEnc (2-D, 96×96)": (38_694_610, 39.26),
    }
    assert "without them" in pancreas_rows["SegResNet, no non-local block (2-D, 32 filters)"].note
    assert "39.26 M for 224×336" in pancreas_rows["UMambaEnc (2-D, 96×96)"].note
    assert "6.56 M" in pancreas_rows["SegResNet + 2 non-local blocks (2-D, 32 filters)"].note


def test_a_size_gives_umambaenc_the_printed_count():
    with torch.device("meta"):  # shapes without values
        networks = [UMambaEnc(img_size=size) for size in ((256, 256), (224, 336), (288, 288))]
    millions = [round(sum(each.numel() for each in network.parameters()) / 1e6, 2) for network in networks]
    assert millions == [39.12, 39.26, 39.38]


def test_compared_networks_are_counted_at_the_bundle_s_own_input(bundle_rows):
    assert round(bundle_rows["unetr"].costs.parameters / 1e6, 2) == 92.80
    assert round(bundle_rows["swinunetr"].costs.parameters / 1e6, 2) == 62.19
    assert {row.input_shape for row in bundle_rows.values()} == {(1, 96, 96, 96)}


def test_weights_in_mib_are_four_bytes_a_parameter(bundle_rows):
    row = bundle_rows["this config"]
    assert row.numbers["checkpoint_mib"] == pytest.approx(row.costs.parameters * 4 / 2**20)  # GroupNorm has no buffers


def test_an_override_counts():
    knobs = {"init_filters": 32, "num_classes": 3, "nonlocal_blocks": 0, "roi_size": [32, 32, 32]}
    (row,) = bundle_report(BUNDLE, overrides=knobs)
    assert (row.costs.parameters, row.input_shape) == (18_796_035, (1, 32, 32, 32))


def test_a_bundle_without_in_channels_has_those_of_its_metadata(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    config = {"roi_size": [8, 6], "network_def": {"_target_": "torch.nn.Identity"}}
    metadata = {"network_data_format": {"inputs": {"image": {"num_channels": 3}}}}
    (folder / "train.json").write_text(json.dumps(config))
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (row,) = bundle_report(folder)
    assert (row.costs.parameters, row.input_shape) == (0, (3, 8, 6))


def test_a_bundle_without_blocks_has_no_ablation(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    config = {"roi_size": [8, 6], "network_def": {"_target_": "torch.nn.Identity", "in_channels": 1}}
    (folder / "train.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="UNKNOWN_KNOB --nonlocal_blocks"):
        bundle_report(folder, ablation=True)


@pytest.mark.parametrize("key", ["network_def", "roi_size"])
def test_a_config_without_a_network_or_its_input_is_refused(tmp_path, key):
    config = {"roi_size": [8, 6], "network_def": {"_target_": "torch.nn.Identity", "in_channels": 1}}
    del config[key]
    (tmp_path / "train.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"BAD_CONFIG .*: no {key}"):
        bundle_report(tmp_path)


def test_an_overlay_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UserError, match=r"MISSING_OVERLAY unet: .*swinunetr, .*unetr"):
        bundle_report(BUNDLE, ["unet"])


def test_a_paper_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UserError, match=r"BAD_VALUE --paper nature: .*pancreas, ann, resunetpp"):
        paper_report(["nature"])


@pytest.mark.parametrize(
    ("bundle", "papers"),
    [("bundles/pancreas_nl_2d", ["pancreas"]), ("polyp_ann", ["ann"]), ("polyp_cris/", ["cris"]), ("annual", [])],
)
def test_a_bundle_s_name_tells_its_paper(bundle, papers):
    assert papers_of_bundle(bundle) == papers
