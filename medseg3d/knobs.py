"""Knobs as they come from a command line."""

from __future__ import annotations

from medseg3d.faults import Fault

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
        raise Fault("BAD_VALUE", f"--{name}", repr(value), "true or false")
    return flag
