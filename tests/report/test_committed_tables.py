"""What is committed is what the committed records give: `make tables` would change nothing."""

import pytest

from layerfit.config import ROOT, composer
from layerfit.report import build, render, spec
from tests.records.test_run_ids import ids_of, pinned


def committed():
    return [name for name in spec.known() if (ROOT / "results" / "tables" / f"{name}.md").exists()]


@pytest.mark.parametrize("name", committed())
def test_a_committed_table_is_what_its_records_give(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    with composer():
        loaded = build.load(name)
        data = build.assemble(loaded)
        assert name in pinned(), "python -m tests.records.test_run_ids pins its runs"
        assert ids_of(loaded.cells) == pinned()[name]
    assert not data.problems
    tables = ROOT / "results" / "tables"
    assert render.markdown(data) == (tables / f"{name}.md").read_text()
    assert render.latex(data) == (tables / f"{name}.tex").read_text()
