"""What is searched: knobs, and what their values are drawn from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medseg3d.errors import UsageError, UserError
from medseg3d.knobs import literal

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

FORMS = "log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH or choice:A,B,C"

_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True)
class Dimension:
    """What the values of a knob are drawn from.

    Attributes:
        kind: "log" (floats, their logarithms equally likely), "uniform" (floats), "int" (integers) or "choice".
        ends: the least and the greatest value, both included; of a choice its options as they are written on a command
            line, which is how a storage keeps them.
    """

    kind: str
    ends: tuple[Any, ...]

    def draw(self, trial: BaseTrial, knob: str) -> Any:
        """The value of `knob` in a trial."""
        if self.kind == "choice":
            return self.value(trial.suggest_categorical(knob, self.ends))
        if self.kind == "int":
            return trial.suggest_int(knob, *self.ends)
        return trial.suggest_float(knob, *self.ends, log=self.kind == "log")

    def value(self, drawn: Any) -> Any:
        """The knob's value of what stands in the storage."""
        return literal(drawn) if self.kind == "choice" else drawn

    def __str__(self) -> str:
        return f"{self.kind}:{(',' if self.kind == 'choice' else ':').join(map(str, self.ends))}"


def parse_search(search: Mapping[str, str]) -> dict[str, Dimension]:
    """Knob -> what its values are drawn from.

    Args:
        search: knob -> `log:LOW:HIGH`, `uniform:LOW:HIGH`, `int:LOW:HIGH` or `choice:A,B,C`. The choices are Python
            literals where they parse as one, else strings; a comma in brackets is part of its choice.

    Raises:
        UserError: `BAD_VALUE`.

    Example:
        >>> parse_search({"learning_rate": "log:1e-6:1e-2"})["learning_rate"]
        Dimension(kind='log', ends=(1e-06, 0.01))
        >>> parse_search({"picture_size": "choice:[96,96],[128,128]"})["picture_size"].ends
        ('[96,96]', '[128,128]')
    """
    if not search:
        raise UsageError(
            "BAD_VALUE", "--search", "no option to search", f"KNOB={FORMS}", "--search learning_rate=log:1e-6:1e-2"
        )
    return {knob: _dimension(knob, text) for knob, text in search.items()}


def _dimension(knob: str, text: str) -> Dimension:
    kind, _, rest = text.partition(":")
    if kind == "choice":
        return Dimension(kind, _options(knob, text, rest))
    if kind not in ("log", "uniform", "int"):
        raise _refusal(knob, text, FORMS)
    number = int if kind == "int" else float
    try:
        low, high = (number(bound) for bound in rest.split(":"))
    except ValueError:
        raise _refusal(knob, text, f"{kind}:LOW:HIGH with two {'integers' if kind == 'int' else 'numbers'}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise _refusal(knob, text, "a LOW that is below HIGH, both finite")
    if kind == "log" and low <= 0:
        raise _refusal(knob, text, "a LOW above 0: it has no logarithm otherwise")
    return Dimension(kind, (low, high))


def _options(knob: str, text: str, rest: str) -> tuple[str, ...]:
    options, depth = [""], 0
    for letter in rest:
        depth += (letter in _OPEN) - (letter in _CLOSE)
        if letter == "," and depth == 0:
            options.append("")
        else:
            options[-1] += letter
    options = [option.strip() for option in options]
    if depth or not all(options) or len(set(options)) != len(options) or len(options) < 2:
        raise _refusal(knob, text, "choice:A,B,C with two different values or more")
    return tuple(options)


def _refusal(knob: str, text: str, wanted: str) -> UserError:
    return UsageError("BAD_VALUE", f"--search {knob}={text}", "not a valid search range", wanted, "correct it")
