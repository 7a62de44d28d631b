"""Published numbers: every one in `conf/table` is in its source, every one of the slides' tables is in `conf/table`."""

import re

import pytest
from omegaconf import OmegaConf

from layerfit.config import CONF
from tests.helpers.slides import PAPERS, is_number, numbers, plain, tables

SLIDES, LISA = PAPERS / "slides.txt", PAPERS / "lisa.md"
needs_slides = pytest.mark.skipif(not SLIDES.is_file(), reason=f"no slides at {SLIDES}")

NAMES = {
    **{"TINYLlama": "TinyLlama", "TINYLLAMA": "TinyLlama", "MISTRAL-7B": "Mistral-7B", "LLAMA-2-7B": "LLaMA-2-7B"},
    **{"VANILLA": "Vanilla", "LORA": "LoRA", "GALORE": "GaLore", "LISA": "LISA", "FT": "FT"},
    **{"LLAMA 2-7B": "LLaMA-2-7B", "Mistral-7B-v0.1": "Mistral-7B", "Mistral-7B": "Mistral-7B"},
    **{"LLaMA 7B": "LLaMA-7B", "LLaMA 13B": "LLaMA-13B", "GPT-J 6B": "GPT-J-6B", "BLOOMz 7B": "BLOOMz-7B"},
    **{"LLaMA 38B": "LLaMA-3-8B", "ChatGPT": "ChatGPT"},
}
HEADS = {
    **{"MMLU (5-SHOT)": "MMLU", "AGIEVAL (3-SHOT)": "AGIEval", "WINOGRANDE (5-SHOT)": "WinoGrande"},
    **{"MT-BENCH ↑": "MT-Bench", "MT-BENCH SCORE": "MT-Bench", "AVG. ↑": "Avg.", "STEM": "STEM"},
    **{"MMLU ↑": "MMLU", "Hellaswag ↑": "HellaSwag", "Vicuna ↑": "Vicuna", "MT-Bench ↑": "MT-Bench"},
}


def model_and_method(model, method):
    return f"{NAMES[model]} {NAMES[method]}"


def model_in_brackets(cell):
    model, method = re.fullmatch(r"(.+) \((.+)\)", cell).groups()
    return model_and_method(model, method.upper())


def ila_method(model, method):
    return f"{NAMES[model]} {method.replace('IFILA', 'ILA')}"


def ist_method(model, method):
    return NAMES[model] if method == "-" else f"{NAMES[model]} {method}"


def head(*cells):
    return HEADS.get(cells[-1], cells[-1])


def category(first, second):
    return HEADS[first] if first in HEADS else HEADS.get(second, second.capitalize())


IN_ORDER = [
    ("lisa_main", 2, model_and_method, head),
    ("lisa_main", 2, model_and_method, head),  # shown again, with the results
    ("lisa_hyperparameters", 3, lambda _, gamma, k: f"TinyLlama, reset gamma {gamma}, K = {k}", head),
    ("lisa_seeds", 1, lambda model: f"{NAMES[model]} LISA", lambda cell: cell.capitalize()),
    ("lisa_mt_bench", 1, model_in_brackets, category),
    ("ila_jaccard", 1, lambda data: data, lambda model, data: f"{NAMES[model]}: {data}"),
    ("ila_freeze", 2, ila_method, head),
    ("ila_critical", 2, lambda _, method: method, head),
    ("ila_ablation", 1, lambda method: method, head),
    ("ila_cross", 2, lambda ranked, _: ranked, head),
    ("ist_commonsense", 2, ist_method, head),
]
"""The slides' tables in order: the spec that transcribes it, its label columns, and how labels are called there."""


def read(name):
    return OmegaConf.to_container(OmegaConf.load(CONF / "table" / f"{name}.yaml"))


def transcribed(name):
    """The published numbers of a spec by row and column, as `tests.slides.numbers` returns them."""
    part = read(name)["published"]
    out = {}
    for row, cells in part["rows"].items():
        assert len(cells) == len(part["columns"]), (name, row)
        for column, cell in zip(part["columns"], cells, strict=True):
            assert cell is None or isinstance(cell, str), f"{name}: {row}: {cell!r}: quote it, to keep its zeros"
            if cell is not None:
                out[row, column] = cell
    return out


def transcribed_matrix(name):
    """The same of numbers that belong to no row, but to a matrix of rows by rows: {(row, group: row): number}."""
    [view] = [view for view in read(name)["views"] if view.get("published")]
    return {
        (row, f"{group}: {column}"): f"{value:.2f}"
        for group, rows in view["published"].items()
        for row, cells in rows.items()
        for column, value in cells.items()
    }


@pytest.fixture(scope="module")
def slides():
    return tables(SLIDES.read_text(encoding="utf-8"))


def test_a_table_is_read_with_repeated_labels_bold_and_gaps():
    text = "# » Head\n\nM\tK\tA ↑\tB\nx\t1\t<b>2.50</b>\t1 ± 0.10\n\t2\t-\t3.0\nN\tC\ny\t7\n"
    first, second = tables(text)
    assert first.heading == second.heading == "Head"
    assert numbers(first, 2, lambda m, k: f"{m}{k}", lambda c: c) == {
        ("x1", "A ↑"): "**2.50**",
        ("x1", "B"): "1 ± 0.10",
        ("x2", "B"): "3.0",
    }
    assert numbers(second, 1, str, str) == {("y", "C"): "7"}


@needs_slides
def test_every_table_of_the_slides_has_its_spec(slides):
    assert [table.heading for table in slides] == [read(name)["slide"] for name, *_ in IN_ORDER]


@needs_slides
@pytest.mark.parametrize("index", range(len(IN_ORDER)), ids=[name for name, *_ in IN_ORDER])
def test_numbers_are_those_of_the_slides_and_all_of_them(index, slides):
    name, labels, row, column = IN_ORDER[index]
    found = numbers(slides[index], labels, row, column)
    in_cells = sum(is_number(cell) for line in slides[index].body for cell in line[labels:])
    assert len(found) == in_cells
    assert (transcribed_matrix if name == "ila_jaccard" else transcribed)(name) == found


@needs_slides
def test_no_line_with_tabs_is_left_out(slides):
    lines = [line for line in SLIDES.read_text(encoding="utf-8").splitlines() if "\t" in line]
    assert sum(len(table.header) + len(table.body) for table in slides) == len(lines)


def test_a_spec_says_the_slides_only_where_its_numbers_are_there():
    """And every source is named: numbers from elsewhere have a test of their own."""
    from_slides = {name for name, *_ in IN_ORDER}
    others = set()
    for path in sorted((CONF / "table").glob("*.yaml")):
        spec = read(path.stem)
        if source := (spec.get("published") or {}).get("source"):
            if source.startswith("slides.txt, "):
                assert path.stem in from_slides
                assert source.startswith(f"slides.txt, {spec['slide']}")
            else:
                others.add(path.stem)
    assert others == {"lisa_memory"}


@pytest.mark.skipif(not LISA.is_file(), reason=f"no notes at {LISA}")
def test_peak_memory_is_that_of_the_papers_first_version():
    """The slides show it as a figure; the table behind it is in the notes on LISA, section 2.2."""
    text = LISA.read_text(encoding="utf-8").partition("### 2.2")[2].partition("### 2.3")[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    heads = ["FT", "LoRA 128", "LoRA 256", "LoRA 512", "LISA E+H", "LISA E+H+2L", "LISA E+H+4L"]
    assert lines[0] == ["model", "Vanilla", "LoRA 128", "256", "512", "E+H", "E+H+2L", "E+H+4L"]
    found = {
        (f"{model} {head}", "Peak"): plain(cell)
        for model, *cells in lines[2:]
        for head, cell in zip(heads, cells, strict=True)
    }
    models = ("TinyLlama", "Mistral-7B", "LLaMA-2-7B")
    assert transcribed("lisa_memory") == {
        key: text for key, text in found.items() if key[0].startswith(models) and "70B" not in key[0]
    }
