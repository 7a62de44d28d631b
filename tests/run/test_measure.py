"""What a run costs: phases of a step against a clock that only counts, parts of memory of every method, energy."""

import sys
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch

from layerfit.engines import torch as torch_engine
from layerfit.engines import zero
from layerfit.methods import METHODS
from layerfit.run.loop import Clock
from layerfit.run.measure import Memory, _energy, memory_of, phases_of, watch_activations
from tests.helpers.tiny import SETTINGS, batch_of, composed, context_for, engine_for, rows, share

TRAINING = [name for name, cls in METHODS.items() if cls.trains]


@pytest.mark.parametrize("name", ["torch", "zero0", "zero1", "zero2", "zero3"])
def test_every_phase_has_its_own_seconds(name, monkeypatch):
    """The clock moves by 1 for every loss, 10 for every backward of the head, 100 for every step of the optimizer."""
    run = composed("method=full", f"engine={name}", "optim.weight_decay=0")
    engine = engine_for(run)
    now = [0]

    def move(seconds, then=None):
        def call(*args, **kwargs):
            now[0] += seconds
            return then(*args, **kwargs) if then else None

        return call

    module = torch_engine if name == "torch" else zero
    monkeypatch.setattr(module, "loss_sum", move(1, module.loss_sum))
    monkeypatch.setattr(engine.phases, "_now", lambda: now[0])
    engine.module.lm_head.register_full_backward_hook(move(10))
    engine.phases.on = True
    engine.use(run.method.plan(0, context_for(run, engine, 3)))
    optimizer = engine.optimizer_object()
    monkeypatch.setattr(optimizer, "step", move(100, optimizer.step))
    for step in range(3):
        now[0] += 7  # between steps
        engine.step(share(rows(step), 0, 1, 2), 0.01)
    assert [(s["forward"], s["backward"]) for s in engine.phases.steps] == [(2, 20)] * 3
    assert all(s["update"] >= 100 and s["update"] % 100 == 0 for s in engine.phases.steps)
    assert now[0] == 3 * 7 + sum(sum(s.values()) for s in engine.phases.steps)
    engine.close()


def measured(steps, on):
    engine = engine_for(composed("method=full", "engine=torch"))
    memory = Memory()
    engine.phases.on, engine.phases.steps = on, steps
    phases_of(engine, memory)
    memory.peak = {"allocated": None}
    found = memory.measured(Clock(), 1.0, 1.0, [], {})
    return [found.forward_seconds, found.backward_seconds, found.update_seconds], found.unknown


def test_medians_leave_out_the_first_step_and_null_has_its_reason():
    names = ["forward_seconds", "backward_seconds", "update_seconds"]
    steps = [{"forward": f, "backward": b, "update": u} for f, b, u in ((90, 80, 70), (1, 5, 3), (3, 1, 3), (2, 9, 8))]
    values, unknown = measured(steps, on=True)
    assert values == [2, 5, 3]
    assert not set(names) & set(unknown)
    for case, on, why in ((steps[:1], True, "fewer than two steps"), ([], False, r"training.time_phases=true")):
        values, unknown = measured(case, on=on)
        assert values == [None] * 3
        assert all(why in unknown[name] for name in names)


def test_of_a_run_that_trains_nothing_no_part_is_known():
    found = Memory().measured(Clock(), 0.0, 1.0, [], {})
    parts = {"weights", "gradients", "optimizer", "activations", "allocated", "reserved"}
    assert found.peak_memory_bytes == dict.fromkeys(parts)
    assert {found.unknown[part] for part in parts} == {"nothing was trained"}
    assert found.unknown["energy_joules"] == "nothing was trained"
    assert found.tokens_per_step is None


class NVMLError(Exception):
    pass


def not_supported(handle):
    raise NVMLError("Not Supported")


@pytest.mark.parametrize(
    ("counter", "joules", "why"),
    [
        (lambda handle: 5000 + handle, 5.003, None),
        (not_supported, None, "the driver reports no energy: Not Supported"),
        (None, None, "pynvml is not installed (pip install nvidia-ml-py)"),
    ],
)
def test_energy_is_known_or_it_is_said_why_not(counter, joules, why, monkeypatch):
    library = SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=lambda index: index
    )
    library.nvmlDeviceGetTotalEnergyConsumption = counter
    monkeypatch.setitem(sys.modules, "pynvml", library if counter else None)
    memory = Memory(peak={"allocated": 1})
    memory.energy_joules = _energy(torch.device("cuda", 3), memory)
    found = memory.measured(Clock(), 1.0, 1.0, [], {})
    assert (found.energy_joules, found.unknown.get("energy_joules")) == (joules, why)


def test_tokens_of_a_step_are_those_that_it_trains_on():
    assert Memory().measured(Clock([1.0, 3.0], 30), 0.0, 1.0, [], {}).tokens_per_step == 15


def test_nothing_is_timed_unless_asked():
    run = composed("method=full", "engine=torch")
    engine = engine_for(run)
    engine.use(run.method.plan(0, context_for(run, engine, 1)))
    engine.step(share(rows(0), 0, 1, 2), 0.01)
    assert engine.phases.steps == []


@pytest.mark.parametrize("method", TRAINING)
def test_parts_of_memory_are_known_of_every_method(method):
    run = composed(f"method={method}", "engine=zero0", *SETTINGS[method])
    engine, memory = engine_for(run), Memory()
    ctx = context_for(run, engine, 4)
    with watch_activations(engine, memory):
        for step in range(4):
            engine.use(run.method.plan(step, ctx))
            engine.step(share(rows(step), 0, 1, 2), 0.003)
    memory_of(engine, memory)
    counted = {n: p.numel() * 4 for n, p in engine.parameters.items()}
    assert memory.peak["weights"] == sum(counted.values())
    assert memory.peak["gradients"] == sum(counted[n] for n in engine.active)
    assert memory.peak["optimizer"] > 0
    assert memory.peak["activations"] > 0
    assert memory.peak["allocated"] is None
    assert memory.unknown["allocated"] == "the CPU allocator keeps no statistics"
    assert not torch.cuda.is_available() or memory.peak["allocated"]
    engine.close()


def cut_to(batch, length):
    return batch_of(batch.input_ids[:, :length], batch.labels[:, :length])


def watched(method, engine_name, lengths, *extra, micro_batches=1, alone=False):
    """Memory of a run with batches of these lengths; alone: one for every step, each watched for itself."""
    run = composed(f"method={method}", f"engine={engine_name}", *SETTINGS[method], *extra)
    engine, out = engine_for(run, micro_batches, steps=len(lengths)), []
    ctx = context_for(run, engine, len(lengths))
    with ExitStack() as watching:
        if not alone:  # as in a run, before there is an optimizer
            out.append(Memory())
            watching.enter_context(watch_activations(engine, out[-1]))
        for step, length in enumerate(lengths):
            engine.use(run.method.plan(step, ctx))
            if alone:  # after the switch
                watching.close()
                out.append(Memory())
                watching.enter_context(watch_activations(engine, out[-1]))
            engine.step([cut_to(b, length) for b in share(rows(step), 0, 1, micro_batches)], 0.003)
    engine.close()
    return out


@pytest.mark.parametrize(("method", "engine", "micro_batches"), [("ist", "torch", 1), ("lisa", "zero1", 2)])
def test_activations_are_the_largest_of_all_steps(method, engine, micro_batches):
    """Plans reach lower and batches grow after the first step, and the last step is small again."""
    lengths = [6, 8, 12, 10, 12, 7]
    alone = watched(method, engine, lengths, micro_batches=micro_batches, alone=True)
    (found,) = watched(method, engine, lengths, micro_batches=micro_batches)
    each = [memory.peak["activations"] for memory in alone]
    assert found.peak["activations"] == max(each)
    assert max(each) > each[0]
    found.peak["allocated"] = None
    assert found.measured(Clock([1.0], 1), 0.0, 0.0, [], {}).activations_over == "every step"


def test_a_micro_batch_counts_and_not_their_sum():
    whole, half = (watched("full", "torch", [12], micro_batches=n)[0].peak["activations"] for n in (1, 2))
    assert 0.45 < half / whole < 0.6


def test_only_steps_that_can_be_larger_are_watched():
    assert watched("full", "torch", [9, 9, 8, 12, 12, 7, 12])[0].watched == {0, 3}
    assert watched("static", "torch", [12] * 5)[0].watched == {0}
    (again,) = watched("lisa", "torch", [12] * 8, "method.num_active=1", "method.switch_every=1")
    assert len(again.watched) <= 4, "the same blocks in another draw are the same plan"


def test_what_was_watched_is_in_no_median():
    memory = Memory(peak={"activations": 1, "allocated": None}, watched={0, 2})
    found = memory.measured(Clock([90.0, 1.0, 80.0, 3.0, 2.0], 1), 0.0, 0.0, [], {})
    assert found.step_seconds_median == 2
    memory.watched = {0, 1, 2}
    assert memory.measured(Clock([90.0, 5.0, 7.0], 1), 0.0, 0.0, [], {}).step_seconds_median == 6
    assert memory.measured(Clock([90.0], 1), 0.0, 0.0, [], {}).step_seconds_median == 90
