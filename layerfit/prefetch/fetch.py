"""Plans for fetching a repository into a mirror's folder, given its receipt and files, and their execution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from layerfit.errors import UserError
from layerfit.files.paths import inside
from layerfit.models import receipt
from layerfit.models.hub import MODELS
from layerfit.models.receipt import File, Receipt
from layerfit.prefetch import remote
from layerfit.prefetch.check import lacks
from layerfit.prefetch.choose import dataset_files, has_weights, model_files
from layerfit.prefetch.needs import Need
from layerfit.prefetch.remote import Listing, Trouble

PARQUET = "refs/convert/parquet"
"""The hub's branch with Parquet versions of data sets that have a loading script or other formats."""


@dataclass(frozen=True)
class FetchPlan:
    """The fetch of one need. note: its state, for the listing. target: the new receipt; None = nothing to fetch.

    stale: files of the old receipt that the new one lacks.
    """

    need: Need
    folder: Path
    note: str
    target: Receipt | None = None
    fetch: tuple[File, ...] = ()
    stale: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes to fetch, including those kept from an interrupted fetch."""
        return sum(file.size for file in self.fetch)


def make_plan(need: Need, mirror: Path, *, hashes: bool = False) -> FetchPlan:
    """Return the plan of a need; the hub is contacted only if the mirror's receipt does not cover it.

    Raises:
        Trouble: if the hub's file list cannot be read, or the folder holds other files that were put there by hand.
        UserError: if the folder's receipt cannot be read.
    """
    folder = mirror / need.kind / need.repo
    old = receipt.read(folder)
    if old is not None and _covers(old, need):
        damaged = tuple(file for file, _ in receipt.damaged(folder, old, hashes=hashes))
        if not damaged and old.complete:
            return FetchPlan(need, folder, f"here, {_at(old)}")
        return FetchPlan(need, folder, _at(old), old, damaged)
    if old is None and folder.is_dir() and any(folder.iterdir()) and not lacks(need, mirror):
        return FetchPlan(need, folder, "here, put by hand")
    target = _target(need, old)
    if old is None:
        _refuse_others(need, folder, target)
    fetch = tuple(f for f in target.files if receipt.damage(folder, f, hashes=hashes or old is None) is not None)
    kept = {file.path for file in target.files}
    stale = tuple(file.path for file in old.files if file.path not in kept) if old is not None else ()
    return FetchPlan(need, folder, _at(target), target, fetch, stale)


def _at(found: Receipt) -> str:
    """Return commit and branch of a receipt, for the listing."""
    where = f" of {found.branch}" if found.branch else ""
    return f"{found.commit[:10]}{where}{'' if found.revision else ' (no revision is pinned)'}"


def _covers(old: Receipt, need: Need) -> bool:
    """Return whether a receipt covers a need. An unpinned need accepts any commit."""
    if need.revision not in (None, old.revision, old.commit):
        return False
    if need.kind == MODELS:
        return old.weights or not need.weights
    wanted = need.subsets()
    return old.subsets is None or (wanted is not None and set(wanted) <= set(old.subsets))


def _target(need: Need, old: Receipt | None) -> Receipt:
    """Return a folder's new receipt: its old contents, if at the same commit, and those needed."""
    same = old is not None and need.revision in (None, old.revision, old.commit)
    asked = old.commit if same and old is not None else need.revision
    listing = remote.list_repo(need.kind, need.repo, asked)
    if need.kind == MODELS:
        weights = need.weights or (same and old is not None and old.weights)
        return _receipt(need, listing, _model(need, listing, weights=weights), weights=weights)
    subsets = need.subsets()
    if same and old is not None:
        subsets = None if subsets is None or old.subsets is None else tuple(sorted({*subsets, *old.subsets}))
    if same and old is not None and old.branch:
        listing = replace(listing, configs=[])
    names, without = dataset_files((f.path for f in listing.files), listing.configs, subsets)
    if not without:
        branch = old.branch if same and old is not None else None
        return _receipt(need, listing, names, subsets=subsets, branch=branch)
    return _converted(need, subsets, without)


def _model(need: Need, listing: Listing, *, weights: bool) -> list[str]:
    names = model_files((file.path for file in listing.files), weights=weights)
    if weights and not has_weights(names):
        raise Trouble(f"{need.name} at {listing.commit[:10]} has no weights that transformers loads; choose another")
    return names


def _converted(need: Need, subsets: tuple[str, ...] | None, without: list[str]) -> Receipt:
    """Return the receipt of the hub's Parquet version."""
    what = f"{need.name} has no {' or '.join(('Parquet', 'JSON'))} files for {', '.join(without)} (a loading script?)"
    if need.revision is not None:
        raise Trouble(f"{what} at {need.revision}; dataset.revision=null takes the hub's own Parquet version")
    try:
        listing = remote.list_repo(need.kind, need.repo, PARQUET)
    except Trouble as error:
        raise Trouble(f"{what}, and no Parquet version: {error}; put a copy in the mirror by hand") from error
    names, without = dataset_files((file.path for file in listing.files), [], subsets)
    if without:
        raise Trouble(f"{what}, nor has {PARQUET} for {', '.join(without)}; put a copy in the mirror by hand")
    if partial := [name for name in names if "/partial-" in name]:
        raise Trouble(f"{what}, and {PARQUET} holds only a part of it ({partial[0]}); put a copy there by hand")
    return _receipt(need, listing, names, subsets=subsets, branch=PARQUET)


def _receipt(
    need: Need,
    listing: Listing,
    names: list[str],
    *,
    weights: bool = False,
    subsets: tuple[str, ...] | None = None,
    branch: str | None = None,
) -> Receipt:
    files = tuple(file for file in listing.files if file.path in set(names))
    return Receipt(need.kind, need.repo, need.revision, listing.commit, files, branch, weights, subsets)


def _refuse_others(need: Need, folder: Path, target: Receipt) -> None:
    """Raise Trouble if a folder without receipt holds other files of these names: they are never overwritten."""
    for file in target.files:
        if (folder / file.path).exists() and receipt.damage(folder, file, hashes=True) is not None:
            raise Trouble(
                f"{folder / file.path} was put there by hand and differs from the hub's at {target.commit[:10]}; move "
                f"{folder} away to have {need.name} fetched, or copy the missing files there by hand"
            )


def carry_out(plan: FetchPlan, progress: Callable[[int], object]) -> None:
    """Fetch the files of a plan; the folder's receipt is marked incomplete before and complete after.

    After an interruption the fetched files are kept, and the same plan continues from there.

    Raises:
        Trouble: if a file cannot be fetched, naming it.
    """
    assert plan.target is not None, "nothing to do"
    need, target = plan.need, replace(plan.target, complete=False)
    try:
        receipt.write(plan.folder, target)
        for name in plan.stale:
            inside(plan.folder, name, "the old receipt").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{plan.folder} cannot be written to ({error.strerror}); give another folder") from error
    for file in sorted(plan.fetch, key=lambda file: file.size):  # small ones first: access errors show early
        remote.fetch(need.kind, need.repo, target.commit, file, plan.folder, progress)
    receipt.write(plan.folder, replace(target, complete=True))
