"""Bad requests, generated: every key of the schema and every group, times every kind of mistake that fits its type.

The data classes say which keys there are and of what type; what is wrong with a value they are not asked. What looks
wrong and is right is said here by hand (`RIGHT`), apart from the code that is tested.
"""

from __future__ import annotations

import random
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

from layerfit.config.launcher import LauncherConfig
from layerfit.config.schema import RunConfig
from layerfit.methods import METHODS
from layerfit.methods.base import Method

SEED = 11
BASE = ("model=nano", "dataset=nano", "eval=none", "engine=torch")
NEEDED = {
    "static": ("method.units=[layers.0]",),
    "judge": ("eval=mt_bench", "eval.judge.base_url=http://127.0.0.1/v1", "eval.judge.model=a"),
}
"""Words without which a method or part is refused for another reason than the planted one."""

GROUPS = ("model", "method", "dataset", "eval", "engine", "optim", "tracker", "experiment")
PATHS = ("outputs", "results", "path", "mirror", "data", "model_path", "ranking")
LONG = "x" * 5000

ANY = {
    "list of a list": "[[1]]",
    "a dictionary": "{a: {b: 1}}",
    "no such key to refer to": "${nope}",
    "no such variable": "${oc.env:NOPE_NOT_SET}",
    "no such resolver": "${foo:1}",
    "still missing": "???",
    "open bracket": "[1,",
    "open quote": "'a",
    "glob": "glob(*)",
    "interval": "interval(0,1)",
    "several without -m": "1,2",
    "a range without -m": "range(0,3)",
    "two equals signs": "a=b=c",
}
NUMBER = {
    "infinite": "inf",
    "minus infinite": "-inf",
    "not a number": "nan",
    "overflow": "1e999",
    "a word": "many",
    "empty": "",
    "blank": "'  '",
    "negative": "-1",
    "very negative": "-99999999999",
    "a list": "[1]",
    "no digit is too many": "9" * 400,
}
KINDS: dict[type, dict[str, str]] = {
    int: {**NUMBER, "beyond any machine": "1" + "0" * 30, "65 bits": str(2**64), "a fraction": "2.5"},
    float: {**NUMBER, "beyond 32 bits": "1e39"},
    bool: {"a word": "perhaps", "a number": "2", "a list": "[true]", "empty": "", "infinite": "inf"},
    str: {
        "empty": "''",
        "blank": "'   '",
        "long": LONG,
        "a tab": "'a\tb'",
        "a line break": "'a\nb'",
        "NUL": "'a\0b'",
        "no UTF-8": "a\udcffb",
        "half a pair": "a\ud83db",
        "a list": "[a]",
        "unknown": "no_such_choice",
    },
    list: {
        "a word": "many",
        "a number": "5",
        "holds null": "[null]",
        "holds nothing": "['']",
        "holds what nobody knows": "[no_such_name]",
        "holds a number": "[inf]",
        "a line break inside": "['a\nb']",
    },
    dict: {"a word": "many", "a number": "5", "a list": "[1]", "a line break inside": "{'a\nb': 1}"},
}
PATH = {
    "nobody's home": "'~nobodyhere/x'",
    "one long name": "a/" + "y" * 300,
    "a long path": "a/" * 3000,
    "inside a device": "/dev/null/x",
    "inside a file": "/etc/hostname/x",
}
GROUP = {
    "unknown": "no_such_choice",
    "null": "null",
    "a list": "[nano]",
    "a number": "5",
    "a dictionary": "{a: 1}",
    "empty": "",
    "a path": "../model/nano",
    "its schema's folder": "..",
    "long": LONG,
    "the case is wrong": "NANO",
    "a tab": "'a\tb'",
    **ANY,
}

FREE = (
    *("model.name", "model.id", "model.revision", "dataset.name", "dataset.id", "dataset.subset", "dataset.revision"),
    *("dataset.fingerprint", "eval.name", "tracker.project", "tracker.entity", "tracker.group", "label"),
    *("eval.judge.model", "eval.judge.revision", "paths.outputs", "paths.results"),
    *(f"hydra.launcher.{name}" for name in ("partition", "account", "qos", "constraint")),
)
"""Texts that nobody can say are wrong from the text alone."""


@dataclass(frozen=True)
class Bad:
    """One bad request. named: texts of which the message has to hold one."""

    kind: str
    words: tuple[str, ...]
    named: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.named[0]}: {self.kind}"


@dataclass(frozen=True)
class Key:
    """A key of the schema with the words that it needs beside it."""

    name: str
    kind: type
    optional: bool
    needs: tuple[str, ...]


def keys() -> Iterator[Key]:
    """Every key of a run, those of every method, and those of a judge."""
    yield from _keys(RunConfig, "", BASE, skip=("method", "ranking_data", "judge"))
    for name, cls in METHODS.items():
        yield from _keys(cls, "method.", (*BASE, f"method={name}", *NEEDED.get(name, ())))
    judge = typing.get_type_hints(typing.get_type_hints(RunConfig)["eval"])["judge"]
    yield from _keys(judge, "eval.judge.", (*BASE, *NEEDED["judge"]))
    yield from _keys(LauncherConfig, "hydra.launcher.", (*BASE, "hydra/launcher=slurm"))


def _keys(cls: type, above: str, needs: tuple[str, ...], skip: tuple[str, ...] = ()) -> Iterator[Key]:
    hints = typing.get_type_hints(cls)
    for f in fields(cls):
        hint, optional = hints[f.name], False
        if isinstance(hint, types.UnionType):
            optional = type(None) in typing.get_args(hint)
            hint = next(one for one in typing.get_args(hint) if one is not type(None))
        kind = typing.get_origin(hint) or hint
        if f.name in skip or (is_dataclass(kind) and issubclass(kind, Method)):
            continue
        if is_dataclass(kind):
            yield from _keys(kind, f"{above}{f.name}.", needs, skip)
        else:
            yield Key(above + f.name, kind, optional, needs)


def of_key(key: Key) -> Iterator[Bad]:
    """Every mistake that fits the type of a key."""
    last = key.name.rpartition(".")[2]
    values = {**KINDS[key.kind], **ANY}
    if last in PATHS and key.kind is str:
        values |= PATH
    if not key.optional:
        values["null"] = "null"
    for kind, value in values.items():
        if key.name in FREE and kind == "unknown":
            continue
        yield Bad(kind, (*key.needs, f"{key.name}={value}"), (key.name, last, value[:40]))
    yield Bad("refers to itself", (*key.needs, f"{key.name}=${{{key.name}}}"), (key.name,))
    yield Bad("taken out", (*key.needs, f"~{key.name}"), (key.name,))
    yield Bad("a key below", (*key.needs, f"+{key.name}.no_such=1"), (key.name, "no_such"))
    yield Bad("misspelt", (*key.needs, f"{key.name}x=1"), (f"{last}x",))
    yield Bad("misspelt, added", (*key.needs, f"+{key.name}x=1"), (f"{last}x",))
    yield Bad("misspelt, forced", (*key.needs, f"++{key.name}x=1"), (f"{last}x",))


def of_groups() -> Iterator[Bad]:
    """Every mistake with a group, and with what Hydra knows beside groups."""
    for group in GROUPS:
        for kind, value in GROUP.items():
            if (group, kind) != ("experiment", "null"):
                yield Bad(kind, (f"{group}={value}",), (group, value[:40]))
        for word in (
            f"~{group}",
            f"+{group}=no_such",
            f"{group}@nope=nano",
            f"+{group}@nope=nano",
            f"++{group}.nope=1",
        ):
            yield Bad("Hydra's signs", (word,), (group, "nope"))
        for word in (f"{group}=range(0,0)", f"{group}=glob(*)", f"{group}=interval(0,1)", f"{group}=shuffle(a,b)"):
            yield Bad("a sweep", ("-m", word), (group,))
    for node in ("training", "paths", "hub", "save", "eval.judge"):
        for word in (f"{node}=5", f"{node}=null", f"{node}=[]", f"~{node}", f"+{node}=nope", f"{node}={{nope: 1}}"):
            yield Bad("a part of a run", (word,), (node, "nope"))
    for key in ("sweep.dir", "run.dir", "job.name", "output_subdir", "verbose", "job_logging", "callbacks.x", "nope"):
        for sign in ("", "+", "++", "~"):
            yield Bad("Hydra's own keys", (f"{sign}hydra.{key}=a",), ("hydra",))
    for word in ("hydra/sweeper=basic", "hydra=x", "hydra/job_logging=none", "hydra.launcher.nodes=inf"):
        yield Bad("Hydra's own groups", (word,), ("hydra",))


def of_sweeps() -> Iterator[Bad]:
    """Sweeps of nothing, of too much, and of what has no end."""
    values = (
        *("range(0,0)", "range(3,0)", "range(0,3,0)", "range(0,3,-1)", "range(0,1000000000)", "range(0,1,1e-12)"),
        *("range(0,inf)", "range(nan,3)", "range(0.0,1e300)", "range(0,10001)", "range(0)", "range(a,b)"),
        *("glob(*)", "glob([a,b])", "interval(0,1)", "choice()", "choice(range(0,3))", "sort()", ",", "1,,"),
        *("shuffle(1,2)", "shuffle(range(0,3))", "tag(a)", "sort(range(0,99999999))"),
    )
    for key in ("seed", "optim.lr", "training.max_steps", "method.seed", "label"):
        for value in values:
            yield Bad("a sweep", ("-m", f"{key}={value}"), (key, value))
    many = ("seed=range(0,2000)", "method.seed=range(0,2000)", "dataset.seed=range(0,2000)")
    yield Bad("a product of sweeps", ("-m", *many), ("seed",))


def of_words() -> Iterator[Bad]:
    """Words that are no override."""
    for word in (
        "=5",
        "=",
        "",
        " ",
        "+",
        "~",
        "++",
        "+=1",
        "~=1",
        "@=1",
        "a b",
        "[",
        "{",
        "'",
        '"',
        "$",
        "${",
        "#",
        "\\",
    ):
        yield Bad("no override", ("model=nano", word), (word, repr(word), ascii(word), "key"))
    for word in ("--nope", "-x", "--cfg=nope", "-p", LONG, "é", "\ud83d", "a\0b", "--config-name=x"):
        yield Bad("no option", ("model=nano", word), (word[:40], ascii(word[:40]), "option", "argument"))


def everything() -> list[Bad]:
    """Every bad request, in an order that the seed decides; what is right after all is left out."""
    made = [bad for key in keys() for bad in of_key(key)] + [*of_groups(), *of_sweeps(), *of_words()]
    kept = [bad for bad in dict.fromkeys(made) if not is_right(bad)]
    random.Random(SEED).shuffle(kept)
    return kept


RIGHT: dict[str, tuple[str, ...]] = {
    "a key below": ("model.sizes", "hydra.launcher.extra"),
    "empty": ("label",),
    "holds what nobody knows": ("hydra.launcher.setup",),
    "holds a number": ("hydra.launcher.setup",),
    "list of a list": ("hydra.launcher.setup",),
    "negative": ("method.mask_init",),
}
"""Kind of mistake -> keys for which it is none."""


def is_right(bad: Bad) -> bool:
    """Whether a request looks wrong and is not."""
    return bad.named[0] in RIGHT.get(bad.kind, ())
