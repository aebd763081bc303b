"""`medseg3d report`: runs in, one page out."""

from __future__ import annotations

import argparse

HELP = "write a report on one run or several, side by side: one HTML page, Markdown and figures"
EPILOG = """\
RUN is the folder of an evaluation, a run with evaluation_* folders in it, or an ablation; NAME=RUN gives it a name:
  medseg3d report runs/pancreas -o reports/pancreas
  medseg3d report ours=runs/a baseline=runs/b runs/ablation -o reports/comparison
The page needs no network, no script and no other file.
Research only, not for clinical use.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Runs, where to, how much."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, of an evaluation or of an ablation")
    parser.add_argument("-o", "--output", required=True, help="folder for report.html, report.md and figures/")
    parser.add_argument("--title", help="heading of the page (default: the names of the runs)")
    parser.add_argument("--cases", type=int, default=3, metavar="N", help="cases drawn by score (default: %(default)s)")
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="class the page is about (default: the first)"
    )
    parser.add_argument("--bundle", default="", metavar="NAME", help="bundle of runs that have recorded none")


def run(args: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    from medseg3d.data.atomic import check_folder
    from medseg3d.reports.run_report import report

    check_folder(args.output)
    page = report(
        args.runs,
        args.output,
        title=args.title,
        cases=args.cases,
        bundle=args.bundle,
        class_name=args.class_name,
    )
    print(f"{page}\n{page.with_name('report.md')}")
    return 0
