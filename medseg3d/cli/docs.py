"""`medseg3d docs`: the documentation as a site, served on this machine alone or written to a folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from medseg3d.errors import UsageError, UserError


def run(args: argparse.Namespace) -> int:
    """Build, and serve until Ctrl-C."""
    config = Path(__file__).parent.parent.parent / "mkdocs.yml"
    if not config.is_file():
        raise UsageError("MISSING_FILE", config, "no such file", "a clone of the repository", "run it in a clone")
    os.environ["NO_MKDOCS_2_WARNING"] = "1"  # Material's word on its successor, in every build
    try:
        from mkdocs.commands import build, serve
        from mkdocs.config import load_config
    except ImportError as error:
        raise UserError(
            "MISSING_PACKAGE", "medseg3d docs", f"no package {error.name}", "MkDocs", 'pip install -e ".[docs]"'
        ) from error
    if args.build is None:
        serve.serve(str(config), dev_addr=f"127.0.0.1:{args.port}")
        return 0
    build.build(load_config(str(config), site_dir=str(Path(args.build).absolute())))
    print(Path(args.build) / "index.html")
    return 0
