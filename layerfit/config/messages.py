"""Every mistake that Hydra, OmegaConf or their parsers find in a request, as one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType

from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ConfigTypeError, OmegaConfBaseException
from yaml import YAMLError

from layerfit.config.folders import CONF
from layerfit.errors import UserError, did_you_mean
from layerfit.methods import METHODS

_OURS, _THEIRS = "layerfit", ("hydra", "omegaconf", "antlr4", "yaml")


@contextmanager
def user_errors(overrides: Iterable[str]) -> Iterator[None]:
    """Turn what the libraries raise about a request into a UserError; an error of layerfit's own code passes as it is.

    overrides: the words of the request, for the message.
    """
    from hydra.errors import HydraException

    try:
        yield
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        # OmegaConf gives a TypeError inside a data class of ours this type: a bug, and no mistake of the user's.
        if isinstance(error, ConfigTypeError) and _raised_by(error.__traceback__) == _OURS:
            raise
        raise UserError(half_registered(overrides) or describe_hydra_error(error)) from error
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise _theirs(overrides, error) from error


def _theirs(overrides: Iterable[str], error: Exception) -> Exception:
    """Return a UserError for a built-in exception that the libraries' code raised, else the exception itself."""
    if isinstance(error, RecursionError):
        return UserError(f"{' '.join(overrides)}: a value refers to itself, or is nested too deep; write it out")
    if _raised_by(error.__traceback__) in _THEIRS:
        return UserError(
            f"{' '.join(overrides)} cannot be composed: {describe_hydra_error(error) or type(error).__name__}"
        )
    return error


def _raised_by(trace: TracebackType | None) -> str:
    """Return whose code raised an exception: the innermost of ours and the libraries', past the standard library."""
    found = ""
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        found = package if package in (_OURS, *_THEIRS) else found
        trace = trace.tb_next
    return found


def half_registered(overrides: Iterable[str]) -> str | None:
    """Return a message if the method has only its file or only its entry in METHODS; None if it has both or neither."""
    name = next((word.partition("=")[2] for word in overrides if word.startswith("method=")), "")
    schema, registry = f"{name}_schema", "layerfit/methods/__init__.py"
    files = {path.stem: path for path in (CONF / "method").glob("*.yaml")}
    if name in METHODS and name not in files:
        shown = f"conf/method/{name}.yaml"
        return f"method={name} is registered but {shown} is missing; begin it with `defaults: [{schema}, _self_]`"
    if name not in METHODS and name in files and schema in files[name].read_text():
        return f"conf/method/{name}.yaml uses {schema} but no method has that name; add it to METHODS in {registry}"
    return None


def describe_hydra_error(error: Exception) -> str:
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
    return unknown_key(str(full), [str(one) for one in parent])


def unknown_key(full: str, keys: Iterable[str]) -> str:
    """Return one line about a key that does not exist. keys: those beside it."""
    above, _, key = full.rpartition(".")
    known = [one for one in keys if not one.startswith("_")]
    near = did_you_mean(key, known, f"{above}." if above else "")
    return f"unknown key {full}{near}; {above or 'a run'} has: {', '.join(known)}"
