"""`python -m layerfit.page`: every table, figure and run as one HTML file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from layerfit.config import composer
from layerfit.errors import Parser, UserError
from layerfit.files.shown import one_line
from layerfit.files.writing import write_atomically
from layerfit.page.gather import gather
from layerfit.page.page import page


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    text = "Write every table, figure and run as one HTML file."
    out = Parser(prog="layerfit report", description=text)
    out.add_argument("--output", default="outputs/report/index.html", help="the file (default: %(default)s)")
    return out


def main(argv: list[str] | None = None) -> int:
    """Write the page; return the exit status: 0 done, 2 user error."""
    try:
        options = parser().parse_args(argv)
        with composer():
            report = gather()
            path, text = Path(options.output), page(report).encode()
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    write_atomically(path, text)
    print(f"{path}  {len(report.tables)} tables, {len(report.records)} runs, {len(text) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
