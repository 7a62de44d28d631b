"""`layerfit runs`: list the recorded runs. Status 0: done, 2: user error."""

from __future__ import annotations

import argparse
import sys
from difflib import get_close_matches
from fnmatch import fnmatchcase

from layerfit.errors import Parser, UserError
from layerfit.files.paths import expand
from layerfit.files.shown import one_line, shown
from layerfit.records.record import STATUSES, Score, read_all
from layerfit.report.frames import GROUPS, RunLine, check_csv, of_record, write_csv

KEYS = ("run_id", "table", "row", "status", "seed", *GROUPS)
"""Keys of filters."""
RESULTS = "results"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    out = Parser(
        prog="layerfit runs",
        description="List the recorded runs: id, table, row, method, seed (its method's in brackets if set "
        "separately), status, first score.",
        epilog=f"Keys: {', '.join(KEYS)}. A value is a name, several (lora,lisa) or a pattern ('lisa_*'). table is the "
        "one that a run was made for; with --tables every table that shows it, which takes minutes to compose.",
    )
    out.add_argument("filters", nargs="*", metavar="KEY=VALUE", help="keep the runs that match")
    out.add_argument("--results", default=RESULTS, help="the folder of records (default: %(default)s)")
    out.add_argument("--tables", action="store_true", help="compose every table and name all that show a run")
    out.add_argument("--csv", metavar="FILE", help="write runs and scores as CSV instead; -: to standard output")
    return out


def main(argv: list[str] | None = None) -> int:
    """List runs; return the exit status."""
    try:
        options, rest = parser().parse_known_args(argv)
        if unknown := [word for word in rest if word.startswith("-")]:
            parser().error(f"unrecognized arguments: {' '.join(unknown)}")
        return _main(options, [*options.filters, *rest])
    except UserError as error:
        print(f"layerfit runs: {shown(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as `| head` does
        sys.stderr.close()
        return 0


def _main(options: argparse.Namespace, words: list[str]) -> int:
    if options.csv is not None:
        check_csv(options.csv)
    folder = expand("--results", options.results)
    if options.results != RESULTS and not folder.is_dir():
        raise UserError(f"--results {options.results} is not a folder; give one that runs wrote records to")
    lines = [of_record(*item) for item in read_all(folder).items()]
    tables = _tables(lines, options.results) if options.tables else {line.run_id: [line.table or ""] for line in lines}
    kept = lines
    for word in words:
        kept = select(kept, lines, word, tables)
    kept = sorted(kept, key=lambda line: (tables[line.run_id], line.row, line.seed is not None, line.seed, line.run_id))
    if options.csv is not None:
        write_csv(kept, options.csv)
        return 0
    show(kept, tables)
    ends = [line.record.result.status for line in kept if line.record]
    counts = ", ".join(f"{ends.count(status)} {status}" for status in dict.fromkeys(sorted(ends)))
    print(f"{len(kept)} of {len(lines)} runs in {options.results}/runs" + (f": {counts}" if counts else ""))
    return 0


def select(kept: list[RunLine], every: list[RunLine], word: str, tables: dict[str, list[str]]) -> list[RunLine]:
    """Return the runs that match a filter.

    Raises:
        UserError: if its key is unknown, or no run has its value.
    """
    key, equals, value = word.partition("=")
    if not equals or key not in KEYS:
        near = get_close_matches(key, KEYS, n=1)
        hint = f"did you mean {near[0]}={value or '...'}? " if near else ""
        raise UserError(f"{word!r} is not a filter; {hint}the keys are: {', '.join(KEYS)}")
    known = sorted({one for line in every for one in values(line, key, tables) if one})
    patterns = [value] if value in known else value.split(",")  # a row's label may have a comma in it

    def keeps(line: RunLine) -> bool:
        return any(fnmatchcase(one, pattern) for one in values(line, key, tables) for pattern in patterns)

    known += STATUSES if key == "status" else []  # no failed run is a valid answer
    for pattern in patterns:
        if every and not any(fnmatchcase(one, pattern) for one in known):
            near = get_close_matches(pattern, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known[:12])}"
            raise UserError(f"no recorded run has {key}={pattern}; {hint}")
    return [line for line in kept if keeps(line)]


def values(line: RunLine, key: str, tables: dict[str, list[str]]) -> list[str]:
    """Return a run's values of a key as texts: several tables may show it."""
    if key == "table":
        return tables[line.run_id]
    if key == "status":
        return [line.record.result.status if line.record else ""]
    found = line.choices[key] if key in GROUPS else getattr(line, key)
    return ["" if found is None else str(found)]


def _tables(lines: list[RunLine], results: str) -> dict[str, list[str]]:
    """Return the tables that show each run, by run id; tables with another folder of records are left out."""
    from pathlib import Path

    from layerfit.config import composer
    from layerfit.report import cells, spec

    out: dict[str, list[str]] = {line.run_id: [] for line in lines}
    with composer():
        for name in spec.known():
            read = spec.load(name)
            if Path(read.results) != Path(results):
                continue
            try:
                made = cells.cells(read)
            except UserError as error:  # it needs a missing file
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            for run_id in dict.fromkeys(cell.run_id for cell in made):
                if run_id in out:
                    out[run_id].append(name)
    return out


def main_score(line: RunLine) -> Score | None:
    """Return the main score of a run: the first of its evaluation."""
    return next(iter(line.record.result.scores), None) if line.record else None


def _seeds(line: RunLine) -> str:
    """Return a run's seed, and its method's if set separately."""
    apart = line.method_seed not in (None, line.seed)
    return "" if line.seed is None else f"{line.seed} ({line.method_seed})" if apart else str(line.seed)


def show(lines: list[RunLine], tables: dict[str, list[str]]) -> None:
    """Print runs: in colour, cut to a terminal's width; without a terminal one full line each."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    out = Console(width=None if terminal else 200, highlight=False, soft_wrap=not terminal)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "table", "row", "method", "seed", "status"):
        grid.add_column(name, no_wrap=True, overflow="ellipsis")
    grid.add_column("score", justify="right", no_wrap=True)
    grid.add_column("of", no_wrap=True, overflow="ellipsis")
    for line in lines:
        status, score = values(line, "status", tables)[0], main_score(line)
        rest = len(line.record.result.scores) - 1 if line.record else 0
        grid.add_row(
            Text(one_line(line.run_id)),
            Text(one_line(" ".join(tables[line.run_id]))),
            Text(one_line(line.row)),
            Text(one_line(line.choices["method"] or "")),
            _seeds(line),
            Text(status, style="" if status == "ok" else "red"),
            "" if score is None else f"{score.value:.4f}",
            Text("" if score is None else one_line(score.key) + (f" and {rest} more" if rest > 0 else "")),
        )
    out.print(grid)


if __name__ == "__main__":
    sys.exit(main())
