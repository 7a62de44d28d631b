"""What a sweep does to its runs before they start: nothing."""

from layerfit import config
from layerfit.config.schema import SaveConfig
from layerfit.launch.queue import Queue, prepare


def test_checking_a_sweep_leaves_its_runs_as_they_were():
    with config.composer():
        runs = [config.compose([f"method={m}", "seed=3"]) for m in ("vanilla", "lora", "full")]
    before = [config.run_id(run) for run in runs]
    prepare(runs)
    assert [config.run_id(run) for run in runs] == before
    assert [config.run_id(config.load(config.dump(run))) for run in runs] == before


def test_a_required_run_is_another_run_and_leaves_its_own_as_it_was():
    with config.composer():
        run = config.compose(["method=ila", "seed=3", "save.weights=final"])
    before = config.run_id(run)
    (required,) = config.required_runs(run)
    assert required.save == SaveConfig()
    assert config.run_id(required) != before
    assert config.run_id(run) == before


def test_a_queue_puts_what_is_required_first():
    with config.composer():
        run = config.compose(["method=ila"])
    queue = Queue("g")
    queue.add(run)
    assert [r.run.method_name() for r in queue.runs.values()] == ["ila_ranking", "ila"]


def test_a_tables_short_way_of_composing_is_hydras():
    from layerfit.report import build

    with config.composer():
        for table in ("nano_main", "nano_location", "mirror"):
            for cell in build.load(table).cells[::3]:
                assert config.run_id(config.compose(cell.overrides)) == cell.run_id, cell.name
