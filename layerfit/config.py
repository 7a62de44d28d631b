"""Composing a run with Hydra, and naming it. Only this file and `cli.py` know Hydra.

Past `typed` nobody sees a DictConfig. `run_id` names a run by everything that decides its result (`identity.py`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from layerfit.errors import UserError, check_one_of
from layerfit.identity import identity, least, required_runs, run_id
from layerfit.methods import METHODS, name_of
from layerfit.methods.base import Method
from layerfit.schema import (
    DatasetConfig,
    EngineConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrackerConfig,
)
from layerfit.schema_launcher import LAUNCHERS, LOCAL, SLURM, LauncherConfig

__all__ = ["check", "compose", "composer", "dump", "identity", "load", "required_runs", "run_id", "typed"]

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
_LAUNCHER, _LAUNCHER_KEY = "hydra/launcher", "hydra.launcher."


def check(run: RunConfig) -> None:
    """Raise UserError if the parts of a run do not fit together. Nothing is loaded for it."""
    engine, training, method = run.engine, run.training, run.method_name()
    if run.method.needs_matrices and engine.stage:
        raise UserError(
            f"method={method} needs whole matrices and engine={engine.name} flattens parameters; "
            "use engine=zero0 or torch"
        )
    if engine.name in run.method.unsupported_engines:
        raise UserError(f"method={method} cannot run on engine={engine.name}; see its card in docs/methods")
    if engine.stage is None and engine.ranks > 1:
        raise UserError(f"engine=torch is the one-process reference, engine.ranks={engine.ranks}; use engine=zero0")
    if training.batch_size % engine.ranks:
        raise UserError(f"training.batch_size={training.batch_size} does not divide among engine.ranks={engine.ranks}")
    per_rank = training.batch_size // engine.ranks
    if training.micro_batch_size is not None and per_rank % training.micro_batch_size:
        raise UserError(
            f"training.micro_batch_size={training.micro_batch_size} does not divide the {per_rank} sequences of a rank"
        )
    source, size = run.method.probe_source()
    if size < engine.ranks:
        raise UserError(f"a probe batch of {size} sequences is too small for {engine.ranks} ranks")
    if source == "validation" and not (run.dataset.num_validation or run.dataset.validation_split):
        raise UserError(
            f"method={method} probes validation rows and dataset={run.dataset.name} holds none out; "
            "set dataset.num_validation, or probe train rows"
        )
    if training.norms and engine.stage == 3:
        raise UserError(
            f"training.norms=true reads whole weights after every step and engine={engine.name} shards them; "
            "use engine=zero2, zero1, zero0 or torch"
        )
    if run.optim.precision == "pure_bf16" and training.dtype != "bf16":
        raise UserError("optim.precision=pure_bf16 needs training.dtype=bf16")
    if not run.model.open_parts():
        check_against_model(run)
    check_required(run)


def check_required(run: RunConfig) -> None:
    """Raise UserError if the runs that must exist before this one are not those it can use, or cannot be."""
    required = required_runs(run)
    if run.ranking_data and not required:
        raise UserError(
            f"ranking_data.{next(iter(run.ranking_data))} says where rankings come from, and this "
            f"method={run.method_name()} makes none before it (it needs none, or a file is given); leave it out"
        )
    if len({run_id(before) for before in required}) < len(required):
        raise UserError(f"ranking_data: two of {', '.join(run.ranking_data)} are the same data; leave one out")
    if required:
        run.method.check_rankings(len(required), own=required[0].dataset == run.dataset)
    for before in required:
        try:
            check(before)
        except UserError as error:
            name = f"{before.method_name()} run on dataset={before.dataset.name}"
            raise UserError(f"it requires a {name}: {error}") from error


def check_against_model(run: RunConfig) -> None:
    """Raise UserError if length or method do not fit the model, once its parts are known."""
    length, positions = run.training.max_length, run.model.part("max_positions")
    if length > positions:
        raise UserError(
            f"training.max_length={length} is beyond model={run.model.name}, which has {positions} positions"
        )
    run.method.check(run.shape())


def register() -> None:
    """Give Hydra the schemas. A method's dataclass is its schema."""
    from hydra.core.config_store import ConfigStore

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
    """Leave OmegaConf behind and check that the parts fit.

    Raises:
        UserError: naming the first thing that is wrong.
    """
    try:
        run = OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        missing = sorted(OmegaConf.missing_keys(cfg))
        raise UserError(f"no value for {', '.join(missing)}; give it on the command line, {missing[0]}=...") from error
    assert isinstance(run, RunConfig)
    check(run)
    return run


def dump(run: RunConfig) -> dict[str, Any]:
    """Return a run as plain JSON, for the workers that execute it."""
    return {"method_name": run.method_name(), **dataclasses.asdict(run), "method": _plain(run.method)}


def _plain(method: Method) -> dict[str, Any]:
    """Return a method's settings; a method among them says its name as well."""
    out: dict[str, Any] = {}
    for f in dataclasses.fields(method):
        value = getattr(method, f.name)
        if not f.name.startswith("_"):
            out[f.name] = {"method_name": name_of(value), **_plain(value)} if isinstance(value, Method) else value
    return out


def _schema(name: str, data: dict[str, Any]) -> DictConfig:
    """Return the schema of what `_plain` wrote, and take the names of methods out of it."""
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
    """Open `conf/` for `compose`; opening once serves many compositions."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield


def compose(overrides: list[str] | tuple[str, ...]) -> RunConfig:
    """Compose one run inside `composer()`.

    Raises:
        UserError: in one line, whatever is wrong with the overrides.
    """
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException

    try:
        return typed(hydra_compose("config", overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from error


def split_launcher(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Return the overrides that say where runs are executed, and those that say what a run is."""
    launcher = [o for o in overrides if o.lstrip("+~").startswith((_LAUNCHER, _LAUNCHER_KEY))]
    return launcher, [o for o in overrides if o not in launcher]


def compose_launcher(overrides: list[str]) -> LauncherConfig:
    """Compose a launcher from its overrides (`split_launcher`), inside `composer()`; without any it is `local`.

    Raises:
        UserError: in one line, whatever is wrong with them.
    """
    from hydra import compose as hydra_compose
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not overrides:
        return LauncherConfig()
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        if several := next((p for p in parsed if p.is_sweep_override()), None):
            raise UserError(f"{several.input_line} lists several values: all runs of a sweep have one launcher")
        chosen = [str(p.value()) for p in parsed if p.key_or_group == _LAUNCHER] or [LOCAL]
        if wrong := [o for o in overrides if o.startswith("~") or o.lstrip("+").startswith(f"{_LAUNCHER_KEY}name=")]:
            raise UserError(f"{wrong[0]} cannot be said; choose one: {_LAUNCHER}={', '.join(LAUNCHERS)}")
        check_one_of(_LAUNCHER, chosen[-1], LAUNCHERS)
        if chosen[-1] == LOCAL and (keys := [o for o in overrides if o.startswith(_LAUNCHER_KEY)]):
            raise UserError(f"{keys[0]} goes with a launcher that makes jobs: add {_LAUNCHER}={SLURM}")
        # A key of `extra` is new to it, which Hydra wants to see marked.
        words = [f"++{o}" if o.startswith(f"{_LAUNCHER_KEY}extra") else o for o in overrides]
        made = hydra_compose("launcher_alone", overrides=words, return_hydra_config=True).hydra.launcher
        launcher = OmegaConf.to_object(made)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from error
    assert isinstance(launcher, LauncherConfig)
    return launcher


def one_line(error: Exception) -> str:
    """Return what Hydra or OmegaConf has to say, in one line: the cause first, the choices kept."""
    causes: list[str] = []
    current: BaseException | None = error
    while current is not None:
        text = " ".join(str(current).split())
        text = text.split(" full_key: ")[0].replace(" Set the environment variable HYDRA_FULL_ERROR=1", "")
        key = getattr(current, "full_key", None)
        if text and not any(text in seen or seen in text for seen in causes):
            causes.append(f"{key}: {text}" if key and key not in text else text)
        current = current.__cause__
    return "; ".join(causes)
