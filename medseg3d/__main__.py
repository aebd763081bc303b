"""`python -m medseg3d VERB ...`: the command line where its script is not on the PATH."""

import sys

from medseg3d.cli import main

if __name__ == "__main__":
    sys.exit(main())
