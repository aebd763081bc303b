"""Numbers, spans of time and commands as a reader meets them."""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SENTENCES: Mapping[str, Any] = json.loads(Path(__file__).with_name("sentences.json").read_text(encoding="utf-8"))
"""What a report says whatever came out; under `scores` by what has to be in it for the words to be needed."""


def number(value: float | None, decimals: int = 3) -> str:
    """A score in a table: never rounded to a 0 or 1 that it is not.

    Example:
        >>> [number(value) for value in (0.84266, 0.99987, 1 - 1e-7, 1.0, 0.00002, 0.0, None, float("nan"))]
        ['0.843', '0.9999', '>0.9999', '1.000', '<0.0001', '0.000', 'undefined', 'undefined']
    """
    if value is None or math.isnan(value):
        return "undefined"
    for shown in (f"{value:.{decimals}f}", f"{value:.{decimals + 1}f}"):
        if float(shown) not in (0.0, 1.0) or float(shown) == value:
            return shown
    step = 10.0 ** -(decimals + 1)
    bound = float(shown)
    return f">{bound - step:.{decimals + 1}f}" if value < bound else f"<{bound + step:.{decimals + 1}f}"


def interval(bounds: Sequence[float | None] | None, decimals: int = 3) -> str:
    """A confidence interval; nothing where there is none, as of fewer than two cases.

    Example:
        >>> interval([0.7512, 0.9]), interval([0.99993, 1]), interval([-0.1, 0.05])
        ('0.751 to 0.900', '0.9999 to 1.000', '-0.100 to 0.050')
        >>> interval([None, None]), interval(None)
        ('', '')
    """
    known = [bound for bound in bounds or [] if bound is not None and not math.isnan(bound)]
    if bounds is None or len(known) < len(bounds):
        return ""
    return " to ".join(f"{bound:.{decimals}f}" if bound < 0 else number(bound, decimals) for bound in known)


def spread(values: Iterable[float], scale: float = 100, sign: bool = False, digits: int = 2) -> str:
    """Mean and standard deviation over seeds as text, by default in percent.

    Example:
        >>> spread([0.5, 0.52]), spread([0.5]), spread([]), spread([0.01, 0.03], sign=True)
        ('51.00 ± 1.41', '50.00', '', '+2.00 ± 1.41')
    """
    numbers = [scale * value for value in values]
    if not numbers:
        return ""
    mean = f"{statistics.fmean(numbers):{'+' if sign else ''}.{digits}f}"
    return f"{mean} ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else mean


def duration(seconds: float) -> str:
    """A span of time as a person says it.

    Example:
        >>> duration(4.21), duration(341), duration(7384)
        ('4.2 s', '5 min 41 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(n: int, word: str) -> str:
    """A count with its noun.

    Example:
        >>> plural(1, "case"), plural(2, "case")
        ('1 case', '2 cases')
    """
    return f"1 {word}" if n == 1 else f"{n} {word}s"


def command_line(command: str | Sequence[str] | None) -> str:
    """The words of a command as they are typed into a shell.

    Example:
        >>> command_line(["medseg3d", "report", "runs/a b"])
        "medseg3d report 'runs/a b'"
    """
    if isinstance(command, str):
        return command
    # MONAI's lists of config files hold single quotes: double ones around them stay readable
    return " ".join(
        f'"{word}"' if "'" in word and not set('"$`\\!') & set(word) else shlex.quote(word) for word in command or []
    )


def plain_text(value: Any) -> str:
    """A value of a JSON file in words.

    Example:
        >>> plain_text({"torch": "2.13.0", "sizes": [1, 2]})
        'torch 2.13.0, sizes 1, 2'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain_text(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain_text(each) for each in value)
    return str(value)
