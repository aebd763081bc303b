"""How far a long command is: a bar with the time left where somebody watches, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SHOWN_AFTER_S = 2.0
_LINE_EVERY_S = 10.0


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[..., None]]:
    """Context that gives `progress(done, total, name="")`, to be called whenever one more is done.

    On a terminal, whatever takes longer than two seconds gets one bar on stderr, gone at the end. Elsewhere, as in a
    log file, there is a line at most every ten seconds. What the package logs meanwhile is written above the bar.

    Args:
        unit: what is counted, in the singular: "case".
    """
    from tqdm import tqdm

    bar = tqdm(unit=unit, leave=False, delay=_SHOWN_AFTER_S, dynamic_ncols=True, disable=None)
    begun = said = time.monotonic()

    def progress(done: int, total: int, name: str = "") -> None:
        nonlocal said
        bar.total = total
        bar.set_postfix_str(name, refresh=False)
        bar.update(done - bar.n)
        now = time.monotonic()
        if bar.disable and now - said >= _LINE_EVERY_S and done < total:
            said = now
            left = tqdm.format_interval((now - begun) / done * (total - done))
            print(f"{done} of {total} {unit}s, {left} left", file=sys.stderr, flush=True)

    with bar:
        yield progress


class AboveTheBar(logging.Handler):
    """Writes `warning: ...` and `error: ...` to stderr, above a bar that is there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr, flush=True)
