"""Records as compact JSON: plans as runs of steps, curves, shared settings. What the front says of a table."""

from types import SimpleNamespace as Fake

from layerfit.page import data
from layerfit.page.page import key_lines
from layerfit.report.spec import Column
from layerfit.report.table import Entry


def test_a_plan_becomes_runs_of_steps():
    config = {"model": {"num_layers": 2, "linear": ["q", "k", "v", "o"]}}
    plans = [(0, ["layers.0", "head"]), (3, ["layers.1.q", "layers.1.v", "head"]), (4, ["layers.0", "head"])]
    made = data.plan_rows(plans, config, 6)
    assert made["rows"] == ["embedding", "layers.0", "layers.1", "norm", "head"]
    assert made["runs"] == [[], [0, 3, 100, 4, 2, 100], [3, 1, 50], [], [0, 6, 100]]
    assert data.plan_rows([], config, 0)["runs"] == [[]] * 5


def test_curves_are_short_and_honest():
    assert data.curve([2.88828802, float("nan"), 0.0]) == {"every": 1, "points": [2.888, None, 0.0]}
    long = data.curve([float(i) for i in range(2500)])
    assert (long["every"], long["points"][:2], len(long["points"])) == (3, [1, 4], 834)
    assert [data.rounded(v) for v in (123456.0, 0.00012345, -1.0)] == [123500, 0.0001234, -1]


def test_a_run_names_only_what_differs():
    common = data.shared([{"a": 1, "b": [1]}, {"a": 1, "b": [2], "c": 0}, {"a": 2, "b": [2]}])
    assert common == {"a": 1, "b": [2], "c": 0}
    assert data.difference({"a": 2, "b": [2]}, common) == {"set": {"a": 2}, "unset": ["c"]}


def table_of(columns, groups, means):
    """A table of one row a group and column, each the best of its group."""
    shown = [Fake(column=Column(name, key)) for name, key in columns]
    entries = [Entry(values=((0, mean),), mean=mean, best=True) for mean in means]
    rows = [Fake(group=group, label=f"{group} FT", entries=entries) for group in groups]
    return Fake(columns=shown, rows=rows, gates=[])


def test_the_front_names_a_tables_mean_first_and_at_most_ten_numbers():
    columns = [("A", "a/acc"), ("B", "b/acc"), ("C", "c/acc"), ("Avg.", "mean:*/acc")]
    assert key_lines(table_of(columns, "PQRST", [0.1, 0.2, 0.3, 0.4])) == [
        "Avg.: P FT 40.0 (1 row); Q FT 40.0 (1 row); R FT 40.0 (1 row); S FT 40.0 (1 row); T FT 40.0 (1 row)",
        "A: P FT 10.0 (1 row); Q FT 10.0 (1 row); R FT 10.0 (1 row); S FT 10.0 (1 row); T FT 10.0 (1 row)",
        "and 2 more columns",
    ]
    assert key_lines(table_of(columns[:1], "ABCDEFGHIJKL", [0.1]))[0].count(";") == 11  # never nothing
    assert len(key_lines(table_of(columns, "PQ", [0.1, 0.2, 0.3, 0.4]))) == 4
