from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from medseg3d.data.splits import (
    PARTS,
    RULE,
    given_split,
    load_or_make_split,
    make_split,
    read_split,
    write_split,
)
from medseg3d.data.volume_splits import default_split_file, split_cases
from medseg3d.errors import UserError

IDS = [f"pancreas_{number:03d}" for number in range(1, 282)]
FIVE = ["a", "b", "c", "d", "e"]


def test_281_cases_give_257_for_training_with_26_of_them_for_validation_and_24_test():
    split = make_split(IDS)
    assert [len(getattr(split, part)) for part in PARTS] == [231, 26, 24]
    assert sorted(split.train + split.val + split.test) == IDS


def test_split_of_msd_is_the_same_for_ever():
    # a change here changes every published number: bump the rule's name, never this literal
    split = make_split(IDS)
    assert split.hash == "84f42448a5498b4e27d3131ae9ffd5670b01e5ee6c8d2833ced7bfad18bd80c8"
    assert split.test[:4] == ["pancreas_012", "pancreas_033", "pancreas_058", "pancreas_076"]


def test_rule_by_hand():
    # by sha256sum, "0:a" to "0:e" begin with 9df3, e021, be08, 7d98, e078: d is lowest, then a
    split = make_split(FIVE, test_cases=1, val_cases=1, seed=0)
    assert (split.test, split.val, split.train) == (["d"], ["a"], ["b", "c", "e"])


def test_order_of_ids_does_not_matter():
    shuffled = random.Random(7).sample(IDS, len(IDS))
    assert make_split(shuffled) == make_split(IDS)


def test_another_seed_is_another_split():
    assert set(make_split(IDS, seed=1).test) != set(make_split(IDS, seed=0).test)


def test_test_part_does_not_depend_on_the_number_of_validation_cases():
    assert make_split(IDS, val_cases=10).test == make_split(IDS, val_cases=60).test


@pytest.mark.parametrize(("test_cases", "val_cases"), [(3, 2), (5, 0), (24, 26)])
def test_too_few_cases_are_refused_with_a_remedy(test_cases, val_cases):
    with pytest.raises(UserError, match=r"TOO_FEW_CASES task: 5 cases.*--test_cases 2 --val_cases 2"):
        make_split(FIVE, test_cases, val_cases, name="task")


def test_one_case_to_train_on_is_enough():
    assert len(make_split(FIVE, 2, 2).train) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids": ["a", "b", "a"]}, "unique.*'a'"),
        ({"ids": FIVE, "test_cases": -1}, "test_cases must be a number >= 0.* got -1"),
        ({"ids": FIVE, "val_cases": 1.0}, "val_cases must be .* a share below 1.0, got 1.0"),
        ({"ids": FIVE, "test_cases": "abc"}, "a list of ids, got 'abc'"),
        ({"ids": FIVE, "test_cases": 1, "val_cases": 1, "seed": "0"}, "integer, got '0'"),
    ],
)
def test_programming_errors_are_value_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_split(**arguments)


def test_manifest_holds_name_rule_seed_counts_ids_and_hash(tmp_path):
    path = tmp_path / "new" / "folder" / "split.json"
    split = load_or_make_split(path, FIVE, 1, 2, seed=3, name="Five")
    manifest = json.loads(path.read_text())
    assert list(manifest) == ["name", "rule", "seed", "counts", "train", "val", "test", "hash"]
    assert (manifest["name"], manifest["seed"]) == ("Five", 3)
    assert manifest["counts"] == {"train": 2, "val": 2, "test": 1}
    assert {part: manifest[part] for part in PARTS} == {part: getattr(split, part) for part in PARTS}
    assert manifest["hash"] == split.hash
    assert [file.name for file in path.parent.iterdir()] == ["split.json"]


def test_same_split_is_written_as_the_same_bytes(tmp_path):
    for name in ("one.json", "two.json"):
        load_or_make_split(tmp_path / name, FIVE, 1, 1)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_manifest_is_reused_and_not_rewritten(tmp_path):
    path = tmp_path / "split.json"
    first = load_or_make_split(path, FIVE, 1, 1)
    path.chmod(0o444)
    stamp = path.stat().st_mtime_ns
    assert load_or_make_split(path, FIVE[::-1], 1, 1) == first
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "c", "d"], r"1 ids that the data set lacks \(e\)"),
        ([*FIVE, "f", "g"], r"2 ids fewer than the data set \(f, g\)"),
        (["a", "b", "c", "d", "x"], r"lacks \(e\) and 1 ids fewer than the data set \(x\)"),
    ],
)
def test_manifest_of_other_ids_is_refused(tmp_path, ids, message):
    load_or_make_split(tmp_path / "split.json", FIVE, 1, 1)
    with pytest.raises(UserError, match=r"SPLIT_MISMATCH .*split\.json.*" + message):
        load_or_make_split(tmp_path / "split.json", ids, 1, 1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seed": 1}, "seed 0, expected seed 1 as requested. Hint: pass --seed 0"),
        ({"test_cases": 2}, "test_cases 1, expected test_cases 2"),
        ({"val_cases": 3}, "pass --val_cases 1, or name another split file with --split_file, or delete"),
    ],
)
def test_manifest_of_another_seed_or_count_is_refused(tmp_path, asked, message):
    load_or_make_split(tmp_path / "split.json", FIVE, 1, 1)
    with pytest.raises(UserError, match=message):
        load_or_make_split(tmp_path / "split.json", FIVE, **{"test_cases": 1, "val_cases": 1, **asked})


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["train"].append(m["test"].pop()),
        lambda m: m.update(train=m["test"], test=m["train"]),
        lambda m: m.update(hash="0" * 64),
        lambda m: m.update(seed=9),
        lambda m: m.update(rule="by hand"),
        lambda m: m.pop("val"),
        lambda m: m.update(train=None),
    ],
)
def test_edited_manifest_is_refused(tmp_path, edit):
    path = tmp_path / "split.json"
    load_or_make_split(path, FIVE, 1, 1)
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="SPLIT_MISMATCH"):
        read_split(path)


def test_truncated_manifest_is_refused(tmp_path):
    path = tmp_path / "split.json"
    load_or_make_split(path, FIVE, 1, 1)
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="SPLIT_MISMATCH"):
        load_or_make_split(path, FIVE, 1, 1)


def test_written_split_reads_back_equal(tmp_path):
    split = make_split(IDS, seed=5)
    write_split(tmp_path / "split.json", split, "MSD")
    assert read_split(tmp_path / "split.json") == split


def test_missing_manifest_is_refused_where_it_must_exist(tmp_path):
    with pytest.raises(UserError, match=r"MISSING_DATA.*medseg3d data split"):
        read_split(tmp_path / "split.json")


def test_parts_of_a_data_set_are_its_cases(tmp_path):
    names, folder = ["p_02", "p_10"], tmp_path / "task"
    entries = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names]
    for path in (folder / value for item in entries for value in item.values()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    content = {"name": "Pancreas", "labels": {"0": "background", "1": "pancreas"}, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(content))
    split_file = tmp_path / "splits" / "task.json"
    parts = {part: split_cases(folder, split_file, part, test_cases=1, val_cases=0) for part in PARTS}
    assert parts["val"] == []
    assert sorted(case["case"] for part in parts.values() for case in part) == names
    assert parts["test"][0]["label"] == str(folder / "labelsTr" / f"{parts['test'][0]['case']}.nii.gz")
    assert json.loads(split_file.read_text())["name"] == "Pancreas"
    (masked,) = split_cases(folder, split_file, "test", test_cases=1, val_cases=0, mask_dir=tmp_path / "masks")
    mask_file = tmp_path / "masks" / f"{masked['case']}_seg.nii.gz"
    assert masked == {**parts["test"][0], "mask_file": str(mask_file)}


def test_unknown_part_is_a_programming_error(tmp_path):
    with pytest.raises(ValueError, match=r"part must be one of .*'valid'"):
        split_cases(tmp_path, tmp_path / "split.json", "valid")


@pytest.mark.parametrize("folder", [Path("/data/Task07_Pancreas"), "/data/Task07_Pancreas/"])
def test_default_manifest_is_named_after_folder_and_seed(folder):
    assert default_split_file(folder, 3).as_posix() == "data/splits/Task07_Pancreas_seed3.json"


SLICES = {
    f"{patient}-{number}": patient
    for patient, count in zip(FIVE, (3, 1, 2, 4, 1), strict=True)
    for number in range(count)
}


@pytest.mark.parametrize("seed", range(20))
def test_a_group_is_never_parted(seed):
    split = make_split(list(SLICES), test_cases=1, val_cases=2, seed=seed, groups=SLICES)
    patients = {part: {SLICES[case] for case in getattr(split, part)} for part in PARTS}
    assert [len(patients[part]) for part in PARTS] == [2, 2, 1] == [split.count(part) for part in PARTS]
    assert sorted(split.train + split.val + split.test) == sorted(SLICES)
    assert len(set.union(*patients.values())) == 5


def test_groups_are_ranked_as_ids_are():
    # as in test_rule_by_hand: d is the lowest, then a
    split = make_split(list(SLICES), test_cases=1, val_cases=1, groups=SLICES)
    assert (split.test, split.val) == (["d-0", "d-1", "d-2", "d-3"], ["a-0", "a-1", "a-2"])
    assert split.train == ["b-0", "c-0", "c-1", "e-0"]


def test_too_few_groups_are_refused_though_there_are_cases_enough():
    with pytest.raises(UserError, match=r"TOO_FEW_CASES.*5 groups, expected more than 3 test \+ 2 val groups"):
        make_split(list(SLICES), test_cases=3, val_cases=2, groups=SLICES)


def test_groups_must_name_every_id():
    with pytest.raises(ValueError, match="every id and no other, got 10 for 11"):
        make_split(list(SLICES), 1, 1, groups={case: SLICES[case] for case in list(SLICES)[1:]})


def test_manifest_of_groups_reads_back_equal_and_counts_both(tmp_path):
    path = tmp_path / "split.json"
    split = load_or_make_split(path, list(SLICES), 1, 1, groups=SLICES)
    manifest = json.loads(path.read_text())
    assert (manifest["counts"], manifest["group_counts"]) == (
        {"train": 4, "val": 3, "test": 4},
        {"train": 3, "val": 1, "test": 1},
    )
    assert manifest["groups"] == SLICES
    assert read_split(path) == split == load_or_make_split(path, list(SLICES), 1, 1, groups=SLICES)


@pytest.mark.parametrize("groups", [None, {**SLICES, "e-0": "d"}], ids=["none", "other"])
def test_manifest_of_other_groups_is_refused(tmp_path, groups):
    load_or_make_split(tmp_path / "split.json", list(SLICES), 1, 1, groups=SLICES)
    with pytest.raises(UserError, match=r"SPLIT_MISMATCH.*11 cases in 5 groups, expected"):
        load_or_make_split(tmp_path / "split.json", list(SLICES), 1, 1, groups=groups)


def test_a_patient_moved_in_the_manifest_is_refused(tmp_path):
    path = tmp_path / "split.json"
    load_or_make_split(path, list(SLICES), 1, 1, groups=SLICES)
    manifest = json.loads(path.read_text())
    manifest["groups"]["d-0"] = "b"
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="SPLIT_MISMATCH"):
        read_split(path)


@pytest.mark.parametrize(
    ("total", "shares", "sizes"),
    [
        (1000, (0.1, 0.0), (900, 0, 100)),
        (1000, (0.15, 0.15), (700, 150, 150)),
        (612, (0.1, 0.1), (490, 61, 61)),
        (612, (0.15, 0.15), (428, 92, 92)),
    ],
)
def test_a_share_is_rounded_to_a_number(total, shares, sizes):
    ids = [str(number) for number in range(total)]
    split = make_split(ids, *shares)
    assert tuple(len(getattr(split, part)) for part in PARTS) == sizes
    assert split == make_split(ids, sizes[2], sizes[1])


def test_a_share_of_groups_is_of_their_number():
    split = make_split(list(SLICES), 0.2, 0.4, groups=SLICES)
    assert [split.count(part) for part in PARTS] == [2, 2, 1]


def test_a_manifest_of_shares_is_that_of_their_numbers(tmp_path):
    path = tmp_path / "split.json"
    split = load_or_make_split(path, FIVE, 0.2, 0.4)
    assert load_or_make_split(path, FIVE, 1, 2) == split
    with pytest.raises(UserError, match="val_cases 2, expected val_cases 1 as requested"):
        load_or_make_split(path, FIVE, 0.2, 0.2)


def test_a_listed_test_part_is_taken_as_it_is_and_the_rule_draws_the_rest():
    # as in test_rule_by_hand: d, a, e, c, b by rank
    split = make_split(FIVE, ["d", "b"], 1)
    assert (split.train, split.val, split.test) == (["c", "e"], ["a"], ["b", "d"])
    assert split.hash != make_split(FIVE, 2, 1).hash


def test_validation_groups_are_drawn_beside_a_listed_test_part():
    # d-0 is listed though d-1 to d-3 are not: d may become a validation group, without it
    split = make_split(list(SLICES), ["d-0"], 1, groups=SLICES)
    assert (split.test, split.val) == (["d-0"], ["d-1", "d-2", "d-3"])


def test_a_listed_manifest_reads_back_equal_and_is_no_drawn_one(tmp_path):
    path = tmp_path / "split.json"
    split = load_or_make_split(path, FIVE, ["b", "d"], 1)
    assert json.loads(path.read_text())["rule"].startswith("test is listed; rank the others by")
    assert read_split(path) == split == load_or_make_split(path, FIVE, ("d", "b"), 0.2)
    with pytest.raises(UserError, match=r"SPLIT_MISMATCH .*a listed test set, expected one drawn by the seed"):
        load_or_make_split(path, FIVE, 2, 1)
    for listed in (["b"], ["b", "a"]):
        with pytest.raises(UserError, match=f"another test set of 2 cases, expected the {len(listed)} listed"):
            load_or_make_split(path, FIVE, listed, 1)


def test_a_drawn_manifest_is_not_taken_for_a_listed_one(tmp_path):
    split = load_or_make_split(tmp_path / "split.json", FIVE, 1, 1)
    with pytest.raises(UserError, match=r"SPLIT_MISMATCH .*listed test cases as requested"):
        load_or_make_split(tmp_path / "split.json", FIVE, split.test, 1)


def test_a_listed_case_that_is_not_there_is_refused():
    with pytest.raises(
        UserError, match=r"SPLIT_MISMATCH polyps: 2 of 3 listed .* missing from it \(x, y\).*every listed case"
    ):
        make_split(FIVE, ["x", "a", "y"], 1, name="polyps")


def test_listing_all_cases_leaves_none_to_train_on():
    with pytest.raises(UserError, match=r"TOO_FEW_CASES .*1 cases beside 4 listed test cases, expected more"):
        make_split(FIVE, FIVE[:4], 1)


def test_a_manifest_may_be_taken_as_it_is_but_must_be_there(tmp_path):
    path = tmp_path / "split.json"
    with pytest.raises(UserError, match="MISSING_DATA"):
        load_or_make_split(path, FIVE, None, None)
    split = load_or_make_split(path, FIVE, ["b", "d"], 1)
    assert load_or_make_split(path, FIVE, None, None) == split
    with pytest.raises(UserError, match="val_cases 1, expected val_cases 2"):
        load_or_make_split(path, FIVE, None, 2)
    with pytest.raises(UserError, match=r"SPLIT_MISMATCH .*lacks"):
        load_or_make_split(path, FIVE[:4], None, None)


def test_a_split_file_with_a_case_in_two_parts_is_refused_though_its_hash_is_right(tmp_path):
    parts = {"train": ["a", "b"], "val": ["c"], "test": ["b"]}
    content = {"rule": RULE, "seed": 0, **parts}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content | {"hash": hashlib.sha256(canonical.encode()).hexdigest()}))
    with pytest.raises(UserError, match=r"LEAKAGE .*split.json: 1 cases in train and in test \(b\)"):
        read_split(path)


GIVEN = {"train": ["d", "a"], "val": ["b"], "test": ["e", "c"]}


def test_a_given_split_reads_back_equal_and_takes_any_counts(tmp_path):
    split = given_split(GIVEN, "lists")
    write_split(tmp_path / "split.json", split)
    assert read_split(tmp_path / "split.json") == split
    assert load_or_make_split(tmp_path / "split.json", FIVE, 24, 26, seed=3) == split
    assert (split.train, split.val, split.test) == (["a", "d"], ["b"], ["c", "e"])


def test_a_given_split_keeps_the_groups_together_that_a_training_asks_for(tmp_path):
    path = tmp_path / "split.json"
    write_split(path, given_split(GIVEN, "lists"))
    apart = {"a": "p", "b": "q", "c": "r", "d": "p", "e": "r"}
    assert load_or_make_split(path, FIVE, groups=apart).test == ["c", "e"]
    with pytest.raises(UserError, match=r"LEAKAGE .*1 patients in train and in test \(p\)"):
        load_or_make_split(path, FIVE, groups={**apart, "c": "p"})


def test_a_given_split_of_another_data_set_is_refused(tmp_path):
    write_split(tmp_path / "split.json", given_split(GIVEN, "lists"))
    with pytest.raises(UserError, match=r"SPLIT_MISMATCH .*1 ids that the data set lacks \(e\)"):
        load_or_make_split(tmp_path / "split.json", FIVE[:4])
