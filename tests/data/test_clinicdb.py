from __future__ import annotations

import csv
from collections import Counter

import pytest

from medseg3d.data.clinicdb import FIRST_FRAMES, FRAMES, clinicdb_sequence
from medseg3d.errors import UserError


def test_612_frames_are_of_29_sequences_of_6_to_26_frames():
    sizes = Counter(clinicdb_sequence(str(frame)) for frame in range(1, FRAMES + 1))
    assert list(sizes) == [f"clinicdb-{number:02d}" for number in range(1, 30)]
    assert (min(sizes.values()), max(sizes.values()), sum(sizes.values())) == (6, 26, 612)
    assert sorted(FIRST_FRAMES) == list(FIRST_FRAMES)


@pytest.mark.parametrize(
    ("frame", "sequence"), [("1", 1), ("25", 1), ("26", 2), ("050", 2), ("205", 10), ("206", 11), ("612", 29)]
)
def test_limits_by_hand(frame, sequence):
    assert clinicdb_sequence(frame) == f"clinicdb-{sequence:02d}"


def test_the_same_frame_is_of_one_sequence_in_training_and_in_test():
    assert clinicdb_sequence("TrainDataset/30") == clinicdb_sequence("TestDataset/CVC-ClinicDB/31") == "clinicdb-02"


@pytest.mark.parametrize("case", ["cju0qkwl35piu0993l0dewei2", "TestDataset/CVC-300/150", "²", "frame_7"])
def test_what_is_no_frame_is_a_group_of_its_own(case):
    assert clinicdb_sequence(case) == case


@pytest.mark.parametrize("case", ["0", "613", "TrainDataset/1000"])
def test_a_number_that_is_no_frame_is_refused(case):
    with pytest.raises(UserError, match=r"GROUP_PATTERN .* expected frames 1 to 612 of CVC-ClinicDB"):
        clinicdb_sequence(case)


def test_limits_are_those_of_the_frames_at_hand(real_data):
    rows = list(csv.DictReader((real_data / "cvc-clinicdb" / "sequences.csv").open()))
    assert len(rows) == 24
    limits = [(int(row["sequence"]), range(int(row["first_frame"]), int(row["last_frame"]) + 1)) for row in rows]
    expected = {frame: f"clinicdb-{sequence:02d}" for sequence, frames in limits for frame in frames}
    assert {frame: clinicdb_sequence(str(frame)) for frame in expected} == expected
