"""Checks that the parts of a run fit together. No model or data is loaded."""

from __future__ import annotations

from layerfit.anatomy import Anatomy
from layerfit.config.folders import settings
from layerfit.config.identity import required_runs, run_id
from layerfit.config.model import ModelConfig
from layerfit.config.schema import EngineConfig, RunConfig
from layerfit.errors import UserError

ENGINES: dict[str, tuple[int | None, bool]] = {
    "torch": (None, False),
    **{f"zero{stage}": (stage, False) for stage in range(4)},
    "zero3_offload": (3, True),
}
"""Stage of ZeRO (None: plain torch) and whether state lies in host memory, by name: `conf/engine/<name>.yaml`."""


def check(run: RunConfig) -> None:
    """Raise UserError if the parts of a run do not fit together. No model or data is loaded."""
    engine, training, method = run.engine, run.training, run.method_name()
    check_engine(engine)
    check_parts_given(run.model)
    if run.method.needs_matrices and engine.stage:
        raise UserError(
            f"method={method} needs whole matrices and engine={engine.name} flattens parameters; "
            "use engine=zero0 or torch"
        )
    if engine.name in run.method.unsupported_engines:
        raise UserError(f"method={method} cannot run on engine={engine.name}; see its card in docs/methods")
    if engine.stage is None and engine.ranks > 1:
        raise UserError(f"engine=torch runs in one process, but engine.ranks={engine.ranks}; use engine=zero0")
    if training.batch_size % engine.ranks:
        raise UserError(
            f"training.batch_size={training.batch_size} is not a multiple of engine.ranks={engine.ranks}; change one"
        )
    per_rank = training.batch_size // engine.ranks
    if training.micro_batch_size is not None and per_rank % training.micro_batch_size:
        raise UserError(
            f"training.micro_batch_size={training.micro_batch_size} does not divide the {per_rank} sequences of a rank"
        )
    check_probes(run)
    if training.norms and engine.stage == 3:
        raise UserError(
            f"training.norms=true reads whole weights after every step and engine={engine.name} shards them; "
            "use engine=zero2, zero1, zero0 or torch"
        )
    if run.optim.precision == "pure_bf16" and training.dtype != "bf16":
        raise UserError("optim.precision=pure_bf16 needs training.dtype=bf16")
    if not run.model.open_parts():
        check_against_model(run, run.model.anatomy())
    check_required(run)


def check_engine(engine: EngineConfig) -> None:
    """Raise UserError if the name is not an engine's, or stage and offload are not those of that name."""
    # Methods name the engines that they cannot run on, so a user's own file carries one of these names too.
    if engine.name not in ENGINES:
        raise UserError(f"engine.name={engine.name} is not known; use one of {', '.join(ENGINES)}")
    if (engine.stage, engine.offload) != ENGINES[engine.name]:
        stage, offload = ("null" if engine.stage is None else engine.stage), str(engine.offload).lower()
        raise UserError(
            f"engine.stage={stage} engine.offload={offload} is not how engine={engine.name} works; choose it by "
            f"its name alone: engine={'|'.join(ENGINES)}"
        )


def check_parts_given(model: ModelConfig) -> None:
    """Raise UserError if a part is null that `conf/model/<name>.yaml` gives, or no module could train."""
    if model.linear == []:
        raise UserError("model.linear=[] names no module that could train; name some, or null: read from config.json")
    file = settings("model", model.name)
    lacking = [] if file is None else [name for name in model.open_parts() if file.get(name, "") is not None]
    if lacking:
        raise UserError(
            f"model.{lacking[0]}=null, but model={model.name} has it in its file; leave it out, or take model=hf, "
            "which reads every part from config.json"
        )


def check_probes(run: RunConfig) -> None:
    """Raise UserError if the method's probe batches have fewer sequences than ranks, or no rows to draw from."""
    if (probes := run.method.probe_source()) is None:
        return
    source, size = probes
    if size < run.engine.ranks:
        raise UserError(
            f"a probe batch of {size} sequences is too small for {run.engine.ranks} ranks; raise method.*_batch_size"
        )
    if source == "validation" and not (run.dataset.num_validation or run.dataset.validation_split):
        raise UserError(
            f"method={run.method_name()} probes validation rows, but dataset={run.dataset.name} holds none out; "
            "set dataset.num_validation, or probe train rows"
        )


def check_required(run: RunConfig) -> None:
    """Raise UserError if the runs required before this one (rankings) are invalid or of the wrong number."""
    required = required_runs(run)
    if run.ranking_data and not required:
        raise UserError(
            f"ranking_data.{next(iter(run.ranking_data))} sets the data of ranking runs, but "
            f"method={run.method_name()} has none here (it needs no ranking, or a file is given); leave it out"
        )
    if len(required) > 1 and len({run_id(before) for before in required}) < len(required):
        raise UserError(f"ranking_data: two of {', '.join(run.ranking_data)} have the same data; leave one out")
    if required and (source := run.method.rankings()) is not None:
        source.check_number(len(required), own=required[0].dataset == run.dataset)
    for before in required:
        try:
            check(before)
        except UserError as error:
            name = f"{before.method_name()} run on dataset={before.dataset.name}"
            raise UserError(f"it requires a {name}: {error}") from error


def check_against_model(run: RunConfig, anatomy: Anatomy) -> None:
    """Raise UserError if the sequence length or the method does not fit the model's anatomy."""
    length, positions = run.training.max_length, anatomy.max_positions
    if positions is not None and length > positions:
        raise UserError(
            f"training.max_length={length} exceeds the {positions} positions of model={run.model.name}; lower it"
        )
    run.method.check(run.shape(anatomy))
