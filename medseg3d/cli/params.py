"""`medseg3d params`: parameter counts beside the paper's."""

from __future__ import annotations

import argparse

HELP = "count the parameters of a bundle's network and of the networks it is compared with"
TAKES_KNOBS = True
EPILOG = "Further --key value pairs are knobs of the bundle, as in training: --init_filters 32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A bundle, overlays to compare, a format; further `--key value` are knobs of the bundle."""
    parser.add_argument("bundle", nargs="?", default="bundles/pancreas_nl", help="default: %(default)s")
    parser.add_argument("--compare", nargs="+", default=[], metavar="OVERLAY", help="for instance: unetr swinunetr")
    parser.add_argument("--format", choices=("markdown", "json"), default="markdown")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from medseg3d.reports.parameters import as_json, as_markdown, parameter_report

    rows = parameter_report(args.bundle, args.compare, args.knobs)
    print(as_markdown(rows) if args.format == "markdown" else as_json(rows))
    return 0
