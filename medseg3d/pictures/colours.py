"""The colours of everything that is drawn."""

from __future__ import annotations

OKABE_ITO = {
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}
"""Okabe & Ito (2008), "Color Universal Design": told apart with every common kind of colour vision."""

LABEL_COLOURS = tuple(OKABE_ITO[name] for name in ("orange", "sky", "purple", "green", "yellow", "vermillion", "blue"))
"""Of the labels of a map, and of several masks, in turn."""

TRUTH = OKABE_ITO["yellow"]
PREDICTION = OKABE_ITO["sky"]

ERROR_COLOURS = {1: OKABE_ITO["green"], 2: OKABE_ITO["vermillion"], 3: OKABE_ITO["sky"]}
"""Of what is found, missed, and falsely found, by the numbers of `medseg3d.pictures.overlays.error_map`."""
