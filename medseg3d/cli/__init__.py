"""The command line: `medseg3d VERB ...`. Thin; everything heavy is imported by the verb that needs it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from medseg3d import __version__
from medseg3d.errors import UsageError, escape_names, find_user_error
from medseg3d.knobs import literal
from medseg3d.limits import limits

VERBS = (
    *("demo", "phantom", "data", "predict", "verify", "evaluate", "threshold", "report", "view"),
    *("params", "experiment", "ablation", "tune", "reproduce", "bundles", "package", "export"),
    *("check", "bench", "doctor", "docs", "version"),
)

RENAMED_VERBS = {"study": "reproduce"}
"""Earlier names of verbs, accepted for one version more and not shown."""

EPILOG = """\
Training is MONAI's own command:
  python -m monai.bundle run training --config_file bundles/pancreas_nl/train.json

exit codes: 0 done, 1 the data or the result is at fault, 2 the call is at fault, 3 some cases failed
Research software; not a medical device and not for clinical use.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs.

    Each verb is a module of this package with `HELP`, `add_arguments` and `run`. One with `TAKES_KNOBS = True` finds
    the `--key value` pairs that are no option of its own in `args.knobs`. `RENAMED` maps options of earlier versions to
    those of today; they are accepted for one version more.
    """
    parser = argparse.ArgumentParser(
        prog="medseg3d",
        description="Segmentation of pancreas CT and polyps: five papers rebuilt on MONAI.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"medseg3d {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of a refusal, for a bug report")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        module = _verb_module(name)
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=getattr(module, "EPILOG", None),
            allow_abbrev=False,  # `--over` must not be taken for `--overwrite` where it may be a misspelt knob
        )
        _add_arguments(module, verb)
        verb.set_defaults(run=module.run)
    for old, new in RENAMED_VERBS.items():
        verbs.choices[old] = verbs.choices[new]
    return parser


def _add_arguments(module: ModuleType, parser: argparse.ArgumentParser) -> None:
    """The options of a verb, also under names that its help leaves out: `--some_name`, and those of `RENAMED`."""
    module.add_arguments(parser)
    parsers = [parser]
    for own in parsers:
        known = own._option_string_actions  # argparse has no public way to accept a name and not to show it
        for action in own._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
        for old, new in getattr(module, "RENAMED", {}).items():
            if new in known:
                known.setdefault(old, known[new])
        for name in [name for name in known if "-" in name[2:]]:
            known.setdefault("--" + name[2:].replace("-", "_"), known[name])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; a `UserError` is one line on stderr."""
    escape_names()
    words, knobs = split_knobs(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(words)
    try:
        args.knobs = parse_overrides(knobs)
        with limits(getattr(args, "max_voxels", None), getattr(args, "max_pixels", None)):
            return args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `medseg3d ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None or args.traceback:
            raise
        print(f"error: {user_error}", file=sys.stderr)
        return user_error.exit_code


def split_knobs(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without its knobs, and the knobs: `--key value` pairs that the verb has no option for.

    Example:
        >>> split_knobs(["params", "--init_filters", "32", "bundles/pancreas_nl", "--compare", "unetr"])
        (['params', 'bundles/pancreas_nl', '--compare', 'unetr'], ['--init_filters', '32'])
    """
    verb = next((word for word in argv if word in VERBS or word in RENAMED_VERBS), None)
    if verb is None or not getattr(_verb_module(verb), "TAKES_KNOBS", False):
        return list(argv), []
    options = argparse.ArgumentParser()
    options.add_argument("--traceback")
    _add_arguments(_verb_module(verb), options)
    own = set(options._option_string_actions)
    words: list[str] = []
    knobs: list[str] = []
    position = 0
    while position < len(argv):
        word = argv[position]
        position += 1
        if not word.startswith("--") or word == "--" or word.partition("=")[0] in own:
            words.append(word)
            continue
        knobs.append(word)
        if "=" not in word and position < len(argv) and not argv[position].startswith("--"):
            knobs.append(argv[position])
            position += 1
    return words, knobs


def _verb_module(name: str) -> ModuleType:
    return importlib.import_module(f"medseg3d.cli.{RENAMED_VERBS.get(name, name)}")


def parse_overrides(tokens: Sequence[str]) -> dict[str, object]:
    """Knob -> value from `--key value`, `--key=value` and bare `--flag` tokens, as MONAI's command line reads them.

    Values are Python literals where they parse as one, else strings.

    Raises:
        UserError: `UNKNOWN_KNOB` for a token that belongs to no `--key`.

    Example:
        >>> parse_overrides(["--epochs", "2", "--roi_size=[64,64,64]", "--resume", "--output_dir", "runs/a"])
        {'epochs': 2, 'roi_size': [64, 64, 64], 'resume': True, 'output_dir': 'runs/a'}
    """
    overrides: dict[str, object] = {}
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if not token.startswith("--") or len(token) == 2:
            raise UsageError("UNKNOWN_KNOB", token, "a value without a knob", "--key value", "put --key before it")
        name, equals, value = token[2:].partition("=")
        if not equals:
            if position == len(tokens) or tokens[position].startswith("--"):
                overrides[name] = True
                continue
            value = tokens[position]
            position += 1
        overrides[name] = literal(value)
    return overrides
