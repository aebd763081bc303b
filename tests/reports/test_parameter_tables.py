from __future__ import annotations

import csv
import io
import json

import pytest

from medseg3d.networks.costs import ModuleCosts, NetworkCosts
from medseg3d.reports.parameters import COLUMNS, ParameterRow, as_csv, as_json, as_markdown, as_text
from medseg3d.reports.wording import SENTENCES

MODULES = (
    ModuleCosts("encoder", "Encoder", 3_000_000, 1_500_000_000),
    ModuleCosts("encoder.0", "Conv2d", 750_000, 0),
    ModuleCosts("head", "Conv2d", 1_000_000, 500_000_000),
)
MIB = 2**20
COSTS = NetworkCosts(4_000_000, 3_999_000, int(15.26 * MIB), 2_000_000_000, int(5.25 * MIB), 26 * MIB, MODULES)
NET = ParameterRow("net", "paper A", (3, 96, 64), COSTS, 6.3, "see below")
OTHER = ParameterRow("other net", "paper B", (1, 8, 8, 8), NetworkCosts(12, 12, 0, 40, 0, 0, ()))


def test_text_has_a_line_for_each_network_under_its_source():
    lines = as_text([NET, OTHER]).splitlines()
    assert lines[2:6] == [
        "paper A",
        "  net         4,000,000      4.00      6.30  3,999,000  2.00          5.2      26.0     15.3  3×96×64   [1]",
        "paper B",
        "  other net          12      0.00                   12  0.00          0.0       0.0      0.0  1×8×8×8",
    ]
    assert "[1] see below" in lines


def test_text_explains_what_is_not_counted():
    text = " ".join(as_text([OTHER]).split())
    assert "selective scan of a Mamba layer, the lattice of a CRF) is not counted" in text
    assert all(line in text for line in SENTENCES["counted"])


def test_modules_are_indented_and_shown_down_to_the_depth():
    lines = as_text([NET], depth=2).splitlines()
    assert lines[-4:] == [
        "module   kind     parameters  share   GMAC  share",
        "encoder  Encoder   3,000,000  75.0%  1.500  75.0%",
        "  0      Conv2d      750,000  18.8%  0.000   0.0%",
        "head     Conv2d    1,000,000  25.0%  0.500  25.0%",
    ]
    assert "encoder" in as_text([NET], depth=1)
    assert "750,000" not in as_text([NET], depth=1)
    assert "encoder" not in as_text([NET])


def test_markdown_has_as_many_cells_in_every_line():
    lines = [line for line in as_markdown([NET, OTHER]).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 4}
    assert "| net | paper A | 4,000,000 | 4.00 | 6.30 | 3,999,000 |" in lines[2]


def test_markdown_lists_modules_under_the_name_of_their_network():
    text = as_markdown([NET, OTHER], depth=2)
    assert "### net (paper A)\n\n| module | kind | parameters | share | GMAC | share |\n" in text
    assert "| &emsp;0 | Conv2d | 750,000 | 18.8% |" in text


def test_csv_gives_numbers_in_full():
    first, encoder, *_ = csv.DictReader(io.StringIO(as_csv([NET, OTHER], depth=1)))
    assert (first["network"], first["input_shape"], first["module"]) == ("net", "3x96x64", "")
    assert (float(first["backward_mib"]), int(first["macs"]), first["note"]) == (26.0, 2_000_000_000, "see below")
    assert (encoder["network"], encoder["module"], encoder["parameters"]) == ("net", "encoder", "3000000")


def test_json_holds_every_row_with_its_modules():
    items = json.loads(as_json([NET, OTHER], depth=1))
    assert [item["network"] for item in items] == ["net", "other net"]
    assert items[0]["paper_millions"] == 6.3
    assert items[1]["paper_millions"] is None
    assert [module["path"] for module in items[0]["modules"]] == ["encoder", "head"]


@pytest.mark.parametrize("write", [as_text, as_markdown, as_csv, as_json])
def test_no_form_ends_with_an_empty_line(write):
    assert not write([NET, OTHER]).endswith("\n")
