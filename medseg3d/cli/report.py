"""`medseg3d report`: runs in, one page out."""

from __future__ import annotations

import argparse

from medseg3d.files.atomic import check_folder
from medseg3d.reports.run_report import report


def run(args: argparse.Namespace) -> int:
    """Write the report and say where it is."""
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
