"""A model's chat template tried on rows before anything starts, in a process of its own.

A template is a program of the model's author: in transformers' sandbox it can do no harm, but it may never end. So it
gets a bound on time and on memory, and what it raises becomes one line.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from layerfit.data.chat import chat_exchanges, check_chat, holds_greeting
from layerfit.data.turns import Turn
from layerfit.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_SECONDS = 10
"""CPU time for all rows of a rehearsal, which are a few dozen; a template takes a millisecond for one."""
_MOST_BYTES = 2 * 2**30
"""Memory for rendering, beside what the process has when it begins."""
_START_SECONDS = 300
"""For importing transformers on a busy machine."""
_FILES = ("tokenizer_config.json", "chat_template.jinja", "chat_template.json")


def rehearse(folder: Path, rows: list[list[Turn]]) -> tuple[int, str] | None:
    """Return which row a model's chat template cannot write, and why; None if it writes all.

    Raises:
        UserError: if the template does not end, or the tokenizer cannot be loaded.
    """
    texts = [path.read_text(errors="replace") for name in _FILES if (path := folder / name).is_file()]
    return _rehearsed(str(folder), json.dumps([[asdict(turn) for turn in row] for row in rows]), *texts)


@lru_cache(maxsize=64)
def _rehearsed(folder: str, rows: str, *texts: str) -> tuple[int, str] | None:
    """Rehearse in a child process. texts: the files with the template, so that a change is seen."""
    del texts
    command = [sys.executable, "-m", "layerfit.data.rehearse", folder, str(MOST_SECONDS)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, input=rows, capture_output=True, text=True, timeout=_START_SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"the chat template of {folder} could not be tried in {_START_SECONDS} s; try again") from error
    if done.returncode == -signal.SIGPROF:
        raise UserError(
            f"the chat template of {folder} did not end within {MOST_SECONDS} s of CPU time on a few rows; "
            "set dataset.template=alpaca, or use another model"
        )
    said = done.stdout.strip().rpartition("\n")[2]
    if done.returncode != 0 or not said:
        why = (done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}")[:300]
        raise UserError(f"the chat template of {folder} could not be tried: {why}; set dataset.template=alpaca")
    found = json.loads(said)
    return None if found is None else (found[0], found[1])


def _first_refused(rows: list[list[Turn]], tokenizer: PreTrainedTokenizerBase) -> tuple[int, str] | None:
    """Return the first row that the template cannot write, and why; -1 where there is no template to write with."""
    try:
        check_chat(tokenizer)
    except UserError as error:
        return -1, str(error)
    greets = holds_greeting(tokenizer)
    for number, row in enumerate(rows):
        try:
            chat_exchanges([turn for turn in row if greets or turn.asked or turn.trained], tokenizer)
        except UserError as error:
            return number, str(error)
    return None


def _bound(seconds: int) -> None:
    """Bound CPU time and memory of this process from here on; the signal's default is to end it, whatever it does."""
    statm = Path("/proc/self/statm")
    if statm.exists():  # Linux; elsewhere only time is bound
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_BYTES, resource.RLIM_INFINITY))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def main() -> int:
    """Try the template of the folder that is named on the rows in stdin; print the first that it cannot write."""
    from transformers import AutoTokenizer

    rows = [[Turn(**turn) for turn in row] for row in json.load(sys.stdin)]
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False, local_files_only=True)
    _bound(int(sys.argv[2]))
    found = _first_refused(rows, tokenizer)
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
