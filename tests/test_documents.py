"""Every command that a document prints is one that the program takes, and the documentation builds as a site."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

from medseg3d.bundle import monai_command_line, read_config
from medseg3d.bundle_folders import bundle_folder, config_files
from medseg3d.cli import build_parser, main, parse_overrides, split_knobs

PROGRAMS = ("medseg3d ", "python -m monai.bundle run ", "torchrun ")
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "data/README.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("docs/results/*.md")),
    *sorted(ROOT.glob("bundles/*/*/README.md")),
]
THEIRS = {"my_network"}
"""Overlays that a document tells its reader to write."""


def commands_of(text: str) -> list[str]:
    """The commands of this project in the fenced and the indented blocks of a document, each on one line."""
    fenced = re.findall(r"(?ms)^```(?:bash|text)?\n(.*?)^```", text)
    indented = re.findall(r"(?m)^(?: {4,}\S.*\n?)+", text)
    lines = "\n".join([*fenced, *indented]).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith(PROGRAMS)]


COMMANDS = sorted({command for path in DOCUMENTS for command in commands_of(path.read_text(encoding="utf-8"))})


def test_the_documents_hold_commands():
    assert len(COMMANDS) > 80
    assert commands_of("```bash\nmedseg3d predict a \\\n    b\n```\nand\n\n    medseg3d version\n") == [
        "medseg3d predict a      b",
        "medseg3d version",
    ]


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("medseg3d ")])
def test_a_command_of_ours_is_no_wrong_call(command, from_the_root):
    words, knobs = split_knobs(shlex.split(re.sub(r"\.\.\.|\$\(.*?\)", "x", command), comments=True)[1:])
    args = build_parser().parse_args(words)
    overlays = getattr(args, "config_overlay", [])
    if "bundle" in vars(args) and knobs and not THEIRS & set(overlays):
        config = "inference.json" if args.verb == "predict" else "train.json"
        read_config(config_files(bundle_folder(args.bundle), config, overlays), parse_overrides(knobs))


@pytest.mark.parametrize("command", [each for each in COMMANDS if not each.startswith("medseg3d ")])
def test_a_command_of_monais_names_files_and_knobs_that_are_there(command, from_the_root):
    # a copy of a bundle is read where it was copied from
    text = re.sub(r"\$\(medseg3d bundles path (\w+)\)", r"bundles/\1", command)
    text = re.sub(r"(?<!bundles/)\b(pancreas_nl|polyp_\w+)/train.json", r"bundles/\1/train.json", text)
    words = shlex.split(text, comments=True)
    call = ["/monai/bundle/__main__.py", *words[words.index("monai.bundle") + 1 :]]
    files, knobs = monai_command_line(call) or pytest.fail("no command line of monai.bundle")
    read_config([file for file in files if Path(file).stem not in THEIRS], knobs)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and what MkDocs warned of."""
    pytest.importorskip("mkdocs")
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("mkdocs").addHandler(handler)
    folder = tmp_path_factory.mktemp("site")
    try:
        assert main(["docs", "--build", str(folder)]) == 0, warnings
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    return folder, warnings


def test_the_site_builds_without_a_warning(site):
    assert site[1] == []


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("index.html", "Five medical-segmentation papers rebuilt on"),
        ("bundles/pancreas_nl.html", "cascaded non-local blocks at the bottleneck"),
        ("errors/GANTRY_TILT.html", "the gantry was tilted"),
        ("data/kvasir-seg.html", "1000 colonoscopy stills"),
        ("reference/commands.html", "usage: medseg3d predict"),
        ("reference/networks.html", "SegResNetNL"),
    ],
)
def test_the_site_has_a_page_for(site, page, says):
    assert says in (site[0] / page).read_text(encoding="utf-8")


def test_no_page_loads_anything_from_a_network(site):
    loaded = re.compile(r'<(?:script|img|link)[^>]*(?:src|href)="(?:https?:)?//[^"]*"')
    pages = {path.name: loaded.findall(path.read_text(encoding="utf-8")) for path in site[0].rglob("*.html")}
    assert {name: found for name, found in pages.items() if found} == {}


@pytest.mark.slow
def test_the_ten_minutes_of_the_first_page_end_with_a_report(tmp_path):
    text = (ROOT / "docs/get-started.md").read_text(encoding="utf-8")
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    commands = [command for command in commands_of(text) if "image.jpg" not in command]
    script = "\n".join(command + " --epochs 3" * (" training " in command) for command in commands)
    done = subprocess.run(["bash", "-exc", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "report" / "report.html").is_file()
