"""A report as a list of sections, written as one HTML page or as Markdown from the same words.

The HTML page is one file. Images and styles are inside, there is no script, and nothing is fetched from anywhere: it
can be mailed, archived, and opened without a network. The Markdown refers to the PNG files next to it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medseg3d.evaluation.page import markdown_table

ColumnKind = Literal["text", "number", "words", "bar"]


@dataclass(frozen=True)
class Text:
    """A paragraph; `lead` stands in bold before it."""

    kind: ClassVar[str] = "text"
    text: str
    lead: str = ""
    style: Literal["", "soft", "notice", "headline"] = ""


@dataclass(frozen=True)
class Subheading:
    """A heading within a section."""

    kind: ClassVar[str] = "subheading"
    text: str


@dataclass(frozen=True)
class Bullets:
    """Sentences, one under the other."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names and what they stand for."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """A command."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Cell:
    """What stands in a table's cell.

    Args:
        text: the words or the number.
        small: a second, smaller line: an interval, an n.
        mark: letter of the note below the table that this cell must not be read without.
        percent: length of the bar in a column of bars, 0 to 100.
        own: whether it is this report's own, not something it is compared with.
        strong: whether it is printed in bold.
    """

    text: str
    small: str = ""
    mark: str = ""
    percent: float = 0
    own: bool = False
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under a caption that says how the numbers are taken.

    Args:
        caption: the words above.
        lead: words in bold before them.
        columns: the name of each, with its kind where the first, which names the row, is no text or another no number.
        rows: a cell, or its text, for each column.
        note: a sentence below.
        marks: letter of a marked cell to what must be known of it.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str | tuple[str, ColumnKind]]
    rows: Sequence[Sequence[Cell | str]]
    note: str = ""
    marks: Mapping[str, str] = field(default_factory=dict)
    lead: str = ""

    @property
    def heads(self) -> list[tuple[str, ColumnKind]]:
        """Name and kind of each column."""
        return [
            each if isinstance(each, tuple) else (each, "number" if place else "text")
            for place, each in enumerate(self.columns)
        ]

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, every cell a `Cell`."""
        return [[Cell(cell) if isinstance(cell, str) else cell for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Picture:
    """A figure: the file, what a reader who cannot see it is told, the words above and below it."""

    kind: ClassVar[str] = "picture"
    file: Path
    alt: str
    caption: str
    heading: str = ""
    warning: str = ""
    wide: bool = False


Block = Text | Subheading | Bullets | Facts | Code | Table | Picture


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading and an address of its own."""

    id: str
    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report: what stands before its sections, the sections, who made it."""

    title: str
    opening: Sequence[Block]
    sections: Sequence[Section]
    footer: str


def as_html(document: Document) -> str:
    """The report as one page that needs nothing else; every text is escaped."""
    return _template().render(document=document, data_uri=data_uri)


def as_markdown(document: Document, folder: Path) -> str:
    r"""The report in GitHub's Markdown, its images as paths from `folder`.

    Example:
        >>> table = Table("Scores", ["score", "value"], [["a|b", Cell("0.5", small="n 3")]])
        >>> print(as_markdown(Document("Run", [], [Section("s", "Scores", [table])], "made"), Path(".")))
        # Run
        <BLANKLINE>
        ## Scores
        <BLANKLINE>
        Scores
        <BLANKLINE>
        | score | value |
        |---|---:|
        | a\|b | 0.5 (n 3) |
        <BLANKLINE>
        ---
        <BLANKLINE>
        made
        <BLANKLINE>
    """
    parts = [f"# {_escaped(document.title)}"]
    parts += [_markdown(block, folder) for block in document.opening]
    for section in document.sections:
        parts.append(f"## {_escaped(section.heading)}")
        parts += [_markdown(block, folder) for block in section.blocks]
    return "\n\n".join([*parts, "---", _escaped(document.footer)]) + "\n"


def data_uri(file: str | Path) -> str:
    """A PNG file as the address of an image inside the page."""
    return "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode("ascii")


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Text():
            lead = f"**{_escaped(block.lead)}** " if block.lead else ""
            return (("> " if block.style == "notice" else "") + lead + _escaped(block.text)).rstrip()
        case Subheading():
            return f"### {_escaped(block.text)}"
        case Bullets():
            return "\n".join(f"- {_escaped(item)}" for item in block.items)
        case Facts():
            return "\n".join(f"- {_escaped(name)}: {_escaped(value)}" for name, value in block.rows)
        case Code():
            return "\n".join(f"    {line}" for line in block.text.splitlines())
        case Table():
            return _markdown_table(block)
        case Picture():
            heading = f"### {_escaped(block.heading)}\n\n" if block.heading else ""
            warning = f" **{_escaped(block.warning)}**" if block.warning else ""
            address = quote(block.file.relative_to(folder).as_posix())
            return f"{heading}![{_escaped(block.alt)}]({address})\n\n{_escaped(block.caption)}{warning}".rstrip()


def _markdown_table(table: Table) -> str:
    shown = [index for index, (_, kind) in enumerate(table.heads) if kind != "bar"]
    words = [place for place, index in enumerate(shown) if table.heads[index][1] != "number"]
    rows = [[_markdown_cell(row[index]) for index in shown] for row in table.cells]
    drawn = markdown_table([_escaped(table.heads[index][0]) for index in shown], rows, words)
    notes = [f"- {mark}: {_escaped(words)}" for mark, words in table.marks.items()]
    lead = f"**{_escaped(table.lead)}** " if table.lead else ""
    parts = [lead + _escaped(table.caption), drawn, "\n".join(notes), _escaped(table.note)]
    return "\n\n".join(part for part in parts if part)


def _markdown_cell(cell: Cell) -> str:
    text = _escaped(cell.text)
    small = f" ({_escaped(cell.small)})" if cell.small else ""
    text = f"**{text}**" if cell.strong and text else text
    mark = f" **[{cell.mark}]**" if cell.mark else ""
    return f"{text}{mark}{small}"


def _escaped(text: str) -> str:
    """Text in which Markdown sees no markup, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside a word it is no markup
    # a heading, quote or list begins only a line
    return re.sub(r"^(\d+(?=[.)]\s)|(?=[#>]|[+-]\s))", r"\1\\", text)
