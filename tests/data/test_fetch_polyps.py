from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from medseg3d.data import fetch
from medseg3d.data.fetch import fetch_kvasir_seg, find_clinicdb
from medseg3d.data.verify import verify_pictures
from medseg3d.errors import UserError

NAMES = ("cju0", "cju1", "cju2")


def write_archive(path: Path, missing: str = "") -> None:
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Kvasir-SEG/kavsir_bboxes.json", "{}")
        archive.writestr("__MACOSX/Kvasir-SEG/images/._cju0.jpg", "resource fork")
        for name in NAMES:
            for part, pixels in (("images", rng.integers(0, 256, (24, 32, 3))), ("masks", np.eye(24, 32) * 255)):
                if f"{part}/{name}" == missing:
                    continue
                with archive.open(f"Kvasir-SEG/{part}/{name}.jpg", "w") as file:
                    Image.fromarray(pixels.astype(np.uint8)).save(file, format="JPEG", quality=95)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """MONAI's downloader, with a small archive in place of Simula's; the list of what it was asked for."""
    write_archive(tmp_path / "served.zip")
    asked = []

    def retrieve(url, path, reporthook=None):
        asked.append(url)
        shutil.copy(tmp_path / "served.zip", path)

    monkeypatch.setattr("monai.apps.utils.urlretrieve", retrieve)
    return asked


def quiet(text: str) -> None:
    pass


def test_fetched_data_set_is_whole_and_leaves_nothing_else(server, tmp_path):
    said = []
    folder = fetch_kvasir_seg(tmp_path / "data", say=said.append)
    assert server == ["https://datasets.simula.no/downloads/kvasir-seg.zip"]
    assert folder == tmp_path / "data" / "Kvasir-SEG"
    assert [path.name for path in folder.parent.iterdir()] == ["Kvasir-SEG"]
    assert sorted(path.stem for path in (folder / "masks").iterdir()) == list(NAMES)
    (error,) = verify_pictures(folder).errors  # three images are not Kvasir-SEG
    assert (error.code, error.found, error.wanted) == ("CASE_COUNT", "3 cases", "1000")
    assert "46 MB" in said[0]
    assert "research and education" in said[0]


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    for _ in range(2):
        fetch_kvasir_seg(tmp_path / "data", say=quiet)
    assert len(server) == 1


def test_archive_put_there_by_hand_is_used_and_may_be_kept(server, tmp_path):
    (tmp_path / "data").mkdir()
    shutil.copy(tmp_path / "served.zip", tmp_path / "data" / "kvasir-seg.zip")
    fetch_kvasir_seg(tmp_path / "data", say=quiet, keep_archive=True)
    assert server == []
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["Kvasir-SEG", "kvasir-seg.zip"]


def flip_a_byte_of_a_picture(path: Path) -> None:
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("Kvasir-SEG/images/cju1.jpg").header_offset
    content[place + 300] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda path: path.write_bytes(b"<html>proxy</html>"),
            r"CHECKSUM .*kvasir-seg\.zip: an incomplete or damaged ZIP.*delete",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "CHECKSUM .*an incomplete or damaged ZIP"),
        (flip_a_byte_of_a_picture, r"CHECKSUM .*a damaged file in it, Kvasir-SEG/images/cju1\.jpg"),
        (lambda path: write_archive(path, "masks/cju1"), r"MISSING_FILE .*cju1\.jpg: no mask of the same name"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "CHECKSUM .*without Kvasir-SEG/images and Kvasir-SEG/masks"),
    ],
    ids=["html", "truncated", "flipped", "unpaired", "empty"],
)
def test_another_or_damaged_archive_is_refused(server, tmp_path, damage, words):
    damage(tmp_path / "served.zip")
    with pytest.raises(UserError, match=words):
        fetch_kvasir_seg(tmp_path / "data", say=quiet)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["kvasir-seg.zip"]


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_does(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MOST_UNPACKED", 1000)
    with pytest.raises(UserError, match="TOO_LARGE"):
        fetch_kvasir_seg(tmp_path / "data", say=quiet)


def test_no_network_gives_the_steps_by_hand(server, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("CERTIFICATE_VERIFY_FAILED")

    monkeypatch.setattr("monai.apps.utils.urlretrieve", fail)
    with pytest.raises(UserError, match=r"NO_NETWORK .*CERTIFICATE_VERIFY_FAILED") as caught:
        fetch_kvasir_seg(tmp_path / "data", say=quiet)
    assert "kvasir-seg.zip with a browser" in caught.value.remedy
    assert str(tmp_path / "data" / "kvasir-seg.zip") in caught.value.remedy


def test_a_full_disk_and_files_of_the_user_are_met_before_the_download(server, tmp_path, monkeypatch):
    (tmp_path / "data" / "Kvasir-SEG").mkdir(parents=True)
    (tmp_path / "data" / "Kvasir-SEG" / "mine.txt").touch()
    with pytest.raises(UserError, match="NOT_EMPTY"):
        fetch_kvasir_seg(tmp_path / "data", say=quiet)
    monkeypatch.setattr(fetch, "KVASIR_BYTES", 10**18)
    with pytest.raises(UserError, match=r"NO_SPACE.*--root"):
        fetch_kvasir_seg(tmp_path / "other", say=quiet)
    assert server == []


def test_clinicdb_is_asked_for_by_hand(tmp_path):
    with pytest.raises(UserError, match=r"MISSING_DATA .*CVC-ClinicDB.*only from its authors") as caught:
        find_clinicdb(tmp_path)
    steps = ("polyp.grand-challenge.org", "CVC-ClinicDB.rar", f"{tmp_path}/CVC-ClinicDB/Ground Truth/1.tif", "612")
    assert [part for part in steps if part not in caught.value.remedy] == []
    (tmp_path / "CVC-ClinicDB").mkdir()
    said = []
    assert find_clinicdb(tmp_path, said.append) == tmp_path / "CVC-ClinicDB"
    assert "medseg3d data verify" in said[0]
