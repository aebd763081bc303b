"""`medseg3d verify`: do masks still agree with their records?"""

from __future__ import annotations

import argparse

from medseg3d.cli.size_limits import add_limits

HELP = "check masks, maps and overlays of predict, and on request the images, against the sums in their records"
EPILOG = "exit codes: 0 all is as recorded, 1 something differs, 2 a wrong call"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders of results."""
    parser.add_argument("folders", nargs="+", metavar="OUT", help="folders of masks, and of the maps and overlays")
    parser.add_argument("--images", nargs="+", default=[], metavar="DIR", help="folders of the images, to check too")
    parser.add_argument("--pseudonym", metavar="FILE.csv", help="table of pseudonyms that predict was given")
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Print a table of what differs; 1 if anything does."""
    from medseg3d.data.records import verify_results

    total, differences = verify_results(args.folders, args.images, args.pseudonym)
    width = max((len(ascii(each.file)) for each in differences), default=0)
    for each in differences:
        print(f"{each.code:<12}  {ascii(each.file)[1:-1]:<{width}}  {each.found}")
    print(f"{total} records, {len(differences)} differences")
    return 1 if differences else 0
