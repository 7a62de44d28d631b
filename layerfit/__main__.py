"""`python -m layerfit`."""

import sys

from layerfit.cli import main

if __name__ == "__main__":
    sys.exit(main())
