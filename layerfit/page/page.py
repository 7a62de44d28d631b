"""The page: front, tables, claims, runs, and the data of the pages of single runs."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from itertools import groupby
from typing import Any

from layerfit.page import data as run_json
from layerfit.page import markdown, tables
from layerfit.page.gather import DRAFT, NOT_RUN, RENDERED, STATES, Report, Table, model_of, named
from layerfit.page.tags import Markup, folded, join, listing, tag
from layerfit.records.record import Record
from layerfit.report import render
from layerfit.report.spec import PROFILE
from layerfit.report.table import TableData
from layerfit.report.values import MEAN

TITLE = "layerfit: results"
CLAIM = "claim/"
"""Prefix of the anchors of claims."""
MOST_NUMBERS = 10
"""Numbers of a table on the front, beyond its first column."""
SCRIPTS = ("charts.js", "run.js", "report.js")


def page(report: Report) -> str:
    """Return the whole file. The same records give the same bytes: no date, machine or commit of the checkout in it."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", TITLE),
        tag("style", Markup(asset("report.css"))),
    )
    main = tag(
        "main",
        _front(report),
        _claims(report),
        [tables.section(table) for table in report.tables],
        _runs(report),
        id="main",
    )
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#main", class_="skip"),
        _navigation(report),
        tag("div", _filters(report), main, tag("article", id="run", hidden=True), class_="content"),
        tag("script", Markup(run_json.script_json(embedded(report))), type="application/json", id="data"),
        [tag("script", Markup(asset(name))) for name in SCRIPTS],
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def asset(name: str) -> str:
    """Return a style sheet or script of the page."""
    return files("layerfit.page").joinpath("assets", name).read_text(encoding="utf-8")


def embedded(report: Report) -> dict[str, Any]:
    """Return the data for the scripts: every run, and for every table its rows with their runs, [seed, run id]."""
    used: dict[str, Any] = {}
    needs: dict[str, list[str]] = {}
    for table in report.tables:
        rows: dict[str, list[list[Any]]] = {}
        for cell in table.cells:
            if cell.run_id in report.records:
                rows.setdefault(cell.row, []).append([cell.seed, cell.run_id])
                if before := [one.run_id for one in cell.before]:
                    needs[cell.run_id] = before
        if rows:
            used[table.name] = {"title": table.data.title, "rows": list(rows.items())}
    return {**run_json.runs_data(report.records), "tables": used, "needs": needs, "folder": report.results}


def _navigation(report: Report) -> Markup:
    parts = [tag("a", "layerfit", href="#overview", class_="brand"), tag("a", "Overview", href="#overview")]
    if report.claims:
        parts.append(tag("a", "Claims", href="#claims"))
    shown = [table for table in report.tables if table.state != NOT_RUN]
    for family, members in families(shown):
        links = [
            tag("li", tag("a", short(t.name, family), href=f"#table/{t.name}", title=t.data.title)) for t in members
        ]
        parts += [tag("p", family.replace("_", " "), class_="family"), tag("ul", links)]
    parts.append(tag("a", f"Runs ({len(report.records)})", href="#runs"))
    return tag("nav", parts, aria_label="Contents")


def families(members: Iterable[Table]) -> list[tuple[str, list[Table]]]:
    """Return tables by the first word of their names, in the order of the names."""
    ordered = sorted(members, key=lambda table: table.name)
    return [(key, list(found)) for key, found in groupby(ordered, lambda t: t.name.partition("_")[0].partition(".")[0])]


def short(name: str, family: str) -> str:
    """Return a table's name inside its family: `main`, `memory (nano)`."""
    base = name.removesuffix(PROFILE)
    inside = base.removeprefix(family).lstrip("_").replace("_", " ") or family
    return inside + (" (nano)" if name != base else "")


def _front(report: Report) -> Markup:
    counts = {state: sum(table.state == state for table in report.tables) for state in STATES}
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    commits = sorted({str(r.measured.manifest.get("commit"))[:7] for r in report.records.values()})
    devices = sorted({str(r.measured.manifest.get("device")) for r in report.records.values()})
    made = f"{len(report.records)} runs on {', '.join(devices) or 'no device'}; code at {tables_listed(commits)}."
    elsewhere = "; ".join(f"{name} ({folder})" for name, folder in report.elsewhere)
    return tag(
        "section",
        tag("h1", "Layer-wise fine-tuning, compared"),
        tag(
            "p",
            "Tables of the layer-wise fine-tuning papers, reproduced: our numbers beside the published ones, every "
            "number with its runs, every comparison with its error. This file is made of committed records alone and "
            "needs nothing else; it may be copied and sent as it is.",
            class_="lead",
        ),
        tag("p", f"{len(report.tables)} tables: {states}. {made}", class_="meta"),
        _key_results(report),
        tag("h2", "Tables"),
        tag("div", _index(report.tables), class_="scroll"),
        tag("p", f"Not in this report, for their records are working files: {elsewhere}.", class_="note")
        if elsewhere
        else None,
        id="overview",
    )


def tables_listed(names: list[str], limit: int = 4) -> str:
    """Return the first few names, and the number of others."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "no commit"


def _key_results(report: Report) -> Markup | None:
    done = [(table, key_lines(table.data)) for table in report.tables if table.state == RENDERED]
    boxes = [
        tag("div", tag("h3", tag("a", t.data.title, href=f"#table/{t.name}")), listing(lines), class_="key")
        for t, lines in done
        if lines
    ]
    return join(tag("h2", "Best in each column"), tag("div", boxes, class_="keys")) if boxes else None


def key_lines(data: TableData) -> list[str]:
    """Return a line per column, means of columns first: the best of each group, the number of rows not shown worse."""
    means = [(shown.column.key or "").startswith(MEAN) for shown in data.columns]
    out: list[str] = []
    numbers = left_out = 0
    for index in sorted(range(len(data.columns)), key=lambda index: not means[index]):
        found = _best_of_groups(data, index)
        numbers += len(found)
        if found and out and numbers > MOST_NUMBERS:
            left_out += 1
        elif found:
            out.append(f"{data.columns[index].column.label}: {'; '.join(found)}")
    if left_out:
        out.append(f"and {left_out} more column{'s' if left_out > 1 else ''}")
    if out and any(gate.passed is not True for gate in data.gates):
        out.append("A gate did not pass: this table cannot rank methods")
    return out


def _best_of_groups(data: TableData, index: int) -> list[str]:
    """Return the best mean of each group in a column, in words."""
    out = []
    for group in dict.fromkeys(row.group for row in data.rows):
        rows = [row for row in data.rows if row.group == group]
        best = next((row for row in rows if row.entries[index].best), None)
        if best is not None:
            entry, unit = best.entries[index], data.columns[index].column.unit
            text = render.cell(entry, unit=unit, seeds=len(entry.values) + len(entry.holes)).text
            close = sum(row.entries[index].bold for row in rows if row is not best)
            count = sum(row.entries[index].mean is not None for row in rows)
            of = f"{count} rows" if count > 1 else "1 row"
            also = f", {close} not shown worse" if close else ""
            out.append(f"{best.label} {text} ({of}{also})")
    return out


def _index(members: Iterable[Table]) -> Markup:
    """Return the list of tables: each with its state, and that of its profile in the embedded world."""
    by_name = {table.name: table for table in members}
    head = tag("tr", [tag("th", text, scope="col") for text in ("Table", "", "State", "In the embedded world")])
    lines = []
    for name in sorted({name.removesuffix(PROFILE) for name in by_name}):
        whole, profile = by_name.get(name), by_name.get(name + PROFILE)
        first = whole or profile
        assert first is not None
        title = first.data.title if whole else name
        link = tag("a", title, href=f"#table/{first.name}")
        states = [_state(whole), _state(profile)]
        lines.append(tag("tr", tag("td", link), tag("td", tag("code", name)), [tag("td", state) for state in states]))
    return tag("table", tag("thead", head), tag("tbody", lines), class_="index")


def _state(table: Table | None) -> Markup:
    if table is None:
        return tag("span", render.NONE, class_="meta")
    progress = tag("span", f" {table.detail}", class_="meta") if table.state == DRAFT else None
    return join(tag("a", tables.badge(table.state), href=f"#table/{table.name}", title=table.detail or None), progress)


def _claims(report: Report) -> Markup | None:
    """Return the claims of `results/claims.md`: the text before its second heading, and the rest folded."""
    if not report.claims:
        return None
    writer = markdown.Writer(CLAIM, frozenset(table.name for table in report.tables))
    first, _, rest = report.claims.partition("\n## ")
    more = folded("Every claim with its test", writer.html(f"## {rest}")) if rest else None
    return tag("section", writer.html(first), more, id="claims")


def _filters(report: Report) -> Markup:
    """Return the filters by model and method; without scripts they stay hidden and every row is shown."""
    cells = [cell for table in report.tables for cell in table.cells]
    records = report.records.values()
    rows = [(table.spec, row) for table in report.tables for row in table.spec.rows if not table.cells]
    models = [model_of(record) for record in records] + [named(spec, row, "model") for spec, row in rows]
    models += [cell.run.model.name for cell in cells]
    methods = [named(spec, row, "method") for spec, row in rows] + [record.method for record in records]
    methods += [cell.run.method_name() for cell in cells]
    values = {"model": sorted({*filter(None, models)}), "method": sorted({*filter(None, methods)})}
    groups = [
        tag(
            "fieldset",
            tag("legend", name.capitalize()),
            [
                tag("button", text, type="button", data_filter=name, data_value=text, aria_pressed="false")
                for text in texts
            ],
        )
        for name, texts in values.items()
        if len(texts) > 1
    ]
    tail = [tag("button", "Show all", type="button", id="clear"), tag("output", id="shown")]
    return tag("form", groups, tag("p", tail), id="filters", hidden=True, aria_label="Filter every table")


def _runs(report: Report) -> Markup:
    """Return the list of all runs; without scripts a link to a run leads to its line here."""
    heads = ("Run", "Method", "Model", "Data", "Seed", "State", "Scores", "Train s")
    lines = [_run_line(name, record) for name, record in report.records.items()]
    body = tag("table", tag("thead", tag("tr", [tag("th", h, scope="col") for h in heads])), tag("tbody", lines))
    return tag("section", tag("h2", f"Runs ({len(lines)})"), tag("div", body, class_="scroll"), id="runs")


def _run_line(name: str, record: Record) -> Markup:
    config, seconds = record.result.config, record.measured.train_seconds
    scores = ", ".join(f"{s.task} {s.value:.3g}" for s in record.result.scores) or render.NONE
    texts = [
        record.method,
        model_of(record),
        config.get("dataset", {}).get("name"),
        config.get("seed"),
        record.result.status,
    ]
    texts += [scores, render.NONE if seconds is None else f"{seconds:,.0f}"]
    link = tag("th", tag("a", name, href=f"#run/{name}"), scope="row")
    cells = [tag("td", str(text)) for text in texts]
    return tag("tr", link, cells, id=f"run/{name}", data_model=str(model_of(record)), data_method=record.method)
