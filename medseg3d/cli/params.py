"""`medseg3d params`: parameters, work and memory of networks, beside what the papers print."""

from __future__ import annotations

import argparse

from medseg3d.errors import UsageError

HELP = "count parameters, multiply-adds and memory of the papers' networks or of a bundle's"
TAKES_KNOBS = True
EPILOG = """\
Other --key value pairs are options of the bundle, as in training: --init_filters 32

examples:
  medseg3d params                                                     every network of the five papers
  medseg3d params --paper pancreas --depth 2                          one paper's, module by module
  medseg3d params bundles/pancreas_nl --compare unetr swinunetr --ablation
  medseg3d params --figure parameters.png --runs runs/pancreas_nl/evaluation_test
"""

DEFAULT_BUNDLE = "pancreas_nl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to count, how deep, and where the result goes."""
    parser.add_argument(
        "bundle", nargs="?", help="folder or name: count this bundle's network, next to those of its paper"
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="OVERLAY",
        help=f"count the bundle with these overlays too, for instance unetr swinunetr (bundle: {DEFAULT_BUNDLE})",
    )
    parser.add_argument("--ablation", action="store_true", help="count the bundle with 0 to 4 non-local blocks too")
    parser.add_argument("--paper", nargs="+", default=[], metavar="PAPER", help="count the networks of these papers")
    parser.add_argument("--depth", type=int, default=0, metavar="N", help="also list modules, N levels deep")
    parser.add_argument("--format", choices=("text", "markdown", "csv", "json"), default="text")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the table here instead of printing it")
    parser.add_argument("--figure", metavar="PNG", help="plot the papers' Dice over parameters")
    parser.add_argument("--runs", nargs="+", default=[], metavar="DIR", help="evaluation folders to add to that plot")


def run(args: argparse.Namespace) -> int:
    """Count, then print or write."""
    from medseg3d.files.atomic import atomic_write
    from medseg3d.reports.parameter_tables import FORMATS
    from medseg3d.reports.parameters import bundle_report, paper_report, papers_of_bundle

    if args.runs and not args.figure:
        raise UsageError("BAD_VALUE", "--runs", "no figure to draw them in", "--figure PNG with it")
    bundle = args.bundle
    if bundle is None and (args.compare or args.ablation or args.knobs):
        bundle = DEFAULT_BUNDLE
    if bundle is None:
        rows = paper_report(args.paper)
    else:
        rows = bundle_report(bundle, args.compare, args.knobs, args.ablation)
        papers = args.paper or papers_of_bundle(bundle)
        rows += paper_report(papers) if papers else []
    if args.figure:
        from medseg3d.reports.curves import save_figure
        from medseg3d.reports.network_points import panels_of, scored_runs
        from medseg3d.reports.parameter_figure import draw_parameters

        save_figure(draw_parameters(panels_of(rows, scored_runs(args.runs))), args.figure)
    table = FORMATS[args.format](rows, args.depth)
    if args.output:
        with atomic_write(args.output, "w") as file:
            file.write(table + "\n")
    else:
        print(table)
    return 0
