"""MONAI bundles as this project uses them: read with overrides, their knobs checked, their runs started with care.

MONAI 1.6.1 accepts an override that no config knows (`--epochz 1`) without a word, resolves `%` paths from the current
directory, and prints tracebacks at users. What is here fixes these three.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import logging
import os
import pydoc
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from logging.config import fileConfig
from pathlib import Path
from typing import Any, TypeVar

from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser, ConfigWorkflow

from medseg3d.bundle_folders import completed, log_format, read_json
from medseg3d.child import run_child
from medseg3d.errors import UsageError, UserError, error_hook, escape_names
from medseg3d.files.atomic import atomic_write
from medseg3d.knobs import as_flag, refuse_impossible
from medseg3d.precision import check_device
from medseg3d.ranks import rank, refuse_stray_process

logger = logging.getLogger("medseg3d")

_Built = TypeVar("_Built")

_FREE_TO_CHANGE = {
    *("epochs", "patience", "val_interval", "seed", "max_skipped_steps", "precision", "amp", "device", "compile"),
    *("num_workers", "cache_memory", "micro_batch_size", "augment_on", "overlap", "sw_batch_size", "slices_per_batch"),
    *("tensorboard_images", "dataset_dir", "output_dir", "model_file", "bundle_root", "engine"),
}
"""Knobs that a training may change when it is resumed: how long, how fast and where, not what is learnt from what."""

_RENAMED = {
    **{"pictures": "tensorboard_images", "patient_pattern": "group_pattern"},
    "selection": "checkpoint_selection",
}
"""Earlier names of knobs -> today's, for the hint to whoever still uses them."""


def complete_config() -> None:
    """Put under the config that MONAI is running what it stands on: the files that it names under `base`.

    Its `initialize` is this and `@begin`. MONAI sets a deep override (`--train#trainer#compile true`) before anything
    of a config is run, so a config has an empty object where one may go, and what is below fills it here.

    Raises:
        UserError: `BAD_CONFIG` for a file that cannot be read or has no such part.
    """
    parser = _running(ConfigParser)
    try:
        parser.set(completed(parser.get(), _running(ConfigWorkflow).config_root_path))
    except (OSError, KeyError, ValueError) as error:
        raise _unreadable(parser["base"], error) from error


def _unreadable(files: Sequence[str], error: Exception) -> UserError:
    return UserError(
        "BAD_CONFIG",
        ", ".join(files),
        " ".join(str(error).split()),
        "JSON whose every base and % leads to a file and a key",
        "run from the root of the repository; an overlay comes after the file it overlays",
    )


def running_root() -> str:
    """The folder of the bundle that MONAI is running; `bundle_root` of one that is self-contained and may lie anywhere.

    Raises:
        RuntimeError: outside of such a run, where `--bundle_root` has to say it.
    """
    folder = _running(ConfigWorkflow).config_root_path.absolute()
    return str(folder.parent if folder.name == "configs" else folder)


def _running(kind: type[_Built]) -> _Built:
    """The object of MONAI's whose config called this: MONAI hands it to nothing that a config calls, so the stack is
    asked.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, kind):
            return caller
        frame = frame.f_back
    raise RuntimeError(f"this is called by a config that a {kind.__name__} of MONAI's runs, and by nothing else")


def absolute_paths(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs with every file and folder among them made absolute, so that they hold in another directory.

    Example:
        >>> absolute_paths({"model_file": "/runs/model.pt", "epochs": 2})
        {'model_file': '/runs/model.pt', 'epochs': 2}
    """
    return {
        name: str(Path(value).absolute()) if isinstance(value, str) and _is_path(name, value) else value
        for name, value in knobs.items()
    }


def _is_path(name: str, value: str) -> bool:
    return name.endswith(("_file", "_dir")) or (name == "init_from" and Path(value).is_file())  # else a bundle's name


def read_config(config_files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> ConfigParser:
    """The merged config of `config_files` (later ones win) with `overrides` set; nothing is instantiated.

    Args:
        config_files: JSON files; `%` paths in them start from the current directory, those of `base` from the folder of
            the first.
        overrides: knob -> value, as on MONAI's command line; `a::b` and `a#b` go deep.

    Raises:
        UserError: `UNKNOWN_KNOB` for an override that no config knows, `BAD_ARGUMENT` for a deep one that its component
            does not take; `BAD_VALUE` for a knob that is set to what it cannot be, in a file too; `BAD_CONFIG` for a
            file that cannot be read or a `base` or `%` that leads nowhere.
    """
    files = [str(path) for path in config_files]
    overrides = dict(overrides or {})
    parser = ConfigParser()
    try:
        parser.read_config(files)
        whole = completed(parser.get(), Path(files[0]).parent)
        refuse_unknown_knobs(parser, whole, overrides)
        parser.update(pairs={name: spelt_for_monai(value) for name, value in overrides.items()})
        parser.set(completed(parser.get(), Path(files[0]).parent))
        parser.resolve_macro_and_relative_ids()
        if isinstance(parser.get("bundle_root"), dict):  # that of a bundle that lies anywhere
            parser["bundle_root"] = str(Path(files[0]).absolute().parent)
    except (OSError, KeyError, ValueError) as error:
        raise _unreadable(files, error) from error
    refuse_impossible(parser.get())
    return parser


def spelt_for_monai(value: Any) -> Any:
    r"""A value as a config has to spell it to come out as it is: MONAI takes each `#` in it, in a path too, for `::`.

    Example:
        >>> print(spelt_for_monai("runs/a#1"))
        $'runs/a\x231'
    """
    if isinstance(value, (list, tuple)):
        return [spelt_for_monai(each) for each in value]
    if not isinstance(value, str) or "#" not in value or value.startswith(("$", "@", "%")):
        return value
    return "$" + repr(value).replace("#", r"\x23").replace("@", r"\x40")


def refuse_absent_device(parser: ConfigParser) -> None:
    """Raise a `UserError` `DEVICE` if a config names a device that is not there; one that is computed is."""
    device = parser.get("device")
    if isinstance(device, (str, int)) and not str(device).startswith("$"):
        check_device(device)


def refuse_unknown_knobs(parser: ConfigParser, whole: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Raise a `UserError` for an override that MONAI would take without a word, or stumble over.

    Args:
        parser: of the config files, without what they stand on.
        whole: their content with it.
        overrides: what is to be set.

    Raises:
        UserError: `UNKNOWN_KNOB` for a key that the config lacks, one under its earlier name, in a file too, or a place
            that MONAI cannot reach; `BAD_ARGUMENT` for an argument that the component at that place does not take.
    """
    known = whole.keys() - _RENAMED.keys()
    for name in [*overrides, *(whole.keys() & _RENAMED.keys())]:
        deep = name.lstrip("+%").replace("#", "::")
        top, _, path = deep.partition("::")
        if top not in known or (path and not _has(parser, deep)):
            close = difflib.get_close_matches(top if top not in known else name, sorted(known), n=3)
            close = [_RENAMED[name]] if _RENAMED.get(name) in known else close
            raise UsageError(
                "UNKNOWN_KNOB",
                f"--{name}",
                "unknown option",
                f"one of {', '.join('--' + knob for knob in close)}" if close else "a key of the config files",
                "correct the name; `medseg3d bundles options` prints all options of a bundle",
            )
        if path:
            place, _, argument = deep.rpartition("::")
            component = _at(whole, place)
            if isinstance(component, dict) and "_target_" in component:
                error = argument_error(component, argument, f"--{name}")
                if error is not None:
                    raise error


def _has(parser: ConfigParser, key: str) -> bool:
    try:
        branch = parser[key.rsplit("::", 1)[0]]
    except (KeyError, IndexError, ValueError):
        return False
    # a new leaf is legal, a new branch is not; what a `base` or `%` brings in is not there when MONAI sets overrides
    return isinstance(branch, (dict, list))


def _at(config: Any, place: str) -> Any:
    for name in place.split("::"):
        config = config[int(name) if isinstance(config, list) else name]
    return config


def target_of(component: Mapping[str, Any]) -> tuple[str, Callable[..., Any] | None]:
    """The full name behind a component's `_target_`, which may be MONAI's short one, and what it is of, if anything."""
    name = str(component["_target_"])
    with contextlib.suppress(ImportError, ValueError, KeyError):
        resolved = ConfigComponent(config=dict(component), id=name, locator=_locator()).resolve_module_name()
        name = resolved if isinstance(resolved, str) else name
    found = pydoc.locate(name) if "." in name else None
    return name, found if callable(found) else None


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


def argument_error(component: Mapping[str, Any], argument: str, where: str) -> UserError | None:
    """`BAD_ARGUMENT` if a component of a config does not take an argument; None if it does, or cannot be asked."""
    _, target = target_of(component)
    if target is None or argument.startswith("_"):
        return None
    accepted = _arguments(target)
    if accepted is None or argument in accepted:
        return None
    found = f"argument {argument} of {component['_target_']}"
    close = difflib.get_close_matches(argument, accepted) or accepted
    return UserError("BAD_ARGUMENT", where, found, f"one of {', '.join(close)}", "correct it")


def _arguments(target: Callable[..., Any]) -> list[str] | None:
    """The arguments that a component takes by name; None where these cannot be known."""
    classes: Sequence[Callable[..., Any]] = [target]
    if isinstance(target, type) and target.__module__.startswith("medseg3d."):
        classes = target.__mro__[:-1]  # our classes pass **kwargs on to the class above
    accepted: list[str] = []
    for each in classes:
        try:
            parameters = inspect.signature(each).parameters.values()
        except (TypeError, ValueError):
            return None  # written in C
        accepted += [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return list(dict.fromkeys(accepted))
    return None


def monai_command_line(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]] | None:
    """Config files and overrides of a `python -m monai.bundle run` command line, parsed as MONAI parses it.

    Returns:
        None if `argv` is another program's.
    """
    import fire
    from monai.bundle.scripts import run

    program = Path(argv[0])
    if program.name != "__main__.py" or program.parent.name != "bundle" or list(argv[1:2]) != ["run"]:
        return None
    captured: dict[str, Any] = {}

    def capture(run_id: str | None = None, *_: Any, **keywords: Any) -> None:
        captured.update(keywords)

    fire.Fire(capture, command=list(argv[2:]), name="run")
    if captured.get("args_file"):
        captured = {**ConfigParser.load_config_files(captured["args_file"]), **captured}
    own = set(inspect.signature(run).parameters) - {"override"}
    files = captured.get("config_file") or []
    overrides = {name: value for name, value in captured.items() if name not in own}
    return ([files] if isinstance(files, str) else list(files)), overrides


def monai_words(run_id: str, config_files: Sequence[str], knobs: Mapping[str, Any] | None = None) -> list[str]:
    """The words after `python` of a MONAI command line.

    Example:
        >>> monai_words("training", ["bundles/pancreas_nl/train.json"], {"epochs": 2})[4:]
        ['--config_file', "['bundles/pancreas_nl/train.json']", '--epochs', '2']
    """
    files = "[" + ",".join(f"'{file}'" for file in config_files) + "]"
    words = ["-m", "monai.bundle", "run", run_id, "--config_file", files]
    return words + [
        word for name, value in (knobs or {}).items() for word in (f"--{name}", str(spelt_for_monai(value)))
    ]


def run_monai(
    run_id: str,
    config_files: Sequence[str],
    knobs: Mapping[str, Any] | None = None,
    *,
    root: str | Path,
    log_file: str | Path,
    show: bool = False,
) -> float:
    """Run one MONAI command in a process of its own, which does not outlive this one; the seconds it took.

    Args:
        run_id: `training`, `evaluating` or `inferring`.
        config_files: as they are named from `root`.
        knobs: overrides.
        root: the directory that the configs' `%` paths start from.
        log_file: where its output is appended.
        show: whether its progress bar and what ends it go to the terminal instead.

    Raises:
        UserError: `RUN_FAILED` with its exit code and the last line of the log.
    """
    words = monai_words(run_id, config_files, knobs)
    started = time.perf_counter()
    environment = dict(os.environ)
    with open(log_file, "a", encoding="utf-8", errors="backslashreplace") as log:
        log.write(f"$ python {shlex.join(words)}\n")
        log.flush()
        if show:
            folder = Path(root, config_files[0]).parent
            # stderr is for people then: neither the log nor MONAI's warning that a config is a program
            words += ["--logging_file", str(_log_to_stdout(folder, Path(log_file)))]
            environment["PYTHONWARNINGS"] = "ignore:parsing config_file:UserWarning"
        code = run_child(words, cwd=root, environment=environment, output=log, errors=None if show else log)
    if code:
        raise UserError("RUN_FAILED", run_id, f"exit code {code}", "0", f"read {log_end(log_file)}")
    return time.perf_counter() - started


def _log_to_stdout(folder: Path, log_file: Path) -> Path:
    """The format of a bundle's log, for stdout, in a file beside a log."""
    path = log_file.with_suffix(".conf")
    form = log_format(folder).read_text(encoding="utf-8")
    path.write_text(form.replace("sys.stderr", "sys.stdout"), encoding="utf-8")
    return path


def log_end(log_file: str | Path) -> str:
    """A log and its last line, for a message."""
    lines = Path(log_file).read_text(encoding="utf-8", errors="replace").splitlines()
    return f"{log_file}, which ends: {lines[-1].strip()[:1000]}" if lines else str(log_file)


def start_run(output_dir: str | Path | None = None, claim: Callable[[], object] | None = None) -> None:
    """Begin a run of `python -m monai.bundle`: refuse wrong knobs, record the config, speak in single lines.

    Belongs first in a config's `initialize`. From here on a `UserError` ends the program with its one line instead of a
    traceback. Within another program (a notebook, MONAI Label) only the logging is touched, and the folder claimed.

    Args:
        output_dir: where the resolved config is written, as config.json; None writes none.
        claim: called when nothing is wrong with the config, before it is written: it may refuse the folder.

    Raises:
        UserError: `UNKNOWN_KNOB`, `BAD_VALUE`, `DEVICE` and `TORCHRUN`; `RESUME` for a knob that a resumed run cannot
            change; those of `claim`.
    """
    logging.getLogger("medseg3d").setLevel(logging.INFO if rank() == 0 else logging.WARNING)
    command = monai_command_line(sys.argv)
    config = None if command is None else _checked_config(*command)
    if claim is not None:
        claim()
    if config is None or output_dir is None or rank() != 0:
        return
    path = Path(output_dir) / "config.json"
    begun = any((path.parent / "checkpoints").glob("epoch_*.pt")) and path.is_file()
    if begun and as_flag(config.get("resume", False), "resume"):
        config = _resumed(config, path)
    with atomic_write(path, "w") as file:
        json.dump(config, file, indent=2, default=str)


def _checked_config(files: Sequence[str], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a command line in which nothing is wrong; from here on errors are single lines."""
    log_file = log_format(Path(files[0]).absolute().parent)
    if not logging.getLogger().handlers and log_file.is_file():  # with --logging_file MONAI has read that one
        fileConfig(log_file, disable_existing_loggers=False)
    escape_names()
    sys.excepthook = error_hook(sys.excepthook)
    refuse_stray_process()
    for name, value in overrides.items():
        if spelt_for_monai(value) != value:  # by now MONAI has replaced it
            spelt = f'--{name} "{spelt_for_monai(value)}"'
            raise UsageError("BAD_VALUE", f"--{name}", f"{value!r}, whose # MONAI takes for ::", spelt, "write it so")
    parser = read_config(files, overrides)
    refuse_absent_device(parser)
    return parser.get()


def _resumed(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The config of a run that goes on, with what is other than before under `_resumed_`, which the log names too.

    Raises:
        UserError: `RESUME` for a knob that a run cannot change on its way.
    """
    now = json.loads(json.dumps(config, default=str))
    before = {_RENAMED.get(name, name): value for name, value in read_json(path).items()}
    other = {name: before[name] for name in before.keys() & now.keys() if before[name] != now[name]}
    changes = {}
    for name, value in sorted(other.items()):
        if name in ("_desc_", "resume", "overwrite"):
            continue
        if isinstance(value, dict) or isinstance(now[name], dict):
            logger.warning("%s is defined otherwise than when this run began (%s)", name, path)
        elif name in _FREE_TO_CHANGE:
            changes[name] = [value, now[name]]
            logger.warning("--%s %s from here on; so far this run had %s", name, now[name], value)
        else:
            raise UsageError(
                "RESUME",
                f"--{name}",
                repr(now[name]),
                f"{value!r}, with which this run began ({path})",
                "resume with that, or choose another --output_dir for a new run",
            )
    history = [*before.get("_resumed_", []), *([changes] if changes else [])]
    return {**config, **({"_resumed_": history} if history else {})}
