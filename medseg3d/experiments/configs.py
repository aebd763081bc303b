"""Configs as an experiment needs them: read, built in part, run as MONAI's commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medseg3d.bundle import read_config, run_monai
from medseg3d.bundle_folders import bundle_directory, bundle_root, config_files, names_from_root
from medseg3d.errors import UsageError, find_user_error
from medseg3d.experiments.definition import plain

_CONFIGS = {"training": "train.json", "evaluating": "evaluate.json", "inferring": "inference.json"}


def run_bundle(
    run_id: str,
    bundle: Path,
    overlays: Sequence[str],
    knobs: Mapping[str, Any],
    run_dir: Path,
    show: bool = False,
) -> float:
    """Train, evaluate or infer with a bundle in a process of its own; the seconds it took.

    Args:
        run_id: `training`, `evaluating` or `inferring`.
        bundle: its folder, absolute.
        overlays: overlays, without `.json`.
        knobs: overrides, paths absolute; the folder of the run is added.
        run_dir: the folder of the run.
        show: whether its progress bar goes to the terminal.

    Raises:
        UserError: `RUN_FAILED`, with the last line of the log.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    root = bundle_root(bundle)
    files = names_from_root(config_files(bundle, _CONFIGS[run_id], overlays))
    words = {**knobs, "output_dir": run_dir}
    if show:
        print(f"{run_id}, log in {run_dir / 'run.log'}", flush=True)
    return run_monai(run_id, files, words, root=root, log_file=run_dir / "run.log", show=show)


@contextmanager
def training_config(bundle: Path, overlays: Sequence[str], knobs: Mapping[str, Any]) -> Iterator[ConfigParser]:
    """The parsed train.json of a bundle, in a context in which what it holds can be built.

    Raises:
        UserError: as `read_config`.
    """
    files = config_files(bundle, "train.json", overlays)
    with bundle_directory(bundle):
        parser = read_config(files, knobs)
        parser.parse()
        yield parser


def build(parser: ConfigParser, name: str, what: str) -> Any:
    """A part of a config, built; None where it has none of that name.

    Raises:
        UserError: `BAD_VALUE`, or what the part itself says, where it cannot be built.
    """
    if name not in parser:
        return None
    try:
        return parser.get_parsed_content(name)
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None:
            said = " ".join(str(error.__cause__ or error).split())[:300]
            user_error = UsageError("BAD_VALUE", what, said, f"a value that {name} can be built with", "correct it")
        raise user_error from error


def refuse_unused(parser: ConfigParser, knob: str, what: str) -> None:
    """Refuse to vary a knob that nothing in a config uses, as an overlay may leave it.

    Raises:
        UserError: `BAD_VALUE`.
    """
    if not re.search(r"[#:]", knob) and not used_knobs(parser, [knob]):
        found = "an option that nothing in the config uses"
        raise UsageError(
            "BAD_VALUE", what, found, "one that changes the training", "check whether an overlay replaces it"
        )


def used_knobs(parser: ConfigParser, names: Sequence[str]) -> dict[str, Any]:
    """The values of those knobs that something in the config uses; an overlay may leave some without use."""
    used = json.dumps(parser.get(), default=str)
    return {name: plain(parser.get_parsed_content(name)) for name in names if re.search(rf"@{re.escape(name)}\b", used)}
