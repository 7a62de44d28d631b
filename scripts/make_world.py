"""Make a world's assets from its spec, or check the shipped ones.

python scripts/make_world.py                          # data, tasks and model of `nano` (minutes)
python scripts/make_world.py --world nano_b           # another world; --world all: every one
python scripts/make_world.py --only data              # data and lm-eval's task files only (seconds)
python scripts/make_world.py --check                  # regenerate elsewhere and compare; exit status 1 if they differ
"""

import argparse
import sys
from pathlib import Path

from layerfit.world import ship
from layerfit.world.spec import ASSETS, WORLDS, WorldSpec


def main() -> int:
    """Return the exit status: 1 if a check found a difference."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--world", choices=[*sorted(WORLDS), "all"], default="nano")
    parser.add_argument("--only", choices=("data", "model"))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--root", type=Path, default=ASSETS, help="folder with models/ and datasets/")
    args = parser.parse_args()
    specs = list(WORLDS.values()) if args.world == "all" else [WORLDS[args.world]]
    act = check if args.check else make
    return max([act(spec, args.only, args.root) for spec in specs])


def make(spec: WorldSpec, only: str | None, root: Path) -> int:
    """Write a world's files and print their folders; return 0. Task files go into the package, whatever `root` is."""
    if only != "model":
        print(ship.write_data(spec, root))
        print(ship.write_tasks(spec))
    if only != "data":
        print(ship.write_model(spec, root))
    return 0


def check(spec: WorldSpec, only: str | None, root: Path) -> int:
    """Regenerate a world elsewhere and print the files that differ; return 1 if any does."""
    wrong = ship.check_data(spec, root) + ship.check_tasks(spec) if only != "model" else []
    if only != "data":
        wrong += ship.check_model(spec, root)
    print("\n".join(f"differs: {name}" for name in wrong) or f"{spec.name}: as shipped")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
