"""`python -m layerfit.report`: from records to tables. Status 0: done, 1: refused or failed, 2: a mistake."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from layerfit.config import compose_launcher, composer, place_for_tuned, split_launcher
from layerfit.distributed.place import find_place, writes
from layerfit.errors import Parser, UserError
from layerfit.installation import command_for
from layerfit.report import build, render, rerun, spec, tune
from layerfit.run.interrupt import Interrupted, say_interrupted

MOVED = {"claims": "layerfit.claims", "html": "layerfit.page"}
"""Words that were commands of this module and are modules of their own: both forms work."""


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
    command("todo", "list the runs that a table still needs")
    for name, text in (
        ("render", "print and write a table from its records"),
        ("table", "run what is missing, then render"),
    ):
        one = command(name, text, optional=name == "render")
        one.add_argument(
            "--draft", action="store_true", help="print it with its holes, marked DRAFT, to outputs/drafts"
        )
        one.add_argument("--no-figures", action="store_true", help="write Markdown and LaTeX only")
        if name == "table":
            one.add_argument(
                "overrides", nargs="*", metavar="KEY=VALUE", help="where and how its runs go: hydra/launcher=slurm, ..."
            )
        if name == "render":
            one.add_argument("--all", action="store_true", help="every table that was rendered before")
    one = commands.add_parser("rerun", help="run tables from nothing elsewhere and compare with their records")
    one.add_argument("tables", metavar="T", nargs="*", help="tables; none: every embedded one that is committed")
    one.add_argument("--folder", default="outputs/rerun", help="where the runs go")
    one = command("tune", "run a table's trials and choose")
    one.add_argument("--allow-edge", action="store_true", help="accept a best value at the end of its range")
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
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted) as error:
        return say_interrupted(error)


def _parsed(words: list[str]) -> argparse.Namespace:
    options, rest = parser().parse_known_args(words)
    if rest and (options.command != "table" or any(word.startswith("-") for word in rest)):
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
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
    todo = build.load(options.table).todo()
    for item in todo:
        print(f"{item.run_id}  {item.name:32}  {item.reason}")
    print(f"{len(todo)} runs to do" if todo else "nothing to do")
    return 0


def _render(name: str, *, draft: bool, figures: bool) -> int:
    """Print and write one table, or say why not."""
    loaded = build.load(name)
    data = build.assemble(loaded, draft=draft)
    if data.problems and not data.draft:
        print(
            f"table {name} is refused ({len(data.problems)} problems); --draft prints it all the same:", file=sys.stderr
        )
        for problem in data.problems:
            print(f"  {problem}", file=sys.stderr)
        return 1
    render.console(data)
    for path in build.write(loaded, data, figures=figures):
        print(path)
    return 0


def _render_many(options: argparse.Namespace) -> int:
    if options.all == bool(options.table):
        raise UserError("render takes a table or --all, one of them; known tables: " + ", ".join(spec.known()))
    names = build.committed() if options.all else [options.table]
    if not names:
        print(f"no table has been rendered yet; {command_for('table', '...')} renders the first")
    return max((_render(name, draft=options.draft, figures=not options.no_figures) for name in names), default=0)


def _table(options: argparse.Namespace) -> int:
    from layerfit.launch.slurm import run_cells

    words, extra = split_launcher(options.overrides)
    launcher = compose_launcher(words)
    loaded = build.load_elsewhere(options.table, tuple(extra)) if extra else build.load(options.table)
    runs = [cell.run for cell in loaded.cells]
    ok = run_cells(runs, launcher, group=options.table) if loaded.todo() else True
    if ok is None:  # submitted, and nobody waits
        return 0
    if not writes(find_place()):
        return 0 if ok else 1
    rendered = _render(options.table, draft=options.draft, figures=not options.no_figures)
    return rendered if ok else 1


def _rerun(options: argparse.Namespace) -> int:
    from layerfit.launch.local import run_cells

    names = options.tables or [name for name in build.committed() if name.endswith(spec.PROFILE)]
    tables, folder = [build.load(name) for name in names], Path(options.folder)
    runs = rerun.elsewhere(tables, folder)
    run_cells([run for _, run in runs.values()], group="rerun")
    committed = {number: table.spec.results for table in tables for number in rerun.elsewhere([table], folder)}
    found = rerun.compare_all(runs, committed, folder)
    print("\n".join(rerun.lines(found)))
    return 0 if all(one.passes() for one in found) else 1


def _tune(options: argparse.Namespace) -> int:
    read = spec.load(options.table)
    trials, target = tune.trials(read), place_for_tuned()
    runs = build.tuning_runs(read, trials)
    if runs:
        from layerfit.launch.local import run_cells

        # A diverged trial is a result: whether the trials can be counted is for `choose` to say.
        run_cells(runs, group=f"tune-{options.table}")
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
