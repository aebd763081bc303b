"""A hook of MkDocs: pages of the site whose text lies elsewhere, and links between files of the repository.

The README is the front page; bundles, model cards, data sets, error codes, the command line and the Python interface
get pages of their own, made from what the repository says of them in one place already. A link to a file that is on the
site leads to its page there; one to any other file of the repository becomes the file's name.
"""

from __future__ import annotations

import functools
import json
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from medseg3d.cli import VERBS, build_parser

ROOT = Path(__file__).parent.parent
MODULES = (
    *(
        "networks",
        "metrics",
        "transforms",
        "inference",
        "evaluation",
        "training",
        "data",
        "experiments",
        "reports",
        "viewer",
    ),
    *("workflows", "bundle", "checks", "precision", "ranks"),
)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


class Examples(griffe.Extension):
    """Lets griffe see code in the section `Example:` of a docstring, which it knows by its plural alone."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Put the title into the plural."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)


@functools.cache
def texts() -> tuple[tuple[str, str, str], ...]:
    """The pages of `_texts`, made once for each build."""
    return tuple(_texts())


def _texts() -> Iterator[tuple[str, str, str]]:
    """(page, file of the repository that its links start from, text) of every page that docs/ does not hold."""
    for page, file in {
        "index.md": "README.md",
        "data/index.md": "data/README.md",
        "benchmarks/index.md": "benchmarks/README.md",
        "project/contributing.md": "CONTRIBUTING.md",
        "project/security.md": "SECURITY.md",
        "project/changelog.md": "CHANGELOG.md",
    }.items():
        yield page, file, (ROOT / file).read_text(encoding="utf-8")
    for path in sorted(ROOT.glob("bundles/*/docs/README.md")):
        name = path.parent.parent.name
        card = path.parent.parent / "models" / "README.md"
        yield f"bundles/{name}.md", f"bundles/{name}/docs/README.md", path.read_text(encoding="utf-8")
        if card.is_file():
            yield f"bundles/{name}_weights.md", f"bundles/{name}/models/README.md", card.read_text(encoding="utf-8")
    for section in re.split(r"(?m)^## ", (ROOT / "data/README.md").read_text(encoding="utf-8"))[1:]:
        title = section.splitlines()[0]
        yield f"data/{_slug(title)}.md", "data/README.md", f"# {section}"
    for code, known in json.loads((ROOT / "docs/errors.json").read_text(encoding="utf-8"))["errors"].items():
        text = (
            f"# {code}\n\n{known['means']}\n\n**What to do.** {known['remedy']}\n\nAll codes: [errors](../errors.md).\n"
        )
        yield f"errors/{code}.md", "docs/errors/page.md", text
    yield "reference/commands.md", "docs/reference/page.md", _commands()
    for module in MODULES:
        if (ROOT / "medseg3d" / module).is_dir() or (ROOT / "medseg3d" / f"{module}.py").is_file():
            yield f"reference/{module}.md", "docs/reference/page.md", f"# medseg3d.{module}\n\n::: medseg3d.{module}\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ does not hold."""
    texts.cache_clear()  # `serve` builds again when a file has changed
    for page, _, text in texts():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page lead to pages of the site."""
    source = {made: file for made, file, _ in texts()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    pages = {f"docs/{file.src_uri}": file.src_uri for file in files}
    pages |= {file: made for made, file, _ in texts() if not file.endswith("page.md") and made.count("/") < 2}
    pages |= {file: f"{file.partition('/')[0]}/index.md" for file in ("data/README.md", "benchmarks/README.md")}

    def led(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return match.group()
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if file in pages:
            here = posixpath.dirname(page.file.src_uri)
            return f"{picture}[{text}]({posixpath.relpath(pages[file], here or '.')}{hash_sign}{anchor})"
        return text if (ROOT / file).exists() else match.group()

    parts = re.split(r"(?ms)(^```.*?^```)", markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(led, part) for part in parts)


def _commands() -> str:
    """The help of every verb, 100 columns wide."""
    os.environ["COLUMNS"] = "100"
    parser = build_parser()
    verbs = next(action for action in parser._actions if action.dest == "verb").choices or {}
    parts = ["# Commands", f"```text\n{parser.format_help()}```"]
    for name in VERBS:
        parts.append(f"## medseg3d {name}\n\n```text\n{verbs[name].format_help()}```")
        for action in verbs[name]._actions:
            if action.dest == "action" and action.choices:
                parts += [
                    f"### medseg3d {name} {sub}\n\n```text\n{own.format_help()}```"
                    for sub, own in action.choices.items()
                ]
    return "\n\n".join(parts) + "\n"


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
