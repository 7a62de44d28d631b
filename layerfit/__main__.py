"""`python -m layerfit`."""

import sys

from layerfit.cli import main as _main


def main() -> None:
    """Entry point."""
    sys.exit(_main())


if __name__ == "__main__":
    main()
