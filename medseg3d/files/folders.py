"""The content of a folder: the files that are read, and others that would otherwise be left out silently."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from medseg3d.errors import UsageError, UserError

COMPANIONS = (
    *(".json", ".csv", ".tsv", ".txt", ".md", ".rst", ".html", ".xml", ".yaml", ".yml", ".toml", ".ini", ".log"),
    *(".pdf", ".xls", ".xlsx", ".doc", ".docx", ".db", ".py", ".sh", ".ipynb", ".sha256", ".md5", ".pt", ".pth"),
)
"""How the names of files end that nobody takes for an image."""

_PAPERS = ("license", "licence", "readme", "notice", "copying", "checksums", "sha256sums", "md5sums")
_HEADERS, _VOXELS = (".nhdr", ".mhd"), (".raw", ".zraw", ".raw.gz", ".gz", ".bin", ".img")


class FolderFiles(NamedTuple):
    """The files below a folder, those of a folder before those of its sub-folders, in the order of their names.

    Attributes:
        read: whose names end as wanted.
        unread: others that may be images, and links that would lead round for ever.
    """

    read: list[Path]
    unread: list[Path]


def files_below(folder: str | Path, suffixes: Sequence[str]) -> FolderFiles:
    """What lies below a folder, sub-folders that are links included; names that begin with a dot are ignored.

    `suffixes` are how the names of the files to read end, in lower case.

    Raises:
        UserError: MISSING_FILE, for what is not a folder; UNREADABLE, for a sub-folder that cannot be listed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.nii", "b.mnc", "record.json", "._a.nii"):
        ...     (folder / name).touch()
        >>> [[path.name for path in files] for files in files_below(folder, (".nii.gz", ".nii"))]
        [['a.nii'], ['b.mnc']]
    """
    if not os.path.isdir(folder):
        what = "a file" if os.path.exists(folder) else "no such folder"
        raise UsageError("MISSING_FILE", folder, what, "a folder", "correct the path")
    found = FolderFiles([], [])
    # the real folders on the way to each one: where one comes twice, the links are a circle
    way = {str(folder): {os.path.realpath(folder)}}
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        below = []
        for name in sorted(folders):
            path = Path(parent, name)
            real = os.path.realpath(path)
            if name.startswith("."):
                continue
            if real in way[parent]:
                found.unread.append(path)
                continue
            way[os.path.join(parent, name)] = way[parent] | {real}
            below.append(name)
        folders[:] = below
        for name in sorted(files):
            if not name.startswith("."):
                if name.lower().endswith(tuple(suffixes)):
                    found.read.append(Path(parent, name))
                elif may_be_image(name) and not _belongs_to_header(name, files):
                    found.unread.append(Path(parent, name))
    return found


def _belongs_to_header(name: str, files: Iterable[str]) -> bool:
    """Whether a file holds the voxels of a header of the same name next to it."""
    stem = next((name[: -len(suffix)] for suffix in _VOXELS if name.lower().endswith(suffix)), None)
    return stem is not None and any(f"{stem}{suffix}" in files for suffix in _HEADERS)


def path_inside(folder: Path, name: str) -> Path | None:
    r"""The path of a name in a folder or below it, with slashes of either kind; None for one that leads out of it.

    Links inside of the folder are followed, `..` is not.

    Example:
        >>> path_inside(Path("ct"), "a\\b.raw").as_posix(), path_inside(Path("ct"), "../b.raw")
        ('ct/a/b.raw', None)
    """
    path = PureWindowsPath(name)
    if path.drive or path.root or ".." in path.parts or not path.name:
        return None
    return folder.joinpath(*path.parts)


def printable(name: str) -> str:
    r"""A name as it can be written anywhere: bytes that are no text, as of names in GBK on Linux, become escapes.

    Example:
        >>> printable(os.fsdecode(b"\xb8\xce.png")) == r"\udcb8\udcce.png", printable("肝.png")
        (True, '肝.png')
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def harmless(text: str) -> str:
    r"""Text out of a file without what could steer a terminal.

    Example:
        >>> harmless("Abdomen\x1b[2J")
        'Abdomen?[2J'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def may_be_image(name: str) -> bool:
    """Whether a file of this name could be an image in a format that is not read.

    Example:
        >>> [name for name in ("a.mnc", "IM0001", "a.json", "LICENSE.txt", ".x.gif") if may_be_image(name)]
        ['a.mnc', 'IM0001']
    """
    stem, suffix = os.path.splitext(name.lower())
    return not name.startswith(".") and suffix not in COMPANIONS and stem not in _PAPERS


def not_read(folder: str | Path, unread: Iterable[str | Path], suffixes: Sequence[str]) -> list[str]:
    """The warning of files that are not read, or none.

    Example:
        >>> not_read("scans", ["scans/a.mnc"], (".nii.gz", ".nii"))
        ['NOT_READ: 1 file below scans (a.mnc); read are names that end in .nii.gz, .nii']
    """
    names = [os.path.relpath(path, folder) for path in unread]
    if not names:
        return []
    files = f"{len(names)} file{'s' * (len(names) > 1)} below {folder} ({first_of(names)})"
    return [f"NOT_READ: {files}; read are names that end in {', '.join(suffixes)}"]


def first_of(names: Sequence[str], most: int = 5) -> str:
    """Some names for a message, the first of many."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _refuse(error: OSError) -> None:
    reason = (error.strerror or str(error)).lower()
    raise UserError(
        "UNREADABLE", str(error.filename), reason, "a folder that can be listed", "correct its permissions"
    ) from error
