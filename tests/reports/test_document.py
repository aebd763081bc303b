import base64

import pytest
from report_runs import Page

from medseg3d.reports.document import (
    Bullets,
    Cell,
    Code,
    Document,
    Facts,
    Picture,
    Section,
    Subheading,
    Table,
    Text,
    as_html,
    as_markdown,
)

HOSTILE = "<script>alert(1)</script> | `x` *y* [z](javascript:1) & _w_"


def document_of(*blocks, title="T"):
    return Document(title, [], [Section("s", "Heading", blocks)], "made")


@pytest.fixture
def png(tmp_path):
    (tmp_path / "figures").mkdir()
    file = tmp_path / "figures" / "a.png"
    file.write_bytes(b"picture")
    return file


def test_every_kind_of_block_escapes_its_text_in_html(png):
    table = Table(HOSTILE, [(HOSTILE, "text"), ("n", "number")], [[Cell(HOSTILE, small=HOSTILE, mark="a"), HOSTILE]],
                  HOSTILE, {"a": HOSTILE}, HOSTILE)  # fmt: skip
    blocks = [
        Text(HOSTILE, HOSTILE),
        Subheading(HOSTILE),
        Bullets([HOSTILE]),
        Facts([(HOSTILE, HOSTILE)]),
        Code(HOSTILE),
        table,
        Picture(png, HOSTILE, HOSTILE, HOSTILE, HOSTILE, wide=True),
    ]
    page = Page(as_html(document_of(*blocks, title=HOSTILE)))
    assert "script" not in page.tags
    assert page.html.count("&lt;script&gt;") == page.html.count("alert(1)") >= 19
    assert page.tables["s"][0][1] == [f"{HOSTILE} a {HOSTILE}", HOSTILE]
    assert page.images[0]["alt"] == HOSTILE


def test_picture_is_inside_the_page(png):
    (image,) = Page(as_html(document_of(Picture(png, "alt", "caption")))).images
    assert base64.b64decode(image["src"].partition("base64,")[2]) == b"picture"


def test_marked_cell_leads_to_its_note_in_both_formats(tmp_path):
    document = document_of(Table("c", [("x", "number")], [[Cell("0.8", mark="a")]], marks={"a": "impossible"}))
    html = as_html(document)
    assert '0.8<sup class="mark">a</sup>' in html
    assert '<span class="mark">a</span> impossible' in html
    markdown = as_markdown(document, tmp_path)
    assert "| 0.8 **[a]** |" in markdown
    assert "- a: impossible" in markdown


def test_markdown_refers_to_pictures_by_their_path_from_the_folder(png):
    assert "![what is seen](figures/a.png)" in as_markdown(
        document_of(Picture(png, "what is seen", "caption")), png.parent.parent
    )


def test_markdown_has_no_markup_from_texts(tmp_path):
    text = as_markdown(document_of(Text(HOSTILE)), tmp_path)
    assert "\n&lt;script>alert(1)&lt;/script> \\| \\`x\\` \\*y\\* \\[z\\](javascript:1) &amp; \\_w\\_\n" in text


@pytest.mark.parametrize(
    ("text", "written"),
    [("0.786", "0.786"), ("+0.02", "+0.02"), ("1. a", "1\\. a"), ("# a", "\\# a"), ("- a", "\\- a"), ("a_b", "a_b")],
)
def test_markdown_takes_only_what_begins_a_line_for_a_list_or_heading(tmp_path, text, written):
    assert f"\n{written}\n" in as_markdown(document_of(Text(text)), tmp_path)


def test_markdown_table_leaves_out_bars(tmp_path):
    table = Table("c", [("a", "text"), ("", "bar"), ("b", "number")], [["1", Cell("", percent=50), "2"]])
    assert "| a | b |\n|---|---:|\n| 1 | 2 |" in as_markdown(document_of(table), tmp_path)
    assert 'style="width: 50%"' in as_html(document_of(table))
