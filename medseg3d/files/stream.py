"""The bytes of a file, plain or compressed, read once, verified to the last one and hashed on the way."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from isal import isal_zlib

from medseg3d.errors import UsageError, UserError

REWRITE = "write the file again with the program it came from"

_CHUNK = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
GZIP, ZLIB = 31, 15
"""The window bits of zlib that stand for a gzip or a zlib stream, each with its checksum at the end."""

_MAX_DEFLATE_RATIO = 1032  # no deflate stream expands further, https://zlib.net/zlib_tech.html


@contextmanager
def opened(path: Path, wanted: str, code: str) -> Iterator[IO[bytes]]:
    """A file, open for reading; nothing else is opened, because a pipe or a device may never end or answer.

    `wanted` says what it should be, with its article; `code` is that of the error where a folder stands in its place.

    Raises:
        UserError: MISSING_FILE, UNREADABLE, NOT_A_FILE, or `code`.
    """
    check_regular(path, wanted)
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; only opening is watched
    except FileNotFoundError:
        raise UsageError("MISSING_FILE", path, "no such file", wanted, "correct the path") from None
    except IsADirectoryError:
        raise UserError(code, path, "a folder", wanted, "name the files inside it") from None
    except PermissionError:
        raise UserError(
            "UNREADABLE", path, "permission denied", "a file that can be read", "correct its permissions"
        ) from None
    with file:
        yield file


def check_regular(path: str | Path, wanted: str) -> None:
    """Refuse what is there but neither a file nor a folder; `wanted` says what it should be, with its article.

    Raises:
        UserError: NOT_A_FILE.
    """
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return  # whoever opens it has the words for that
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
    if found := kinds.get(stat.S_IFMT(mode)):
        raise UserError("NOT_A_FILE", path, found, f"{wanted} in a file", "name a file, or copy its content into one")


def file_sha256(*paths: str | Path) -> str:
    """The SHA-256 of a file, or of several one after the other, as hexadecimal digits.

    Raises:
        UserError: NOT_A_FILE for a pipe or a device.
    """
    digest = hashlib.sha256()
    for path in paths:
        check_regular(path, "an image or a result")
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


class ByteStream:
    """The uncompressed bytes of an open file, in order and once; a damaged compression is refused where it is met.

    Of a file that is open for reading; where it continues from another one (`after`), the sum is of both.
    """

    def __init__(self, file: IO[bytes], path: Path, after: ByteStream | None = None) -> None:
        self.path = path
        self.size = self.most_bytes = path.stat().st_size  # uncompressed, of the latter
        self.expected: int | None = None  # uncompressed bytes, once the header has told
        self.position = 0
        self._file = file
        self._digest: hashlib._Hash = hashlib.sha256() if after is None else after._digest
        self._rest = memoryview(self._raw())
        self._chunks: Iterator[bytes] = iter(self._raw, b"")

    def starts_with(self, magic: bytes) -> bool:
        """Whether the next bytes are these few; nothing is taken."""
        return bytes(self._rest[: len(magic)]) == magic

    def inflate(self, window_bits: int) -> None:
        """Take what is left of the file for a compressed stream, `GZIP` or `ZLIB`."""
        rest, self._rest = bytes(self._rest), memoryview(b"")
        self.most_bytes = self.position + self.size * _MAX_DEFLATE_RATIO
        self._chunks = self._inflated(rest, window_bits)

    def line(self, limit: int) -> bytes:
        """The next line without its end, cut at `limit` bytes."""
        taken = bytearray()
        while len(taken) < limit and (byte := self.take(1)) and byte != b"\n":
            taken += byte
        return bytes(taken.removesuffix(b"\r"))

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end of the file."""
        taken = bytearray(count)
        return bytes(taken[: self._copy(memoryview(taken))])

    def skip_to(self, position: int) -> None:
        """Pass over the bytes before `position`.

        Raises:
            UserError: HEADER, when the file ends before.
        """
        while self.position < position:
            if not self.take(min(position - self.position, _CHUNK)):
                found = f"voxels starting at byte {position} of a file of {self.position}"
                raise UserError("HEADER", self.path, found, "voxels inside the file", REWRITE)

    def fill(self, target: np.ndarray) -> None:
        """Fill a uint8 array with the next bytes.

        Raises:
            UserError: TRUNCATED.
        """
        if self._copy(target.data) < target.size:
            raise truncated(self.path, self.position, self.expected)

    def drain(self, limit: int) -> int:
        """The number of bytes up to the end of the file, which must stay below `limit`; the checksum is verified.

        Raises:
            UserError: HEADER; a bomb is met without being inflated.
        """
        start = self.position
        while self.take(_CHUNK):
            if self.position - start >= limit:
                found = f"at least {self.position - start} bytes after the {self.expected} that the header announces"
                raise UserError("HEADER", self.path, found, "dimensions that cover all voxels of the file", REWRITE)
        return self.position - start

    def sha256(self) -> str:
        """Of the file as it lies on the disk; valid once it has been read to its end."""
        return self._digest.hexdigest()

    def _copy(self, target: memoryview) -> int:
        done = 0
        while done < len(target):
            if not self._rest:
                chunk = next(self._chunks, b"")
                if not chunk:
                    break
                self._rest = memoryview(chunk)
            count = min(len(self._rest), len(target) - done)
            target[done : done + count] = self._rest[:count]
            self._rest = self._rest[count:]
            done += count
        self.position += done
        return done

    def _raw(self) -> bytes:
        chunk = self._file.read(_CHUNK)
        self._digest.update(chunk)
        return chunk

    def _inflated(self, data: bytes, window_bits: int) -> Iterator[bytes]:
        count = 0
        member = isal_zlib.decompressobj(wbits=window_bits)
        while True:
            try:
                chunk = member.decompress(data, _CHUNK)  # bounded: a bomb is met chunk by chunk
            except isal_zlib.error as error:  # type: ignore[misc]  # its stub calls the class an instance
                raise self._damaged(count, str(error).partition(" ")[2]) from None
            count += len(chunk)
            if chunk:
                yield chunk
            data = member.unconsumed_tail
            if member.eof:
                data = member.unused_data.lstrip(b"\0")  # zeros after the end are padding
                while not data and (raw := self._raw()):
                    data = raw.lstrip(b"\0")
                if not data:
                    return
                if window_bits != GZIP or data[:2] != GZIP_MAGIC[: len(data)]:
                    raise self._damaged(count, f"then {len(data)} bytes or more that are no gzip")
                member = isal_zlib.decompressobj(wbits=GZIP)  # bgzip and `cat a.gz b.gz` make several members
            elif not data:
                data = self._raw()
                if not data and not chunk:
                    raise truncated(self.path, count, self.expected)

    def _damaged(self, count: int, why: str) -> UserError:
        found = f"a damaged gzip stream after {count} uncompressed bytes ({why})"
        remedy = "copy or download it again; its voxels are not reliable"
        return UserError("CHECKSUM", self.path, found, "an intact file", remedy)


def truncated(path: Path, actual: int, expected: int | None) -> UserError:
    """The refusal of a file that ends too early."""
    wanted = f"{expected} bytes (uncompressed)" if expected else "the rest of it"
    return UserError(
        "TRUNCATED", path, f"the end of the file after {actual} bytes", wanted, "copy or download the file again"
    )
