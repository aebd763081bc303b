"""Archives of data sets: downloaded where there is room, unpacked whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg3d.errors import UsageError, UserError
from medseg3d.files.disk_space import in_words


def download(url: str, archive: Path, by_hand: str, md5: str | None = None) -> None:
    """Download with MONAI's downloader, unless the archive is there; either way it has the MD5, if one is known.

    `by_hand` is what the user can do instead, for the errors.

    Raises:
        UserError: NO_NETWORK, CHECKSUM.
    """
    from monai.apps import download_url
    from monai.apps.utils import HashCheckError

    try:
        # MONAI downloads to the system's temporary folder first, which is often too small
        with _temporary_files_in(archive.parent), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No hash value provided")  # where no MD5 is known, the caller checks
            download_url(url, archive, hash_val=md5, hash_type="md5")
    except HashCheckError as error:
        raise UserError("CHECKSUM", archive, "not the published file", f"md5 {md5}", f"delete it; {by_hand}") from error
    except (OSError, RuntimeError) as error:  # URLError, HTTPError and ContentTooShortError are OSErrors
        raise UserError("NO_NETWORK", url, f"a failed download ({error})", "the archive", by_hand) from error
    if not archive.is_file():  # MONAI passes over a PermissionError in silence
        raise UserError("NO_NETWORK", url, f"nothing at {archive} after the download", "the archive", by_hand)


def check_zip(archive: Path, most_bytes: int) -> None:
    """Compare every member of a ZIP with its CRC, after a look at the sizes.

    Raises:
        UserError: CHECKSUM (no ZIP, or a damaged member), TOO_LARGE (more than `most_bytes` when unpacked).
    """
    remedy = "delete it and run the same command again"
    try:
        with zipfile.ZipFile(archive) as members:
            unpacked = sum(member.file_size for member in members.infolist())
            if unpacked > most_bytes:
                raise UserError(
                    "TOO_LARGE", archive, f"{in_words(unpacked)} unpacked", f"at most {in_words(most_bytes)}", remedy
                )
            damaged = members.testzip()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise UserError(
            "CHECKSUM", archive, f"an incomplete or damaged ZIP archive ({error})", "the published archive", remedy
        ) from error
    if damaged is not None:
        raise UserError("CHECKSUM", archive, f"a damaged file in it, {damaged}", "the published archive", remedy)


def unpack(archive: Path, folder: Path, find: Callable[[Path], Path | None], wanted: str) -> None:
    """Unpack next to the folder and move what `find` finds to it: the folder is whole or not there.

    `find` gives the data set's folder among what was unpacked, or None; `wanted` is what the archive, a ZIP or tar,
    should hold.

    MONAI's own `extractall` takes a half-unpacked folder for a finished one.

    Raises:
        UserError: CHECKSUM if `find` finds nothing.
    """
    from monai.apps import extractall

    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        extractall(archive, partial)  # refuses links and paths that leave the folder
        found = find(partial)
        if found is None:
            remedy = "delete it and run the same command again"
            raise UserError("CHECKSUM", archive, f"an archive without {wanted}", "the published archive", remedy)
        os.replace(found, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_empty(folder: Path, what: str) -> None:
    """Refuse with NOT_EMPTY if something else than the data set is in its folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        remedy = "move it away or choose another folder with --root"
        raise UsageError(
            "NOT_EMPTY", folder, f"files but no {what}", "the complete data set, or an empty folder", remedy
        )


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
