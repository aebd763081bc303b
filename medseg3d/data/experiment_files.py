"""The files of an experiment: NAME.json, its record, and in each run's folder row.json or failure.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg3d.data.score_files import read_summary, write_summary
from medseg3d.faults import Fault

ROW, FAILURE = "row.json", "failure.json"
"""What came of a run, or why nothing did, in the folder of the run."""


def write_experiment(folder: Path, name: str, content: Mapping[str, Any] | None = None) -> None:
    """Write NAME.json: its content, by default what it holds already, with the rows and failures that there are now.

    Raises:
        Fault: NO_SPACE or NOT_WRITABLE.
    """
    known = read_summary(folder / f"{name}.json") if content is None else content
    write_summary(folder / f"{name}.json", {**known, **_outcomes(folder)})


def read_experiment(folder: str | Path, name: str, verb: str) -> dict[str, Any]:
    """The record of an experiment, with the rows and failures of the runs whose folders are beside it.

    Args:
        folder: its folder.
        name: `ablation`, `study` or `experiment`.
        verb: what makes one, for the message.

    Raises:
        Fault: SCORE_FILE if there is none, it is damaged, or an earlier version of medseg3d has written it.
    """
    record = Path(folder) / f"{name}.json"
    if not record.is_file():
        remedy = f"run medseg3d {verb} first"
        raise Fault("SCORE_FILE", folder, f"no {record.name}", f"the folder of an experiment ({verb})", remedy)
    content = read_summary(record)
    if "asked" not in content or "factors" not in content:
        raise Fault("SCORE_FILE", record, "another form", "that of this version", "use the version that has written it")
    found = _outcomes(Path(folder))
    return {**content, **found} if any(found.values()) else {"rows": [], "failures": {}, **content}


def _outcomes(folder: Path) -> dict[str, Any]:
    rows = [read_summary(path) for path in sorted(folder.glob(f"*/{ROW}"))]
    failures = {path.parent.name: read_summary(path)["reason"] for path in sorted(folder.glob(f"*/{FAILURE}"))}
    return {"rows": rows, "failures": failures}
