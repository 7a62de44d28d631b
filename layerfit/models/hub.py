"""Finding models and data: a local path, the embedded world, `hub.mirror`, and last the Hugging Face hub.

A mirror is a folder with `models/<org>/<name>` and `datasets/<org>/<name>`. With `hub.offline` no socket is opened, and
a repository without a local copy is an error. This module imports nothing heavy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerfit.config.schema import HubConfig, ModelConfig
from layerfit.errors import UserError
from layerfit.files.names import check_repository, check_revision, is_repository, is_revision
from layerfit.files.paths import check_kind, expand
from layerfit.models import architecture, packed, receipt, weights
from layerfit.models.architecture import describe_library_error
from layerfit.models.metadata import check_metadata

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from layerfit.anatomy import Anatomy

MODELS, DATASETS = "models", "datasets"
EMBEDDED = Path(__file__).resolve().parents[1] / "world" / "assets"
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def _roots(hub: HubConfig) -> list[Path]:
    """Return the folders that are searched before the hub, in order."""
    if hub.mirror is None:
        return [EMBEDDED]
    mirror = Path(hub.mirror)
    if not mirror.is_dir():
        raise UserError(f"hub.mirror={hub.mirror} is not a folder; give one with models/ and datasets/, or null")
    return [EMBEDDED, mirror]


def hub_cache() -> Path:
    """Return the Hugging Face cache folder, from the same environment variables as the Hugging Face libraries."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{home}/huggingface")
    return expand("HF_HUB_CACHE", os.environ.get("HF_HUB_CACHE", f"{home}/hub"))


def cached_snapshot(kind: str, repo: str, revision: str | None) -> Path | None:
    """Return the snapshot of a repository in the Hugging Face cache, None if there is none."""
    wanted = revision or "main"
    if not (is_repository(repo) and is_revision(wanted)):
        return None
    folder = hub_cache() / f"{kind}--{repo.replace('/', '--')}"
    reference = folder / "refs" / wanted
    commit = reference.read_text(errors="replace").strip() if reference.is_file() else wanted
    snapshot = folder / "snapshots" / commit
    return snapshot if is_revision(commit) and snapshot.is_dir() else None


def local_copy(kind: str, repo: str, hub: HubConfig) -> Path | None:
    """Return the embedded or mirrored folder of a repository, None if there is none. `kind`: MODELS or DATASETS.

    A text that is no hub id (`../..`, or what a task calls its data) has none.
    The weights of an embedded model are unpacked.
    """
    roots = _roots(hub) if is_repository(repo) else []
    found = next((folder for root in roots if (folder := root / kind / repo).is_dir()), None)
    return packed.unpack(found) if found is not None and found.is_relative_to(EMBEDDED) else found


def _source(kind: str, repo: str, revision: str | None, hub: HubConfig) -> str | Path:
    check_repository(f"{kind.removesuffix('s')} id", repo)
    if revision is not None:
        check_revision(f"revision of {kind.removesuffix('s')} {repo}", revision)
    if (folder := local_copy(kind, repo, hub)) is not None:
        return folder
    if not hub.offline:
        return repo
    if (snapshot := cached_snapshot(kind, repo, revision)) is not None:
        return snapshot
    looked = ", ".join(str(root / kind / repo) for root in _roots(hub))
    fix = f"put it at {hub.mirror or '<hub.mirror>'}/{kind}/{repo}, or set hub.offline=false"
    fix += "; where there is network, `layerfit prefetch` fills a mirror"
    raise UserError(f"{kind.removesuffix('s')} {repo!r} is not here (looked at {looked} and {hub_cache()}); {fix}")


def model_source(model: ModelConfig, hub: HubConfig) -> str | Path:
    """Return the folder of a model, or its hub id if there is no local copy.

    Raises:
        UserError: if `model.path` is not a folder, or there is no local copy and `hub.offline` is set.
    """
    if model.path is None:
        assert model.id is not None  # checked by ModelConfig
        return _source(MODELS, model.id, model.revision, hub)
    folder = Path(model.path)
    if not (os.access(folder, os.R_OK | os.X_OK) and folder.is_dir()):
        raise UserError(
            f"model.path={model.path} is not a folder, or may not be read; give a folder with config.json, or "
            "model.path=null"
        )
    return folder


def dataset_source(repo: str, hub: HubConfig, path: str | None = None, revision: str | None = None) -> str | Path:
    """Return the folder (or, for a local `path`, the file) of a dataset, or its hub id if there is no local copy.

    Raises:
        UserError: if `path` does not exist, or there is no local copy and `hub.offline` is set.
    """
    if path is None:
        return _source(DATASETS, repo, revision, hub)
    check_kind("dataset.path", local := Path(path))
    if not local.exists():
        raise UserError(
            f"dataset.path={path} does not exist (relative to the working directory); "
            "give a .jsonl, .json, .csv or .parquet file, or a folder"
        )
    return local


def origin(kind: str, repo: str, hub: HubConfig, path: str | None = None, revision: str | None = None) -> str:
    """Return where a source was found, for a record: `embedded`, `mirror`, `path`, or `hub@<commit>` (if cached).

    A mirror filled by `layerfit.prefetch` gives `mirror@<commit>`. It never contains a path of this machine.
    """
    if path is not None:
        return "path"
    if (folder := local_copy(kind, repo, hub)) is not None:
        if folder.is_relative_to(EMBEDDED):
            return "embedded"
        found = receipt.read(folder)
        return f"mirror@{found.commit}" if found is not None and found.complete else "mirror"
    snapshot = cached_snapshot(kind, repo, revision)
    return f"hub@{snapshot.name if snapshot else revision or 'main'}"


def prepare_environment(hub: HubConfig) -> None:
    """Set the environment variables that the Hugging Face libraries read on import. Call it before importing them.

    Raises:
        RuntimeError: if `hub.offline` is set but they are already imported and online: it would have no effect.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not hub.offline:
        return
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is not None and not constants.HF_HUB_OFFLINE:
        raise RuntimeError(
            "hub.offline=true after huggingface_hub was imported has no effect; set HF_HUB_OFFLINE=1 first"
        )
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))


def load_tokenizer(model: ModelConfig, hub: HubConfig) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, padding on the right.

    A missing pad token becomes the unknown token, else eos: lm-eval's rule, so that both agree. Padding is never in a
    loss, so the choice does not affect training.

    Raises:
        UserError: if there is none, it is not a fast tokenizer, or it has no eos token.
    """
    from transformers import AutoTokenizer

    source = model_source(model, hub)
    if isinstance(source, Path):
        check_metadata(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source), revision=architecture.revision(model, source), trust_remote_code=False
        )
    except Exception as error:  # each of its files has its own way to be wrong
        raise UserError(f"model={model.name}: no tokenizer in {source}: {describe_library_error(error)}") from error
    rows = getattr(architecture.transformers_config(model, source), "vocab_size", None)
    if rows is not None and len(tokenizer) > rows:
        raise UserError(
            f"model={model.name}: the tokenizer in {source} has {len(tokenizer)} tokens and the model's embedding "
            f"{rows} rows; copy both from the same place, or resize the embedding (resize_token_embeddings)"
        )
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise UserError(f"model={model.name}: the tokenizer in {source} must be a fast one with an eos token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


_TORCH = {"fp32": "float32", "bf16": "bfloat16"}
"""torch's names of `training.dtype`."""


def load_model(model: ModelConfig, hub: HubConfig, dtype: str, *, device: str = "cpu", seed: int = 0) -> nn.Module:
    """Return the causal language model in `dtype` (`fp32` or `bf16`) on `device`, checked against its configuration.

    With `model.weights=random` the full-size weights are initialised from `seed` in `dtype` on `device`, without a copy
    in fp32 or on the CPU. The values depend on the device. The global random state is restored.

    Raises:
        UserError: if it cannot be found or read, lacks weights, or does not match `conf/model`.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    source, number = model_source(model, hub), getattr(torch, _TORCH[dtype])
    if model.weights == "pretrained" and isinstance(source, Path):
        weights.check_weights(source, architecture.model_config(source))
    config = architecture.transformers_config(model, source)
    anatomy = architecture.read_anatomy(model, source)
    attention = architecture.prepare(model, config)
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device), _told(model, source):
        torch.manual_seed(seed)
        if model.weights == "random":
            module = AutoModelForCausalLM.from_config(
                config, dtype=number, attn_implementation=attention, trust_remote_code=False
            )
        else:
            module = pretrained(model, source, config=config, dtype=number, attn_implementation=attention)
    return _checked(model, anatomy, module)


@contextmanager
def _told(model: ModelConfig, source: str | Path) -> Iterator[None]:
    """Turn what transformers raises over the files of a model into one line."""
    import pickle

    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    # Not RuntimeError: out of memory is one.
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, ArithmeticError) as error:
        raise UserError(
            f"model={model.name}: transformers cannot use {source}: {describe_library_error(error)}"
        ) from error
    except (SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(
            f"model={model.name}: the weights in {source} cannot be read: {describe_library_error(error)}"
        ) from error


def pretrained(model: ModelConfig, source: str | Path, **settings: Any) -> Any:
    """Return a model with its weights, all of them finite.

    Raises:
        UserError: if weights are missing or cannot be read, or one is NaN or infinite, naming the first.
    """
    from transformers import AutoModelForCausalLM

    from layerfit.models.finite import first_not_finite

    revision = architecture.revision(model, source)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(source),
        revision=revision,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the information, and refused
        **settings,
    )
    module, loading = loaded
    architecture.check_loading(model, loading)
    if (name := first_not_finite(module)) is not None:
        raise UserError(
            f"model={model.name}: {name} of {source} holds NaN or infinite numbers in {settings['dtype']}, so nothing "
            "that is computed with it means anything; give another checkpoint"
        )
    return module


def empty_model(model: ModelConfig, anatomy: Anatomy, config: Any, dtype: str) -> nn.Module:
    """Return the model of a transformers configuration on torch's meta device: shapes and dtypes, no memory.

    Raises:
        UserError: if its architecture is not supported, or it does not match `conf/model`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    attention, number = architecture.prepare(model, config), getattr(torch, _TORCH[dtype])
    with torch.device("meta"), _told(model, "its config.json"):
        module = AutoModelForCausalLM.from_config(
            config, dtype=number, attn_implementation=attention, trust_remote_code=False
        )
    return _checked(model, anatomy, module)


def _checked(model: ModelConfig, anatomy: Anatomy, module: Any) -> nn.Module:
    """Return a module checked and prepared for training.

    Raises:
        UserError: if it does not match `conf/model`.
    """
    architecture.check_shape(model, anatomy, module)
    architecture.accept_packed_rows(module)
    module.config.use_cache = False
    return module
