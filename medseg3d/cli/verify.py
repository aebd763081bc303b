"""`medseg3d verify`: do masks still agree with their records?"""

from __future__ import annotations

import argparse

from medseg3d.data.records import verify_results


def run(args: argparse.Namespace) -> int:
    """Print a table of what differs; 1 if anything does."""
    total, differences = verify_results(args.folders, args.images, args.pseudonym)
    width = max((len(ascii(each.file)) for each in differences), default=0)
    for each in differences:
        print(f"{each.code:<12}  {ascii(each.file)[1:-1]:<{width}}  {each.found}")
    print(f"{total} records, {len(differences)} differences")
    return 1 if differences else 0
