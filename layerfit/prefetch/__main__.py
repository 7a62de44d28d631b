"""`python -m layerfit.prefetch [T] [key=value ...] --mirror DIR`. Status 0: complete, 1: incomplete, 2: a mistake."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from layerfit import config
from layerfit.config import expand
from layerfit.config.schema import HubConfig, RunConfig
from layerfit.errors import Parser, UserError
from layerfit.files import paths
from layerfit.files.shown import shown
from layerfit.files.sizes import show, show_both
from layerfit.installation import checkout
from layerfit.models.hub import dataset_source, model_source, prepare_environment
from layerfit.prefetch import fetch, remote
from layerfit.prefetch.check import missing
from layerfit.prefetch.fetch import FetchPlan
from layerfit.prefetch.needs import Need, needs
from layerfit.prefetch.remote import Trouble, Unreachable
from layerfit.report import cells, spec

_HASH = " --hash" if checkout() is None else " HASH=1"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    text = "Fetch every model, tokenizer, data set and evaluation set that a table or a run needs into a mirror."
    out = Parser(prog="layerfit prefetch", description=text)
    out.add_argument("words", nargs="*", metavar="T | group=choice", help="a table, or a run's groups and keys")
    out.add_argument("--mirror", metavar="DIR", help="the folder to fill, for hub.mirror=DIR")
    out.add_argument("--check", action="store_true", help="only list what is missing for a run without network")
    out.add_argument("--dry-run", action="store_true", help="only list the files to fetch, with sizes")
    out.add_argument("--hash", action="store_true", help="read every fetched file and compare it with the hub's hash")
    return out


def main(argv: list[str] | None = None) -> int:
    """Fetch or check; return the exit status."""
    try:
        return _main(parser().parse_intermixed_args(argv))
    except UserError as error:
        print(f"prefetch: {shown(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prefetch: interrupted; the same command continues from here", file=sys.stderr)
        return 130


def _main(options: argparse.Namespace) -> int:
    with config.composer():
        runs = runs_of(options.words)
    mirror = _mirror(options.mirror, runs)
    again = _again(options.words, mirror)
    if options.check:
        return _report(runs, mirror, f"{again}{_HASH if options.hash else ''}", hashes=options.hash)
    if any(run.hub.offline for run in runs):
        raise UserError("hub.offline=true forbids fetching; set it for the runs only (or add --check here)")
    for run in runs:
        _check_paths(run)
    prepare_environment(HubConfig())
    remote.check_online()
    plans, failed = _plans(needs(runs), mirror, hashes=options.hash)
    if options.dry_run:
        return 1 if failed else 0
    _check_space(plans, mirror)
    failed = not _carry_out(plans) or failed
    return max(1 if failed else 0, _report(runs, mirror, again, hashes=False))


def runs_of(words: list[str]) -> list[RunConfig]:
    """Return the runs of a table and its tuning, one seed each (data does not depend on it), or the composed runs.

    Each follows the runs that it requires: a ranking may be made on other data.

    Raises:
        UserError: if they cannot be composed.
    """
    tables, overrides = [word for word in words if "=" not in word], [word for word in words if "=" in word]
    if len(tables) > 1 or not words:
        raise UserError(
            f"name one table (there are: {', '.join(spec.known())}) or a run's groups, model=... dataset=... eval=..."
        )
    if not tables:
        return _with_required(config.compose(cell) for cell in expand(overrides, multirun=True))
    table, out = spec.load(tables[0]), []
    for base in ((), table.tuning.base if table.tuning else ()):
        for row in table.rows:  # without tuned values: they may not exist yet, and change no data
            merged = cells.merge(table.base, row.overrides, base, overrides)
            try:
                out += [run for _, run in cells.expand(merged, table.seeds[:1], table.results)]
            except UserError as error:
                raise UserError(f"table {table.name}, row {row.label}: {error}") from error
    return _with_required(out)


def _with_required(runs: Iterable[RunConfig]) -> list[RunConfig]:
    return [each for run in runs for each in (*cells.required(run), run)]


def _check_paths(run: RunConfig) -> None:
    """Raise UserError if the user's own files are missing, before anything is fetched."""
    if run.model.path is not None:
        model_source(run.model, run.hub)
    if run.dataset.path is not None:
        dataset_source(run.dataset.id, run.hub, run.dataset.path)


def _mirror(asked: str | None, runs: list[RunConfig]) -> Path:
    named = asked or next((run.hub.mirror for run in runs if run.hub.mirror), None)
    if not named:
        raise UserError("name the folder to fill: --mirror DIR (make: MIRROR=DIR)")
    path = paths.expand("--mirror", named)
    if path.exists() and not path.is_dir():
        raise UserError(f"--mirror {named} is a file, not a folder; give a folder (it is created if missing)")
    return path


def _again(words: list[str], mirror: Path) -> str:
    tables, overrides = [word for word in words if "=" not in word], [word for word in words if "=" in word]
    if checkout() is None:
        return shlex.join(["layerfit", "prefetch", *words, "--mirror", str(mirror)])
    parts = [f"T={tables[0]}"] if tables else []
    parts += [f"G={shlex.quote(' '.join(overrides))}"] if overrides else []
    return " ".join(["make prefetch", *parts, f"MIRROR={shlex.quote(str(mirror))}"])


def _plans(wanted: list[Need], mirror: Path, *, hashes: bool) -> tuple[list[FetchPlan], bool]:
    """Return the plans, after printing them with sizes, and whether any could not be made."""
    plans: list[FetchPlan] = []
    failed: list[str] = []
    print(f"into {mirror}:" if wanted else "nothing from the hub is needed")
    for need in wanted:
        try:
            plan = fetch.make_plan(need, mirror, hashes=hashes)
        except Trouble as error:
            failed.append(str(error))
            if isinstance(error, Unreachable):
                break
            note, size = "cannot be fetched", ""
        else:
            plans.append(plan)
            note, size = plan.note, show(plan.num_bytes) if plan.fetch else "-"
        print(f"  {need.kind.removesuffix('s'):8}{need.repo:48}{size:>10}  {_what(need)}; {note}; {' '.join(need.why)}")
    for line in failed:
        _tell(line)
    print(f"to fetch: {show(sum(plan.num_bytes for plan in plans))} in {sum(len(p.fetch) for p in plans)} files")
    return plans, bool(failed)


def _tell(line: str) -> None:
    print(f"prefetch: {line}", file=sys.stderr)


def _what(need: Need) -> str:
    if need.kind == "models":
        return "with weights" if need.weights else "configuration and tokenizer (model.weights=random)"
    subsets = need.subsets()
    if subsets is None:
        return "everything"
    return f"subset {subsets[0]}" if len(subsets) == 1 else f"{len(subsets)} subsets"


def _check_space(plans: list[FetchPlan], mirror: Path) -> None:
    """Raise UserError if the mirror's disk is read-only or has too little space."""
    needed = sum(plan.num_bytes for plan in plans)
    place = next(path for path in (mirror.absolute(), *mirror.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"--mirror {mirror}: no permission to write in {place}; give another folder")
    free = shutil.disk_usage(place).free
    if needed > free:
        wanted, there = show_both(needed, free)
        raise UserError(f"--mirror {mirror}: {wanted} to fetch, but only {there} are free; use another disk")


def _carry_out(plans: list[FetchPlan]) -> bool:
    """Fetch one repository after another; return whether all succeeded."""
    from tqdm import tqdm

    ok = True
    total = sum(plan.num_bytes for plan in plans)
    with tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, disable=None if total else True) as bar:
        for plan in plans:
            if plan.target is None:
                continue
            bar.set_description(plan.need.repo)
            try:
                fetch.carry_out(plan, bar.update)
            except Trouble as error:
                ok = False
                tqdm.write(f"prefetch: {shown(error)}", file=sys.stderr)
                if isinstance(error, Unreachable):
                    break
            else:
                tqdm.write(f"fetched {plan.need.name}: {show(plan.num_bytes)}, checked against the hub's hashes")
    return ok


def _report(runs: list[RunConfig], mirror: Path, again: str, *, hashes: bool) -> int:
    lines = missing(runs, mirror, again, hashes=hashes)
    for line in lines:
        print(f"missing: {line}")
    how = f"hub.mirror={mirror} hub.offline=true"
    print(f"{len(lines)} missing for {how}" if lines else f"complete: {how} needs no network")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
