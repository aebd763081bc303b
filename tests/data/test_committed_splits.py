from __future__ import annotations

from pathlib import Path

import pytest

from medseg3d.data.clinicdb import clinicdb_sequence
from medseg3d.data.splits import PARTS, find_leaks, make_split, read_split

FOLDER = Path(__file__).parents[2] / "data" / "splits"
SIZES = {
    "Kvasir-SEG_90-0-10": (900, 0, 100),
    "Kvasir-SEG_80-10-10": (800, 100, 100),
    "Kvasir-SEG_70-15-15": (700, 150, 150),
    "Kvasir-SEG_880-120": (792, 88, 120),
    "CVC-ClinicDB_80-10-10": (490, 61, 61),
    "CVC-ClinicDB_70-15-15": (428, 92, 92),
    "CVC-ClinicDB_sequences_80-10-10": (23, 3, 3),
    "CVC-ClinicDB_sequences_70-15-15": (21, 4, 4),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_committed_manifest_is_what_the_rule_gives(name):
    split = read_split(FOLDER / f"{name}.json")
    assert tuple(split.count(part) for part in PARTS) == SIZES[name]
    ids = [case for part in PARTS for case in getattr(split, part)]
    test = split.test if split.listed else split.count("test")
    assert make_split(ids, test, split.count("val"), groups=split.groups) == split


def test_every_committed_manifest_is_tested():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SIZES)


@pytest.mark.parametrize(("name", "cases"), [("Kvasir-SEG", 1000), ("CVC-ClinicDB", 612)])
def test_manifests_of_one_data_set_are_of_the_same_cases(name, cases):
    splits = [read_split(path) for path in FOLDER.glob(f"{name}_*.json")]
    assert len({frozenset(split.train + split.val + split.test) for split in splits}) == 1
    assert len(splits[0].train + splits[0].val + splits[0].test) == cases


@pytest.mark.parametrize("shares", ["80-10-10", "70-15-15"])
def test_only_the_split_by_sequence_keeps_sequences_apart(shares):
    by_frame = read_split(FOLDER / f"CVC-ClinicDB_{shares}.json")
    groups = {case: clinicdb_sequence(case) for part in PARTS for case in getattr(by_frame, part)}
    leaks = find_leaks(by_frame, groups)
    assert len(leaks) > 20  # of 29: what the papers' protocols accept
    by_sequence = read_split(FOLDER / f"CVC-ClinicDB_sequences_{shares}.json")
    assert dict(by_sequence.groups) == groups
    assert find_leaks(by_sequence) == []


def test_the_published_training_list_is_that_of_the_pictures_at_hand(real_data):
    split = read_split(FOLDER / "Kvasir-SEG_880-120.json")
    assert sorted(split.train + split.val) == sorted(p.stem for p in (real_data / "kvasir-seg" / "images").iterdir())
