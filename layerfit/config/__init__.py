"""Configuration: the schema of a run, how it is composed and checked, and its id."""

from layerfit.config.checks import check, check_against_model
from layerfit.config.composition import (
    compose,
    compose_launcher,
    composed,
    composer,
    dump,
    load,
    register,
    typed,
)
from layerfit.config.folders import CONF, conf_folders, find, joined, place_for_tuned
from layerfit.config.given import Given, check_unchanged, from_file
from layerfit.config.identity import identity_of, required_runs, run_id
from layerfit.config.messages import user_errors
from layerfit.config.words import expand, parse, split_launcher
from layerfit.installation import ROOT

__all__ = [
    "CONF",
    "ROOT",
    "Given",
    "check",
    "check_against_model",
    "check_unchanged",
    "compose",
    "compose_launcher",
    "composed",
    "composer",
    "conf_folders",
    "dump",
    "expand",
    "find",
    "from_file",
    "identity_of",
    "joined",
    "load",
    "parse",
    "place_for_tuned",
    "register",
    "required_runs",
    "run_id",
    "split_launcher",
    "typed",
    "user_errors",
]
