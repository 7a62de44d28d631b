"""One rank of a run, as `layerfit.run.worker` executes it, that writes down the tokens it is given to train on.

    python data_spy.py RUN.json LOG [STEPS]

LOG.<rank> gets one JSON line a step: the rows of that rank, each as its token ids. After STEPS steps the process dies,
as if killed.
"""

import json
import os
import sys
from pathlib import Path

from layerfit.run import loop, worker


def main(run: str, log: str, last: int | None) -> int:
    original = loop.micro_batches
    taken = 0

    def spying(data, rows, engine):
        nonlocal taken
        if taken == last:
            os._exit(9)
        batches = original(data, rows, engine)
        given = [b.input_ids[i][b.is_token[i]].tolist() for b in batches for i in range(len(b.input_ids))]
        with Path(f"{log}.{engine.rank}").open("a") as file:
            file.write(json.dumps(given) + "\n")
        taken += 1
        return batches

    loop.micro_batches = spying
    return worker.main(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None))
