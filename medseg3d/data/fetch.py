"""Getting the data sets: MSD Task07_Pancreas and Kvasir-SEG by download, CVC-ClinicDB from its authors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medseg3d.data.picture_folders import find_pictures
from medseg3d.errors import UserError
from medseg3d.files.archives import check_empty, check_zip, download, unpack
from medseg3d.files.disk_space import check_space

PANCREAS_NAME = "Task07_Pancreas"
PANCREAS_URL = "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task07_Pancreas.tar"
PANCREAS_MD5 = "4f7080cfca169fa8066d17ce6eb061e4"
ARCHIVE_BYTES = 11_500_000_000
"""Upper bound of the archive's size (11.4 GB); unpacked it takes the same again."""

KVASIR_NAME = "Kvasir-SEG"
KVASIR_URL = "https://datasets.simula.no/downloads/kvasir-seg.zip"
KVASIR_BYTES = 47_000_000
"""Upper bound of the archive's size (46.2 MB)."""

MOST_UNPACKED = 1_000_000_000

CLINICDB_NAME = "CVC-ClinicDB"
CLINICDB_PAGE = "https://polyp.grand-challenge.org/CVCClinicDB/"


def fetch_pancreas(root: str | Path = "data", say: Callable[[str], None] = print, keep_archive: bool = False) -> Path:
    """Download and unpack MSD Task07_Pancreas through MONAI's checked downloader; the data set's folder comes back.

    The archive is checked by its MD5 and unpacked next to its final folder, which therefore is whole or not there.

    Args:
        root: folder that gets `Task07_Pancreas/`; made if needed.
        say: where messages for the user go.
        keep_archive: keep `Task07_Pancreas.tar` after unpacking.

    Raises:
        UserError: NO_SPACE or NOT_EMPTY before anything is downloaded, NO_NETWORK with the steps by hand if the
            download fails, CHECKSUM if an archive does not have the known MD5.
    """
    return _fetched(
        root,
        say,
        keep_archive,
        PANCREAS_NAME,
        PANCREAS_URL,
        ARCHIVE_BYTES,
        marker="dataset.json",
        terms="11.4 GB to download and the same again unpacked, licence CC BY-SA 4.0; "
        "cite Antonelli et al. 2022, doi:10.1038/s41467-022-30695-9",
        by_hand=f"download {PANCREAS_URL} in another way, put it at {{archive}} (md5 {PANCREAS_MD5}) and run the same "
        "command again; other sources: http://medicaldecathlon.com",
        find=_msd_folder,
        holds=f"{PANCREAS_NAME}/dataset.json",
        md5=PANCREAS_MD5,
    )


def fetch_kvasir_seg(root: str | Path = "data", say: Callable[[str], None] = print, keep_archive: bool = False) -> Path:
    """Download and unpack Kvasir-SEG through MONAI's downloader; the data set's folder comes back.

    No checksum is published for the archive: every member is compared with its CRC, and every image must have its
    mask. The folder is whole or not there.

    Args:
        root: folder that gets `Kvasir-SEG/`; made if needed.
        say: where messages for the user go.
        keep_archive: keep `kvasir-seg.zip` after unpacking.

    Raises:
        UserError: NO_SPACE or NOT_EMPTY before anything is downloaded, NO_NETWORK with the steps by hand if the
            download fails, CHECKSUM or TOO_LARGE if the archive is not what it should be, MISSING_FILE for an image
            without mask.
    """
    return _fetched(
        root,
        say,
        keep_archive,
        KVASIR_NAME,
        KVASIR_URL,
        KVASIR_BYTES,
        marker="images",
        terms="46 MB to download, for research and education; cite Jha et al. 2020, doi:10.1007/978-3-030-37734-2_37",
        # the server has been seen without its intermediate certificate: browsers fetch it by themselves, Python not
        by_hand=f"download {KVASIR_URL} with a browser, put it at {{archive}} and run the same command again",
        find=_kvasir_folder,
        holds=f"{KVASIR_NAME}/images and {KVASIR_NAME}/masks",
    )


def find_clinicdb(root: str | Path = "data", say: Callable[[str], None] = print) -> Path:
    """The folder `CVC-ClinicDB` below `root`, which has no open link; where it is not, the error says how to get it.

    Raises:
        UserError: MISSING_DATA with the steps by hand.
    """
    folder = Path(root).expanduser().absolute() / CLINICDB_NAME
    if not folder.is_dir():
        raise UserError(
            "MISSING_DATA",
            folder,
            "no such folder",
            f"{CLINICDB_NAME}, available only from its authors (research and education, cite Bernal et al. 2015)",
            f"ask for CVC-ClinicDB.rar at {CLINICDB_PAGE}, unpack it (`unar` or 7-Zip) so that "
            f"'{folder}/Original/1.tif' and '{folder}/Ground Truth/1.tif' exist, 612 each (PNG will do), and run "
            f"`medseg3d data verify {folder}`",
        )
    say(f"{folder} exists; `medseg3d data verify {folder}` checks it")
    return folder


def _fetched(
    root: str | Path,
    say: Callable[[str], None],
    keep_archive: bool,
    name: str,
    url: str,
    archive_bytes: int,
    *,
    marker: str,
    terms: str,
    by_hand: str,
    find: Callable[[Path], Path | None],
    holds: str,
    md5: str | None = None,
) -> Path:
    """The folder of a published archive; a ZIP without a published sum is checked member by member."""
    root = Path(root).expanduser().absolute()
    folder, archive = root / name, root / Path(url).name
    if (folder / marker).exists():
        say(f"{folder} already exists; `medseg3d data verify {folder}` checks it")
        return folder
    check_empty(folder, marker)
    say(f"{name}: {terms}")
    check_space({root: archive_bytes * (1 if archive.is_file() else 2)}, "name another disk with --root")
    root.mkdir(parents=True, exist_ok=True)
    download(url, archive, by_hand.format(archive=archive), md5)
    if md5 is None:
        check_zip(archive, MOST_UNPACKED)
    say(f"unpacking to {folder}")
    unpack(archive, folder, find, holds)
    if not keep_archive:
        archive.unlink()
    say(f"{folder} is complete; `medseg3d data verify {folder}` checks every file")
    return folder


def _msd_folder(unpacked: Path) -> Path | None:
    folder = unpacked / PANCREAS_NAME
    return folder if (folder / "dataset.json").is_file() else None


def _kvasir_folder(unpacked: Path) -> Path | None:
    """The folder of the archive that holds images and masks, each image with its mask."""
    folders = [path.parent for path in sorted(unpacked.glob("**/images")) if (path.parent / "masks").is_dir()]
    folders = [folder for folder in folders if "__MACOSX" not in folder.parts]
    if len(folders) != 1:
        return None
    errors = find_pictures(folders[0]).errors
    if errors:
        raise errors[0]
    return folders[0]
