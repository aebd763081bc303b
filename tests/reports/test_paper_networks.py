from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from medseg3d.networks.costs import network_costs
from medseg3d.reports.papers import PAPER_NETWORKS, PAPERS, TABLES, PaperNetwork, data_of


def built(each: PaperNetwork) -> nn.Module:
    return ConfigParser({"network": dict(each.definition)}).get_parsed_content("network")


def macs(paper: str, name: str) -> int:
    (each,) = [each for each in PAPER_NETWORKS if (each.paper, each.name) == (paper, name)]
    return network_costs(built(each), each.input_shape).macs


def test_every_paper_has_its_network():
    assert {each.paper for each in PAPER_NETWORKS} == set(PAPERS)


@pytest.mark.parametrize(
    ("each", "data"),
    [(each, data) for each in PAPER_NETWORKS for data in each.dice],
    ids=lambda each: getattr(each, "name", each),
)
def test_the_dice_is_in_a_table_of_the_network_s_paper_and_of_that_data(each, data):
    table, row, column = each.dice[data]
    assert TABLES[table].paper == each.paper
    assert TABLES[table].value(row, column) is not None
    if each.printed_dice:
        assert TABLES[table].value(row, each.printed_dice) is not None
    folder = data.rpartition(", ")[2]
    assert TABLES[table].is_of(folder)
    assert data_of(each.paper, folder) == data


def test_printed_counts_are_those_of_table_3():
    networks = [each for each in PAPER_NETWORKS if each.paper_millions]
    printed = {row: each.paper_millions for each in networks for _, row, _ in each.dice.values()}
    del printed["0"]  # SegResNet without blocks, in Table 2, which has no counts
    table = TABLES["pancreas_table_3"]
    assert printed == {row: table.value(row, "parameters") for row in printed}
    assert len(printed) >= 3


def test_the_polyp_networks_have_the_counts_of_their_references():
    with torch.device("meta"):  # shapes without values
        networks = {each.name: built(each) for each in PAPER_NETWORKS if each.paper != "pancreas"}
    counts = {name: sum(each.numel() for each in network.parameters()) for name, network in networks.items()}
    del counts["DeepLabv3+, SE-ResNeXt-50"]  # has none
    assert counts == {
        "asymmetric non-local net": 46_196_292,
        "ResUNet++": 4_062_993,
        "ResUNet": 8_223_809,
        "DeepLabv3+, ResNet-50": 26_691_250,
        "U-Net": 31_113_217,
        "U-Net + CRF": 31_113_217 + 12,
        "U-Net + refinement": 31_113_217 + 76_193,
        "UNet++": 9_119_233,
        "UNet++ + CRF": 9_119_233 + 12,
        "UNet++ + refinement": 9_119_233 + 76_193,
        "SegNet": 29_443_585,
        "SegNet + CRF": 29_443_585 + 12,
        "SegNet + refinement": 29_443_585 + 76_193,
    }


def test_resunetpp_multiplies_as_often_as_published():
    assert round(macs("resunetpp", "ResUNet++") / 1e9, 1) == 29.6  # 15.7 for 256×256


def test_the_refinement_multiplies_at_every_pixel():
    difference = macs("cris", "SegNet + refinement") - macs("cris", "SegNet")
    assert difference == 256 * 256 * (32 + (49 + 25) * 32 * 32 + 9 * 32)
