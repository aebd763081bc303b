from __future__ import annotations

import subprocess

import pytest

from medseg3d.data.manifests import Manifest
from medseg3d.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Three files in two folders, and what `sha256sum` itself says of them."""
    for name in ("a.jpg", "b c.jpg", "dicom/1", "dicom/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    command = ["sha256sum", "a.jpg", "b c.jpg", "dicom/1", "dicom/2"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (tmp_path / "SHA256SUMS").write_text(listed)
    return tmp_path


@pytest.mark.parametrize("name", ["a.jpg", "b c.jpg", "dicom"])
def test_what_is_as_listed_passes(folder, name, monkeypatch):
    monkeypatch.chdir(folder)
    Manifest("SHA256SUMS").check(name)
    Manifest(folder / "SHA256SUMS").check(folder / name)


@pytest.mark.parametrize("name", ["a.jpg", "dicom/2"])
def test_one_flipped_bit_is_refused_by_name(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[0] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(
        UserError, match=rf"CHECKSUM {folder / name}: sha256 \w{{12}}, expected \w{{12}} as in .*SHA256SUMS"
    ):
        Manifest(folder / "SHA256SUMS").check(folder / name.split("/")[0])


def test_a_file_that_is_not_listed_is_refused(folder):
    (folder / "dicom" / "3").touch()
    with pytest.raises(UserError, match=r"CHECKSUM .*dicom/3: no checksum in .*SHA256SUMS"):
        Manifest(folder / "SHA256SUMS").check(folder / "dicom")


@pytest.mark.parametrize("text", ["", "abc  a.jpg\n", "a.jpg\n"])
def test_what_is_no_list_is_refused(tmp_path, text):
    (tmp_path / "sums").write_text(text)
    with pytest.raises(UserError, match=r"BAD_VALUE --manifest .*sums: .*expected lines as"):
        Manifest(tmp_path / "sums")


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"MISSING_FILE .*absent"):
        Manifest(tmp_path / "absent")
