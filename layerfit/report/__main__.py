"""`python -m layerfit.report`: from records to tables. Status 0: done, 1: refused or failed, 2: user error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from layerfit.config import compose_launcher, composer, place_for_tuned, split_launcher
from layerfit.distributed.place import find_place, writes
from layerfit.errors import Parser, UserError
from layerfit.files.paths import expand
from layerfit.files.shown import shown
from layerfit.installation import command_for
from layerfit.records.manifest import dirt
from layerfit.report import build, render, rerun, spec, tune
from layerfit.report.checks import Refused
from layerfit.report.frames import check_csv
from layerfit.run.interrupt import Interrupted, say_interrupted

MOVED = {"claims": "layerfit.claims", "html": "layerfit.page"}
"""Former commands of this module that are now modules of their own: both forms work."""


_REPLACE = "move refused records to results/replaced, so that their runs run again"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    out = Parser(prog="layerfit", description="From records to tables.")
    commands = out.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, *, optional: bool = False) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument(
            "table", metavar="T", nargs="?" if optional else None, help="a file of conf/table, without .yaml"
        )
        return one

    command("cells", "list the runs of a table")
    one = command("todo", "list the missing runs of a table and the records that it refuses")
    one.add_argument("--replace", action="store_true", help=_REPLACE)
    for name, text in (
        ("render", "print and write a table from its records"),
        ("table", "run what is missing, then render"),
    ):
        one = command(name, text, optional=name == "render")
        one.add_argument(
            "--draft", action="store_true", help="write it although incomplete, marked DRAFT, to outputs/drafts"
        )
        one.add_argument("--no-figures", action="store_true", help="write Markdown and LaTeX only")
        one.add_argument("--csv", metavar="FILE", help="write its runs and scores as CSV too; -: to standard output")
        if name == "table":
            one.add_argument(
                "overrides",
                nargs="*",
                metavar="KEY=VALUE",
                help="where and how its runs execute: hydra/launcher=slurm, ...",
            )
        if name == "render":
            one.add_argument("--all", action="store_true", help="every table that has been rendered")
    one = commands.add_parser("rerun", help="run tables from scratch in another folder and compare with their records")
    one.add_argument(
        "tables", metavar="T", nargs="*", help="tables (default: every committed one on the embedded model)"
    )
    one.add_argument("--folder", default="outputs/rerun", help="folder of the runs (default: %(default)s)")
    one = command("tune", "run a table's trials and choose")
    one.add_argument("--allow-edge", action="store_true", help="accept a best value at an end of its range")
    one.add_argument("--replace", action="store_true", help=_REPLACE)
    return out


def main(argv: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in MOVED:
        return import_module(f"{MOVED[words[0]]}.__main__").main(words[1:])
    try:
        options = _parsed(words)
        with composer():
            if options.command == "render":
                return _render_many(options)
            commands = {
                "cells": _cells,
                "todo": _todo,
                "table": _table,
                "tune": _tune,
                "rerun": _rerun,
            }
            return commands[options.command](options)
    except UserError as error:
        print(f"error: {shown(error)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted) as error:
        return say_interrupted(error)


def _parsed(words: list[str]) -> argparse.Namespace:
    options, rest = parser().parse_known_args(words)
    if rest and (options.command != "table" or any(word.startswith("-") for word in rest)):
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if getattr(options, "csv", None) is not None:
        check_csv(options.csv)
    if rest:  # argparse takes no positional arguments after an option
        options.overrides += rest
    return options


def _cells(options: argparse.Namespace) -> int:
    loaded = build.load(options.table)
    for cell in loaded.cells:
        record = loaded.store.records.get(cell.run_id)
        status = record.result.status if record else "missing"
        print(f"{cell.run_id}  {status:11}  {cell.name:24}  {' '.join(cell.overrides)}")
    return 0


def _todo(options: argparse.Namespace) -> int:
    loaded = build.load(options.table)
    refused = loaded.refused()
    if refused and options.replace:
        _replace(refused)
        loaded, refused = build.load(options.table), []
    todo = loaded.todo()
    for item in todo:
        print(f"{item.run_id}  {item.name:32}  {item.reason}")
    for one in refused:
        print(f"{one.run_id}  {one.name:32}  refused: {one.reason}")
    print(f"{len(todo)} runs to do" if todo else "nothing to do")
    if refused:
        print(f"{len(refused)} records are refused; to run them again: todo {options.table} --replace")
    return 0


def _replace(refused: list[Refused]) -> None:
    folders = build.replace_records(refused)
    print(f"{len(refused)} records moved to {', '.join(map(str, folders))}")


def _render(name: str, options: argparse.Namespace) -> int:
    """Print and write one table, or print why it is refused."""
    loaded = build.load(name)
    data = build.assemble(loaded, draft=options.draft)
    if data.problems and not data.draft:
        _say_refused(name, data.problems, "--draft prints it all the same")
        return 1
    if options.csv is not None:
        from layerfit.report.frames import lines_of, write_csv

        write_csv(lines_of(loaded), options.csv)
    written = build.write(loaded, data, figures=not options.no_figures)
    if options.csv != "-":  # standard output then holds the CSV only
        render.console(data)
        print("\n".join(map(str, written)))
    return 0


def _say_refused(name: str, problems: Sequence[str], fix: str) -> None:
    print(f"table {name} is refused ({len(problems)} problems); {fix}:", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)


def _render_many(options: argparse.Namespace) -> int:
    if options.all == bool(options.table):
        raise UserError("render takes either a table or --all; known tables: " + ", ".join(spec.known()))
    if options.all and options.csv is not None:
        raise UserError("--csv needs one table; for every record use: layerfit runs --csv FILE")
    names = build.committed() if options.all else [options.table]
    if not names:
        print(f"no table has been rendered yet; {command_for('table', '...')} renders the first")
    return max((_render(name, options) for name in names), default=0)


def _table(options: argparse.Namespace) -> int:
    from layerfit.launch import make_launcher

    words, extra = split_launcher(options.overrides)
    launcher = compose_launcher(words)
    loaded = build.load_elsewhere(options.table, tuple(extra)) if extra else build.load(options.table)
    if not options.draft and (found := loaded.foreseen()):
        if writes(find_place()):
            _say_refused(options.table, found, "nothing was run; --draft runs and prints it all the same")
        return 1
    runs = [cell.run for cell in loaded.cells]
    ok = make_launcher(launcher, group=options.table)(runs) if loaded.todo() else True
    if ok is None:  # submitted without waiting
        return 0
    if not writes(find_place()):
        return 0 if ok else 1
    rendered = _render(options.table, options)
    return rendered if ok else 1


def _rerun(options: argparse.Namespace) -> int:
    from layerfit.launch.local import run_all

    names = options.tables or [name for name in build.committed() if name.endswith(spec.PROFILE)]
    folder = expand("--folder", options.folder)
    tables = [build.load(name) for name in names]
    runs = rerun.elsewhere(tables, folder)
    run_all([run for _, run in runs.values()], group="rerun")
    committed = {number: table.spec.results for table in tables for number in rerun.elsewhere([table], folder)}
    found = rerun.compare_all(runs, committed, folder)
    print("\n".join(rerun.lines(found)))
    return 0 if all(one.passes() for one in found) else 1


def _tune(options: argparse.Namespace) -> int:
    read = spec.load(options.table)
    trials, target = tune.trials(read), place_for_tuned()
    if refused := build.refused_trials(read, trials):
        if not options.replace:
            one = refused[0]
            raise UserError(
                f"{len(refused)} trials cannot be counted, the first is {one.run_id} ({one.name}): {one.reason}; "
                f"tune {options.table} --replace moves them away and runs them again"
            )
        _replace(refused)
    runs = build.tuning_runs(read, trials)
    if runs:
        from layerfit.launch.local import run_all

        if (why := dirt()) is not None:
            raise UserError(f"{len(runs)} trials are to run and {why}: they could not be counted; commit first")
        # A diverged trial is a result: `choose` decides whether the trials can be counted.
        run_all(runs, group=f"tune-{options.table}")
        if not writes(find_place()):
            return 0
    choices = build.finish_tuning(read, trials, target, allow_edge=options.allow_edge)
    for choice in choices:
        point = " ".join(tune.override(*item) for item in choice.best.trial.point.items())
        edge = f"  edge: extend {', '.join(choice.edges)}" if choice.edges else ""
        print(f"{choice.row:16} {choice.best.mean:.4f}  {point}{edge}")
    if any(choice.edges for choice in choices) and not options.allow_edge:
        print("not written: extend the grids at their edges, or accept them with --allow-edge", file=sys.stderr)
        return 1
    print(os.path.relpath(target / "tuned" / f"{options.table}.yaml"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
