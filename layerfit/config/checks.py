"""Whether the parts of a run fit together. Nothing is loaded for it."""

from __future__ import annotations

from layerfit.anatomy import Anatomy
from layerfit.config.identity import required_runs, run_id
from layerfit.config.schema import RunConfig
from layerfit.errors import UserError


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


def check_probes(run: RunConfig) -> None:
    """Raise UserError if the method probes, and its batches do not reach all ranks or there are no rows for them."""
    if (probes := run.method.probe_source()) is None:
        return
    source, size = probes
    if size < run.engine.ranks:
        raise UserError(f"a probe batch of {size} sequences is too small for {run.engine.ranks} ranks")
    if source == "validation" and not (run.dataset.num_validation or run.dataset.validation_split):
        raise UserError(
            f"method={run.method_name()} probes validation rows and dataset={run.dataset.name} holds none out; "
            "set dataset.num_validation, or probe train rows"
        )


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
    if required and (source := run.method.rankings()) is not None:
        source.check_number(len(required), own=required[0].dataset == run.dataset)
    for before in required:
        try:
            check(before)
        except UserError as error:
            name = f"{before.method_name()} run on dataset={before.dataset.name}"
            raise UserError(f"it requires a {name}: {error}") from error


def check_against_model(run: RunConfig, anatomy: Anatomy) -> None:
    """Raise UserError if length or method do not fit the model, whose parts are known."""
    length, positions = run.training.max_length, anatomy.max_positions
    if positions is not None and length > positions:
        raise UserError(
            f"training.max_length={length} is beyond model={run.model.name}, which has {positions} positions"
        )
    run.method.check(run.shape(anatomy))
