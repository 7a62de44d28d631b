"""A rank under torch's launcher, and ending with it. `python -m layerfit.launch.rank RUN.json PID-OF-THE-LAUNCHER`."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from layerfit.distributed.parent import end_with
from layerfit.files.os_errors import os_error_line

if __name__ == "__main__":
    end_with(int(sys.argv[2]))  # before the heavy imports
    from layerfit.run import interrupt, worker

    try:
        with interrupt.listening():
            sys.exit(worker.work(Path(sys.argv[1])))
    except OSError as error:
        traceback.print_exc()
        sys.exit(f"layerfit: {os_error_line(error)}")
