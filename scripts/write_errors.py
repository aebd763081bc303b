"""Write docs/errors.md: every code that a message may begin with, from docs/errors.json and the source.

    python scripts/write_errors.py

Run it after a code was added; a test says when.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODES = ROOT / "docs" / "errors.json"
DOCUMENT = ROOT / "docs" / "errors.md"

_HEAD = """# Error codes

<!-- made by scripts/write_errors.py -->

Each message is one line: the code, the file or option, what was found, what was expected, and a hint. The exit code
of the command tells errors apart: 1 for bad data or a bad result, 2 for wrong usage, and 3 if `predict` finished only
some of several cases. A bug in this program is INTERNAL and comes with its traceback.
"""

_WARNINGS = """
## Warnings

A warning does not stop anything. It is in the log, and for a prediction in the `warnings` of the mask's record.
"""


def raised_codes() -> Iterator[tuple[str, str]]:
    """(class, code) of every `UserError` and `UsageError` that the package makes by a literal code."""
    for path in sorted((ROOT / "medseg3d").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                first = node.args[0]
                if node.func.id in ("UserError", "UsageError") and isinstance(first, ast.Constant):
                    yield node.func.id, str(first.value)


def warning_codes() -> Iterator[str]:
    """Every code that a warning of the package begins with: `CODE: ...`; the prose of reports has other capitals."""
    for path in sorted(set((ROOT / "medseg3d").rglob("*.py")) - set((ROOT / "medseg3d" / "reports").rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = re.match(r"([A-Z]{4,}(?:_[A-Z]+)*): ", node.value)
                if found:
                    yield found.group(1)


def document() -> str:
    """The text of docs/errors.md."""
    codes = json.loads(CODES.read_text(encoding="utf-8"))
    raised = set(raised_codes())
    lines = [_HEAD, "| code | exit | what it means | what to do |", "|---|---|---|---|"]
    for code, entry in codes["errors"].items():
        exits = [number for name, number in (("UserError", "1"), ("UsageError", "2")) if (name, code) in raised]
        lines.append(f"| `{code}` | {', '.join(exits) or '1'} | {entry['means']} | {entry['remedy']} |")
    lines += [_WARNINGS, "| code | what it means | what to do |", "|---|---|---|"]
    lines += [
        f"| `{code}` | {entry['means']} | {entry.get('remedy', '')} |" for code, entry in codes["warnings"].items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
