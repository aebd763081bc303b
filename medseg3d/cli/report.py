"""`medseg3d report`: runs in, one page out."""

from __future__ import annotations

import argparse

from medseg3d.cli.size_limits import add_limits

HELP = "write a report on one or several runs, side by side: an HTML page, Markdown and figures"
RENAMED = {"--cases": "--draw-cases"}
EPILOG = """\
RUN is an evaluation folder, a run folder with evaluation_* in it, or an experiment; NAME=RUN names it:
  medseg3d report runs/pancreas -o reports/pancreas
  medseg3d report ours=runs/a baseline=runs/b runs/ablation -o reports/comparison
The page is self-contained: no network, no scripts, no other files.
Research only, not for clinical use.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Runs, where to, how much."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, of an evaluation or of an experiment")
    parser.add_argument("-o", "--output", required=True, help="folder for report.html, report.md and figures/")
    parser.add_argument("--title", help="heading of the page (default: the names of the runs)")
    parser.add_argument("--draw-cases", type=int, default=3, metavar="N", help="number of cases (default: %(default)s)")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="class to report on (default: the first)")
    parser.add_argument("--bundle", default="", metavar="NAME", help="bundle of runs that did not record one")
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    from medseg3d.files.atomic import check_folder
    from medseg3d.reports.run_report import report

    check_folder(args.output)
    page = report(
        args.runs,
        args.output,
        title=args.title,
        cases=args.draw_cases,
        bundle=args.bundle,
        class_name=args.class_name,
    )
    print(f"{page}\n{page.with_name('report.md')}")
    return 0
