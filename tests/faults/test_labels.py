"""Labels, names and messages that act where they are shown: from a record to text, LaTeX, HTML, a screen."""

import csv
import dataclasses
import io
import json
import re
from types import SimpleNamespace

import pytest
from markdown_it import MarkdownIt

from layerfit import cli
from layerfit.config import composer
from layerfit.files.shown import whole_characters
from layerfit.launch.display import Display, name_of
from layerfit.page import tags
from layerfit.page.gather import gather
from layerfit.page.markdown import Writer
from layerfit.page.page import page
from layerfit.records.record import write
from layerfit.report import build, figure, render
from layerfit.report.escape import escape_latex, escaped, escaped_line, first_cell, in_csv, on_terminal
from layerfit.report.runs import main as runs
from tests.helpers.report_fakes import KEYS, new_project, record
from tests.page.test_page import Page

HOSTILE = {
    "script": "</script><script>alert('&')</script>\" onclick=\"alert(1)' autofocus",
    "link": "[x](javascript:alert(1)) <javascript:alert(1)> ![x](data:text/html,1)<img src=x onerror=alert(1)>",
    "definition": "[y]: javascript:alert(1) [y] [x][y]",
    "escape sequences": "\x1b[31mred\x1b[2J\x1b]0;title\x07\x9b1m\x08\0 \u202egnp.exe\u2066 \ud800",
    "lines": "# a|b\nc\r\n\n| d |\u2028e",
    "latex": "[6pt] \\input{/etc/passwd} % $\\frac{1$ {",
    "star": "*[6pt] b ~~a~~ **b** __c__ `d`",
    "rich": "[red]x[/] [/bold] [link=file:///etc]y \\",
    "formula": '=HYPERLINK("http://x")',
}
LABELS = list(HOSTILE.values())
ACTS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\ud800-\udfff]")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A table whose rows, groups and records are called so."""
    with pytest.MonkeyPatch.context() as patch:
        folder = new_project(tmp_path_factory.mktemp("labels"), patch)
        rows = {label: [f"method=lora method.rank={n}"] for n, label in enumerate(LABELS, 1)}
        rows = {label: words[0].split() for label, words in rows.items()}
        spec = {"title": LABELS[0], "base": ["eval=nano", "training.max_steps=20"], "rows": rows, "seeds": [0]}
        spec |= {"columns": {LABELS[1]: KEYS[0]}, "footnotes": LABELS}
        (folder / "conf" / "table" / "tiny.yaml").write_text(json.dumps(spec))
        with composer():
            loaded = build.load("tiny")
            for cell in loaded.cells:
                items = {key: [1.0, 0.0, 1.0, 1.0] for key in KEYS}
                made = record(cell.run, items, label=cell.row, method=cell.row)
                result = dataclasses.replace(made.result, message=cell.row)
                write(dataclasses.replace(made, result=result), items, "results")
            data = build.assemble(build.load("tiny"), draft=True)
            yield data, page(gather())


@pytest.fixture
def data(project):
    return project[0]


def test_the_rows_are_called_so(data):
    assert [row.label for row in data.rows] == LABELS
    assert all(row.entries[0].mean == 0.75 for row in data.rows)


def test_markdown_shows_them(data):
    text = render.markdown(data)
    assert ACTS.search(text) is None
    html = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    assert set(re.findall(r"<(\w+)", html)) <= {
        "h1", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "strong",
    }  # fmt: skip
    assert html.count("<tr>") == 1 + len(LABELS)
    assert html.count("<td") == len(LABELS) * (html.count("<th>") + html.count("<th "))  # with thead beside them
    for shown in ("[x](javascript:alert(1))", "~~a~~ **b** __c__ `d`", "# a|b c | d | e"):
        assert shown in html.replace("&lt;", "<")


def test_latex_shows_them(data):
    text = render.latex(data)
    assert ACTS.search(text) is None
    assert "\n\n" not in text
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == len(LABELS)
    cells = text.split("\\toprule\n")[1].splitlines()[0].replace("\\&", "").count("&")
    for line in body:
        assert line.replace("\\&", "").count("&") == cells
        assert not re.match(r"\s*[\[*]", line)
        plain = re.sub(r"\\[&%$#_{}]", "", line)
        assert plain.count("{") == plain.count("}")
        assert "%" not in plain
        assert "\\input" not in plain
    assert "{}[6pt] \\textbackslash" in text


def test_a_terminal_shows_them(data):
    out = io.StringIO()
    render.console(data, file=out, width=200)
    text = out.getvalue()
    assert ACTS.search(text) is None
    for shown in (
        "\\x1b[31mred\\x1b[2J",
        "[red]x[/] [/bold] [link=file:///etc]y \\",
        "\\u202e",
        "a|b c | d | e",
    ):
        assert shown in text


@pytest.mark.slow
def test_a_figure_shows_them(data):
    pytest.importorskip("matplotlib")
    assert figure.draw(data)


def test_the_page_shows_them(project):
    text = project[1]
    text.encode()
    seen = Page(text)
    assert [name for name, _ in seen.elements if name == "script"] == ["script"] * 4
    for name, attributes in seen.elements:
        assert not any(key.startswith("on") or key == "autofocus" for key in attributes), name
        for key in ("href", "src"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png;base64,"))
    assert ACTS.search(seen.text) is None
    assert ACTS.search(json.dumps(seen.data(), ensure_ascii=False)) is None
    for shown in ("</script><script>alert('&')</script>", "[x](javascript:alert(1))", "\\x1b[31mred", "\\u202e"):
        assert shown in seen.text
        assert any(run["label"].startswith(shown) or shown in run["label"] for run in seen.data()["runs"].values())


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", " javascript:x", "data:text/html,x", "vbscript:x", "//host", "http://h"]
)
def test_an_address_off_the_page_is_left_out(url):
    assert tags.tag("a", "text", href=url) == "<a>text</a>"
    assert tags.tag("img", src=url) == "<img>"
    assert tags.tag("a", "text", href="#run/1") == '<a href="#run/1">text</a>'
    assert "href" not in Writer("c/").html(f"[x]({url}) <{url}>\n\n[y]: {url}\n\n[y]")


def test_runs_are_listed_and_written_as_csv(project, capsys, tmp_path):
    """One line each, whatever they are called."""
    assert runs([]) == 0
    text = capsys.readouterr().out
    assert ACTS.search(text) is None
    assert len(text.splitlines()) == 2 + len(LABELS)
    assert runs(["--csv", str(tmp_path / "a.csv")]) == 0
    lines = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert len(lines) == len(LABELS) * len(KEYS)
    assert {line["row"] for line in lines} == {in_csv(whole_characters(label)) for label in LABELS}
    assert not any(value.startswith("=") for line in lines for value in line.values())


@pytest.mark.parametrize("label", LABELS)
def test_progress_shows_them(label, capsys):
    """A markup error would end a sweep."""
    run = SimpleNamespace(label=label, seed=0, method_name=lambda: "full")
    assert ACTS.search(name_of(run)) is None
    with Display("sweep", 1, 0) as display:
        display.finished("abc", run, "ok")
    error = capsys.readouterr().err
    assert ACTS.search(error) is None
    assert error.count("\n") == 2


def test_progress_on_a_terminal_takes_no_markup(monkeypatch, tmp_path):
    from rich.console import Console

    monkeypatch.setattr(Console, "is_terminal", property(lambda _: True))
    for label in LABELS:
        run = SimpleNamespace(label=label, seed=0, method_name=lambda: "full")
        with Display("sweep", 1, 0) as display:
            display.started("abc", run, tmp_path)
            display.refresh()
            display.progress.refresh()
            display.finished("abc", run, "ok")


@pytest.mark.parametrize("label", LABELS)
def test_a_mistake_that_quotes_them_is_one_line(label, capsys):
    assert cli.main([f"mode{label}l"]) == 2
    error = capsys.readouterr().err
    assert ACTS.search(error) is None
    assert error.count("\n") == 1


def test_other_text_is_as_it_was():
    """Committed tables rest on it."""
    for text in ("63.1 ± 0.9 (2/3)", "LoRA, r = 8", "Worse than best", "***", "-", "7B [1]", "é 漢"):
        assert on_terminal(text) == text
        assert in_csv(text) == text
        assert escaped(text).replace("\\", "") == text
    assert [escaped_line(t) for t in ("# a", "1. a", "- a", "-", "---", "-5 of 7", "1.5")] == [
        "\\# a", "1\\. a", "\\- a", "\\-", "\\---", "-5 of 7", "1.5",
    ]  # fmt: skip
    assert (first_cell("[a"), first_cell("*a"), first_cell("a*")) == ("{}[a", "{}*a", "a*")
    assert escape_latex("a\nb") == "a b"
