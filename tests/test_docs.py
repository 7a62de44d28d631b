"""What the documentation says of the code is so: cards, keys, defaults, allowed values, engines, tests, links."""

import re
import shlex
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest
import yaml

from layerfit import config
from layerfit.config import expand
from layerfit.errors import UserError
from layerfit.methods import METHODS
from tests.helpers.registered import index_rows
from tests.helpers.tiny import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "docs" / "methods" / "README.md"
CARDS = sorted(path for path in INDEX.parent.glob("*.md") if path != INDEX)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BESIDE = {"train_fraction": {"freeze_fraction": None}}
"""What must be set as well for a value of a key to be looked at."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tables(text: str) -> list[list[list[str]]]:
    """Every table: its rows, header first, each a list of cells."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[[c.strip() for c in row.strip("|").split("|")] for row in b.splitlines()] for b in blocks]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def documented(pages: list[Path]) -> dict[str, dict[str, tuple[str, str]]]:
    """Method -> key -> its default and its allowed values, by the tables under a `method=` header (`*`: every one)."""
    out: dict[str, dict[str, tuple[str, str]]] = {name: {} for name in METHODS}
    for page in pages:
        for header, _, *rows in tables(page.read_text()):
            if not header[0].startswith("method="):
                continue
            names = header[0].removeprefix("method=").split(", ")
            for method in METHODS if names == ["*"] else names:
                new = {code(row[0])[0]: (code(row[1])[0], row[2]) for row in rows}
                assert not new.keys() & out[method].keys()
                out[method] |= new
    return out


KEYS = documented([INDEX, *CARDS])


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)  # a block is another file
    return [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```.*?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return [line for line in lines if line.startswith("python -m layerfit ")]


def refusal(method: str, key: str, value: object) -> str:
    try:
        METHODS[method](**{key: value, **BESIDE.get(key, {})})
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_indexed_with_its_switching_rule(method):
    """That it is indexed and has a card: tests/methods/test_registered.py."""
    assert index_rows().get(method, {}).get("switching") == METHODS[method].switching


@pytest.mark.parametrize("card", CARDS, ids=name_of)
def test_a_card_has_its_parts_and_is_short(card):
    text = card.read_text()
    assert re.findall(r"^## (\d)\.", text, re.MULTILINE) == list("1234567")
    assert text.count("<!-- verdict -->") == 1
    assert len(text.splitlines()) <= 100


@pytest.mark.parametrize("method", METHODS)
def test_every_key_is_documented_with_its_default(method):
    own = {f.name: f for f in fields(METHODS[method]) if f.init}
    assert set(KEYS[method]) == set(own)
    stored = yaml.safe_load((config.CONF / "method" / f"{method}.yaml").read_text())
    for key, (default, _) in KEYS[method].items():
        field = own[key]
        in_code = field.default if field.default_factory is MISSING else field.default_factory()
        assert yaml.safe_load(default) == stored.get(key, in_code) == in_code, key


@pytest.mark.parametrize("method", METHODS)
def test_allowed_values_are_those_of_the_refusals(method):
    """NaN is outside every range and `?` is no choice: what the refusal allows must stand in the table."""
    kinds = {f.name: str(f.type) for f in fields(METHODS[method])}
    for key, (_, allowed) in KEYS[method].items():
        value = "?" if "str" in kinds[key] else float("nan")
        said = refusal(method, key, [value] if "list" in kinds[key] else value)
        if " is outside " in said:
            assert f"`{said.split(' is outside ')[1]}`" in allowed, key
        elif "use one of: " in said:
            assert sorted(code(allowed)) == sorted(said.split("use one of: ")[1].split(", ")), key


def test_engines_are_those_that_accept_the_method():
    header, _, *rows = tables(INDEX.read_text())[0]
    with config.composer():
        engines = [path.stem for path in (config.CONF / "engine").glob("*.yaml")]
        on = {engine: config.compose([f"engine={engine}"]).engine for engine in engines}
        for cells in rows:
            row = dict(zip(header, cells, strict=True))
            name = code(row["method"])[0]
            run = config.compose([f"method={name}", "engine=torch", *SETTINGS.get(name, [])])
            for engine, settings in on.items():
                try:
                    config.check(replace(run, engine=settings))
                    accepted = True
                except UserError:
                    accepted = False
                assert accepted == (row["engines"] == "all" or engine in code(row["engines"])), (row["method"], engine)


def held_bytes(engine_name: str, dtype: str, precision: str) -> float:
    """Bytes per parameter that full fine-tuning holds beside weights and gradients, read off the live engine."""
    from tests.helpers.tiny import composed, context_for, engine_for

    words = (f"engine={engine_name}", f"training.dtype={dtype}", f"optim.precision={precision}")
    run = composed("method=full", *words)
    engine = engine_for(run)
    engine.use(run.method.plan(0, context_for(run, engine, 1)))
    tensors = [t for state in engine.optimizer_object().state.values() for t in state.values()]
    if engine_name in ("zero1", "zero2"):
        tensors += engine.deepspeed.optimizer.single_partition_of_fp32_groups
    elif engine_name == "zero3":
        tensors += engine.deepspeed.optimizer.fp32_partitioned_groups_flat
    number = sum(getattr(p, "ds_numel", p.numel()) for p in engine.parameters.values())
    held = sum(t.numel() * t.element_size() for t in tensors) / number
    engine.close()
    return held


@pytest.mark.slow
def test_bytes_of_optimizer_state():
    header, _, *rows = next(t for t in tables(INDEX.read_text()) if "`optim.precision`" in t[0][0])
    for setting, *numbers, _ in rows:
        for engines, number in zip(header[1:3], numbers, strict=True):
            for engine in code(engines):
                assert held_bytes(engine, *code(setting)) == pytest.approx(float(number), abs=0.05), (engine, setting)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_that_are_named_exist_where_they_are_said_to_be(page):
    """In a list or paragraph, a test is in one of the files named before it."""
    assert [
        name for name in re.findall(r"\btests/[\w/]+(?:\.\w+)?", page.read_text()) if not (ROOT / name).exists()
    ] == []
    for part in re.split(r"\n(?=- )|\n\n", page.read_text()):
        files: list[str] = []
        for file, test in re.findall(r"`(tests/[\w/]+\.py)`|`(test_\w+)`", part):
            files += [(ROOT / file).read_text()] if file else []
            assert not test or any(f"def {test}(" in text for text in files[-1:]), test


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    assert [link for link in links(page) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_compose(page):
    with config.composer():
        for line in commands(page):
            words = shlex.split(line, comments=True)[3:]
            launcher, of_runs = config.split_launcher([w for w in words if w != "-m"])
            config.compose_launcher(launcher)
            for overrides in expand(of_runs, multirun="-m" in words):
                config.compose(overrides)


PROMISED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "guarantees.md").read_text())


def test_every_promise_has_a_test():
    promises = [
        row for t in tables((ROOT / "docs" / "guarantees.md").read_text()) if t[0][0] == "promise" for row in t[2:]
    ]
    assert len(promises) >= 7
    assert [row[0] for row in promises if not re.search(r"`tests/[\w/]+\.py::\w+`", row[1])] == []


@pytest.mark.parametrize(("file", "function"), PROMISED, ids=[function for _, function in PROMISED])
def test_the_test_of_a_promise_exists(file, function):
    assert re.search(rf"^def {function}\(", (ROOT / file).read_text(), re.MULTILINE)
