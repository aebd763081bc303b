"""Train, validation and test cases: a rule over the case ids, kept in a split file from first use on.

The rule does not shuffle: every id is ranked by the SHA-256 of `"<seed>:<id>"`. The lowest `test_cases` are the test
part, the next `val_cases` the validation set, the rest is for training. So the split depends on the ids and the seed
alone, neither on the order of files nor on the versions of Python or numpy, and the test set stays the same whatever
number of validation cases is requested.

Where several cases are of one patient (slices, frames), the patients are ranked instead and take their cases with them,
so that no patient is in two parts; the counts then are numbers of patients.

Where a test set has been published, its ids are listed, and the rule draws the validation set from the others. A
custom split lists all three parts (`medseg3d.data.listed_splits`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from medseg3d.errors import UserError
from medseg3d.files.atomic import atomic_write
from medseg3d.files.folders import first_of

RULE = "rank by sha256('<seed>:<id>'); lowest test_cases are test, next val_cases are val, the rest is train"
GROUP_RULE = (
    "rank the groups by sha256('<seed>:<group>'); the cases of the lowest test_cases groups are test, of the next "
    "val_cases groups val, the rest is train"
)
LISTED_RULE = "test is listed; rank the others by sha256('<seed>:<id>'); lowest val_cases are val, the rest is train"
LISTED_GROUP_RULE = (
    "test is listed; rank the groups of the others by sha256('<seed>:<group>'); their cases in the lowest val_cases "
    "groups are val, the rest is train"
)
ALL_LISTED_RULE = "train, val and test are listed"
PARTS = ("train", "val", "test")
SET_NAMES = {"train": "training set", "val": "validation set", "test": "test set"}
"""What a sentence calls each of them."""


@dataclass(frozen=True)
class Split:
    """Three disjoint, sorted lists of case ids.

    Args:
        train: ids to train on.
        val: ids that choose the checkpoint.
        test: ids that nothing is chosen by.
        seed: seed of the rule; None where nothing was drawn.
        hash: SHA-256 (hex) of the canonical JSON of rule, seed, the three lists and the groups if there are any.
        groups: id to group (patient) for every id, or nothing where each case is a group of its own.
        listed: the parts that were listed rather than drawn: none, test, or all three.
    """

    train: list[str]
    val: list[str]
    test: list[str]
    seed: int | None
    hash: str
    groups: Mapping[str, str] = field(default_factory=dict)
    listed: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """The rule in words, as the split file has it."""
        return _rule(bool(self.groups), self.listed)

    def count(self, part: str) -> int:
        """How many groups a part has; how many cases where there are no groups."""
        return len({self.groups.get(case, case) for case in getattr(self, part)})


def make_split(
    ids: Sequence[str],
    test_cases: int | float | Sequence[str] = 24,
    val_cases: int | float = 26,
    seed: int = 0,
    name: str = "the data set",
    groups: Mapping[str, str] | None = None,
) -> Split:
    """The split of these ids by the rule above; 281 ids give 231 train, 26 val, 24 test.

    The paper has 257 training and 24 test volumes and does not list them; the 26 validation volumes are carved out of
    the 257, so that the 24 are never looked at for selection.

    Args:
        ids: all case ids, in any order.
        test_cases: number of test cases, of groups where there are groups; a float below 1 is their share of all,
            rounded (0.1 of 612 are 61); a list of ids is the test set itself, whatever the groups.
        val_cases: number or share of validation cases or groups; a share is of all, too.
        seed: any integer.
        name: what the error calls the data set.
        groups: id to group for every id, if cases of one group have to stay together.

    Raises:
        ValueError: an id occurs twice, a count is negative or a share not below 1, or the seed is not an integer.
        UserError: TOO_FEW_CASES if no case would be left to train on; SPLIT_MISMATCH if a listed id is not among the
            ids.

    Example:
        >>> split = make_split(["a", "b", "c", "d", "e"], test_cases=1, val_cases=1)
        >>> split.train, split.val, split.test, split.hash[:8]
        (['b', 'c', 'e'], ['a'], ['d'], 'aa0b24dc')
        >>> slices = {"d-1": "d", "d-2": "d", "a-1": "a", "b-1": "b"}
        >>> make_split(list(slices), test_cases=1, val_cases=1, groups=slices).test
        ['d-1', 'd-2']
        >>> make_split(["a", "b", "c", "d", "e"], test_cases=["b"], val_cases=0.2).val
        ['d']
    """
    repeated = [case for case, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"ids must be unique, found more than once: {repeated[:5]}")
    if not isinstance(seed, int):
        raise ValueError(f"seed must be an integer, got {seed!r}")
    group_of = dict(groups or {})
    if group_of and group_of.keys() != set(ids):
        raise ValueError(f"groups must name every id and no other, got {len(group_of)} for {len(ids)} ids")
    what = "groups" if group_of else "cases"
    all_units = {group_of.get(case, case) for case in ids}
    listed = None if isinstance(test_cases, (int, float)) else _listed(test_cases, ids, name)
    units = {group_of.get(case, case) for case in ids if case not in listed} if listed is not None else all_units
    n_test = 0 if isinstance(test_cases, Sequence) else _number("test_cases", test_cases, len(all_units))
    n_val = _number("val_cases", val_cases, len(all_units))
    if n_test + n_val >= len(units):
        found = f"{len(units)} {what}" + ("" if listed is None else f" beside {len(listed)} listed test cases")
        remedy = "request fewer, for example `--test_cases 2 --val_cases 2`"
        raise UserError("TOO_FEW_CASES", name, found, f"more than {n_test} test + {n_val} val {what}", remedy)
    ranked = sorted(units, key=lambda unit: hashlib.sha256(f"{seed}:{unit}".encode()).digest())
    drawn, val = set(ranked[:n_test]), set(ranked[n_test : n_test + n_val])
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for case in sorted(ids):
        unit = group_of.get(case, case)
        in_test = unit in drawn if listed is None else case in listed
        parts["test" if in_test else "val" if unit in val else "train"].append(case)
    by_list = () if listed is None else ("test",)
    content_hash = _hash(_rule(bool(group_of), by_list), parts, seed, group_of)
    return Split(**parts, seed=seed, hash=content_hash, groups=group_of, listed=by_list)


def given_split(
    parts: Mapping[str, Sequence[str]], source: str | Path, groups: Mapping[str, str] | None = None
) -> Split:
    """The split that three lists of ids, in any order, are; `groups` as in `make_split`, `source` for messages.

    Raises:
        UserError: LEAKAGE (an id or a group in two parts), TOO_FEW_CASES (none to train on).

    Example:
        >>> split = given_split({"train": ["c", "a"], "val": ["b"], "test": []}, "my lists")
        >>> split.train, split.rule, split.hash[:8]
        (['a', 'c'], 'train, val and test are listed', '454510a7')
    """
    if not parts["train"]:
        raise UserError("TOO_FEW_CASES", source, "no case to train on", "one or more", "correct the lists")
    lists = {part: sorted(parts[part]) for part in PARTS}
    group_of = dict(groups or {})
    check_disjoint(source, lists, group_of)
    content_hash = _hash(ALL_LISTED_RULE, lists, None, group_of)
    return Split(**lists, seed=None, hash=content_hash, groups=group_of, listed=PARTS)


def write_split(split_file: str | Path, split: Split, name: str = "") -> None:
    """Write a split file: name, rule, seed, counts, ids, groups, hash; whole or not at all."""
    content: dict[str, Any] = {
        "name": name,
        "rule": split.rule,
        "seed": split.seed,
        "counts": {part: len(getattr(split, part)) for part in PARTS},
        **{part: getattr(split, part) for part in PARTS},
    }
    if split.groups:
        content["group_counts"] = {part: split.count(part) for part in PARTS}
        content["groups"] = dict(sorted(split.groups.items()))
    content["hash"] = split.hash
    with atomic_write(split_file, "w") as file:
        file.write(json.dumps(content, indent=1) + "\n")


def read_split(split_file: str | Path) -> Split:
    """The split that a split file holds, its hash checked.

    Raises:
        UserError: MISSING_DATA (no such file), SPLIT_MISMATCH (not a split file, or edited since it was written),
            LEAKAGE (a case or a group in two parts).
    """
    path = Path(split_file)
    if not path.is_file():
        raise UserError(
            "MISSING_DATA", path.absolute(), "no such file", "a split file", "create one with `medseg3d data split`"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = {part: [str(name) for name in content[part]] for part in PARTS}
        groups = {str(case): str(group) for case, group in dict(content.get("groups", {})).items()}
        rule = content["rule"]
        listed = PARTS if rule == ALL_LISTED_RULE else ("test",) if rule in (LISTED_RULE, LISTED_GROUP_RULE) else ()
        split = Split(**parts, seed=content["seed"], hash=content["hash"], groups=groups, listed=listed)
        same_rule = rule == split.rule
    except (ValueError, KeyError, TypeError) as error:
        found = f"not a split file ({type(error).__name__}: {error})"
        raise _mismatch(path, found, "rule, seed, train, val, test and hash") from error
    actual = _hash(split.rule, parts, split.seed, groups)
    if not same_rule or actual != split.hash:
        found = f"content with hash {actual[:12]}, edited since it was written"
        raise _mismatch(path, found, f"the content of hash {str(split.hash)[:12]}")
    check_disjoint(path, parts, {} if split.listed == ("test",) else groups)
    return split


def split_record(split_file: str | Path | Sequence[str | Path]) -> dict[str, Any]:
    """What a summary says of the split: `split_file` and `split_hash`; of several files all, the hashes as a sum.

    Raises:
        UserError: as `read_split`.
    """
    if isinstance(split_file, (str, Path)):
        return {"split_file": str(split_file), "split_hash": read_split(split_file).hash}
    files = [str(file) for file in split_file]
    return {"split_file": files, "split_hash": "+".join(read_split(file).hash for file in files)}


def load_or_make_split(
    split_file: str | Path,
    ids: Sequence[str],
    test_cases: int | float | Sequence[str] | None = 24,
    val_cases: int | float | None = 26,
    seed: int = 0,
    name: str = "",
    groups: Mapping[str, str] | None = None,
) -> Split:
    """The split in the split file if there is one, else the split by the rule, written there for all later runs.

    Arguments are those of `make_split`. `test_cases` and `val_cases` may be None for what the split file has, which
    then must be there; `name` is for the reader of the file, whose folder is made.

    Raises:
        UserError: MISSING_DATA if a split file must be there and is not; SPLIT_MISMATCH if the split file was edited,
            is of other ids or groups, or of another seed, counts or listed cases than requested; LEAKAGE if a case is
            in two parts, or in a custom split a group; TOO_FEW_CASES.
    """
    path = Path(split_file)
    if not path.exists() and test_cases is not None and val_cases is not None:
        split = make_split(ids, test_cases, val_cases, seed, name or "the data set", groups)
        write_split(path, split, name)
        return split
    split = read_split(path)
    _check_ids(path, split, ids)
    if split.listed == PARTS:  # whatever number of cases the knobs would draw
        check_disjoint(path, {part: getattr(split, part) for part in PARTS}, groups or {})
        return split
    if dict(split.groups) != dict(groups or {}):
        raise _mismatch(path, _grouping(split.groups), f"{_grouping(groups or {})} as requested")
    _check_listed(path, split, test_cases)
    units = len(set(split.groups.values())) if split.groups else len(ids)
    asked = {"seed": seed} | {
        knob: _number(knob, value, units)
        for knob, value in (("test_cases", test_cases), ("val_cases", val_cases))
        if isinstance(value, (int, float))
    }
    held = {"seed": split.seed, "test_cases": split.count("test"), "val_cases": split.count("val")}
    different = [key for key in asked if asked[key] != held[key]]
    if different:
        found, wanted = (", ".join(f"{key} {values[key]}" for key in different) for values in (held, asked))
        knobs = " ".join(f"--{key} {held[key]}" for key in different)
        raise _mismatch(path, found, f"{wanted} as requested", f"pass {knobs}, or ")
    return split


class Leak(NamedTuple):
    """Cases that are in different parts and belong together.

    Attributes:
        kind: "picture" for one content in two files, "group" for one patient or sequence.
        name: the group, or the hash of the content.
        cases: part to its cases of that group or content, for the parts that have some.
    """

    kind: str
    name: str
    cases: dict[str, list[str]]


def find_leaks(
    split: Split, groups: Mapping[str, str] | None = None, digests: Mapping[str, str] | None = None
) -> list[Leak]:
    """Every group and every content that is in more than one part of a split; images first, then by name.

    Only equal content is found: neighbouring frames of a video are not equal, which is what groups are for.

    Args:
        split: the split.
        groups: case to patient or sequence; those of the split itself if None.
        digests: case to a hash of its picture's content; cases without one are ignored.

    Example:
        >>> split = Split(["a", "b"], [], ["c"], seed=0, hash="")
        >>> find_leaks(split, groups={"a": "p1", "b": "p2", "c": "p1"})
        [Leak(kind='group', name='p1', cases={'train': ['a'], 'test': ['c']})]
    """
    leaks = []
    for kind, name_of in (("picture", digests or {}), ("group", split.groups if groups is None else groups)):
        found: dict[str, dict[str, list[str]]] = {}
        for part in PARTS:
            for case in getattr(split, part):
                if case in name_of:
                    found.setdefault(name_of[case], {}).setdefault(part, []).append(case)
        leaks += [Leak(kind, name, cases) for name, cases in sorted(found.items()) if len(cases) > 1]
    return leaks


def check_disjoint(source: str | Path, parts: Mapping[str, Sequence[str]], groups: Mapping[str, str]) -> None:
    """See that no case, and no group of cases, is in two parts.

    Raises:
        UserError: LEAKAGE.
    """
    for kind, name_of in (("cases", {}), ("patients", groups)):
        members = {part: {name_of.get(case, case) for case in parts[part]} for part in PARTS}
        for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
            shared = sorted(members[first] & members[second])
            if shared:
                found = f"{len(shared)} {kind} in {first} and in {second} ({first_of(shared)})"
                raise UserError("LEAKAGE", source, found, "each in one set only", "remove them from one of the two")


def _rule(grouped: bool, listed: Sequence[str]) -> str:
    if listed == PARTS:
        return ALL_LISTED_RULE
    if listed:
        return LISTED_GROUP_RULE if grouped else LISTED_RULE
    return GROUP_RULE if grouped else RULE


def _number(knob: str, wanted: int | float, total: int) -> int:
    """The number itself, or the rounded share of the total."""
    if wanted < 0 or (isinstance(wanted, float) and wanted >= 1):
        raise ValueError(f"{knob} must be a number >= 0, or a share below 1.0, got {wanted}")
    return round(wanted * total) if isinstance(wanted, float) else wanted


def _listed(test_cases: Sequence[str], ids: Sequence[str], name: str) -> frozenset[str]:
    if isinstance(test_cases, str):
        raise ValueError(f"test_cases must be a number, a share or a list of ids, got {test_cases!r}")
    listed = frozenset(test_cases)
    unknown = sorted(listed.difference(ids))
    if unknown:
        found = f"{len(unknown)} of {len(listed)} listed test cases missing from it ({', '.join(unknown[:5])})"
        wanted = "a data set with every listed case"
        raise UserError("SPLIT_MISMATCH", name, found, wanted, "complete the data set, or correct the list")
    return listed


def _hash(rule: str, parts: dict[str, list[str]], seed: Any, groups: Mapping[str, str]) -> str:
    content: dict[str, Any] = {"rule": rule, "seed": seed, **parts}
    if groups:
        content["groups"] = dict(groups)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check_ids(path: Path, split: Split, ids: Sequence[str]) -> None:
    held, present = {name for part in PARTS for name in getattr(split, part)}, set(ids)
    differences = [
        f"{len(names)} {what} ({first_of(sorted(names))})"
        for names, what in (
            (held - present, "ids that the data set lacks"),
            (present - held, "ids fewer than the data set"),
        )
        if names
    ]
    if differences:
        raise _mismatch(path, " and ".join(differences), "the data set's own ids")


def _check_listed(path: Path, split: Split, test_cases: int | float | Sequence[str] | None) -> None:
    if test_cases is None or (isinstance(test_cases, (int, float)) and not split.listed):
        return
    if isinstance(test_cases, (int, float)):
        raise _mismatch(path, "a listed test set", "one drawn by the seed, as requested")
    if not split.listed or set(test_cases) != set(split.test):
        found = f"another test set of {len(split.test)} cases"
        raise _mismatch(path, found, f"the {len(test_cases)} listed test cases as requested")


def _grouping(groups: Mapping[str, str]) -> str:
    return f"{len(groups)} cases in {len(set(groups.values()))} groups" if groups else "cases without groups"


def _mismatch(path: Path, found: str, wanted: str, remedy: str = "") -> UserError:
    remedy += f"name another split file with --split_file, or delete {path} to create a new split"
    return UserError("SPLIT_MISMATCH", path, found, wanted, remedy)
