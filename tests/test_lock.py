"""The hashed lock file and the bill of materials are of today's constraints and dependencies."""

from __future__ import annotations

import json
import re

from commands import ROOT

PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
REMEDY = "run scripts/lock.sh"


def canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def pins(file: str) -> set[tuple[str, str]]:
    text = (ROOT / file).read_text(encoding="utf-8")
    return {(canonical(name), version) for name, version in PIN.findall(text)}


def test_every_constraint_is_in_the_lock_file():
    assert pins("constraints.txt") - pins("requirements.lock") == set(), REMEDY


def test_every_dependency_is_in_the_lock_file():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text[text.index("\ndependencies") : text.index("[project.scripts]")]
    named = {canonical(name) for name in re.findall(r'^\s+"([A-Za-z0-9._-]+)', block, re.MULTILINE)} - {"medseg3d"}
    assert len(named) > 20
    assert named - {name for name, _ in pins("requirements.lock")} == set(), REMEDY


def test_every_package_of_the_lock_file_has_hashes():
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text(encoding="utf-8").strip())
    assert [entry.split("\n")[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_bill_of_materials_lists_the_lock_file():
    bill = json.loads((ROOT / "sbom.cdx.json").read_text(encoding="utf-8"))
    listed = {(canonical(component["name"]), component["version"]) for component in bill["components"]}
    assert listed == pins("requirements.lock"), REMEDY
