"""Composing a run with Hydra. `typed` converts the DictConfig; the rest of layerfit sees data classes only."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from layerfit.config.checks import check
from layerfit.config.folders import CONF
from layerfit.config.identity import least
from layerfit.config.launcher import LAUNCHERS, LOCAL, SLURM, LauncherConfig
from layerfit.config.schema import (
    DatasetConfig,
    EngineConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrackerConfig,
)
from layerfit.errors import UserError, check_one_of, did_you_mean
from layerfit.methods import METHODS, name_of
from layerfit.methods.base import Method

_LAUNCHER, _LAUNCHER_KEY = "hydra/launcher", "hydra.launcher."


def register() -> None:
    """Register the schemas and the user's folders with Hydra. A method's dataclass is its schema."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    from layerfit.config.searchpath import JoinedFolders

    Plugins.instance().register(JoinedFolders)
    OmegaConf.register_new_resolver("least", least, replace=True)
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    groups = {
        "model": ModelConfig,
        "dataset": DatasetConfig,
        "eval": EvalConfig,
        "engine": EngineConfig,
        "optim": OptimConfig,
        "tracker": TrackerConfig,
    }
    for group, cls in groups.items():
        store.store(group=group, name="schema", node=cls)
    for name, method in METHODS.items():
        store.store(group="method", name=f"{name}_schema", node=method)
    store.store(name="launcher_alone", node={})
    store.store(group=_LAUNCHER, name="launcher_schema", node=LauncherConfig)


def typed(cfg: DictConfig) -> RunConfig:
    """Return the run as data classes, checked.

    Raises:
        UserError: naming the first mistake.
    """
    try:
        run = OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        missing = sorted(OmegaConf.missing_keys(cfg))
        raise UserError(
            f"no value for {', '.join(missing)}; give it on the command line, {missing[0]}=..., or in its file in conf/"
        ) from error
    assert isinstance(run, RunConfig)
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
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield


def compose(overrides: list[str] | tuple[str, ...]) -> RunConfig:
    """Compose one run inside `composer()`.

    Raises:
        UserError: if an override is wrong, in one line.
    """
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException

    try:
        return typed(hydra_compose("config", overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(half_registered(overrides) or one_line(error)) from error


def half_registered(overrides: Iterable[str]) -> str | None:
    """Return a message if the method has only its file or only its entry in METHODS; None if it has both or neither."""
    name = next((word.partition("=")[2] for word in overrides if word.startswith("method=")), "")
    file, schema, registry = CONF / "method" / f"{name}.yaml", f"{name}_schema", "layerfit/methods/__init__.py"
    if name in METHODS and not file.is_file():
        shown = f"conf/method/{file.name}"
        return f"method={name} is registered but {shown} is missing; begin it with `defaults: [{schema}, _self_]`"
    if name and name not in METHODS and file.is_file() and schema in file.read_text():
        return f"conf/method/{file.name} uses {schema} but no method has that name; add it to METHODS in {registry}"
    return None


def split_launcher(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Return the overrides of the launcher, and those of the run."""
    launcher = [o for o in overrides if o.lstrip("+~").startswith((_LAUNCHER, _LAUNCHER_KEY))]
    return launcher, [o for o in overrides if o not in launcher]


def compose_launcher(overrides: list[str]) -> LauncherConfig:
    """Compose a launcher from its overrides (`split_launcher`), inside `composer()`; without any it is `local`.

    Raises:
        UserError: if one of them is wrong, in one line.
    """
    from hydra import compose as hydra_compose
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not overrides:
        return LauncherConfig()
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        if several := next((p for p in parsed if p.is_sweep_override()), None):
            raise UserError(f"{several.input_line} lists several values; give one: a sweep has one launcher")
        chosen = [str(p.value()) for p in parsed if p.key_or_group == _LAUNCHER] or [LOCAL]
        if wrong := [o for o in overrides if o.startswith("~") or o.lstrip("+").startswith(f"{_LAUNCHER_KEY}name=")]:
            raise UserError(f"{wrong[0]} is not allowed; choose one: {_LAUNCHER}={', '.join(LAUNCHERS)}")
        check_one_of(_LAUNCHER, chosen[-1], LAUNCHERS)
        if chosen[-1] == LOCAL and (keys := [o for o in overrides if o.startswith(_LAUNCHER_KEY)]):
            raise UserError(f"{keys[0]} needs a launcher that submits jobs; add {_LAUNCHER}={SLURM}")
        # Keys of `extra` are not in the schema; Hydra adds them only with `++`.
        words = [f"++{o}" if o.startswith(f"{_LAUNCHER_KEY}extra") else o for o in overrides]
        made = hydra_compose("launcher_alone", overrides=words, return_hydra_config=True).hydra.launcher
        launcher = OmegaConf.to_object(made)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from error
    assert isinstance(launcher, LauncherConfig)
    return launcher


def one_line(error: Exception) -> str:
    """Return a Hydra or OmegaConf error as one line: outermost message first, with choices and the closest one."""
    causes: list[str] = []
    current: BaseException | None = error
    while current is not None:
        if (known := _unknown_choice(current) or _unknown_key(current)) is not None:
            return known
        text = " ".join(str(current).split())
        text = text.split(" full_key: ")[0].replace(" Set the environment variable HYDRA_FULL_ERROR=1", "")
        key = getattr(current, "full_key", None)
        if text and not any(text in seen or seen in text for seen in causes):
            causes.append(f"{key}: {text}" if key and key not in text else text)
        current = current.__cause__
    return "; ".join(causes)


def _unknown_choice(error: BaseException) -> str | None:
    """Return one line if the error is an unknown choice of a group, else None."""
    from hydra.errors import MissingConfigException

    if not isinstance(error, MissingConfigException) or not error.missing_cfg_file or error.options is None:
        return None
    group, _, name = error.missing_cfg_file.rpartition("/")
    choices = [option for option in error.options if option != "schema" and not option.endswith("_schema")]
    return f"{group}={name} is not known{did_you_mean(name, choices)}; use one of: {', '.join(choices)}"


def _unknown_key(error: BaseException) -> str | None:
    """Return one line if the error is an unknown key, else None."""
    parent, full = getattr(error, "parent_node", None), getattr(error, "full_key", None)
    if not isinstance(error, ConfigKeyError | ConfigAttributeError) or not isinstance(parent, DictConfig) or not full:
        return None
    above, _, key = str(full).rpartition(".")
    keys = [str(one) for one in parent if not str(one).startswith("_")]
    near = did_you_mean(key, keys, f"{above}." if above else "")
    return f"unknown key {full}{near}; {above or 'a run'} has: {', '.join(keys)}"


def expand(overrides: list[str], *, multirun: bool) -> list[list[str]]:
    """Return the override lists of a sweep, the last key varying fastest; one list without a sweep.

    Raises:
        UserError: if an override cannot be parsed, or values are listed without -m.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UserError(one_line(error)) from error
    choices: list[list[str]] = []
    for text, override in zip(overrides, parsed, strict=True):
        if not override.is_sweep_override():
            choices.append([text])
        elif multirun:
            choices.append([f"{override.get_key_element()}={v}" for v in override.sweep_string_iterator()])
        else:
            raise UserError(f"{text} lists several values; add -m to run each of them, or quote it")
    return [list(combination) for combination in itertools.product(*choices)]
