"""`datasets.load_dataset` redirected to local data, for lm-eval and others that load by hub id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerfit.config.schema import HubConfig
from layerfit.data.sources import load_folder
from layerfit.models.hub import dataset_source


@contextmanager
def local_datasets(hub: HubConfig) -> Iterator[None]:
    """Make `datasets.load_dataset` use embedded data, the mirror and `hub.offline` inside the context.

    Local folders are read into memory directly: no builder, no cache. Calls with other arguments than subset and
    split (streaming, slices, data files) go to `datasets` with the local folder in place of the id.
    """
    import datasets

    original = datasets.load_dataset
    datasets.load_dataset = _redirected(original, hub)
    try:
        yield
    finally:
        datasets.load_dataset = original


def _redirected(original: Callable[..., Any], hub: HubConfig) -> Callable[..., Any]:
    reads_whole = {"split", "revision", "token", "trust_remote_code", "cache_dir", "keep_in_memory"}
    of_the_hub = {"revision", "token"}

    def load_dataset(path: str, name: str | None = None, *args: Any, **kwargs: Any) -> Any:
        kwargs["trust_remote_code"] = False  # whatever a task's file asks for
        if "/" not in path or Path(path).exists():  # a format (`json`) or a local folder, not a hub id
            return original(path, name, *args, **kwargs)
        source = dataset_source(path, hub, revision=kwargs.get("revision"))
        if isinstance(source, str):
            return original(source, name, *args, **kwargs)
        split = kwargs.get("split")
        plain = split is None or str(split).isidentifier()
        if not args and plain and set(kwargs) <= reads_whole:
            loaded = load_folder(source, name)
            if split is None:
                return loaded
            if str(split) in loaded:
                return loaded[str(split)]
        return original(str(source), name, *args, **{k: v for k, v in kwargs.items() if k not in of_the_hub})

    return load_dataset
