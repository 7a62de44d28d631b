"""Compare our evaluation with lm-eval's own command line, item by item, and write results/parity/<model>.json.

python scripts/parity.py stories260k --mirror M --positions 2048             # all tasks
python scripts/parity.py stories260k --mirror M --limit 20 --parts piqa mmlu # a quick check

Finished parts are kept: the same command resumes where it stopped. Exit status 1 if an item differs.
"""

import argparse
import sys
from pathlib import Path

from layerfit import config
from layerfit.config.schema import HubConfig
from layerfit.errors import UserError
from layerfit.evaluation.lm_eval.parity import PARTS, Setting, run
from layerfit.models.hub import prepare_environment


def main() -> int:
    """Return the exit status: 0 if every outcome is equal, 1 if one differs, 2 for a user error."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("model", help="a name of conf/model")
    parser.add_argument(
        "overrides", nargs="*", help="as on the command line of a run: model.path=..., model.weights=random"
    )
    parser.add_argument("--mirror", help="folder, as hub.mirror; nothing is downloaded then")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--limit", type=int, help="items per task")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--positions", type=int, help="maximum positions, in place of the model's, for long answers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="default: results/parity/<model>.json")
    args = parser.parse_intermixed_args()
    hub = HubConfig(mirror=args.mirror, offline=args.mirror is not None)
    setting = Setting(args.limit, args.batch_size, args.positions, args.device)
    try:
        prepare_environment(hub)
        with config.composer():
            model = config.compose([f"model={args.model}", "eval=none", *args.overrides]).model
        report = run(model, hub, args.parts, setting, args.out or Path("results/parity", f"{args.model}.json"))
    except UserError as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2
    print(f"{report['equal']} of {report['items']} outcomes equal")
    return int(report["equal"] != report["items"])


if __name__ == "__main__":
    sys.exit(main())
