"""What a file's final name holds before, during and after a write, whatever happens to the writer."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medseg3d.errors import UserError
from medseg3d.files.atomic import TEMPORARY_PREFIX, atomic_path, atomic_write, check_folder, remove_leftovers


@contextmanager
def file_size_limit(nbytes: int):
    """What a full disk is to a process: writing beyond `nbytes` fails half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_old_content_stands_until_the_block_ends(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("interruption", [ValueError("bug"), KeyboardInterrupt(), SystemExit(1)])
def test_an_error_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path, interruption):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(interruption)), atomic_write(path) as file:  # noqa: PT012
        file.write(b"half")
        raise interruption
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_missing_folders_are_made(tmp_path):
    with atomic_write(tmp_path / "run" / "masks" / "a.txt", "w") as file:
        file.write("x")
    assert (tmp_path / "run" / "masks" / "a.txt").read_text() == "x"


def test_text_is_utf8_with_untouched_line_ends(tmp_path):
    with atomic_write(tmp_path / "a.txt", "w") as file:
        file.write("µm\n2\r\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc2\xb5m\n2\r\n"


@pytest.mark.parametrize("mode", ["a", "r+b", "x", "rb"])
def test_modes_that_do_not_write_a_whole_file_are_refused(tmp_path, mode):
    with pytest.raises(ValueError, match=r"mode must be one of .* found"), atomic_write(tmp_path / "a", mode):
        pass


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a.bin") as file:
            file.write(b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


def test_a_link_at_the_final_name_is_replaced_and_its_target_kept(tmp_path):
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "a.txt").symlink_to(tmp_path / "precious")
    with atomic_write(tmp_path / "a.txt", "w") as file:
        file.write("new")
    assert (tmp_path / "precious").read_text() == "keep"
    assert not (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "a.txt").read_text() == "new"


def test_disk_full_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=r"NO_SPACE .*a\.bin: no space left"), file_size_limit(1000):  # noqa: SIM117
        with atomic_write(path) as file:
            file.write(bytes(100_000))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_enospc_inside_the_block_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"NO_SPACE .*a\.bin"), atomic_path(tmp_path / "a.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def test_disk_full_under_torch_save_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"NO_SPACE .*model\.pt"), file_size_limit(1000):  # noqa: SIM117
        with atomic_write(tmp_path / "model.pt") as file:
            torch.save({"weight": torch.zeros(100_000)}, file)
    assert names(tmp_path) == []


def test_disk_full_under_nibabel_is_an_error(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 32)).astype(np.uint8)
    with pytest.raises(UserError, match=r"NO_SPACE .*mask\.nii\.gz"), file_size_limit(1000):  # noqa: SIM117
        with atomic_path(tmp_path / "mask.nii.gz") as temporary:
            nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), temporary)
    assert names(tmp_path) == []


def test_nibabel_writes_a_compressed_mask_through_a_dotted_name(tmp_path):
    mask = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    final = tmp_path / "case.1.2.nii.gz"
    with atomic_path(final) as temporary:
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), temporary)
        assert temporary.name.endswith(".nii.gz")
        assert not final.exists()
    assert final.read_bytes()[:2] == b"\x1f\x8b"  # gzip
    np.testing.assert_array_equal(np.asarray(nibabel.load(final).dataobj), mask)
    assert names(tmp_path) == [final.name]


def test_a_block_that_writes_elsewhere_is_told_so(tmp_path):
    with pytest.raises(RuntimeError, match=r"nothing was written for .*a\.nii"), atomic_path(tmp_path / "a.nii"):
        pass
    assert names(tmp_path) == []


def test_a_folder_at_the_final_name_is_an_error(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UserError, match=r"NOT_WRITABLE .*a\.txt: is a directory"), atomic_write(tmp_path / "a.txt"):
        pass


def test_a_file_where_a_folder_should_be_is_an_error(tmp_path):
    (tmp_path / "run").write_text("I am a file")
    with pytest.raises(UserError, match="NOT_WRITABLE"), atomic_write(tmp_path / "run" / "masks" / "a.txt"):
        pass


def test_an_unreadable_input_inside_the_block_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(PermissionError, match=r"ct\.nii"), atomic_write(tmp_path / "a.bin"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/ct.nii")


KILLED_WRITER = """
    import os, signal, sys
    from medseg3d.files.atomic import atomic_write
    with atomic_write(sys.argv[1]) as file:
        file.write(b"half")
        file.flush()
        if sys.argv[2] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        print("writing", flush=True)
        sys.stdin.read()
"""


def start_writer(path: Path, what: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED_WRITER), str(path), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_kill_9_leaves_nothing_under_the_final_name_and_a_leftover_that_can_be_removed(tmp_path):
    path = tmp_path / "a.nii.gz"
    writer = start_writer(path, "die")
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    (leftover,) = names(tmp_path)
    assert leftover.startswith(TEMPORARY_PREFIX)
    assert remove_leftovers(tmp_path) == [tmp_path / leftover]
    assert names(tmp_path) == []


def test_the_file_of_a_living_writer_is_no_leftover(tmp_path):
    path = tmp_path / "a.nii.gz"
    writer = start_writer(path, "live")
    try:
        assert writer.stdout.readline() == b"writing\n"
        assert remove_leftovers(tmp_path) == []
    finally:
        writer.communicate(b"")
    assert path.read_bytes() == b"half"


def test_removing_leftovers_touches_nothing_else(tmp_path):
    (tmp_path / "scores.csv").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / f"{TEMPORARY_PREFIX}00.csv").write_text("x")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "scores.csv"]


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_folder_that_cannot_be_is_said_beforehand(tmp_path, name):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="NOT_WRITABLE"):
        check_folder(tmp_path / name)
    with pytest.raises(UserError, match="NOT_WRITABLE"), atomic_write(tmp_path / name / "result.txt", "w"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_a_folder_that_can_be_is_left_as_it_was(tmp_path):
    check_folder(tmp_path / "a" / "b")
    check_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
