"""Files that appear whole or not at all.

Every result is written to a temporary file in the same folder, flushed to the disk, and renamed to its final name.
Killed, crashed or out of space in between: the final name holds what it held before.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from medseg3d.errors import UserError, causes

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, so leftovers are never removed there
    fcntl = None  # type: ignore[assignment]

TEMPORARY_PREFIX = ".medseg3d-tmp-"
"""How the name of every temporary file begins; the dot hides it from those who list cases."""

_MODES = ("wb", "w")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO]:
    """An open file whose content stands under `path` only once the block has ended without an error.

    Missing parent folders are made. A symbolic link at `path` is replaced, not followed. Text is UTF-8 and its line
    ends are written as they are on every platform, so that equal contents are equal bytes. Bytes of a file name that
    are no text are written as escapes.

    Args:
        path: the final name.
        mode: "wb" or "w".

    Yields:
        The file, open for writing; seekable.

    Raises:
        UserError: NO_SPACE (disk full, quota or file size limit) or NOT_WRITABLE; `path` is as it was before.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_write(folder / "note.txt", "w") as file:
        ...     _ = file.write("whole")
        ...     sorted(folder.glob("note*"))
        []
        >>> (folder / "note.txt").read_text()
        'whole'
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {_MODES}, found {mode!r}")
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with _renamed_at_the_end(Path(path)) as temporary, open(temporary, mode, **text) as file:  # type: ignore[call-overload]
        yield file


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path with the suffix of `path`, renamed to `path` once the block has ended without an error.

    For writers that open their file by name, such as nibabel. The block may read the file back and raise if it does
    not hold what it should. Otherwise as `atomic_write`.

    Args:
        path: the final name; `.nii.gz` and the like are kept as a whole.

    Yields:
        The path to write to, in the same folder.

    Raises:
        UserError: NO_SPACE or NOT_WRITABLE; `path` is as it was before.
        RuntimeError: the block wrote nothing there.

    Example:
        >>> import tempfile
        >>> final = Path(tempfile.mkdtemp()) / "case_1.nii.gz"
        >>> with atomic_path(final) as temporary:
        ...     _ = temporary.write_bytes(b"voxels")
        ...     temporary.name.endswith(".nii.gz"), final.exists()
        (True, False)
        >>> final.read_bytes()
        b'voxels'
    """
    with _renamed_at_the_end(Path(path)) as temporary:
        yield temporary
        if not temporary.exists() or temporary.stat().st_size == 0:
            raise RuntimeError(f"nothing was written for {path}: the block has to write to the path it was given")


@contextmanager
def claimed(path: str | Path) -> Iterator[bool]:
    """Context that says whether this process alone has claimed a file, which is made and stays.

    The claim ends with the context, and with the process however that ends. Where there are no advisory locks
    (Windows) nobody is kept out.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / ".claim"
        >>> with claimed(path) as first, claimed(path) as second:
        ...     first, second
        (True, False)
    """
    with open(path, "ab") as file:
        yield fcntl is None or _lock(file.fileno())


def make_folder(path: str | Path) -> None:
    """Make a folder, and those it lies in, where it is not there.

    Raises:
        UserError: NO_SPACE or NOT_WRITABLE.
    """
    with folder_errors(path):
        Path(path).mkdir(parents=True, exist_ok=True)


def check_folder(path: str | Path) -> None:
    """Make sure that files can be written to a folder, made if needed, before the work whose result goes there.

    Nothing is left behind: a folder that was not there is not there afterwards.

    Raises:
        UserError: NO_SPACE or NOT_WRITABLE.
    """
    path = Path(path)
    made = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    try:
        make_folder(path)
        with folder_errors(path):
            probe = path / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            probe.touch()
            probe.unlink()
    finally:
        for each in made:
            with suppress(OSError):  # another process may have begun to use it
                each.rmdir()


@contextmanager
def folder_errors(path: str | Path) -> Iterator[None]:
    """Context for making a folder or something in it, whose errors of the system are those of the folder.

    Raises:
        UserError: NO_SPACE or NOT_WRITABLE.
    """
    try:
        yield
    except OSError as error:
        raise _refusal(error, path, "a folder that can be written to") from error


def remove_leftovers(folder: str | Path) -> list[Path]:
    """The temporary files in `folder` that a killed process left behind; they are removed.

    A file that a living process is still writing is locked and stays, also when that process is another one.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / ".medseg3d-tmp-0123456789abcdef.nii.gz").write_bytes(b"half a ma")
        >>> [path.name for path in remove_leftovers(folder)]
        ['.medseg3d-tmp-0123456789abcdef.nii.gz']
    """
    removed = []
    for path in sorted(Path(folder).glob(f"{TEMPORARY_PREFIX}*")):
        with suppress(OSError), open(path, "rb") as file:  # gone, locked or not ours: leave it
            if _lock(file.fileno()):
                path.unlink()
                removed.append(path)
    return removed


@contextmanager
def _renamed_at_the_end(path: Path) -> Iterator[Path]:
    temporary: Path | None = None
    lock: int | None = None
    try:
        make_folder(path.parent)
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{_suffix(path)}"
        # 0o666 less the umask, as open() would have it; tempfile's 0o600 would hide the result from colleagues
        lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if not _lock(lock):
            os.close(lock)  # Windows renames only what nobody holds open
            lock = None
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        user_error = _error_of(error, path)
        if user_error is None:
            raise
        raise user_error from error
    finally:
        if lock is not None:
            os.close(lock)  # only now, so that nobody takes the file for a leftover


def _suffix(path: Path) -> str:
    compressed = path.suffix in {".gz", ".bz2", ".zst"}
    return "".join(path.suffixes[-2:] if compressed else path.suffixes[-1:])


def _lock(descriptor: int) -> bool:
    """Whether this process now holds the lock of the open file."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _flush_to_disk(path: Path) -> None:
    folder = path.is_dir()
    if folder and os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems have no fsync for folders; the rename is still atomic
        if not folder or error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


def _error_of(error: BaseException, path: Path) -> UserError | None:
    if isinstance(error, UserError):
        return None
    for cause in causes(error):  # torch.save covers the OSError of its file with a RuntimeError of its own
        if not isinstance(cause, OSError):
            continue
        # an unreadable input met inside the block is no error of the output
        if cause.errno in _NO_SPACE or (cause.errno in _NOT_WRITABLE and _is_about(cause, path)):
            return _refusal(cause, path, "a file name in a folder that can be written to")
    return None


def _refusal(error: OSError, path: str | Path, wanted: str) -> UserError:
    found = (error.strerror or str(error)).lower()
    if error.errno in _NO_SPACE:
        remedy = "free some space there or choose another output folder"
        return UserError(
            "NO_SPACE", path, f"no space left on the device ({found})", "room for the complete file", remedy
        )
    return UserError("NOT_WRITABLE", path, found, wanted, "choose another output folder or correct its permissions")


def _is_about(error: OSError, path: Path) -> bool:
    if error.filename is None:
        return False
    named = Path(os.fsdecode(error.filename))
    return named == path or named in path.parents or named.name.startswith(TEMPORARY_PREFIX)
