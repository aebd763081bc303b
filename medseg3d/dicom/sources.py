"""Where the files of a DICOM examination come from: a folder, a ZIP, or one file; nothing is unpacked to the disk.

Needs no package for DICOM: what counts as DICOM are the letters DICM at byte 128 (PS3.10, 7.1).
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from medseg3d.errors import UserError
from medseg3d.files.folders import files_below, harmless
from medseg3d.files.stream import check_regular
from medseg3d.limits import VOXELS

NAMES = (".dcm", ".dicom", ".ima")
"""How the names of files end that have to be DICOM; most have no suffix at all."""

_MAGIC_AT = 128
_MAGIC = b"DICM"
_ZIP_MAGIC = b"PK\x03\x04"
_UNPACKED = 16  # bytes in a ZIP for each voxel that a volume may have: room for several series
_BUFFER = 1 << 16  # a ZIP's own file goes back by inflating again
_COPY = "copy or download the file again"


@dataclass(frozen=True)
class SourceFile:
    """A file of a folder or a member of a ZIP.

    Attributes:
        path: for messages; that of a member begins with that of its ZIP.
        size: bytes, uncompressed.
        open: gives the open file, which can seek.
    """

    path: Path
    size: int
    open: Callable[[], IO[bytes]]

    def read(self) -> bytes:
        """Every byte; of a member of a ZIP, compared with its CRC.

        Raises:
            UserError: CHECKSUM, UNREADABLE.
        """
        with damaged_member(self.path), self.open() as file:
            return file.read()

    def sha256(self) -> str:
        """The SHA-256 of its bytes."""
        return hashlib.sha256(self.read()).hexdigest()


def is_dicom(path: str | Path) -> bool:
    """Whether a file says that it is DICOM; a pipe or a device is not asked.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "IM0001"
        >>> _ = file.write_bytes(bytes(128) + b"DICM")
        >>> is_dicom(file)
        True
    """
    return _head(path)[_MAGIC_AT:] == _MAGIC


def is_zip(path: str | Path) -> bool:
    """Whether a file begins as a ZIP does."""
    return _head(path).startswith(_ZIP_MAGIC)


@contextmanager
def dicom_files(source: str | Path) -> Iterator[list[SourceFile]]:
    """Context with the DICOM files of a folder (sub-folders included), of a ZIP, or the one that is named.

    Other files are ignored, but for those that must have been DICOM.

    Raises:
        UserError: TRUNCATED (a file of 0 bytes), NOT_DICOM (a name like DICOM's, another content), UNREADABLE,
            TOO_LARGE (a ZIP that unpacks to more than 16 bytes
            for each voxel of `medseg3d.limits.VOXELS`) or CHECKSUM (one that is not whole).
    """
    source = Path(source)
    check_regular(source, "a DICOM series")
    if source.is_dir():
        below = files_below(source, NAMES)
        paths = [path for path in (*below.read, *below.unread) if path.is_file()]
        yield _checked([_plain(path) for path in sorted(paths)])
    elif is_zip(source):
        with damaged_member(source):
            archive = zipfile.ZipFile(source)
        with archive:
            members = [member for member in archive.infolist() if not member.is_dir() and _visible(member.filename)]
            unpacked = sum(member.file_size for member in members)
            most = _UNPACKED * VOXELS.most
            if unpacked > most:
                wanted = f"at most {most >> 20} MiB, {_UNPACKED} bytes for each of {VOXELS.most} voxels"
                remedy = f"use an archive of that series only; {VOXELS.remedy}"
                raise UserError("TOO_LARGE", source, f"{unpacked >> 20} MiB unpacked", wanted, remedy)
            yield _checked([_member(archive, source, member) for member in members])
    else:
        yield _checked([_plain(source)])


@contextmanager
def damaged_member(path: Path) -> Iterator[None]:
    """Context in which what is wrong with a ZIP is an error of `path`.

    Raises:
        UserError: CHECKSUM, UNREADABLE (encrypted, a method of compression that Python lacks, no permission).
    """
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise UserError("CHECKSUM", path, f"an incomplete or damaged ZIP ({error})", "an intact file", _COPY) from error
    except (OSError, RuntimeError, NotImplementedError) as error:
        found = (getattr(error, "strerror", None) or str(error)).lower()
        raise UserError(
            "UNREADABLE", path, found, "a file that can be read", "unpack it, or correct its permissions"
        ) from error


def require_packages(source: str | Path) -> None:
    """Refuse with MISSING_PACKAGE where the packages that read DICOM are not installed."""
    if find_spec("pydicom") is None or find_spec("highdicom") is None:
        found = "DICOM, but the packages to read it are not installed"
        raise UserError("MISSING_PACKAGE", source, found, "pydicom and highdicom", 'pip install "medseg3d[dicom]"')


def _checked(files: list[SourceFile]) -> list[SourceFile]:
    """Those that are DICOM."""
    found = []
    for file in files:
        named = file.path.name.lower().endswith(NAMES)
        if file.size == 0 and (named or not file.path.suffix or file.path.suffix[1:].isdigit()):
            raise UserError("TRUNCATED", file.path, "0 bytes", "a DICOM file", _COPY)
        if file.size > _MAGIC_AT:
            with damaged_member(file.path), file.open() as opened:
                head = opened.read(_MAGIC_AT + len(_MAGIC))
            if head[_MAGIC_AT:] == _MAGIC:
                found.append(file)
                continue
        if named:
            raise UserError(
                "NOT_DICOM", file.path, "no DICM at byte 128", "a DICOM file (PS3.10)", "export or copy it again"
            )
    return found


def _plain(path: Path) -> SourceFile:
    return SourceFile(path, path.stat().st_size, lambda: open(path, "rb"))


def _member(archive: zipfile.ZipFile, source: Path, member: zipfile.ZipInfo) -> SourceFile:
    def opened() -> IO[bytes]:
        return io.BufferedReader(archive.open(member), _BUFFER)  # type: ignore[type-var]

    return SourceFile(source / harmless(member.filename), member.file_size, opened)


def _visible(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _head(path: str | Path) -> bytes:
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(_MAGIC_AT + len(_MAGIC))
    except OSError:
        return b""  # whoever reads it has the words for that
