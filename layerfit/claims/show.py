"""Claims as text: `results/claims.md` and the console. The same verdicts give the same bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import groupby
from textwrap import fill

from layerfit.claims.answer import NANO, REAL, Answer
from layerfit.claims.judge import NO_NUMBERS, NOT_RUN, UNTESTABLE, Verdict
from layerfit.claims.read import Claim, Test
from layerfit.report.escape import escaped

TITLE = "What the slides say, and what the numbers say"
EMBEDDED = (
    "The embedded world is a model of about a million parameters in an invented world. It shows how each sentence is "
    "tested; it does not decide a sentence about 7B models."
)
HEAD = (
    "Every sentence of the slides that says something of the world, word for word, with the table that tests it. "
    "Published: what the published numbers say of it, by sign alone; where they carry a ±, it is not over seeds "
    "(lisa_seeds), so it is no interval. Ours: supported or contradicted once a test says so at 5%, paired over items "
    "and seeds, adjusted (Holm) for the cases of the sentence; else undecided, with the difference that would have "
    "been found. Intervals are 95%, of one case each. `all`: every case must hold, one shown against it contradicts; "
    "`most`: more than half; `any`: one. Published reversals of an `all` have no test, so they make it mixed."
)
NAMES = {REAL: "Ours, the slides' models", NANO: "Ours, embedded world (does not decide)"}
_SHORT = {REAL: "real", NANO: "embedded"}


def markdown(answers: list[Answer], rendered: Collection[str]) -> str:
    """Return the page. rendered: tables with a file to link to."""
    profiles = list(answers[0].ours) if answers else []
    out = [f"# {TITLE}", "", *_paragraphs(profiles), *_summary(answers, profiles), ""]
    for slide, some in groupby(answers, key=lambda one: one.claim.slide):
        out += [f"## {escaped(slide)}", ""]
        for answer in some:
            out += _section(answer, rendered)
    return "\n".join(out).rstrip() + "\n"


def _paragraphs(profiles: list[str]) -> list[str]:
    out = [HEAD, ""]
    return [*out, f"**{EMBEDDED}**", ""] if NANO in profiles else out


def _summary(answers: list[Answer], profiles: list[str]) -> list[str]:
    heads = ["Sentence", "Published", *(NAMES[profile] for profile in profiles)]
    out = ["| " + " | ".join(heads) + " |", "|" + ":--|" * len(heads)]
    for one in answers:
        words = [one.published.word, *(one.ours[profile].word for profile in profiles)]
        link = f"[{escaped(one.claim.title)}](#{one.claim.name})"
        out.append("| " + " | ".join((link, *words)) + " |")
    return out


def _section(answer: Answer, rendered: Collection[str]) -> list[str]:
    claim = answer.claim
    out = [f'<a id="{claim.name}"></a>', f"### {escaped(claim.title)}", ""]
    if claim.test is None:
        return [*out, f"Not testable: {escaped(claim.untestable)}", ""]
    out += [f"{escaped(claim.asks)} {_how(claim.test)} {_links(claim, rendered)}", ""]
    out.append(f"- Published: **{answer.published.word}**{_detail(answer.published)}")
    for profile, verdict in answer.ours.items():
        out.append(f"- {NAMES[profile]}: **{verdict.word}**{_detail(verdict)}")
    return [*out, "", *_cases(answer)]


def _how(test: Test) -> str:
    """Return the test in one line."""
    options = "; ".join(f"{name}: {_plain(value)}" for name, value in test.options.items())
    return f"*{test.kind.replace('_', ' ')}, {test.quantifier}* ({escaped(options)})."


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{item} {key}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(" - ".join(item) if isinstance(item, list) else str(item) for item in value)
    return str(value)


def _links(claim: Claim, rendered: Collection[str]) -> str:
    names = [claim.test.table] if claim.test else []
    names += [claim.nano.table] if claim.nano else []
    shown = [f"[{name}](tables/{name}.md)" if name in rendered else name for name in names]
    return "Table " + ", ".join(shown) + "." if len(shown) == 1 else "Tables " + ", ".join(shown) + "."


def _detail(verdict: Verdict) -> str:
    return f": {escaped(verdict.detail)}." if verdict.detail else "."


def _cases(answer: Answer) -> list[str]:
    """Return every case with its published numbers and ours, folded."""
    verdicts = {"Published": answer.published} | {NAMES[p]: v for p, v in answer.ours.items()}
    shown = {head: verdict for head, verdict in verdicts.items() if verdict.cases}
    names = list(dict.fromkeys(case.name for verdict in shown.values() for case in verdict.cases))
    if len(names) < 2:
        return []
    out = [f"<details><summary>{len(names)} cases</summary>", "", "| Case | " + " | ".join(shown) + " |"]
    out.append("|:--|" + "--:|" * len(shown))
    for name in names:
        cells = [_cell(verdict, name) for verdict in shown.values()]
        out.append(f"| {escaped(name)} | " + " | ".join(cells) + " |")
    return [*out, "", "</details>", ""]


def _cell(verdict: Verdict, name: str) -> str:
    for case, side in zip(verdict.cases, verdict.sides, strict=True):
        if case.name == name:
            return f"{case.text()}, {side}"
    return ""


def console(answers: list[Answer], width: int = 100) -> str:
    """Return the verdicts as text of at most `width` characters a line."""
    out = [TITLE]
    if any(NANO in one.ours for one in answers):
        out.append(fill(EMBEDDED, width))
    for slide, some in groupby(answers, key=lambda one: one.claim.slide):
        out += ["", fill(slide, width), "-" * min(width, len(slide))]
        for one in some:
            out.append(fill(one.claim.title, width))
            if one.claim.test is None:
                out.append(_line("", UNTESTABLE, one.claim.untestable, width))
                continue
            out.append(_line("published", one.published.word, one.published.detail, width))
            out += [_line(_SHORT[p], v.word, v.detail, width) for p, v in one.ours.items()]
    return "\n".join([*out, "", *_counts(answers)]) + "\n"


def _line(what: str, word: str, detail: str, width: int) -> str:
    return fill(f"  {what:10}{word:13}{detail}".rstrip(), width, subsequent_indent=" " * 25)


def _counts(answers: list[Answer]) -> Iterable[str]:
    """Yield the counts of each verdict: published, then ours."""
    tested = [one for one in answers if one.claim.test is not None]
    yield f"{len(answers)} sentences, {len(tested)} with a test"
    heads = ["published", *(answers[0].ours if answers else ())]
    for head in heads:
        words = [one.published.word if head == "published" else one.ours[head].word for one in tested]
        order = sorted(set(words), key=lambda word: (word in _LAST, word))
        yield f"{_SHORT.get(head, head)}: " + ", ".join(f"{words.count(word)} {word}" for word in order)


_LAST = (NOT_RUN, NO_NUMBERS)
