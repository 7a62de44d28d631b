"""The report as one HTML file: complete, self-contained, escaped, the same bytes every time; and in a real browser."""

import json
import os
import re
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from layerfit.config import ROOT, composer
from layerfit.page.gather import gather
from layerfit.page.markdown import Writer
from layerfit.page.page import page
from layerfit.page.tables import signed
from layerfit.records.record import write
from layerfit.report import build, spec
from layerfit.report.__main__ import main
from tests.helpers.browser import Browser, find
from tests.helpers.report_fakes import KEYS, new_project, record

EVIL = "<script>alert('&')</script>"


class Page(HTMLParser):
    """Elements as (name, attributes), the text of table rows by section, and the text of scripts and styles."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.rows, self.raw, self.open = [], {}, [], []
        self.section, self.text, self.marks = "", "", {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "section":
            self.section = attributes.get("id", "")
        if tag == "tr":
            self.rows.setdefault(self.section, []).append([])
            self.marks.setdefault(self.section, []).append([])
        if tag == "sup":
            self.marks[self.section][-1].append("")
        if tag in ("td", "th"):
            self.rows[self.section][-1].append("")
        if tag not in ("meta", "img", "input", "br"):
            self.open.append((tag, attributes.get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, tag

    def handle_data(self, text):
        names, classes = zip(*self.open, strict=True) if self.open else ((), ())
        if names and names[-1] in ("script", "style"):
            self.raw.append((names[-1], text))
            return
        self.text += text + "\n"
        if "sup" in names:
            self.marks[self.section][-1][-1] += text
        if ("td" in names or "th" in names) and "card" not in classes and "sup" not in names:
            self.rows[self.section][-1][-1] += text

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def data(self):
        return json.loads(next(text for name, text in self.raw if name == "script"))


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The report of the committed records, made by the command."""
    path = tmp_path_factory.mktemp("html") / "report.html"
    command = [sys.executable, "-m", "layerfit.report", "html", "--output", str(path)]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
    return path


@pytest.fixture(scope="module")
def parsed(committed):
    return Page(committed.read_text())


@pytest.fixture
def project(tmp_path, monkeypatch):
    return new_project(tmp_path, monkeypatch)


def run_all(name="tiny", share=3, **changes):
    """A record for every cell of a table; `changes` go into its result."""
    with composer():
        for cell in build.load(name).cells:
            items = {KEYS[0]: [float(i % share == 0) for i in range(30)]}
            made = record(cell.run, items)
            write(replace(made, result=replace(made.result, **changes)), items, "results")


def plain(text):
    """A cell of Markdown without the marks of bold and without escapes."""
    return re.sub(r"\\(.)", r"\1", text.strip().replace("**", ""))


def the_page():
    with composer():
        return page(gather())


@pytest.mark.slow
def test_every_table_and_every_run_is_there_once(parsed):
    ids = parsed.ids()
    assert len(set(ids)) == len(ids)
    tables = [name for name in spec.known() if spec.load(name).results == "results"]
    assert {f"table/{name}" for name in tables} == {name for name in ids if name.startswith("table/")}
    runs = {path.stem for path in (ROOT / "results/runs").glob("*.json") if not path.stem.endswith(".items")}
    assert {f"run/{name}" for name in runs} == {name for name in ids if name.startswith("run/")}
    assert set(parsed.data()["runs"]) == runs
    targets = {a["href"][1:] for _, a in parsed.elements if a.get("href", "").startswith("#")}
    assert targets <= set(ids)


@pytest.mark.slow
def test_nothing_outside_the_file_is_asked_for(parsed):
    for name, attributes in parsed.elements:
        assert name not in ("link", "iframe", "object", "embed", "base"), name
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png;base64,")), (name, attributes)
        assert not any(key.startswith("on") for key in attributes)
    for name, text in parsed.raw:
        if name == "style":
            assert not re.search(r"url\(|@import", text)
        elif not text.startswith("{"):
            assert not re.search(r"fetch\(|XMLHttpRequest|import\(|innerHTML", text)


@pytest.mark.slow
def test_its_numbers_are_those_of_the_committed_tables(parsed):
    """Each line of results/tables/*.md, without escapes and marks of bold, stands in the page's table."""
    checked = 0
    for path in (ROOT / "results/tables").glob("*.md"):
        part = f"table/{path.stem}"
        shown = [(*row[:2], marks) for row, marks in zip(parsed.rows[part], parsed.marks[part], strict=True)]
        lines = [line for line in path.read_text().split("\n## ")[0].splitlines() if line.startswith("| ")]
        heads, *lines = [[plain(text) for text in line.strip()[2:-2].split(" | ")] for line in lines]
        for cells in lines:
            if any(cells[1:]):
                marks = cells[heads.index("Worse than best")].split() if "Worse than best" in heads else []
                stars = [mark for mark in marks if mark.startswith("*")]
                found = [(*words, [mark for mark in one if mark]) for *words, one in shown]
                assert (*cells[:2], stars) in found, cells
                checked += 1
    assert checked > 20


@pytest.mark.slow
def test_its_figures_are_the_committed_files(parsed):
    sources = [a["src"].partition(",")[2] for name, a in parsed.elements if name == "img"]
    names = re.findall(r"\S+\.png", parsed.text)
    assert len(sources) == len(names) == len(list((ROOT / "results/figures").glob("*.png")))
    for name, source in zip(names, sources, strict=True):
        assert b64decode(source) == (ROOT / "results/figures" / name).read_bytes()


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(committed, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert the_page().encode() == committed.read_bytes()  # this process has another hash seed than the command had


def test_text_is_text_wherever_it_comes_from(project):
    (project / "conf/table/tiny.yaml").write_text(
        f'title: "{EVIL} title"\nnote: "{EVIL} note"\nbase: [eval=nano, training.max_steps=20]\n'
        f'rows: {{"{EVIL} row": [method=lora], Vanilla: [method=vanilla]}}\nseeds: [0, 1]\n'
        f'columns: {{"{EVIL} column": {KEYS[0]}}}\nfootnotes: ["{EVIL} foot"]\n'
        f'published: {{source: "{EVIL} source", columns: ["{EVIL} column"], rows: {{Vanilla: ["1.0"]}}}}\n'
    )
    run_all(status="failed", message=f"{EVIL} message", findings={f"{EVIL} key": EVIL, "line": "\u2028"})
    Path("results/claims.md").write_text(f'# Claims {EVIL}\n\n[{EVIL}](#a)\n\n## More\n\n<a id="a"></a>\n### {EVIL}\n')
    found = Page(the_page())
    assert [name for name, _ in found.elements].count("script") == 4  # the data and three files of ours
    assert not any("alert" in text and not text.startswith("{") for _, text in found.raw)
    for place in ("title", "note", "row", "column", "foot"):
        assert f"{EVIL} {place}" in found.text, place
    (one,) = {run["message"] for run in found.data()["runs"].values()}
    assert one == f"{EVIL} message"
    assert ("span", {"id": "claim/a"}) in [("span", {"id": a.get("id")}) for _, a in found.elements]


def test_a_table_says_how_far_it_is(project):
    def state():
        with composer():
            (table,) = gather().tables
        return table.state, table.detail

    assert state() == ("not run", "0 of 3 runs")
    with composer():
        first = build.load("tiny").cells[0]
    items = {KEYS[0]: [1.0, 0.0]}
    write(record(first.run, items), items, "results")
    assert state() == ("draft", "1 of 3 runs")
    run_all()
    assert state() == ("rendered", "not rendered yet: make table T=tiny")
    assert main(["render", "tiny", "--no-figures"]) == 0
    assert state() == ("rendered", "")
    run_all(share=5)
    assert state() == ("rendered", "results/tables/tiny.md is older than its records: make figures")


def test_ours_stands_beside_published_with_the_difference_and_groups(project):
    text = (
        "title: Small\nbase: [eval=nano, training.max_steps=20]\nrows:\n"
        "  A: {base: [model=nano], rows: {LoRA: [method=lora], Other: null}}\nseeds: [0, 1]\n"
        f"columns: {{Facts: {KEYS[0]}, Judged: {{hole: no judge here}}}}\n"
        'published: {source: a paper, columns: [Facts], rows: {A LoRA: ["**30.0 ± 0.5**"], A Other: ["55.5"]}}\n'
        "nano: {base: [model=nano]}\n"
    )
    (project / "conf/table/tiny.yaml").write_text(text)
    (project / "conf/table/large.yaml").write_text(text.replace("model=nano", "model=tinyllama"))
    run_all()
    found = Page(the_page())
    rows = found.rows["table/tiny"]
    assert rows[0][:3] == ["", "Facts", "Judged"]
    assert rows[1] == ["ours", "published", "difference"]
    assert rows[2] == ["A"]
    assert rows[3][:5] == ["LoRA", "33.3 ± 0.0", "30.0 ± 0.5", "+3.3", "-"]
    assert rows[4][:5] == ["Other", "-", "55.5", "-", "-"]
    assert "no judge here" in [attributes.get("title") for _, attributes in found.elements]
    # A table of other models is not composed, and has its published numbers all the same.
    assert "no run of its models is recorded" in found.text
    assert found.rows["table/large"][3][:5] == ["LoRA", "-", "30.0 ± 0.5", "-", "-"]
    # In the embedded world both numbers stand, and no difference: they are of other models and tasks.
    assert found.rows["table/tiny.nano"][1] == ["ours", "published"]
    assert found.rows["table/tiny.nano"][3][:4] == ["LoRA", "33.3 ± 0.0", "30.0 ± 0.5", "-"]


@pytest.mark.parametrize(("value", "text"), [(3.34, "+3.3"), (-3.34, "\N{MINUS SIGN}3.3"), (-0.04, "0.0")])
def test_a_difference_has_its_sign(value, text):
    assert signed(value, 1) == text


def test_claims_are_read_as_markdown():
    made = Writer("x/", frozenset({"t_a.nano"})).html(
        "# Head\n\nsee t\\_a.nano, **b \\* c** `<d>` [e](#f)\n\n| h |\n|:--|\n| 1 |"
    )
    assert made.replace("\n", "") == (
        '<h2>Head</h2><p>see <a href="#table/t_a.nano">t_a.nano</a>, <strong>b * c</strong> <code>&lt;d&gt;</code> '
        '<a href="#x/f">e</a></p><div class="scroll"><table><thead><tr><th scope="col">h</th></tr></thead>'
        "<tbody><tr><td>1</td></tr></tbody></table></div>"
    )


def test_an_anchor_is_the_id_of_the_heading_after_it_and_links_stay_on_the_page():
    writer = Writer("x/", frozenset({"t", "u.nano"}))
    assert writer.html('<a id="f"></a>\n### See t') == '<h4 id="x/f">See <a href="#table/t">t</a></h4>\n'
    assert writer.html("[u.nano](tables/u.nano.md)") == '<p><a href="#table/u.nano">u.nano</a></p>\n'
    assert writer.html("[t](#t)") == '<p><a href="#x/t">t</a></p>\n'  # no link inside a link
    assert writer.html("![t](#t)") == '<p>!<a href="#x/t">t</a></p>\n'  # no image


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<b onclick=alert(1)>x</b>",
        "[x](javascript:alert(1))",
        "[x](https://example.com)",
        "<https://example.com>",
        "![x](https://example.com/x.png)",
        '[x](#x"onclick="alert)',
        "[x](tables/other.md)",
        "[x]\n\n[x]: javascript:alert(1)",
        "| h |\n|:--|\n| <img src=x> |",
    ],
)
def test_markdown_makes_no_element_of_its_own_wish_and_no_link_that_leaves_the_page(text):
    made = Writer("x/", frozenset({"t"})).html(text)
    assert set(re.findall(r"<(\w+)([^>]*)>", made)) <= {
        *((name, "") for name in ("p", "table", "thead", "tbody", "tr", "td")),
        ("div", ' class="scroll"'),
        ("th", ' scope="col"'),
    }


@pytest.mark.slow
@pytest.mark.skipif(find() is None, reason="no Chromium on the PATH and none in LAYERFIT_BROWSER")
def test_in_a_real_browser(committed, parsed, tmp_path):
    runs = parsed.data()["runs"]
    longest = max(runs, key=lambda name: (len(runs[name]["loss"]["points"]), runs[name]["plan"]["changes"]))
    with Browser(find(), tmp_path / "profile") as browser:
        browser.look(width=1280, height=900)
        browser.open(committed.as_uri())
        sizes = browser.run("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
        assert sizes
        assert min(sizes) > 0
        visible = "[...document.querySelectorAll('tr[data-method]')].filter(r => !r.hidden && r.offsetHeight)"
        before = browser.run(f"{visible}.map(r => r.dataset.method)")
        browser.run("document.querySelector('[data-filter=method][data-value=lora]').click()")
        # What is published only has no method and stays.
        assert (
            browser.run(f"{visible}.map(r => r.dataset.method)") == [m for m in before if m in ("lora", "")] != before
        )
        assert "rows" in browser.run("document.getElementById('shown').textContent")
        browser.run("document.getElementById('clear').click()")
        assert browser.run(f"{visible}.map(r => r.dataset.method)") == before
        browser.run("document.querySelector('td > button').click()")
        assert browser.run("document.querySelectorAll('.card:popover-open').length") == 1
        browser.go(f"run/{longest}")
        assert browser.run(
            "document.getElementById('main').hidden && document.querySelectorAll('.card:popover-open').length === 0"
        )
        assert browser.run("document.querySelector('#run svg.loss path.curve').getTotalLength()") > 100
        assert browser.run("document.querySelectorAll('#run svg.raster path.plan').length") > 0
        for name in runs:
            browser.run(f"showRun(runPage, data, {json.dumps(name)})")
            assert not re.search(r"undefined|NaN|\[object|null", browser.run("runPage.innerText")), name
        browser.look(width=390, height=800, dark=True)
        browser.go("overview")
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        assert browser.problems == []
