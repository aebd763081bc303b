"""Knobs as they come from a command line."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, TypeVar

from medseg3d.faults import UsageFault

_Value = TypeVar("_Value")

_FLAGS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def as_flag(value: bool | int | str, name: str) -> bool:
    """Yes or no from what a person writes for it.

    MONAI's command line hands `--resume true` on as the text "true", and would take "false" for yes.

    Args:
        value: a bool, 0 or 1, or "true", "false", "yes", "no", "1", "0" in any case.
        name: the knob, for the message.

    Raises:
        Fault: `BAD_VALUE`.

    Example:
        >>> as_flag("false", "resume"), as_flag("True", "resume"), as_flag(1, "resume")
        (False, True, True)
    """
    flag = _FLAGS.get(str(value).strip().lower())
    if flag is None:
        raise UsageFault("BAD_VALUE", f"--{name}", repr(value), "true or false")
    return flag


def choice(name: str, value: str, choices: Mapping[str, _Value]) -> _Value:
    """That one of some values, of networks for instance, that a knob names.

    Args:
        name: the knob, for the message.
        value: what it was set to.
        choices: what it may be set to, and what that stands for.

    Raises:
        Fault: `BAD_VALUE` with the names there are.

    Example:
        >>> choice("interleave", "step", {"epoch": 1, "step": 2})
        2
    """
    if value not in choices:
        raise UsageFault("BAD_VALUE", f"--{name}", repr(value), f"one of {', '.join(choices)}")
    return choices[value]


def literal(text: str) -> Any:
    """The value that a text on a command line stands for: a Python literal where it parses as one, else the text.

    Example:
        >>> literal("1e-3"), literal("[96, 96]"), literal("unet"), literal("false")
        (0.001, [96, 96], 'unet', False)
    """
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text, text))
    except (ValueError, SyntaxError):
        return text
