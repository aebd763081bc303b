from __future__ import annotations

import pytest

from medseg3d.errors import UserError
from medseg3d.experiments.search import Dimension, parse_search


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log:1e-6:1e-2", Dimension("log", (1e-6, 1e-2))),
        ("uniform:-1:0.5", Dimension("uniform", (-1.0, 0.5))),
        ("int:2:8", Dimension("int", (2, 8))),
        ("choice:unet,segnet", Dimension("choice", ("unet", "segnet"))),
        ("choice:[96, 96],[128, 128]", Dimension("choice", ("[96, 96]", "[128, 128]"))),
        ("choice:a:b,c", Dimension("choice", ("a:b", "c"))),
    ],
)
def test_a_range_is_read_and_written_back(text, expected):
    dimension = parse_search({"knob": text})["knob"]
    assert dimension == expected
    assert parse_search({"knob": str(dimension)})["knob"] == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "log", "log:1", "log:1:2:3", "log:0:1", "log:-1:1", "uniform:2:1", "uniform:1:1", "uniform:0:inf"),
        *("uniform:nan:1", "int:1.5:2", "int:a:b", "choice:", "choice:a", "choice:a,,b", "choice:a,a", "choice:[1,2"),
        *("normal:0:1", "1e-6:1e-2"),
    ],
)
def test_what_is_no_range_is_refused(text):
    with pytest.raises(UserError, match=r"BAD_VALUE --search knob="):
        parse_search({"knob": text})


def test_a_search_of_nothing_is_refused():
    with pytest.raises(UserError, match="BAD_VALUE --search: no option to search"):
        parse_search({})


def test_a_choice_is_stored_as_text_and_used_as_a_value():
    class Trial:
        def suggest_categorical(self, name, choices):
            assert all(isinstance(choice, str) for choice in choices)
            return choices[0]

    dimension = Dimension("choice", ("[96, 96]", "true"))
    assert dimension.draw(Trial(), "picture_size") == [96, 96]
    assert dimension.value("true") is True
