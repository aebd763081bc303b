from __future__ import annotations

import os
from pathlib import Path

import pytest

from medseg3d.errors import UserError
from medseg3d.files.folders import files_below, not_read

SUFFIXES = (".nii.gz", ".nii")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(folder: Path) -> tuple[list[str], list[str]]:
    """What is read and what is not, as paths below the folder."""
    read, unread = files_below(folder, SUFFIXES)
    return [path.relative_to(folder).as_posix() for path in read], [
        path.relative_to(folder).as_posix() for path in unread
    ]


def test_folder_that_is_a_link_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.nii", "elsewhere/sub/b.nii")
    (tmp_path / "in/site").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "in") == (["a.nii", "site/sub/b.nii"], [])


@pytest.mark.parametrize("target", [".", "..", "gone"])
def test_links_that_lead_round_or_nowhere_are_named(tmp_path: Path, target: str) -> None:
    touch(tmp_path, "in/sub/a.nii")
    (tmp_path / "in/sub/back").symlink_to(tmp_path / "in/sub" / target)
    assert names(tmp_path / "in") == (["sub/a.nii"], ["sub/back"])


def test_two_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/a.nii", "b/b.nii")
    (tmp_path / "a/to").symlink_to(tmp_path / "b")
    (tmp_path / "b/to").symlink_to(tmp_path / "a")
    assert names(tmp_path / "a") == (["a.nii", "to/b.nii"], ["to/to"])


def test_records_and_hidden_files_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "a.json", "scores.csv", "README.md", "LICENSE", "._b.mnc", ".cache/b.mnc", "Thumbs.db")
    assert names(tmp_path) == (["a.nii"], [])


def test_images_of_other_formats_are_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", *(f"{index}.mnc" for index in range(7)), "IM0001")
    (warning,) = not_read(tmp_path, files_below(tmp_path, SUFFIXES).unread, SUFFIXES)
    assert warning.startswith(f"NOT_READ: 8 files below {tmp_path} (0.mnc, 1.mnc,")


def test_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "sub/a.nii")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"UNREADABLE .*sub: permission denied"):
        files_below(tmp_path, SUFFIXES)


def test_voxels_beside_their_header_are_no_file_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "a.mhd", "a.raw", "b.nhdr", "b.raw.gz", "c.raw")
    files = files_below(tmp_path, (".nhdr", ".mhd"))
    assert [path.name for path in files.read] == ["a.mhd", "b.nhdr"]
    assert [path.name for path in files.unread] == ["c.raw"]
