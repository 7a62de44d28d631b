"""`python -m layerfit.page`: every table, figure and run as one HTML file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from layerfit.config import composer
from layerfit.errors import Parser, UserError
from layerfit.files.paths import expand
from layerfit.files.shown import shown
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
        path = expand("--output", options.output)
        if path.is_dir() or any(above.is_file() for above in path.absolute().parents):
            raise UserError(f"--output {path} is a folder, or below a file; give a file, such as report/index.html")
        with composer():
            report = gather()
            text = page(report).encode()
        _write(path, text)
    except UserError as error:
        print(f"error: {shown(error)}", file=sys.stderr)
        return 2
    print(f"{path}  {len(report.tables)} tables, {len(report.records)} runs, {len(text) / 2**20:.1f} MiB")
    return 0


def _write(path: Path, text: bytes) -> None:
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"--output {path}: {error.strerror or error}; give a file where one can be written") from error


if __name__ == "__main__":
    sys.exit(main())
