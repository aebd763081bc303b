"""Draw a scan, its ground truth and its prediction in three planes.

python scripts/draw_overlay.py scan.nii.gz prediction.nii.gz overlay.png [--truth truth.nii.gz]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medseg3d.errors import UserError
from medseg3d.reports.curves import save_figure
from medseg3d.reports.overlays import draw_case, read_case


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("prediction", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--truth", type=Path)
    args = parser.parse_args()
    try:
        save_figure(draw_case(read_case(args.scan, args.truth, args.prediction)), args.output)
    except UserError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
