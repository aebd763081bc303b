"""What an experiment is: knob values x data sets x seeds, and what is done with each of their runs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from medseg3d.bundle import absolute_paths
from medseg3d.bundle_folders import bundle_folder
from medseg3d.data.splits import PARTS
from medseg3d.errors import UsageError
from medseg3d.evaluation.thresholds import SCORES

Level = str | int | float
"""One value of a factor: that of a knob, or the name of some settings."""

_TUNE_KEYS = {"search", "trials", "knobs", "pruner", "startup_trials"}

_OWN = {
    *("seed", "output_dir", "model_file", "resume", "overwrite", "part", "evaluation_dir", "threshold_file"),
    *("prob_dir", "mask_dir"),
}
"""Knobs that are set for each run."""


@dataclass(frozen=True)
class Run:
    """One training of an experiment with its evaluation.

    Attributes:
        levels: factor -> its level in this run.
        seed: of the training.
        bundle: folder of the bundle, absolute.
        overlays: overlays, without `.json`.
        knobs: all other knobs, paths absolute.
    """

    levels: Mapping[str, Level]
    seed: int
    bundle: Path
    overlays: tuple[str, ...]
    knobs: Mapping[str, Any]

    @property
    def condition(self) -> str:
        """The levels in one word: what runs that differ in the seed alone have in common."""
        words = [level if isinstance(level, str) else f"{name}_{level}" for name, level in self.levels.items()]
        return "_".join(words) or "run"

    def __str__(self) -> str:
        return f"{self.condition}_seed_{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """A grid of runs.

    Attributes:
        bundle: folder of the bundle, absolute.
        overlays: overlays for all runs.
        knobs: knobs for all runs, paths absolute.
        factors: factor -> level -> its settings: knobs, `bundle`, and `overlays` in addition to those of all runs.
        seeds: of the trainings.
        name: of its record, NAME.json.
        tune: `search`, `trials`, and where wanted `knobs` (of the trials alone), `pruner` and `startup_trials`; None
            for no tuning.
        threshold: `part` that the threshold is chosen on and the `score` it is chosen for; None for the argmax.
        part: the part of the split that is scored.
        infer: whether inference.json is run too.
        score: score of a case that tables are about: `dice`, `recall`, ...
        reference: factor -> level that the others of that factor are compared with; or several, as far as they are
            there, the later ones of which are compared with the earlier too.
        title: heading of its report.
        notes: sentences on how it is done, for its report.
    """

    bundle: Path
    overlays: tuple[str, ...]
    knobs: Mapping[str, Any]
    factors: Mapping[str, Mapping[Level, Mapping[str, Any]]]
    seeds: tuple[int, ...]
    name: str = "experiment"
    tune: Mapping[str, Any] | None = None
    threshold: Mapping[str, str] | None = None
    part: str = "test"
    infer: bool = False
    score: str = "dice"
    reference: Mapping[str, Level | Sequence[Level]] = field(default_factory=dict)
    title: str = "Experiment"
    notes: Sequence[str] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What has to be the same for all runs in a folder, as JSON gives it back; levels and seeds may be added."""
        return plain(
            {
                **{"bundle": self.bundle.name, "overlays": self.overlays, "knobs": self.knobs, "tune": self.tune},
                **{"threshold": self.threshold, "part": self.part},
            }
        )

    @property
    def runs(self) -> list[Run]:
        """All runs; seeds are the outer loop, so that what is there when it is stopped early can be compared."""
        grid = list(product(*(levels.items() for levels in self.factors.values())))
        return [self._run(seed, cell) for seed in self.seeds for cell in grid]

    def _run(self, seed: int, cell: Sequence[tuple[Level, Mapping[str, Any]]]) -> Run:
        knobs = dict(self.knobs)
        bundle, overlays = self.bundle, list(self.overlays)
        for _, settings in cell:
            knobs |= {name: value for name, value in settings.items() if name not in ("bundle", "overlays")}
            bundle = settings.get("bundle", bundle)
            overlays += settings.get("overlays", ())
        levels = dict(zip(self.factors, (level for level, _ in cell), strict=True))
        return Run(levels, seed, bundle, tuple(overlays), knobs)


def packaged(name: str, factors: Mapping[str, Any] | None = None, /, **changes: Any) -> dict[str, Any]:
    """A definition that comes with the package, `ablation`, `cris` or `demo`, with changes; None leaves what it has.

    Example:
        >>> definition = packaged("ablation", seeds=[7], part=None)
        >>> definition["seeds"], definition["part"]
        ([7], 'test')
    """
    content = json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    given = {name: levels for name, levels in (factors or {}).items() if levels is not None}
    content["factors"] = {**content.get("factors", {}), **given}
    return content | {key: value for key, value in changes.items() if value is not None}


def read_definition(file: str | Path) -> dict[str, Any]:
    """The content of a definition's file.

    Raises:
        UserError: `BAD_DEFINITION` if it is not a JSON object.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            "BAD_DEFINITION", file, " ".join(str(error).split()), "a JSON file", "see docs/experiments.md"
        ) from error
    if not isinstance(content, dict):
        raise UsageError("BAD_DEFINITION", file, type(content).__name__, "a JSON object", "see docs/experiments.md")
    return content


def parse_experiment(content: Mapping[str, Any]) -> Experiment:
    """The experiment of a definition; relative paths in it start from the current directory.

    Raises:
        UserError: `BAD_DEFINITION` for a key that is unknown or has a value it cannot have; `BAD_VALUE` for a knob or a
            seed; `TEST_PART` for a threshold chosen on the test set; `MISSING_BUNDLE`.
    """
    _refuse_unknown(content, {"_desc_", *(each.name for each in fields(Experiment))}, "the definition")
    if "bundle" not in content:
        raise UsageError(
            "BAD_DEFINITION", "bundle", "none", 'the folder of a bundle, "bundle": "bundles/polyp_cris"', "name one"
        )
    seeds = content.get("seeds", [0])
    if not _distinct(seeds) or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise UsageError("BAD_VALUE", "seeds", str(seeds), "distinct whole numbers, 0 or more", "correct them")
    knobs = absolute_paths(content.get("knobs", {}))
    factors = {name: _levels(name, levels) for name, levels in content.get("factors", {}).items()}
    tune = content.get("tune")
    tune = tune if tune and tune.get("trials", 20) else None
    _check_knobs(knobs, factors, tune)
    _check_parts(content)
    for name, level in content.get("reference", {}).items():
        known = factors.get(name, {})
        if not known or not (isinstance(level, list) or level in known):
            wanted = f"a level of {', '.join(factors) or 'a factor'}"
            raise UsageError("BAD_DEFINITION", f"reference {name}", repr(level), wanted, "correct it")
    checked = {
        **{"bundle": bundle_folder(content["bundle"]), "overlays": tuple(content.get("overlays", ()))},
        **{"knobs": knobs, "factors": factors, "seeds": tuple(seeds)},
        "tune": None if tune is None else {"trials": 20, "knobs": {}, **tune},
    }
    experiment = Experiment(**{name: value for name, value in {**content, **checked}.items() if name != "_desc_"})
    names = [str(run) for run in experiment.runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            "BAD_DEFINITION", "factors", f"two runs named {twice}", "a unique name for each", "rename a level"
        )
    return experiment


def plain(value: Any) -> Any:
    """A value as JSON gives it back.

    Example:
        >>> plain({"roi_size": (96, 96), "folder": Path("runs")})
        {'roi_size': [96, 96], 'folder': 'runs'}
    """
    return json.loads(json.dumps(value, default=str))


def _levels(name: str, levels: Any) -> dict[Level, dict[str, Any]]:
    """Level -> settings of a factor, which is a list of a knob's values or an object of named settings."""
    found: dict[Level, dict[str, Any]]
    if isinstance(levels, Mapping):
        found = {level: _settings(name, level, settings) for level, settings in levels.items()}
    elif _distinct(levels) and all(isinstance(value, Level) for value in levels):
        found = {value: {name: value} for value in levels}
    else:
        wanted = "a list of different numbers or words, or an object of named settings"
        raise UsageError("BAD_VALUE", f"factor {name}", str(levels), wanted, "correct it")
    for level in found:
        if not str(level) or {"/", "\\", "="} & set(str(level)):
            raise UsageError("BAD_VALUE", f"factor {name}", repr(level), "a name for a folder", "rename it")
    if not found:
        raise UsageError(
            "BAD_VALUE", f"factor {name}", "no level", "one or more", "add a level or leave the factor out"
        )
    return found


def _settings(name: str, level: str, settings: Any) -> dict[str, Any]:
    if not isinstance(settings, Mapping):
        raise UsageError("BAD_DEFINITION", f"{name} {level}", repr(settings), "an object of knobs", 'as {"epochs": 2}')
    found = absolute_paths(settings)
    return {**found, "bundle": bundle_folder(found["bundle"])} if "bundle" in found else found


def _check_knobs(
    knobs: Mapping[str, Any], factors: Mapping[str, Mapping[Level, Mapping[str, Any]]], tune: Mapping[str, Any] | None
) -> None:
    """Refuse a knob that two things set."""
    if tune is not None:
        _refuse_unknown(tune, _TUNE_KEYS, "tune")
        if not isinstance(tune.get("search"), Mapping) or not isinstance(tune.get("trials", 20), int):
            raise UsageError(
                "BAD_DEFINITION",
                "tune",
                str(dict(tune)),
                '"search": {KNOB: RANGE} and "trials": N',
                "see docs/experiments.md",
            )
        if tune.get("trials", 20) < 0:
            raise UsageError("BAD_VALUE", "trials", str(tune["trials"]), "0 for none, or more", "correct it")
    setters: dict[str, str] = dict.fromkeys(_OWN, "each run")
    sources = {"the knobs of all runs": set(knobs), "the tuning": set(tune["search"] if tune else ())}
    sources |= {f"the factor {name}": set().union(*levels.values()) for name, levels in factors.items()}
    for source, names in sources.items():
        for name in sorted(names - {"bundle", "overlays"}):
            if name in setters:
                found = f"set by {source} and by {setters[name]}"
                raise UsageError(
                    "BAD_VALUE", f"--{name}", found, "an option that is set in one place only", "leave one out"
                )
            setters[name] = source


def _check_parts(content: Mapping[str, Any]) -> None:
    threshold = content.get("threshold") or {}
    _refuse_unknown(threshold, {"part", "score"}, "threshold")
    if threshold.get("part") == "test":
        wanted = "train or val, because a threshold chosen on the test cases is fitted to them"
        raise UsageError("TEST_PART", "threshold", "the test set", wanted, "leave it out")
    if content.get("threshold") and threshold.get("score") not in SCORES:
        raise UsageError(
            "BAD_VALUE", "threshold score", repr(threshold.get("score")), f"one of {', '.join(SCORES)}", "correct it"
        )
    parts = [("part", content.get("part", "test"))]
    parts += [("threshold part", threshold.get("part"))] if threshold else []
    for name, part in parts:
        if part not in PARTS:
            raise UsageError("BAD_VALUE", name, repr(part), f"one of {', '.join(PARTS)}", "correct it")


def _refuse_unknown(content: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in content:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            wanted = f"did you mean {close[0]}?" if close else f"one of {', '.join(sorted(known))}"
            raise UsageError(
                "BAD_DEFINITION",
                name,
                f"a key that {where} does not have",
                wanted,
                "options of the bundle belong under knobs",
            )


def _distinct(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and bool(values) and len({str(value) for value in values}) == len(values)
