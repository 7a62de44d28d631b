"""`python -m layerfit.report.wandb_report T|all`: the dashboard of a table, to W&B or to disk. Status 2: user error."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from layerfit.config import composer
from layerfit.errors import Parser, UserError
from layerfit.launch.preflight import has_wandb_key
from layerfit.report import build, spec
from layerfit.report.wandb_report import send
from layerfit.report.wandb_report.content import dashboard

ALL = "all"
OUT = Path("outputs/wandb-report")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    out = Parser(
        prog="python -m layerfit.report.wandb_report",
        description="A W&B dashboard of a table from its records: runs, tables, a report of panels.",
    )
    out.add_argument("table", metavar="T", help=f"a file of conf/table, without .yaml; or {ALL}")
    out.add_argument("--offline", action="store_true", help=f"write the dashboard to {OUT} instead, even with a key")
    out.add_argument("--project", default="layerfit", help="W&B project (default: layerfit)")
    out.add_argument("--entity", help="W&B entity (default: the key's)")
    return out


def main(argv: list[str] | None = None) -> int:
    """Send or write dashboards; return the exit status."""
    try:
        options = parser().parse_args(argv)
        why = "--offline" if options.offline else None if has_wandb_key() else "no key: `wandb login` or WANDB_API_KEY"
        if why is None:
            send.check_packages()
        with composer():
            for name in spec.known() if options.table == ALL else [options.table]:
                loaded = build.load(name)
                if not loaded.store.records:
                    print(f"{name}: no records yet, nothing to show")
                    continue
                made = dashboard(loaded)
                if why is None:
                    print(f"{name}: {send.send(made, options.project, options.entity, OUT)}")
                    continue
                print(f"{name}: not sent ({why}); {len(made.runs)} runs, as they would be, in:")
                for path in send.write(made, OUT):
                    print(f"  {path}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
