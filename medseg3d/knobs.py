"""Knobs as they come from a command line."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from medseg3d.errors import UsageError

_Value = TypeVar("_Value")

_FLAGS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def as_flag(value: bool | int | str, name: str) -> bool:
    """Yes or no from what a person writes for it.

    MONAI's command line hands `--resume true` on as the text "true", and would take "false" for yes.

    Args:
        value: a bool, 0 or 1, or "true", "false", "yes", "no", "1", "0" in any case.
        name: the knob, for the message.

    Raises:
        UserError: `BAD_VALUE`.

    Example:
        >>> as_flag("false", "resume"), as_flag("True", "resume"), as_flag(1, "resume")
        (False, True, True)
    """
    flag = _FLAGS.get(str(value).strip().lower())
    if flag is None:
        raise UsageError("BAD_VALUE", f"--{name}", repr(value), "true or false", f"--{name} true or --{name} false")
    return flag


def choice(name: str, value: str, choices: Mapping[str, _Value]) -> _Value:
    """That one of some values, of networks for instance, that a knob names.

    Args:
        name: the knob, for the message.
        value: what it was set to.
        choices: what it may be set to, and what that stands for.

    Raises:
        UserError: `BAD_VALUE` with the names there are.

    Example:
        >>> choice("interleave", "step", {"epoch": 1, "step": 2})
        2
    """
    if value not in choices:
        raise UsageError("BAD_VALUE", f"--{name}", repr(value), f"one of {', '.join(choices)}", "correct it")
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


class Bounds(NamedTuple):
    """What a knob may be set to.

    Attributes:
        wanted: in words, for the message.
        admit: whether a value is such a one.
    """

    wanted: str
    admit: Callable[[Any], bool]


def _whole(least: int, step: int = 1) -> Bounds:
    def admit(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least and value % step == 0

    return Bounds(f"a whole number, {least} or more" + (f", that {step} divides" if step > 1 else ""), admit)


def _number(
    least: float = -math.inf, most: float = math.inf, *, below: float = math.inf, above: float = -math.inf
) -> Bounds:
    def admit(value: Any) -> bool:
        real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return real and least <= value <= most and above < value < below

    limits = {"from": least, "to": most, "above": above, "below": below}
    return Bounds(
        " ".join(["a number", *(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))]), admit
    )


def _list(each: Bounds, least: int = 0, most: int | None = None) -> Bounds:
    def admit(value: Any) -> bool:
        some = isinstance(value, (list, tuple)) and least <= len(value) <= (len(value) if most is None else most)
        return some and all(map(each.admit, value))

    number = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
    return Bounds(f"a list of {number}, each {each.wanted}", admit)


def _either(*bounds: Bounds) -> Bounds:
    return Bounds(", or ".join(each.wanted for each in bounds), lambda value: any(each.admit(value) for each in bounds))


def _ascending(bounds: Bounds) -> Bounds:
    return Bounds(
        f"{bounds.wanted}, the second above the first", lambda value: bounds.admit(value) and value[0] < value[1]
    )


_NOTHING = Bounds("null", lambda value: value is None)
_FLAG = Bounds("true or false", lambda value: str(value).strip().lower() in _FLAGS)
_COUNT, _POSITIVE, _SIZE, _SHARE, _NEARLY_ALL = (
    *(_whole(0), _whole(1), _number(0), _number(0, 1), _number(0, below=1)),
)
_WIDTHS = _list(_POSITIVE, 1)
_CASES = _either(_COUNT, _NEARLY_ALL)
_STEP = _number(above=0)
_PATTERN = Bounds("a pattern of parameters' names", lambda value: isinstance(value, str) and value != "")

BOUNDS: dict[str, Bounds] = {
    **dict.fromkeys(("resume", "overwrite", "compile", "fill_holes", "separable", "saliency"), _FLAG),
    "largest_component": _either(_FLAG, _COUNT),
    "amp": _either(_NOTHING, _FLAG),
    **dict.fromkeys(("seed", "split_seed", "iterations_per_epoch", "micro_batch_size", "max_skipped_steps"), _COUNT),
    **dict.fromkeys(
        ("patience", "plateau_patience", "warmup_epochs", "num_workers", "tensorboard_images", "region_margin"), _COUNT
    ),
    **dict.fromkeys(("nonlocal_blocks", "neighbours", "crf_iterations", "crf_training_iterations"), _COUNT),
    **dict.fromkeys(("epochs", "val_interval", "batch_size", "crops_per_case"), _POSITIVE),
    **dict.fromkeys(("sw_batch_size", "slices_per_batch"), _POSITIVE),
    **dict.fromkeys(("in_channels", "out_channels", "refinement_channels", "output_stride"), _POSITIVE),
    "init_filters": _whole(8, step=8),  # the groups that SegResNet normalises over
    "num_classes": _whole(2),
    "workers": _either(_POSITIVE, _NOTHING),
    **dict.fromkeys(("learning_rate", "crf_learning_rate", "min_learning_rate", "lr_power", "weight_decay"), _SIZE),
    **dict.fromkeys(("foreground_ratio", "auxiliary_weight", "min_volume_ml", "min_area_px", "grid_tolerance"), _SIZE),
    **dict.fromkeys(("max_grad_norm", "surface_tolerance_mm"), _either(_SIZE, _NOTHING)),
    **dict.fromkeys(("crf_alpha", "crf_beta", "crf_gamma"), _STEP),
    **dict.fromkeys(("flip_prob", "affine_prob", "intensity_prob", "noise_prob", "blur_prob", "cache_memory"), _SHARE),
    **dict.fromkeys(("momentum", "ema_decay", "refinement_dropout", "region_tau"), _NEARLY_ALL),
    "overlap": _either(_NEARLY_ALL, _list(_NEARLY_ALL, 2, 3)),
    **dict.fromkeys(("test_cases", "val_cases"), _either(_CASES, _list(_CASES, 1))),
    # as Spacingd has it, -1 keeps what a scan has; only its slices may be kept, for networks of slices
    "spacing": Bounds(
        "3 steps in mm, each above 0, or -1 for the third",
        lambda value: _list(_number(-1), 3, 3).admit(value) and min(value[:2]) > 0 and (value[2] > 0 or value[2] == -1),
    ),
    "window_hu": _ascending(_list(_number(), 2, 2)),
    "field_of_view_mm": _either(_list(_STEP, 2, 2), _NOTHING),
    "roi_size": _list(_POSITIVE, 2, 3),
    "picture_size": _either(_POSITIVE, _list(_POSITIVE, 2, 2), _NOTHING),
    "channel_mean": _list(_number(), 3, 3),
    "channel_std": _list(_STEP, 3, 3),
    **dict.fromkeys(("features", "unet_features", "unet_plus_plus_features", "segnet_features"), _WIDTHS),
    "lr_drop_epochs": _list(_POSITIVE),
    "mirror_axes": _list(_COUNT, 0, 3),
    "labels": _either(_list(_COUNT, 1), _NOTHING),
    "freeze": _either(_PATTERN, _list(_PATTERN)),
    "lr_factors": Bounds(
        "patterns with a factor above 0 of each, as {'encoder*': 0.1}",
        lambda value: (
            isinstance(value, dict) and all(map(_PATTERN.admit, value)) and all(map(_STEP.admit, value.values()))
        ),
    ),
    "checkpoint_selection": Bounds("best or last", lambda value: value in ("best", "last")),
    "augment_on": Bounds("loader or device", lambda value: value in ("loader", "device")),
    "lr_step": Bounds(
        "epoch, iteration, validation or never", lambda value: value in ("epoch", "iteration", "validation", "never")
    ),
    **dict.fromkeys(
        ("val_part", "part"), Bounds("train, val or test", lambda value: value in ("train", "val", "test"))
    ),
}
"""Of every knob that is a number, a flag or a list of numbers: what it may be, for any bundle.

Names of networks, schedules and precisions are refused where the choices are, by `choice`.
"""


def refuse_impossible(knobs: Mapping[str, Any]) -> None:
    """Raise a `UsageError` for the first knob that is set to what it cannot be.

    Args:
        knobs: name -> value, a whole config for instance; expressions and references, which begin with `$` or `@`, are
            what the config makes of them, and pass.

    Raises:
        UserError: `BAD_VALUE`.

    Example:
        >>> refuse_impossible({"epochs": 2, "roi_size": "@picture_size", "overlap": 0.25})
        >>> refuse_impossible({"epochs": 0})
        Traceback (most recent call last):
        medseg3d.errors.UsageError: BAD_VALUE --epochs: 0, expected a whole number, 1 or more. Hint: correct it
    """
    for name, value in knobs.items():
        if name not in BOUNDS or (isinstance(value, str) and value.startswith(("$", "@"))):
            continue
        if not BOUNDS[name].admit(value):
            raise UsageError("BAD_VALUE", f"--{name}", repr(value), BOUNDS[name].wanted, "correct it")


def split_name(path: str | Path) -> tuple[str, Path]:
    """Name and path of `NAME=PATH`; a path that exists under the whole word is just that.

    Example:
        >>> split_name("ours=runs/a"), split_name("runs/a")
        (('ours', PosixPath('runs/a')), ('', PosixPath('runs/a')))
    """
    name, equals, place = str(path).partition("=")
    if not equals or not name or Path(path).exists():
        return "", Path(path)
    return name, Path(place)
