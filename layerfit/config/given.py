"""What the process of a run is given, in `run.json`: the run, and what was found out about it when it was queued.

A run's identity is taken once, from the files as they are when it is queued. Its process does not take it again: it
would get that of files changed meanwhile, for a result of the old ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerfit.config.composition import dump, load
from layerfit.config.identity import differences, identity_of, required_runs, run_id
from layerfit.config.schema import RunConfig
from layerfit.errors import UserError
from layerfit.files.writing import write_atomically


@dataclass(frozen=True)
class Given:
    """A run under its id. needs: ids of the runs that must be ok before it, in the order of `required_runs`.

    identity: everything that decides its result (`identity_of`); {}: it was made without a queue, so neither this nor
    `needs` is known.
    """

    run: RunConfig
    run_id: str
    needs: tuple[str, ...] = ()
    identity: dict[str, Any] = field(default_factory=dict)

    def to_file(self, path: Path) -> None:
        """Write it for `from_file`, with what was found out if anything was."""
        found = {"needs": list(self.needs), "identity": self.identity} if self.identity else {}
        write_atomically(path, (json.dumps(dump(self.run) | found, indent=1) + "\n").encode())


def from_file(path: Path) -> Given:
    """Return what `Given.to_file` wrote; its folder has the run's id for a name.

    What a file does not say (of an older layerfit, or by hand) is found out now.

    Raises:
        UserError: if it is something else: of another version, or written over.
    """
    try:
        data = json.loads(path.read_text())
        needs, identity = data.pop("needs", None), data.pop("identity", None)
        run = load(data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        said = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"{path} is not the run that was written there ({said}); start the same command again"
        ) from error
    ids = [run_id(before) for before in required_runs(run)] if needs is None else needs
    return Given(run, path.parent.name, tuple(ids), identity or json.loads(json.dumps(identity_of(run))))


def check_unchanged(run: RunConfig, identity: dict[str, Any]) -> None:
    """Raise UserError if the files that a run names are no longer those of its identity."""
    changed = differences(identity, json.loads(json.dumps(identity_of(run))))
    if changed:
        names = ", ".join(_named(run, key) for key in changed)
        raise UserError(f"{names} was changed while the run started; start the same command again")


def _named(run: RunConfig, key: str) -> str:
    """Return `dataset.path=data.jsonl` for a key of an identity."""
    value: Any = run
    for name in key.split("."):
        value = getattr(value, name, None)
    return f"{key}={value}" if isinstance(value, str) else key
