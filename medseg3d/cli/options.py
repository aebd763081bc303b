"""The parser of all verbs, made of verbs.json: what argparse is told of each option, word for word."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medseg3d import __version__
from medseg3d.limits import PIXELS, VOXELS

VERBS: Mapping[str, Mapping[str, Any]] = json.loads(Path(__file__).with_name("verbs.json").read_text(encoding="utf-8"))
"""Each verb: `help`, `epilog`, `options`, `actions` with options of their own, `takes_knobs` where `--key value` pairs
that are no option are knobs of a bundle, and `renamed`, options of earlier versions with those of today, which are
accepted for one version more. An option with the one key `limit` bounds an image by its header."""

RENAMED_VERBS = {"study": "reproduce"}
"""Earlier names of verbs, accepted for one version more and not shown."""

EPILOG = """\
To train, use MONAI's own command:
  python -m monai.bundle run training --config_file bundles/pancreas_nl/train.json

exit codes: 0 success, 1 bad data or result, 2 wrong usage, 3 some cases failed
Research software; not a medical device and not for clinical use.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="medseg3d",
        description="Segmentation of the pancreas in CT and of polyps in colonoscopy: five papers rebuilt on MONAI.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"medseg3d {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error, for a bug report")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, about in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=about["help"],
            description=about["help"],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="\n".join(about.get("epilog", ())) or None,
            allow_abbrev=False,  # `--over` must not be taken for `--overwrite` where it may be a misspelt knob
        )
        add_options(verb, about)
    for old, new in RENAMED_VERBS.items():
        verbs.choices[old] = verbs.choices[new]
    return parser


def add_options(parser: argparse.ArgumentParser, about: Mapping[str, Any]) -> None:
    """Add the options of a verb or an action, also under names that its help leaves out: `--some_name`, old ones."""
    for option in about.get("options", ()):
        _add_option(parser, option)
    if "actions" in about:
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=about.get("needs_action", False))
        for name, own in about["actions"].items():
            add_options(actions.add_parser(name, help=own["help"]), {"renamed": about.get("renamed", {}), **own})
    known = parser._option_string_actions  # argparse has no public way to accept a name and not to show it
    for old, new in about.get("renamed", {}).items():
        if new in known:
            known.setdefault(old, known[new])
    for name in [name for name in known if "-" in name[2:]]:
        known.setdefault("--" + name[2:].replace("-", "_"), known[name])


def _add_option(parser: argparse.ArgumentParser, option: Mapping[str, Any]) -> None:
    settings: dict[str, Any] = dict(option)
    if "limit" in option:
        limit, kind = (VOXELS, "volume") if option["limit"] == "voxels" else (PIXELS, "2-D image")
        words = f"reject a {kind} with more than N {limit.unit} in its header (default: {limit.default})"
        settings = {"name": limit.option, "type": "int", "metavar": "N", "help": words}
    names = settings.pop("name").split()
    if "type" in settings:
        settings["type"] = _TYPES[settings["type"]]
    if isinstance(settings.get("metavar"), list):
        settings["metavar"] = tuple(settings["metavar"])
    parser.add_argument(*names, **settings)


def _count(text: str) -> int:
    return _within(int(text), int(text) >= 0, ">= 0")


def _positive(text: str) -> int:
    return _within(int(text), int(text) >= 1, ">= 1")


def _millimetres(text: str) -> float:
    return _within(float(text), 0.5 <= float(text) <= 20, "0.5 to 20 mm")  # finer ones take minutes and gigabytes


def _number(text: str) -> int | float:
    value = int(text) if text.lstrip("-").isdigit() else float(text)
    return _within(value, value >= 0 and (isinstance(value, int) or value < 1), ">= 0, or a fraction below 1.0")


def _within(value: Any, admitted: bool, wanted: str) -> Any:
    if not admitted:
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {value}")
    return value


_TYPES: dict[str, Callable[[str], Any]] = {
    **{"int": int, "float": float, "count": _count, "positive": _positive},
    **{"millimetres": _millimetres, "number": _number},
}
