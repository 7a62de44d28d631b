"""`python -m layerfit.evaluation.judge rescore FILE`: recompute scores from raw judgments, without a judge."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from layerfit.errors import Parser, UserError
from layerfit.evaluation.judge.files import JsonLine, judgment_fault, read_lines
from layerfit.evaluation.judge.rating import verdict_of
from layerfit.evaluation.judge.scores import JudgedTurn, average, judged_turns, parts, reasons, spread, unparsed
from layerfit.files.paths import expand
from layerfit.files.shown import one_line, shown


def main(argv: list[str] | None = None) -> int:
    """Print the scores of a judgment file; return the exit status: 0 ok, 2 a mistake."""
    parser = Parser(prog="layerfit judge", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("rescore", help="scores of a judgment file, FastChat's or from results/judgments")
    command.add_argument("file", help="a .jsonl or .jsonl.gz of judgments")
    command.add_argument("--questions", help="question.jsonl, for categories; default: beside the file")
    try:
        arguments = parser.parse_args(argv)
        print(
            "\n".join(
                rescore(
                    expand("FILE", arguments.file), arguments.questions and expand("--questions", arguments.questions)
                )
            )
        )
    except UserError as error:
        print(f"layerfit: {shown(error)}", file=sys.stderr)
        return 2
    return 0


def rescore(file: Path, questions: Path | None = None) -> list[str]:
    """Return the scores of every model and judge of a file, as lines of text.

    Raises:
        UserError: if a file cannot be read, or holds no judgments.
    """
    groups = by_model_judge_and_benchmark(file)
    categories = _categories(file, questions)
    out: list[str] = []
    for (model, judge, benchmark), lines in groups.items():
        title = f"{model}, judged by {judge}" + (f", {benchmark}" if benchmark else "")
        out += [one_line(title), *_report(lines, judged_turns(lines, categories)), ""]
    return out[:-1]


def by_model_judge_and_benchmark(file: Path) -> dict[tuple[str, str, str], list[JsonLine]]:
    """Return the judgments of a file by model, judge and benchmark (empty if not given, as in FastChat's files).

    Ratings of different judges or benchmarks are never averaged.

    Raises:
        UserError: if there are none.
    """
    if not file.is_file():
        raise UserError(f"{file} is not a file; give a model_judgment/<judge>_single.jsonl or a results/judgments/*.gz")
    groups: dict[tuple[str, str, str], list[JsonLine]] = defaultdict(list)
    for number, line in enumerate(read_lines(file), 1):
        if (fault := judgment_fault(line)) is not None:
            raise UserError(f"{file}, judgment {number} has {fault}; is it a file of single-answer judgments?")
        served = line.get("judge_model")
        judge = line["judge"][0]
        rater = judge if served in (None, judge) else f"{judge} (served {served})"
        groups[line["model"], rater, line.get("benchmark") or ""].append(line)
    if not groups:
        raise UserError(f"{file} holds no judgments; give a file of single-answer judgments")
    return dict(sorted(groups.items()))


def _categories(file: Path, questions: Path | None) -> dict[int, str]:
    beside = file.parent.parent / "question.jsonl"
    if questions is not None and not questions.is_file():
        raise UserError(f"--questions {questions} is not a file; give a benchmark's question.jsonl")
    path = questions or (beside if beside.is_file() else None)
    return {line["question_id"]: line["category"] for line in read_lines(path)} if path else {}


def _report(lines: list[JsonLine], turns: list[JudgedTurn]) -> list[str]:
    out = []
    for metric, some in parts(turns).items():
        value = average(some)
        shown = "none" if value is None else f"{value:.4f}"
        out.append(f"  {metric:<24} {shown:>8}  {sum(turn.median is not None for turn in some)} turns")
    if all(turn.category is None for turn in turns):
        out.append("  no categories: give --questions question.jsonl")
    why = ", ".join(f"{reason} {count}" for reason, count in reasons(turns).items())
    out.append(f"  judgments {len(lines)}, without a rating {unparsed(turns)}" + (f" ({why})" if why else ""))
    if (found := spread(turns)) is not None:
        out.append(f"  mean range over the judgments of a turn {found:.4f}")
    stored = [line["score"] if line.get("score") != -1 else None for line in lines]
    if changed := sum(score != verdict_of(line).value for score, line in zip(stored, lines, strict=True)):
        out.append(f"  {changed} ratings differ from the score stored beside them")
    return out


if __name__ == "__main__":
    sys.exit(main())
