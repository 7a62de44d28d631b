"""Composing a run with Hydra. `typed` converts the DictConfig; the rest of layerfit sees data classes only."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from layerfit.config.checks import check
from layerfit.config.folders import CONF
from layerfit.config.identity import least
from layerfit.config.launcher import LAUNCHERS, LOCAL, SLURM, LauncherConfig
from layerfit.config.messages import describe_hydra_error, user_errors
from layerfit.config.schema import (
    DatasetConfig,
    EngineConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrackerConfig,
)
from layerfit.config.values import check_values, expand_paths
from layerfit.config.words import GROUPS, LAUNCHER, LAUNCHER_KEY, check_switch, parse, read
from layerfit.errors import UserError, check_one_of
from layerfit.methods import METHODS, name_of
from layerfit.methods.base import Method

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def register() -> None:
    """Register the schemas and the user's folders with Hydra. A method's dataclass is its schema."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    from layerfit.config.searchpath import JoinedFolders

    Plugins.instance().register(JoinedFolders)
    OmegaConf.register_new_resolver("least", least, replace=True)
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    schemas = {
        "model": ModelConfig,
        "dataset": DatasetConfig,
        "eval": EvalConfig,
        "engine": EngineConfig,
        "optim": OptimConfig,
        "tracker": TrackerConfig,
    }
    for group, cls in schemas.items():
        store.store(group=group, name="schema", node=cls)
    for name, method in METHODS.items():
        store.store(group="method", name=f"{name}_schema", node=method)
    store.store(name="launcher_alone", node={})
    store.store(group=LAUNCHER, name="launcher_schema", node=LauncherConfig)


def typed(cfg: DictConfig) -> RunConfig:
    """Return the run as data classes, checked.

    Raises:
        UserError: naming the first mistake.
    """
    check_values(cfg)
    try:
        run = OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        missing = sorted(OmegaConf.missing_keys(cfg))
        raise UserError(
            f"no value for {', '.join(missing)}; give it on the command line, {missing[0]}=..., or in its file in conf/"
        ) from error
    assert isinstance(run, RunConfig)
    expand_paths(run)
    check(run)
    return run


def dump(run: RunConfig) -> dict[str, Any]:
    """Return a run as JSON-serialisable data, for the workers that execute it."""
    return {"method_name": run.method_name(), **dataclasses.asdict(run), "method": _plain(run.method)}


def _plain(method: Method) -> dict[str, Any]:
    """Return a method's settings; a nested method carries its name (`method_name`)."""
    out: dict[str, Any] = {}
    for f in dataclasses.fields(method):
        value = getattr(method, f.name)
        out[f.name] = {"method_name": name_of(value), **_plain(value)} if isinstance(value, Method) else value
    return out


def _schema(name: str, data: dict[str, Any]) -> DictConfig:
    """Return the schema for the output of `_plain`, removing the method names from `data`."""
    schema: DictConfig = OmegaConf.structured(METHODS[name])
    for key, value in data.items():
        if isinstance(value, dict) and "method_name" in value:
            schema[key] = _schema(value.pop("method_name"), value)
    return schema


def load(data: dict[str, Any]) -> RunConfig:
    """Return the run that `dump` wrote."""
    data = copy.deepcopy(data)
    schema = OmegaConf.structured(RunConfig)
    schema.method = _schema(data.pop("method_name"), data["method"])
    merged = OmegaConf.merge(schema, data)
    assert isinstance(merged, DictConfig)
    return typed(merged)


@contextmanager
def composer() -> Iterator[None]:
    """Initialise Hydra for `compose`; one initialisation serves many compositions."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register()
    _chosen.cache_clear()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield


def compose(overrides: Sequence[str]) -> RunConfig:
    """Compose one run inside `composer()`.

    Raises:
        UserError: if an override is wrong, in one line.
    """
    with user_errors(overrides):
        return typed(composed(overrides))


def composed(overrides: Sequence[str]) -> DictConfig:
    """Return a run's configuration as Hydra composes it, inside `composer()`; nothing of its values is checked yet.

    Hydra takes 0.1 s, mostly for the choice of groups, which many runs share: that is cached. Plain values (`a.b=1`)
    are then set as Hydra sets them; where keys are added or taken out Hydra composes the whole.

    Raises:
        UserError: if an override cannot be read, or is not one of a run.
    """
    from hydra import compose as hydra_compose
    from hydra.core.override_parser.types import OverrideType

    parsed = list(zip(overrides, parse(overrides), strict=True))
    if sweep := next((word for word, p in parsed if p.is_sweep_override()), None):
        raise UserError(f"{sweep} lists several values where one is composed; give one, or quote it")
    choices = [w for w, p in parsed if p.package is not None or p.key_or_group in GROUPS or "/" in p.key_or_group]
    values = [p for word, p in parsed if word not in choices]
    if any(p.type != OverrideType.CHANGE for p in values):
        return hydra_compose("config", overrides=list(overrides))
    config = copy.deepcopy(_chosen(tuple(choices)))
    for override in values:
        _set(config, override)
    return config


def _set(config: DictConfig, override: Override) -> None:
    """Set a value as Hydra does.

    Raises:
        UserError: if its key is unknown, or is not of this type.
    """
    word, key, value = override.input_line, override.key_or_group, override.value()
    try:
        OmegaConf.update(config, key, value, merge=True)
        current = OmegaConf.select(config, key)
    except OmegaConfBaseException as error:
        text = describe_hydra_error(error)
        raise UserError(text if text.startswith("unknown key") else f"{word}: {text}") from error
    check_switch(override, current)


@lru_cache(maxsize=64)
def _chosen(overrides: tuple[str, ...]) -> DictConfig:
    from hydra import compose as hydra_compose

    return hydra_compose("config", overrides=list(overrides))


def compose_launcher(overrides: list[str]) -> LauncherConfig:
    """Compose a launcher from its overrides (`split_launcher`), inside `composer()`; without any it is `local`.

    Raises:
        UserError: if one of them is wrong, in one line.
    """
    from hydra import compose as hydra_compose

    if not overrides:
        return LauncherConfig()
    with user_errors(overrides):
        parsed = read(overrides)
        if several := next((p for p in parsed if p.is_sweep_override()), None):
            raise UserError(f"{several.input_line} lists several values; give one: a sweep has one launcher")
        chosen = [str(p.value()) for p in parsed if p.key_or_group == LAUNCHER] or [LOCAL]
        if wrong := [o for o in overrides if o.startswith("~") or o.lstrip("+").startswith(f"{LAUNCHER_KEY}name=")]:
            raise UserError(f"{wrong[0]} is not allowed; choose one: {LAUNCHER}={', '.join(LAUNCHERS)}")
        check_one_of(LAUNCHER, chosen[-1], LAUNCHERS)
        if chosen[-1] == LOCAL and (keys := [o for o in overrides if o.startswith(LAUNCHER_KEY)]):
            raise UserError(f"{keys[0]} needs a launcher that submits jobs; add {LAUNCHER}={SLURM}")
        # Keys of `extra` are not in the schema; Hydra adds them only with `++`.
        words = [f"++{o}" if o.startswith(f"{LAUNCHER_KEY}extra") else o for o in overrides]
        whole = hydra_compose("launcher_alone", overrides=words, return_hydra_config=True)
        for one in parsed:
            check_switch(one, OmegaConf.select(whole, one.key_or_group))
        made = whole.hydra.launcher
        check_values(made)
        launcher = OmegaConf.to_object(made)
    assert isinstance(launcher, LauncherConfig)
    return launcher
