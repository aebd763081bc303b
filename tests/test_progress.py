from __future__ import annotations

import io
import logging
import sys
import time

import pytest

from medseg3d.cli import progress as module
from medseg3d.cli.progress import AboveTheBar, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_at_once(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in place of stderr, on which a bar does not wait."""
    terminal = Terminal()
    monkeypatch.setattr(module, "_SHOWN_AFTER_S", 0)
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_a_terminal_gets_one_bar_that_counts_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = shown_at_once(monkeypatch)
    with progress_bar("case") as progress:
        progress(1, 4, "ct_1")
        time.sleep(0.2)  # tqdm draws ten times a second at most
        progress(4, 4, "ct_4")
    said = terminal.getvalue()
    assert "4/4" in said
    assert "ct_4" in said
    assert "\n" not in said
    assert said.rstrip(" ").endswith("\r")


def test_what_is_soon_done_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar("case") as progress:
        progress(1, 1, "ct_1")
    assert sys.stderr.getvalue().strip() == ""


def test_a_warning_stands_above_the_bar_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = shown_at_once(monkeypatch)
    logger, handler = logging.getLogger("a test's own"), AboveTheBar()
    logger.addHandler(handler)
    with progress_bar("case") as progress:
        progress(1, 4, "ct_1")
        logger.warning("ct_2: HU_RANGE")
    logger.removeHandler(handler)
    assert "\rwarning: ct_2: HU_RANGE\n" in terminal.getvalue()


def test_where_nobody_watches_there_is_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # each case takes four seconds, of which the clock is asked once before the first case and after each
    seconds = iter(range(0, 1000, 4))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    with progress_bar("case") as progress:
        for done in range(1, 8):
            progress(done, 7)
    assert capsys.readouterr().err == "3 of 7 cases, 00:16 left\n6 of 7 cases, 00:04 left\n"
