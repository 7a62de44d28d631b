"""A table run again from scratch: the same numbers, or which run gave others."""

import dataclasses

import pytest

from layerfit.config import composer, run_id
from layerfit.records.record import write
from layerfit.report import build, cells
from layerfit.report.rerun import compare, elsewhere, lines
from tests.helpers.report_fakes import KEYS, SHARES, fill, record, small


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("committed")
    spec = small(results=str(folder))
    with composer():
        made = cells.cells(spec)
    fill(made, folder, SHARES)
    return build.LoadedTable(spec, None, made, cells.load(made, folder))


def test_everything_a_table_needs_runs_again_in_another_folder(table, tmp_path):
    runs = elsewhere([table, table], tmp_path)
    assert set(runs) == set(table.store.records)  # rankings too, each once
    assert {run.paths.results for _, run in runs.values()} == {str(tmp_path / "results")}
    assert all(run_id(run) == number for number, (_, run) in runs.items())


def test_the_bit_the_tolerance_and_what_passes_neither(table):
    old = table.store.records[table.cells[1].run_id]

    def moved(by):
        scores = [dataclasses.replace(s, value=s.value + by) for s in old.result.scores]
        return dataclasses.replace(old, result=dataclasses.replace(old.result, scores=scores))

    same, near, far = (compare("a", old, moved(by)) for by in (0.0, -0.015, 0.03))
    assert (same.identical, near.identical, far.identical) == (True, False, False)
    assert near.gap == pytest.approx(0.015)
    assert [one.passes() for one in (same, near, far)] == [True, True, False]
    assert lines([same, near, far])[-1].startswith("3 runs: 1 equal to the bit, 1 within 0.02, 1 not")


def test_a_missing_record_another_status_and_other_scores_do_not_pass(table):
    old = table.store.records[table.cells[1].run_id]
    failed = dataclasses.replace(old, result=dataclasses.replace(old.result, status="oom", scores=[]))
    fewer = dataclasses.replace(old, result=dataclasses.replace(old.result, scores=old.result.scores[:1]))
    found = [compare("a", old, again) for again in (None, failed, fewer)]
    assert [one.problem for one in found] == ["no record again", "status oom, committed ok", "other scores"]
    assert not any(one.passes() for one in found)


def test_without_scores_the_last_loss_is_compared(tmp_path, table):
    made = record(table.cells[1].run, {KEYS[0]: [1.0]})
    ranking = dataclasses.replace(made, result=dataclasses.replace(made.result, scores=[], losses=[3.0, 2.0]))
    again = dataclasses.replace(made, result=dataclasses.replace(made.result, scores=[], losses=[3.0, 2.5]))
    write(ranking, {}, tmp_path)
    assert compare("r", ranking, again).gap == 0.5
