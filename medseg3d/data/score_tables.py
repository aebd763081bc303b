"""A summary of scores as a person reads it: a page of tables, or lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_markdown(summary: Mapping[str, Any]) -> str:
    """The summary as a page: for each class tables of score, value, interval, n, convention; by size; by data set."""
    lines = ["# Scores", ""]
    for name, scores in summary["scores"].items():
        if "value" in scores:
            continue
        lines += [f"## {_plain_line(name)}", "", _emptiness(scores), "", *_score_table(scores)]
        lines += _strata_table(scores["strata"])
        lines += _data_set_table(scores.get("data_sets", {}))
    overall = {name: entry for name, entry in summary["scores"].items() if "value" in entry}
    if overall:
        lines += ["## All cases together", "", *_score_table(overall)]
    how = summary["intervals"]
    lines += [
        f"95 % intervals: {how['method']} over {how['resampled']}, {how['resamples']} resamples, seed "
        f"{how['seed']}. They are of these cases, not of another training. Research software, not for clinical use.",
        "",
        *(f"- {_plain_line(warning)}" for warning in summary.get("warnings", [])),
    ]
    return "\n".join(lines).rstrip() + "\n"


def as_text(summary: Mapping[str, Any]) -> str:
    """The summary for a terminal: score, value, interval and n, class by class."""
    lines = []
    for name, scores in summary["scores"].items():
        entries = {name: scores} if "value" in scores else _entries(scores)
        if "value" not in scores:
            lines += [f"{_plain_line(name)}: {_emptiness(scores)}"]
        for key, entry in entries.items():
            lines.append(
                f"  {key:32} {_number(entry['value']):>9}  {_interval(entry):>18}  n {entry['n']}{_left_out(entry)}"
            )
    return "\n".join(lines)


def _entries(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {key: entry for key, entry in scores.items() if isinstance(entry, Mapping) and "value" in entry}


def _score_table(scores: Mapping[str, Any]) -> list[str]:
    lines = ["| score | value | 95 % interval | n | convention |", "|---|---|---|---|---|"]
    for key, entry in _entries(scores).items():
        cells = [key, _number(entry["value"]), _interval(entry), f"{entry['n']}{_left_out(entry)}", entry["convention"]]
        lines.append(f"| {' | '.join(_plain_line(cell).replace('|', chr(92) + '|') for cell in cells)} |")
    return [*lines, ""]


def _strata_table(strata: Mapping[str, Any]) -> list[str]:
    names = [name for name in ("small", "medium", "large") if strata[name]["n_cases"]]
    if not names:
        return []
    low, high = (f"{edge:.3g}" for edge in strata["edges"])
    bounds = {"small": f"below {low}", "medium": f"{low} to {high}", "large": f"from {high}"}
    heads = [f"{name}: {bounds[name]} {strata['unit']} ({strata[name]['n_cases']} cases)" for name in names]
    columns = {head: strata[name] for head, name in zip(heads, names, strict=True)}
    return [f"By the size of the truth; edges: {strata['edges_are']}.", "", *_side_by_side(columns)]


def _data_set_table(data_sets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not data_sets:
        return []
    columns = {f"{_plain_line(name)} ({scores['n_cases']} cases)": scores for name, scores in data_sets.items()}
    return ["By data set.", "", *_side_by_side(columns)]


def _side_by_side(columns: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table of the scores of several parts of the cases, a column each."""
    lines = [f"| score | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for key in dict.fromkeys(key for scores in columns.values() for key in _entries(scores)):
        entries = [scores.get(key) for scores in columns.values()]
        cells = [f"{_number(entry['value'])} {_interval(entry)}".strip() if entry else "" for entry in entries]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return [*lines, ""]


def _emptiness(scores: Mapping[str, Any]) -> str:
    return (
        f"{scores['n_cases']} cases, {scores['n_empty_truth']} empty in the truth, {scores['n_empty_pred']} empty in "
        f"the prediction, {scores['n_missed']} completely missed"
    )


def _left_out(entry: Mapping[str, Any]) -> str:
    notes = [f"{entry['n_nan']} left out"] if entry.get("n_nan") else []
    notes += [f"{entry['n_missed']} missed"] if entry.get("n_missed") else []
    return f" ({', '.join(notes)})" if notes else ""


def _interval(entry: Mapping[str, Any]) -> str:
    return f"[{_number(entry['ci95'][0])}, {_number(entry['ci95'][1])}]" if "ci95" in entry else ""


def _number(value: float | None) -> str:
    if value is None:
        return "undefined"
    shown = f"{value:.4f}"
    if float(shown) in (0.0, 1.0) and float(shown) != value:  # never rounded to a 0 or 1 that it is not
        return ">0.9999" if 0.5 < value < 1 else "<0.0001" if 0 < value < 0.5 else f"{value:.6f}"
    return shown


def _plain_line(text: str) -> str:
    return " ".join(str(text).split())
