"""`medseg3d view`: a scan or a 2-D image with its masks, in the browser."""

from __future__ import annotations

import argparse

from medseg3d.viewer import view, write_page


def run(args: argparse.Namespace) -> int:
    """Write the page, or serve it until Ctrl-C."""
    if args.output is not None:
        print(write_page(args.output, args.scan, *args.masks, class_names=args.class_names, series=args.series))
        return 0
    page = view(
        args.scan,
        *args.masks,
        class_names=args.class_names,
        series=args.series,
        port=args.port,
        open_browser=not args.no_browser,
    )
    print(f"{page.url}\nPress Ctrl-C to stop. Research only, not for clinical use.", flush=True)
    with page:
        try:
            page.wait()
        except KeyboardInterrupt:
            print()
    return 0
