"""Pseudonyms for the names of files and folders, in a table that its owner keeps and nobody else needs.

Names of files and folders are names of patients more often than not. With a table of pseudonyms no result, record or
message says them: `hidden` takes out of a message what came from a path or from inside a file.
"""

from __future__ import annotations

import csv
import os
import re
import secrets
import time
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from medseg3d.dicom.sources import is_zip
from medseg3d.errors import UsageError, UserError, find_user_error, internal_error
from medseg3d.files.atomic import atomic_write, claimed, folder_errors, make_folder
from medseg3d.files.folders import harmless, printable

FIELDS = ("pseudonym", "image")

_PSEUDONYM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PATIENCE = 10  # seconds in which another process has written its few lines
_GONE = "..."
_UID = re.compile(r"\b[0-9]+(?:\.[0-9]+){4,}\b")
_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)")  # what is quoted is out of a file
_SEVERAL = re.compile(r"\.\.\.(?:[/ ,]*\.\.\.)+")
_ANY_NUMBER = 3  # digits that name no patient
_NOBODY = {
    *("in", "input", "inputs", "data", "dicom", "image", "images", "scan", "scans", "series", "volume", "volumes"),
    *("file", "files", "folder", "home", "tmp", "mnt", "test", "tests"),
}


def pseudonyms_of(table: str | Path, images: Sequence[Path]) -> dict[Path, str]:
    """The pseudonym of each image, those that the table lacks drawn and added to it.

    They are random, because an order would tell of the names. The table, `pseudonym,image` with absolute paths, is
    replaced as a whole and readable by its owner alone. Whoever has pseudonyms already writes them there.

    Args:
        table: CSV; made where it is not there.
        images: absolute paths of files and folders.

    Raises:
        UserError: BAD_VALUE for a table that is none, or that has a name or an image twice; IN_USE; NO_SPACE,
            NOT_WRITABLE.

    Example:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp()) / "names.csv"
        >>> first = pseudonyms_of(table, [Path("/data/Doe, Jane/ct.nii.gz")])
        >>> first == pseudonyms_of(table, [Path("/data/Doe, Jane/ct.nii.gz")]), oct(table.stat().st_mode)[-3:]
        (True, '600')
    """
    table = Path(table)
    with _alone(table):
        known = read_pseudonyms(table) if table.exists() else {}
        named = {image: name for name, image in known.items()}
        added = [image for image in images if str(image) not in named]
        for image in added:
            while (name := f"case-{secrets.token_hex(4)}") in known:
                continue
            known[name], named[str(image)] = str(image), name
        if added:
            with atomic_write(table, "w") as file:
                os.chmod(file.name, 0o600)  # before there is anything to read
                writer = csv.writer(file, lineterminator="\n")
                writer.writerows([FIELDS, *known.items()])
        return {image: named[str(image)] for image in images}


def read_pseudonyms(table: str | Path) -> dict[str, str]:
    """Pseudonym -> absolute path of the image.

    Raises:
        UserError: MISSING_FILE; BAD_VALUE, naming the line and not what is in it.
    """
    table = Path(table)
    if not table.is_file():
        raise UsageError("MISSING_FILE", table, "no such file", "a table of pseudonyms", "correct --pseudonym")
    with open(table, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if number == 1 and tuple(row) == FIELDS:
            continue
        wrong = number == 1 or len(row) != 2 or not _PSEUDONYM.fullmatch(row[0]) or not os.path.isabs(row[1])
        if wrong or row[0] in found or row[1] in found.values():
            wanted = (
                "pseudonym,image and then a line for each image: letters, digits, -, _ and ., and its absolute path"
            )
            remedy = "correct the line; every pseudonym and every image may occur only once"
            raise UsageError("BAD_VALUE", f"--pseudonym {table}", f"line {number}", wanted, remedy)
        found[row[0]] = row[1]
    return found


def hidden(error: UserError, images: Mapping[str, str]) -> UserError:
    """The error without names: for each image its pseudonym, for folders, for files in them and for tags "...".

    `images` has for each absolute path its pseudonym, "" where none is known yet.

    Example:
        >>> error = UserError("EMPTY", "/in/Doe Jane/ct.nii", "0 bytes in ct.nii")
        >>> print(hidden(error, {"/in/Doe Jane/ct.nii": "case-1"}))
        EMPTY case-1: 0 bytes in ...
    """
    whole = {spelt.lower(): name or _GONE for path, name in images.items() for spelt in _spellings(path)}
    words = {spelt.lower() for path in images for name in _names(Path(path)) for spelt in _spellings(name)}
    longest = sorted({*whole, *words}, key=len, reverse=True)
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(each)}(?!\w)" for each in longest) or "(?!)", re.IGNORECASE)

    def without(text: str) -> str:
        text = without_uids(pattern.sub(lambda match: whole.get(match[0].lower(), _GONE), _QUOTED.sub(_GONE, text)))
        return _SEVERAL.sub(_GONE, text)

    return type(error)(error.code, *map(without, (error.subject, error.found, error.wanted, error.remedy)))


@contextmanager
def names_hidden(images: Sequence[str | Path]) -> Iterator[None]:
    """Context out of which no exception says the name of an image or of a folder that it lies in.

    Raises:
        UserError: what was wrong; INTERNAL in place of what is none.
    """
    try:
        yield
    except Exception as error:
        paths = [os.path.abspath(path) for path in images]
        raise hidden(find_user_error(error) or internal_error(error, "an image"), dict.fromkeys(paths, "")) from None


def without_uids(text: str) -> str:
    """A text that says no UID.

    Example:
        >>> without_uids("--series 1.2.840.113619.2.55, 12 slices of 0.5 mm")
        '--series ..., 12 slices of 0.5 mm'
    """
    return _UID.sub(_GONE, text)


@contextmanager
def _alone(table: Path) -> Iterator[None]:
    """Context in which no other process reads or writes the table."""
    make_folder(table.parent)
    with folder_errors(table.parent), ExitStack() as stack:
        until = time.monotonic() + _PATIENCE
        while not stack.enter_context(claimed(table.with_name(f".{table.name}.lock"))):
            if time.monotonic() > until:
                raise UsageError(
                    "IN_USE",
                    table,
                    "another process writing to it",
                    "a table that no other process uses",
                    "wait for that process to finish",
                )
            time.sleep(0.05)
        yield


def _names(path: Path) -> Iterator[str]:
    """Every name on the way to an image, and of what lies in it, with and without suffixes."""
    names = {*path.absolute().parts[1:]}
    if path.is_dir():
        names |= {part for each in path.rglob("*") for part in each.relative_to(path).parts}
    elif is_zip(path):
        with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            names |= {part for each in archive.namelist() for part in harmless(each).split("/")}
    for name in names:
        yield from (name, *(name[: name.index(suffix)] for suffix in [Path(name).suffix] if suffix))


def _spellings(name: str) -> Iterator[str]:
    """A name as a message may spell it, but for numbers of few digits and folders that name nobody."""
    for spelt in {name, printable(name), *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))}:
        if spelt and spelt not in _NOBODY and not (spelt.isdecimal() and len(spelt) <= _ANY_NUMBER):
            yield spelt
