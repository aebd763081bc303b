"""The command line: `medseg3d VERB ...`. Thin: verbs.json says what a verb takes, the module of its name is imported.

Each verb is a module of this package with `run`, which takes the parsed options and returns the exit code; the `--key
value` pairs that are no option are in `args.knobs`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from medseg3d.cli.options import RENAMED_VERBS, VERBS, add_options, build_parser
from medseg3d.errors import UsageError, escape_names, find_user_error
from medseg3d.knobs import literal
from medseg3d.limits import limits


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; a `UserError` is one line on stderr."""
    escape_names()
    words, knobs = split_knobs(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(words)
    try:
        args.knobs = parse_overrides(knobs)
        with limits(getattr(args, "max_voxels", None), getattr(args, "max_pixels", None)):
            return importlib.import_module(f"medseg3d.cli.{RENAMED_VERBS.get(args.verb, args.verb)}").run(args)
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
    verb = next((RENAMED_VERBS.get(word, word) for word in argv if word in VERBS or word in RENAMED_VERBS), None)
    if verb is None or not VERBS[verb].get("takes_knobs"):
        return list(argv), []
    options = argparse.ArgumentParser()
    options.add_argument("--traceback")
    add_options(options, VERBS[verb])
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
            raise UsageError("UNKNOWN_KNOB", token, "a value without a name", "--key value", "put --key before it")
        name, equals, value = token[2:].partition("=")
        if not equals:
            if position == len(tokens) or tokens[position].startswith("--"):
                overrides[name] = True
                continue
            value = tokens[position]
            position += 1
        overrides[name] = literal(value)
    return overrides
