"""The files of an experiment: NAME.json, its record, and in each run's folder row.json or failure.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg3d.errors import UserError
from medseg3d.evaluation.records import VERSION, Summary, check_version
from medseg3d.files.plain import read_json, write_json

ROW, FAILURE = "row.json", "failure.json"
"""What came of a run, or why nothing did, in the folder of the run."""

VERBS = {"experiment": "experiment FILE", "ablation": "ablation", "cris": "reproduce cris", "study": "reproduce cris"}
"""Name of a record to the verb that makes it; `study` is what an earlier version called `cris`."""


def write_experiment(folder: Path, name: str, content: Mapping[str, Any] | None = None) -> None:
    """Write NAME.json: its content, by default what it holds already, with the rows and failures that there are now.

    Raises:
        UserError: NO_SPACE or NOT_WRITABLE.
    """
    known = read_json(folder / f"{name}.json") if content is None else {"version": VERSION, **content}
    write_json(folder / f"{name}.json", {**known, **_outcomes(folder)})


def find_record(folder: str | Path) -> str:
    """The name of the experiment that a folder holds; empty where it holds none of medseg3d's own verbs."""
    return next((name for name in VERBS if (Path(folder) / f"{name}.json").is_file()), "")


def read_experiment(folder: str | Path, name: str) -> dict[str, Any]:
    """NAME.json, the record of an experiment, with the rows and failures of the runs whose folders are next to it.

    Returns:
        What it holds; the `evaluation` of each of its `rows` is a `Summary` of all cases together.

    Raises:
        UserError: SCORE_FILE if there is none, it is damaged, or another version of medseg3d has written it.
    """
    record, verb = Path(folder) / f"{name}.json", VERBS.get(name, "experiment FILE")
    if not record.is_file():
        remedy = f"run medseg3d {verb} first"
        raise UserError("SCORE_FILE", folder, f"no {record.name}", f"the folder of an experiment ({verb})", remedy)
    content = read_json(record)
    check_version(content, record)
    found = _outcomes(Path(folder))
    content = {**content, **found} if any(found.values()) else {"rows": [], "failures": {}, **content}
    rows = [{**row, "evaluation": Summary.from_json(row["evaluation"], record)} for row in content["rows"]]
    return {**content, "rows": rows}


def _outcomes(folder: Path) -> dict[str, Any]:
    rows = [read_json(path) for path in sorted(folder.glob(f"*/{ROW}"))]
    failures = {path.parent.name: read_json(path)["reason"] for path in sorted(folder.glob(f"*/{FAILURE}"))}
    return {"rows": rows, "failures": failures}
