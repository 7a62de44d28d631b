"""`python -m layerfit.estimate T`: memory, FLOPs and hours of a table's rows. Status 2: a mistake."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from layerfit.config import composer
from layerfit.errors import Parser, UserError, check_range
from layerfit.estimate import show
from layerfit.estimate.check import checks
from layerfit.estimate.cost import Tracer
from layerfit.estimate.rows import rows
from layerfit.files.shown import shown
from layerfit.report import build


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    out = Parser(
        prog="layerfit estimate",
        description="Predict the cost of a table's rows: memory by component, whether it fits a GPU, FLOPs, hours. "
        "No weight is loaded.",
    )
    out.add_argument("table", metavar="T", help="a file of conf/table, without .yaml")
    out.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings that leave run ids alone: hub.mirror=..., ..."
    )
    out.add_argument(
        "--gpu", choices=sorted(show.TFLOPS), default="h100", help="GPU whose peak gives the hours (default h100)"
    )
    out.add_argument("--tflops", type=float, help="a peak instead of a GPU's: dense bf16, in 1e12 FLOPs a second")
    out.add_argument("--mfu", type=float, default=0.4, help="share of the peak that training reaches (default 0.4)")
    out.add_argument("--json", action="store_true", help="print JSON")
    return out


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep garbage: the collector would pass over a million imported objects again and again, a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def main(argv: list[str] | None = None) -> int:
    """Print the estimates of a table; return the exit status."""
    try:
        options = parser().parse_intermixed_args(argv)
        check_range("--mfu", options.mfu, 0, 1, low_open=True)
        if options.tflops is not None:
            check_range("--tflops", options.tflops, 0, low_open=True)
        source = f"{options.gpu} datasheet" if options.tflops is None else "as given"
        speed = show.Speed(options.tflops or show.TFLOPS[options.gpu], options.mfu, source)
        with composer(), uncollected():
            loaded = build.load(options.table, tuple(options.overrides))
            tracer = Tracer()
            found, compared = rows(loaded, tracer), checks(loaded, tracer)
    except UserError as error:
        print(f"error: {shown(error)}", file=sys.stderr)
        return 2
    ranks = {cell.row: cell.run.engine.ranks for cell in loaded.cells}
    if options.json:
        print(json.dumps(show.as_json(options.table, found, compared, speed, ranks), indent=1, allow_nan=False))
    else:
        show.console(f"Estimate: {loaded.spec.title}", found, compared, speed, ranks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
