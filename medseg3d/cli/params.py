"""`medseg3d params`: parameters, work and memory of networks, next to what the papers print."""

from __future__ import annotations

import argparse

from medseg3d.errors import UsageError
from medseg3d.files.atomic import atomic_write
from medseg3d.reports.parameters import FORMATS, bundle_report, paper_report, papers_of_bundle

DEFAULT_BUNDLE = "pancreas_nl"


def run(args: argparse.Namespace) -> int:
    """Count, then print or write."""
    if args.runs and not args.figure:
        raise UsageError("BAD_VALUE", "--runs", "no figure to draw them in", "--figure PNG", "add --figure PNG")
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
        from medseg3d.reports.parameter_figure import draw_parameters, panels_of, scored_runs

        save_figure(draw_parameters(panels_of(rows, scored_runs(args.runs))), args.figure)
    table = FORMATS[args.format](rows, args.depth)
    if args.output:
        with atomic_write(args.output, "w") as file:
            file.write(table + "\n")
    else:
        print(table)
    return 0
