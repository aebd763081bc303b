"""Getting the polyp data sets Kvasir-SEG and CVC-ClinicDB."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medseg3d.data.picture_folders import find_pictures
from medseg3d.faults import Fault
from medseg3d.files.archives import check_empty, check_zip, download, unpack
from medseg3d.files.disk_space import check_space

KVASIR_NAME = "Kvasir-SEG"
KVASIR_URL = "https://datasets.simula.no/downloads/kvasir-seg.zip"
KVASIR_BYTES = 47_000_000
"""Upper bound of the archive's size (46.2 MB)."""

MOST_UNPACKED = 1_000_000_000

CLINICDB_NAME = "CVC-ClinicDB"
CLINICDB_PAGE = "https://polyp.grand-challenge.org/CVCClinicDB/"


def fetch_kvasir_seg(root: str | Path = "data", say: Callable[[str], None] = print, keep_archive: bool = False) -> Path:
    """Download and unpack Kvasir-SEG through MONAI's downloader; the data set's folder comes back.

    No checksum is published for the archive: every member is compared with its CRC, and every picture must have its
    mask. The folder is whole or not there.

    Args:
        root: folder that gets `Kvasir-SEG/`; made if needed.
        say: where messages for the user go.
        keep_archive: keep `kvasir-seg.zip` after unpacking.

    Raises:
        Fault: NO_SPACE or NOT_EMPTY before anything is downloaded, NO_NETWORK with the steps by hand if the download
            fails, CHECKSUM or TOO_LARGE if the archive is not what it should be, MISSING_FILE for a picture without
            mask.
    """
    root = Path(root).expanduser().absolute()
    folder, archive = root / KVASIR_NAME, root / Path(KVASIR_URL).name
    if (folder / "images").is_dir():
        say(f"{folder} is there already; `medseg3d data verify {folder}` checks it")
        return folder
    check_empty(folder, "images/")
    say(
        f"{KVASIR_NAME}: 46 MB to download, for research and education; "
        "cite Jha et al. 2020, doi:10.1007/978-3-030-37734-2_37"
    )
    check_space({root: KVASIR_BYTES * (1 if archive.is_file() else 2)}, "name another disk with --root")
    root.mkdir(parents=True, exist_ok=True)
    # the server has been seen without its intermediate certificate: browsers fetch it by themselves, Python does not
    by_hand = f"download {KVASIR_URL} with a browser, put it at {archive} and run the same command again"
    download(KVASIR_URL, archive, by_hand)
    check_zip(archive, MOST_UNPACKED)
    say(f"unpacking to {folder}")
    unpack(archive, folder, _kvasir_folder, f"{KVASIR_NAME}/images and {KVASIR_NAME}/masks")
    if not keep_archive:
        archive.unlink()
    say(f"{folder} is complete; `medseg3d data verify {folder}` checks every picture")
    return folder


def find_clinicdb(root: str | Path = "data", say: Callable[[str], None] = print) -> Path:
    """The folder of CVC-ClinicDB, which has no open link; where it is not, the fault says how to get it.

    Args:
        root: folder that holds `CVC-ClinicDB/`.
        say: where messages for the user go.

    Raises:
        Fault: MISSING_DATA with the steps by hand.
    """
    folder = Path(root).expanduser().absolute() / CLINICDB_NAME
    if not folder.is_dir():
        raise Fault(
            "MISSING_DATA",
            folder,
            "no such folder",
            f"{CLINICDB_NAME}, which only its authors hand out (research and education, cite Bernal et al. 2015)",
            f"ask for CVC-ClinicDB.rar at {CLINICDB_PAGE}, unpack it (`unar` or 7-Zip) so that "
            f"'{folder}/Original/1.tif' and '{folder}/Ground Truth/1.tif' exist, 612 each (PNG will do), and run "
            f"`medseg3d data verify {folder}`",
        )
    say(f"{folder} is there; `medseg3d data verify {folder}` checks it")
    return folder


def _kvasir_folder(unpacked: Path) -> Path | None:
    """The folder of the archive that holds pictures and masks, each picture with its mask."""
    folders = [path.parent for path in sorted(unpacked.glob("**/images")) if (path.parent / "masks").is_dir()]
    folders = [folder for folder in folders if "__MACOSX" not in folder.parts]
    if len(folders) != 1:
        return None
    faults = find_pictures(folders[0]).faults
    if faults:
        raise faults[0]
    return folders[0]
