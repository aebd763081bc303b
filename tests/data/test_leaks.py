from __future__ import annotations

from medseg3d.data.splits import Leak, find_leaks, make_split

FRAMES = {f"{patient}-{frame}": patient for patient in "abcdefgh" for frame in range(4)}


def test_a_split_by_frame_shares_patients_and_one_by_patient_does_not():
    by_frame = make_split(list(FRAMES), 8, 8)
    assert {leak.name for leak in find_leaks(by_frame, FRAMES)} == {
        patient
        for patient in "abcdefgh"
        if sum(any(case[0] == patient for case in part) for part in (by_frame.train, by_frame.val, by_frame.test)) > 1
    }
    assert find_leaks(make_split(list(FRAMES), 2, 2, groups=FRAMES)) == []


def test_equal_pictures_are_a_leak_only_across_parts():
    split = make_split(["a", "b", "c", "d", "e"], 1, 1)  # d is test, a is val
    digests = {"a": "1", "b": "2", "c": "2", "d": "1", "e": "3"}
    assert find_leaks(split, digests=digests) == [Leak("picture", "1", {"val": ["a"], "test": ["d"]})]


def test_pictures_come_first_and_cases_without_a_name_are_passed_over():
    split = make_split(["a", "b", "c", "d", "e"], 1, 1)
    leaks = find_leaks(split, {"b": "z", "d": "z"}, {"e": "9", "d": "9"})
    assert [(leak.kind, leak.name) for leak in leaks] == [("picture", "9"), ("group", "z")]
