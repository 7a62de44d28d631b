"""`python -m layerfit.claims`: the claims of the slides, tested on published numbers and our own."""

from __future__ import annotations

import argparse
import sys

from layerfit.claims import read, show
from layerfit.claims.answer import CLAIMS, PROFILES, answers
from layerfit.config import composer
from layerfit.errors import Parser, UserError
from layerfit.files.shown import shown
from layerfit.files.writing import write_atomically
from layerfit.report.build import committed


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    text = "Test the claims of the slides on published numbers and our own; write results/claims.md."
    out = Parser(prog="layerfit claims", description=text)
    out.add_argument("--profile", choices=PROFILES, help="print our verdicts on one profile only, write nothing")
    return out


def main(argv: list[str] | None = None) -> int:
    """Test the claims; return the exit status: 0 done, 2 user error."""
    try:
        options = parser().parse_args(argv)
        with composer():
            rendered = set(committed())
            made = answers(read.load(), rendered, (options.profile,) if options.profile else PROFILES)
            print(show.console(made), end="")
            if options.profile is None:
                write_atomically(CLAIMS, show.markdown(made, rendered).encode())
                print(CLAIMS)
    except UserError as error:
        print(f"error: {shown(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
