"""What studies of many runs share: MONAI's commands, the numbers of an evaluation, settings that must agree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medseg3d.bundle import bundle_directory, bundle_root, config_files, read_config, run_monai
from medseg3d.faults import Fault, UsageFault

_CONFIGS = {"training": "train.json", "evaluating": "evaluate.json"}


def run_bundle(
    run_id: str,
    bundle: Path,
    overlays: Sequence[str],
    knobs: Mapping[str, Any],
    run_dir: Path,
    threads: int | None = None,
) -> float:
    """Train or evaluate a bundle in a process of its own, whose output is appended to `run.log`; the seconds it took.

    Args:
        run_id: `training` or `evaluating`.
        bundle: its folder, absolute.
        overlays: overlays, without `.json`.
        knobs: overrides, paths absolute; the folder of the run is added.
        run_dir: the folder of the run.
        threads: CPU threads that it may use; None for torch's choice.

    Raises:
        Fault: `RUN_FAILED` with the last line of the log.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    root = bundle_root(bundle)
    files = [str(path.relative_to(root)) for path in config_files(bundle, _CONFIGS[run_id], overlays)]
    words = {**knobs, "output_dir": run_dir}
    return run_monai(run_id, files, words, root=root, log_file=run_dir / "run.log", threads=threads)


@contextmanager
def training_config(bundle: Path, overlays: Sequence[str], knobs: Mapping[str, Any]) -> Iterator[ConfigParser]:
    """The parsed train.json of a bundle, in a context in which what it holds can be built.

    Raises:
        Fault: as `read_config`.
    """
    files = config_files(bundle, "train.json", overlays)
    with bundle_directory(bundle):
        parser = read_config(files, knobs)
        parser.parse()
        yield parser


def used_knobs(parser: ConfigParser, names: Sequence[str]) -> dict[str, Any]:
    """The values of those knobs that something in the config uses; an overlay may leave some without use."""
    used = json.dumps(parser.get(), default=str)
    return {name: plain(parser.get_parsed_content(name)) for name in names if re.search(rf"@{name}\b", used)}


def count_parameters(parser: ConfigParser) -> int:
    """Parameters of the network that a training config builds."""
    return sum(parameter.numel() for parameter in parser.get_parsed_content("network_def").parameters())


def class_scores(summary: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Class -> score -> value, of an evaluation's summary; what is of no single class is left out.

    Example:
        >>> class_scores({"scores": {"polyp": {"dice_mean": {"value": 0.5}, "n_cases": 3}, "average_precision": {}}})
        {'polyp': {'dice_mean': 0.5}}
    """
    return {
        name: {key: entry["value"] for key, entry in scores.items() if isinstance(entry, Mapping) and "value" in entry}
        for name, scores in summary["scores"].items()
        if _is_class(scores)
    }


def conventions(summary: Mapping[str, Any]) -> dict[str, str]:
    """Score -> how it was taken and of how many cases, for the first class of an evaluation's summary."""
    first = next(entries for entries in summary["scores"].values() if _is_class(entries))
    return {
        key: f"{entry['convention']}; n={entry['n']}"
        for key, entry in first.items()
        if isinstance(entry, Mapping) and "convention" in entry
    }


def refuse_other_settings(
    code: str, folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], remedy: str
) -> None:
    """Refuse settings that are not those that runs in a folder have begun with.

    Raises:
        Fault: `code`, with every setting that differs.
    """
    differ = [name for name, value in plain(now).items() if before.get(name) != value]
    if differ:
        found, wanted = (
            "; ".join(f"{name} {settings.get(name)}" for name in differ) for settings in (before, plain(now))
        )
        raise Fault(code, folder, found, wanted, remedy)


def refuse_knobs(knobs: Mapping[str, Any], own: set[str], study: str) -> None:
    """Refuse knobs that a study sets itself.

    Raises:
        Fault: `BAD_VALUE`.
    """
    taken = sorted(own & set(knobs))
    if taken:
        raise UsageFault(
            "BAD_VALUE", f"--{taken[0]}", f"a knob that the {study} sets itself", "another", "leave it out"
        )


def refuse_repeated(option: str, values: Sequence[int]) -> None:
    """Refuse no number, the same one twice, and negative ones.

    Raises:
        Fault: `BAD_VALUE`.
    """
    if not values or len(set(values)) != len(values) or min(values) < 0:
        raise UsageFault("BAD_VALUE", option, str(list(values)), "different numbers from 0 up", "correct them")


def plain(value: Any) -> Any:
    """A value as JSON gives it back.

    Example:
        >>> plain({"roi_size": (96, 96), "folder": Path("runs")})
        {'roi_size': [96, 96], 'folder': 'runs'}
    """
    return json.loads(json.dumps(value, default=str))


def _is_class(scores: Any) -> bool:
    return isinstance(scores, Mapping) and "n_cases" in scores
