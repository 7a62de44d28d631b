"""Configuration: the schema of a run, how one is composed and checked, and the id that names it."""

from layerfit.config.checks import check, check_against_model
from layerfit.config.composition import (
    CONF,
    ROOT,
    compose,
    compose_launcher,
    composer,
    dump,
    expand,
    half_registered,
    load,
    one_line,
    register,
    split_launcher,
    typed,
)
from layerfit.config.identity import identity_of, required_runs, run_id

__all__ = [
    "CONF",
    "ROOT",
    "check",
    "check_against_model",
    "compose",
    "compose_launcher",
    "composer",
    "dump",
    "expand",
    "half_registered",
    "identity_of",
    "load",
    "one_line",
    "register",
    "required_runs",
    "run_id",
    "split_launcher",
    "typed",
]
