"""Make a world's assets from its spec, or check the shipped ones.

python scripts/make_world.py                 # data and model of `nano`, below layerfit/world/assets (minutes)
python scripts/make_world.py --only data     # data only (seconds)
python scripts/make_world.py --check         # make anew elsewhere and compare; exit status 1 if they differ
"""

import argparse
import sys
from pathlib import Path

from layerfit.world import ship
from layerfit.world.spec import ASSETS, WORLDS


def main() -> int:
    """Return the exit status: 1 if a check found a difference."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--world", choices=sorted(WORLDS), default="nano")
    parser.add_argument("--only", choices=("data", "model"))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--root", type=Path, default=ASSETS, help="folder with models/ and datasets/")
    args = parser.parse_args()
    spec = WORLDS[args.world]
    if not args.check:
        if args.only != "model":
            print(ship.write_data(spec, args.root))
        if args.only != "data":
            print(ship.write_model(spec, args.root))
        return 0
    wrong = ship.check_data(spec, args.root) if args.only != "model" else []
    if args.only != "data":
        wrong += ship.check_model(spec, args.root)
    print("\n".join(f"differs: {name}" for name in wrong) or "as shipped")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
