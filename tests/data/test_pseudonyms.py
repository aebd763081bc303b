from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from medseg3d.data.pseudonyms import hidden, names_hidden, pseudonyms_of, read_pseudonyms
from medseg3d.errors import UsageError, UserError
from medseg3d.files.atomic import claimed

JANE, HANS = Path("/data/Doe, Jane/ct.nii.gz"), Path("/data/Meier_Hans/ct.nii.gz")


def test_a_name_keeps_its_pseudonym_and_new_ones_get_their_own(tmp_path):
    first = pseudonyms_of(tmp_path / "names.csv", [JANE])
    both = pseudonyms_of(tmp_path / "names.csv", [HANS, JANE])
    assert both[JANE] == first[JANE] != both[HANS]
    assert read_pseudonyms(tmp_path / "names.csv") == {both[JANE]: str(JANE), both[HANS]: str(HANS)}


def test_the_table_is_readable_by_its_owner_alone(tmp_path):
    pseudonyms_of(tmp_path / "of mine/names.csv", [JANE])
    assert stat.S_IMODE((tmp_path / "of mine/names.csv").stat().st_mode) == 0o600


def test_ones_own_pseudonyms_are_taken(tmp_path):
    (tmp_path / "names.csv").write_text(f'pseudonym,image\nP-017,"{JANE}"\n')
    assert pseudonyms_of(tmp_path / "names.csv", [JANE]) == {JANE: "P-017"}


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ("pseudonym,path\n", 1),
        ("pseudonym,image\na,/x\na,/y\n", 3),
        ("pseudonym,image\na,/x\nb,/x\n", 3),
        ("pseudonym,image\n../a,/x\n", 2),
        ("pseudonym,image\na,x\n", 2),
        ("pseudonym,image\na\n", 2),
    ],
)
def test_a_wrong_line_is_named_by_its_number_alone(tmp_path, lines, number):
    (tmp_path / "names.csv").write_text(lines)
    with pytest.raises(UsageError, match=rf"BAD_VALUE --pseudonym .*: line {number}, expected"):
        read_pseudonyms(tmp_path / "names.csv")


def test_a_table_that_another_process_writes_is_waited_for_and_then_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg3d.data.pseudonyms._PATIENCE", 0.05)
    with claimed(tmp_path / ".names.csv.lock"), pytest.raises(UsageError, match="IN_USE"):
        pseudonyms_of(tmp_path / "names.csv", [JANE])


@pytest.mark.parametrize(
    "found",
    [
        "the same name as /data/Doe, Jane/ct.nii.gz",
        "a folder Doe, Jane that cannot be listed",
        "doe, jane/ct.nii.gz in lower case",
        'series 2 ("Abdomen Jane Doe", CT)',
        "UID 1.2.840.113619.2.55.3",
    ],
)
def test_no_name_path_quotation_or_uid_is_left(found):
    text = str(hidden(UsageError("X", JANE, found, found, found), {str(JANE): "case-1"})).lower()
    assert not [word for word in ("doe", "jane", "840") if word in text]
    assert text.startswith("x case-1: ")


def test_what_is_no_name_stays():
    error = UserError("TRUNCATED", "/data/17/ct.nii", "17 bytes", "352 bytes in the file", "copy the file again")
    assert str(hidden(error, {"/data/17/ct.nii": "case-1"})) == str(error).replace("/data/17/ct.nii", "case-1")


def test_names_of_files_within_a_folder_and_an_archive_are_left_out(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series/Meier_Hans_001.dcm").touch()
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.writestr("Meier Hans/IM1", b"")
    gap = UserError("SLICE_GAP", tmp_path / "series/Meier_Hans_001.dcm", "a gap behind Meier_Hans_001.dcm")
    assert str(hidden(gap, {str(tmp_path / "series"): "case-1"})) == "SLICE_GAP case-1/...: a gap behind ..."
    cut = UserError("TRUNCATED", tmp_path / "study.zip/Meier Hans/IM1", "0 bytes")
    assert str(hidden(cut, {str(tmp_path / "study.zip"): "case-2"})) == "TRUNCATED case-2/...: 0 bytes"


def test_an_error_of_any_kind_leaves_without_names(tmp_path):
    with pytest.raises(UserError, match=r"^INTERNAL an image: KeyError: \.\.\.\. Hint") as raised, names_hidden([JANE]):
        raise KeyError("Doe, Jane")
    assert raised.value.__suppress_context__
