"""A summary of scores for a reader: a page of tables, or lines for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from medseg3d.evaluation.records import Score, Summary
from medseg3d.evaluation.wording import UNITS, convention


def as_markdown(summary: Summary) -> str:
    """The summary as a page: for each class tables of score, value, interval, n, convention; by size; by data set."""
    lines = ["# Scores", ""]
    for name in summary.classes:
        lines += [f"## {_plain_line(name)}", "", _emptiness(summary, name), ""]
        rows = []
        for score in summary.pick(class_name=name, size="", data_set=""):
            taken = convention(score, summary.settings)
            cells = [score.score, score.over, _number(score.value), _interval(score), _n(score), taken]
            rows.append([_plain_line(cell).replace("|", r"\|") for cell in cells])
        lines.append(markdown_table(["score", "over", "value", "95 % interval", "n", "convention"], rows, range(6)))
        lines += ["", *_strata_table(summary, name), *_data_set_table(summary, name)]
    how = summary.intervals
    lines += [
        f"95 % intervals: {how['method']} over {how['resampled']}, {how['resamples']} resamples, seed "
        f"{how['seed']}. They cover the cases, not another training. Research software, not for clinical use.",
        "",
        *(f"- {_plain_line(warning)}" for warning in summary.warnings),
    ]
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[int] = (0,)) -> str:
    """A table in Markdown, numbers to the right, but for the columns at the places `words`.

    Example:
        >>> print(markdown_table(["score", "value"], [["Dice", "0.5"]]))
        | score | value |
        |---|---:|
        | Dice | 0.5 |
    """
    rule = "|".join("---" if place in words else "---:" for place in range(len(heads)))
    lines = [f"| {' | '.join(row)} |" for row in (heads, *rows)]
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def as_text(summary: Summary) -> str:
    """The summary for a terminal: score, value, interval and n, class by class."""
    lines = []
    for name in summary.classes:
        lines.append(f"{_plain_line(name)}: {_emptiness(summary, name)}")
        lines += [
            f"  {score.score:25} {score.over:11} {_number(score.value):>9}  {_interval(score):>18}  n {_n(score)}"
            for score in summary.pick(class_name=name, size="", data_set="")
        ]
    return "\n".join(lines)


def _strata_table(summary: Summary, name: str) -> list[str]:
    columns = {}
    for count in summary.cases:
        if count.class_name == name and count.size and count.n:
            low, high = (None if edge is None else f"{edge:.3g}" for edge in (count.from_size, count.below_size))
            bounds = f"below {high}" if low is None else f"from {low}" if high is None else f"{low} to {high}"
            head = f"{count.size}: {bounds} {UNITS[summary.settings.size_unit]} ({count.n} cases)"
            columns[head] = summary.pick(class_name=name, size=count.size)
    how = "given" if summary.settings.size_edges_given else "tertiles of the sizes of the ground truth"
    return [f"By the size of the ground truth; edges: {how}.", "", *_side_by_side(columns)] if columns else []


def _data_set_table(summary: Summary, name: str) -> list[str]:
    counts = {each.data_set: each.n for each in summary.cases if each.class_name == name and each.data_set}
    columns = {
        f"{_plain_line(data_set)} ({n} cases)": summary.pick(class_name=name, data_set=data_set)
        for data_set, n in counts.items()
    }
    return ["By data set.", "", *_side_by_side(columns)] if columns else []


def _side_by_side(columns: Mapping[str, Sequence[Score]]) -> list[str]:
    """A table of the scores of several parts of the cases, a column each."""
    rows = []
    found = [{(score.score, score.over): score for score in scores} for scores in columns.values()]
    for key in dict.fromkeys(key for each in found for key in each):
        scores = [each.get(key) for each in found]
        cells = [f"{_number(score.value)} {_interval(score)}".strip() if score else "" for score in scores]
        rows.append([*key, *cells])
    heads = ["score", "over", *columns]
    return [markdown_table(heads, rows, range(len(heads))), ""]


def _emptiness(summary: Summary, name: str) -> str:
    count = next(each for each in summary.cases if (each.class_name, each.size, each.data_set) == (name, "", ""))
    return (
        f"{count.n} cases, {count.empty_truth} empty in the ground truth, {count.empty_pred} empty in the prediction, "
        f"{count.missed} completely missed"
    )


def _n(score: Score) -> str:
    notes = [f"{score.left_out} left out"] if score.left_out else []
    notes += [f"{score.missed} missed"] if score.missed else []
    return f"{score.n}" + (f" ({', '.join(notes)})" if notes else "")


def _interval(score: Score) -> str:
    return f"[{_number(score.low)}, {_number(score.high)}]" if score.interval else ""


def _number(value: float | None) -> str:
    if value is None:
        return "undefined"
    shown = f"{value:.4f}"
    if float(shown) in (0.0, 1.0) and float(shown) != value:  # never rounded to a 0 or 1 that it is not
        return ">0.9999" if 0.5 < value < 1 else "<0.0001" if 0 < value < 0.5 else f"{value:.6f}"
    return shown


def _plain_line(text: str) -> str:
    return " ".join(str(text).split())
