"""`medseg3d view`: a scan or a picture with its masks, in the browser."""

from __future__ import annotations

import argparse

from medseg3d.cli.size_limits import add_limits

HELP = "show a scan or a picture with its masks in the browser, on this machine alone; or write the page to a folder"
EPILOG = """\
A MASK is a mask or a map of probabilities on the grid of the scan; NAME=FILE names it:

  medseg3d view ct.nii.gz truth=label.nii.gz prediction=masks/ct_seg.nii.gz

The page is served at 127.0.0.1 until Ctrl-C and loads nothing from a network. Press h in it for the keys. From another
machine: ssh -L 8765:127.0.0.1:8765 HOST medseg3d view ct.nii.gz --port 8765 --no-browser, and open the address.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show, and where."""
    parser.add_argument("scan", help="NIfTI, NRRD, MetaImage, a DICOM folder or a ZIP of one; or JPEG, PNG, TIFF, BMP")
    parser.add_argument("masks", nargs="*", metavar="MASK", help="masks or maps of probabilities of it; NAME=FILE")
    parser.add_argument("--class-names", nargs="+", default=[], metavar="NAME", help="of the label values 1, 2, ...")
    parser.add_argument("--series", default="", metavar="NUMBER", help="DICOM series to use, by number or UID")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
    parser.add_argument("-o", "--output", metavar="DIR", help="write the page to DIR, for any web server, and end")
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page, or serve it until Ctrl-C."""
    from medseg3d.viewer import view, write_page

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
    print(f"{page.url}\nCtrl-C ends it. Research only, not for clinical use.", flush=True)
    with page:
        try:
            page.wait()
        except KeyboardInterrupt:
            print()
    return 0
