"""The exception for errors that a user can act on.

A `UserError` tells the user about bad input, a missing folder, an unknown option. Everything else that is
raised is a bug or a broken machine and keeps its traceback.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


class UserError(Exception):
    """One line: the code, the file or option, what was found, what was expected, and a hint.

    Args:
        code: stable name of the error in capitals (`TRUNCATED`, `PAIR_GEOMETRY`, `UNKNOWN_KNOB`, ...).
        subject: the file, folder or option concerned.
        found: what was found there.
        wanted: what was expected instead.
        remedy: what the user can do about it.

    Example:
        >>> print(UserError("EMPTY", "ct.nii.gz", "0 bytes", "a NIfTI volume", "copy the file again"))
        EMPTY ct.nii.gz: 0 bytes, expected a NIfTI volume. Hint: copy the file again
    """

    exit_code = 1
    """Exit code of a command that fails with it: 1 for bad data or a bad result."""

    said = False
    """Whether the error has been logged already, so that it is not printed twice."""

    def __init__(self, code: str, subject: str | Path, found: str, wanted: str = "", remedy: str = "") -> None:
        self.code = code
        self.subject = str(subject)
        self.found = found
        self.wanted = wanted
        self.remedy = remedy
        super().__init__(code, self.subject, found, wanted, remedy)  # all five, so that it pickles

    def __str__(self) -> str:
        line = f"{self.code} {self.subject}: {self.found}"
        if self.wanted:
            line += f", expected {self.wanted}"
        if self.remedy:
            line += f". Hint: {self.remedy}"
        # a newline in a file name must not break the promise of one line
        return line.replace("\r", "\\r").replace("\n", "\\n")


class UsageError(UserError):
    """A `UserError` about the call rather than the data: an option, a value, a device, a path."""

    exit_code = 2


def find_user_error(error: BaseException | None) -> UserError | None:
    """The `UserError` behind an exception, or None: MONAI wraps what a transform raises in RuntimeErrors.

    Example:
        >>> try:
        ...     try:
        ...         raise UserError("EMPTY", "ct.nii.gz", "0 bytes")
        ...     except UserError as error:
        ...         raise RuntimeError("applying transform") from error
        ... except RuntimeError as error:
        ...     find_user_error(error).code
        'EMPTY'
    """
    return next((each for each in causes(error) if isinstance(each, UserError)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what it was raised from, and so on to the innermost."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def escape_names() -> None:
    """Have stdout and stderr escape what their encoding lacks: a name that cannot be printed must not end a batch.

    Names in GBK from a Chinese ZIP hold bytes that no encoding prints; cp1252 and ASCII lack most letters.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # others, of notebooks and tests, take any text
            stream.reconfigure(errors="backslashreplace")


def internal_error(error: BaseException, subject: str | Path) -> UserError:
    """A `UserError` `INTERNAL` for an unexpected exception: its innermost cause, without the layers around it.

    Example:
        >>> try:
        ...     try:
        ...         raise ZeroDivisionError("by zero")
        ...     except ZeroDivisionError as error:
        ...         raise RuntimeError("applying transform <object at 0x7f>") from error
        ... except RuntimeError as error:
        ...     print(internal_error(error, "ct.nii.gz"))
        INTERNAL ct.nii.gz: ZeroDivisionError: by zero. Hint: report it with the traceback, and use another file
    """
    *_, error = causes(error)
    found = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")[:500]
    return UserError("INTERNAL", subject, found, "", "report it with the traceback, and use another file")


def error_hook(previous: Callable) -> Callable:
    """An excepthook that prints a `UserError` or an interruption as one line and leaves everything else to `previous`.

    The process ends with the error's exit code.
    """

    def hook(exception_type: type[BaseException], error: BaseException, trace: object) -> None:
        user_error = find_user_error(error)
        if user_error is not None:
            if user_error.code == "INTERNAL":  # a bug of ours keeps its traceback
                previous(exception_type, error, trace)
            if not user_error.said:
                sys.stderr.write(f"error: {user_error}\n")
            raise SystemExit(user_error.exit_code)  # what a hook raises is what Python ends with
        elif isinstance(error, KeyboardInterrupt):
            sys.stderr.write(
                "interrupted; rerun the same command with --resume true to resume after the last completed epoch\n"
            )
        else:
            previous(exception_type, error, trace)

    return hook
