"""The seam: its hooks are counted and say when they are called, settings stay, and a state comes back whole."""

import inspect
from dataclasses import dataclass, fields

import pytest

from layerfit.errors import UserError
from layerfit.methods import METHODS
from layerfit.methods.base import Method
from layerfit.methods.ist import Importance
from layerfit.run import checkpoint
from tests.helpers.tiny import SETTINGS, composed, state_for

OF_ESTIMATES = {"inserts", "state_bytes"}
"""Not counted: `make estimate` asks the real model instead in another change, which deletes them."""


def hooks() -> dict[str, str]:
    """Public functions of a method that another may override, with their docstrings."""
    found = {name: f for name, f in vars(Method).items() if inspect.isfunction(f) and not name.startswith("_")}
    return {name: inspect.getdoc(f) or "" for name, f in found.items() if name not in OF_ESTIMATES}


def states() -> list[object]:
    """A state of every method that has one."""
    runs = [composed(f"method={name}", *SETTINGS.get(name, [])) for name in METHODS]
    return [state for run in runs if (state := state_for(run)) is not None]


def test_there_are_at_most_eleven_hooks_and_a_state_adds_none():
    assert 8 <= len(hooks()) <= 11
    for state in states():
        assert [name for name, value in vars(type(state)).items() if callable(value) and not name.startswith("_")] == []


@pytest.mark.parametrize("hook", hooks())
def test_a_hook_says_when_it_is_called(hook):
    assert "Called " in hooks()[hook]


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_fields_are_its_settings(method):
    """Nothing is kept in a method but its settings: no field beside them, and none that a command line cannot set."""
    assert all(f.init and not f.name.startswith("_") for f in fields(METHODS[method]))
    run = composed(f"method={method}", *SETTINGS.get(method, []))
    assert set(vars(run.method)) == {f.name for f in fields(run.method)}


def test_a_method_without_probes_has_no_probe_batch_to_be_too_small():
    wide = ["engine.ranks=32", "training.batch_size=32"]
    for method in ("full", "lora", "lisa", "static"):
        assert composed(f"method={method}", *wide, *SETTINGS[method]).method.probe_source() is None
    composed("method=ist", "method.policy=uniform", *wide)
    assert composed("method=ila").method.probe_source() is None  # its ranking's run probes
    with pytest.raises(UserError, match="a probe batch of 16 sequences is too small for 32 ranks"):
        composed("method=ist", *wide)


def test_the_seeds_of_a_run_are_its_own_and_an_unresolved_one_is_an_error():
    method = METHODS["random_mask"]()
    with pytest.raises(AssertionError, match="not resolved"):
        _ = method.resolved_seed
    assert composed("seed=3").method.resolved_seed == composed("seed=3").dataset.resolved_seed == 3
    assert composed("method=vanilla", "seed=3").seed == 0


def test_composing_a_run_leaves_the_parts_that_it_is_given_alone():
    from dataclasses import replace

    run = composed("method=lisa", "seed=3")
    method, dataset = replace(run.method, seed=None), replace(run.dataset, seed=None)
    assert replace(run, method=method, dataset=dataset) == run
    assert (method.seed, dataset.seed) == (None, None)


def test_a_state_comes_back_field_by_field():
    saved = checkpoint.fields_of(Importance([0.5, -0.5], [[4, [0.5, -0.5]]]))
    fresh = Importance([0.0, 0.0])
    checkpoint.restore(fresh, saved)
    assert fresh == Importance([0.5, -0.5], [[4, [0.5, -0.5]]])
    checkpoint.restore(None, checkpoint.fields_of(None))


def test_a_state_of_another_layout_is_refused(tmp_path):
    @dataclass
    class Other:
        scores: list[float]
        history: list

    @dataclass
    class Longer(Importance):
        more: int = 0

    Longer.__name__ = "Importance"
    for other in (Other([1.0], []), Longer([1.0]), None):
        fresh = Importance([0.0])
        with pytest.raises(checkpoint.Unusable, match="holds a method's state"):
            checkpoint.restore(fresh, checkpoint.fields_of(other))
        assert fresh.scores == [0.0]
    with pytest.raises(checkpoint.Unusable, match="holds a method's state Importance"):
        checkpoint.restore(None, checkpoint.fields_of(Importance([1.0])))
