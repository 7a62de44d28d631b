"""What every method keeps on every engine. A new method joins by being in METHODS."""

import fcntl
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from layerfit.errors import UserError
from layerfit.methods import METHODS
from tests.helpers.contract import Report, watch
from tests.helpers.tiny import SETTINGS, composed

ENGINES = ("torch", "zero0", "zero1", "zero2", "zero3")
TRAINING = [name for name, cls in METHODS.items() if cls.trains]
ONE = os.environ.get("CONTRACT_METHOD")
"""`make contract M=...`: this method alone, on two ranks in one launch, nothing left to the slow suite."""
if ONE is not None and ONE not in TRAINING:
    pytest.exit(f"M={ONE} is no method that trains; use one of: {', '.join(TRAINING)}", returncode=2)
PAIRS = [
    (m, e)
    for m in ([ONE] if ONE else TRAINING)
    for e in ENGINES
    if not (METHODS[m].needs_matrices and e in ("zero1", "zero2", "zero3"))
]
MORE = ("zero1", "zero2")
"""Engines whose longest checks are slow ones: zero0 is DeepSpeed without sharding, zero3 shards everything."""
SHARED = [(m, e) for m, e in PAIRS if e != "torch"]
ROOT = Path(__file__).resolve().parents[2]


def slow(*values, name=None):
    """A case of the slow suite."""
    return pytest.param(*values, marks=pytest.mark.slow, id=name)


OFTEN = ("full", "lora", "lisa", "ist")
"""Methods of the fast suite on two ranks and where something is sharded, which is slow: every switching rule."""


def is_late(method, engine, ranks):
    """Whether a case is a slow one."""
    early = (method in OFTEN and engine != "zero1") or (ranks == 1 and engine in ("torch", "zero0"))
    return not ONE and not early


def cases(pairs, ranks):
    """Methods on engines, the late ones marked slow."""
    return [
        slow(m, e, name=f"{m}-{e}") if is_late(m, e, ranks) else pytest.param(m, e, id=f"{m}-{e}") for m, e in pairs
    ]


def assert_kept(report: Report, method: str) -> None:
    assert report.frozen_moved == []
    assert report.active_still == []
    assert report.wrong_blocks == []
    assert not report.settings_changed
    # Sharded state is padded to a multiple of the ranks, a few elements a group.
    assert all(0 <= a - b <= 64 for a, b in zip(report.state_numel, report.expected_numel, strict=True))
    assert report.leaked_optimizers == 0
    assert report.resident == pytest.approx(1.0, abs=0.02)
    if METHODS[method].switching != "static":
        assert report.switches >= 7


@pytest.fixture(scope="module")
def reference():
    """Method -> its report on torch, made when it is first asked for: a choice of tests trains no other method."""
    return cache(lambda method: watch(method, "torch"))


@pytest.mark.parametrize(("method", "engine"), cases(PAIRS, 1))
def test_one_rank(method, engine, reference):
    report = reference(method) if engine == "torch" else watch(method, engine)
    assert_kept(report, method)
    assert report.losses == pytest.approx(reference(method).losses, abs=1e-5)
    assert report.scores == pytest.approx(reference(method).scores, abs=1e-5)


_CHOOSE = ("static", "method.units=[]", "method.always=[]")
_IMPORTANT = (
    "+method@method.ranking_run=ila_ranking",
    "method.select=most",
    "method.unit=module",
    "method.num_units=9",
)
_MISSED = ("+method@method.ranking_run=greedy_ranking", "method.select=most", "method.base=lora", "method.num_units=2")
VARIANTS = {
    "ila over full": ("ila", "method.base=full"),
    "ila, the opposite": ("ila", "method.freeze=most"),
    "ila, first modules": ("ila", "method.freeze=first"),
    "ila over full, drawn modules": ("ila", "method.base=full", "method.freeze=random"),
    "adapters of drawn blocks": (*_CHOOSE, "method.base=lora", "method.select=random", "method.num_units=2"),
    "adapters of blocks of a ranking": (*_CHOOSE, *_MISSED),
    "modules of a ranking": (*_CHOOSE, *_IMPORTANT),
    "embedding and head only": ("lisa", "method.num_active=0"),
    "coins": ("lisa", "method.sampling=bernoulli"),
    "in turn": ("lisa", "method.sampling=reshuffled", "method.always=[]"),
    "embedding and head have adapters too": ("lora", "method.embeddings=true", "method.rank=2"),
    "fixed draw": ("ist", "method.policy=fixed"),
    "over series adapters": ("ist", "method.base=series", "method.rank=8", "method.size=3"),
    "over parallel adapters": ("ist", "method.base=parallel", "method.rank=8", "method.size=3"),
}


@pytest.mark.parametrize("engine", ["zero2", slow("zero3")])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant, engine):
    method, *extra = VARIANTS[variant]
    expected, report = (watch(method, name, steps=8, extra=tuple(extra)) for name in ("torch", engine))
    for kept in (expected, report):
        assert (kept.frozen_moved, kept.active_still, kept.wrong_blocks, kept.leaked_optimizers) == ([], [], [], 0)
    assert report.losses == pytest.approx(expected.losses, abs=1e-5)


@pytest.mark.parametrize("method", ["full", "lisa", slow("ist")])
def test_offload_is_the_same_arithmetic(method, reference):
    report = watch(method, "zero3_offload")
    assert (report.frozen_moved, report.active_still) == ([], [])
    assert report.losses == pytest.approx(reference(method).losses, abs=1e-5)


@pytest.fixture(scope="module", autouse=ONE is not None)
def two_ranks(tmp_path_factory):
    """Methods on one DeepSpeed engine and two ranks: one launch, whose reports all test processes share."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    # One method's launch goes on beside its cases on one rank.
    ahead = start_two_ranks(ONE, folder / f"two_ranks_{ONE}.json") if ONE else None

    def reports(group: str) -> dict[str, Report]:
        out = folder / f"two_ranks_{group}.json"
        with out.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not out.exists():
                launch = ahead or start_two_ranks(group, out)
                assert launch.wait(900) == 0, out.with_suffix(".log").read_text()[-6000:]
        return {case: Report(**report) for case, report in json.loads(out.read_text()).items()}

    yield reports
    if ahead is not None and ahead.poll() is None:
        ahead.terminate()


def launch_of(method: str, engine: str) -> str:
    """The launch that a case on two ranks belongs to."""
    return ONE or f"{engine}_{'late' if is_late(method, engine, 2) else 'early'}"


def start_two_ranks(group: str, out: Path) -> subprocess.Popen:
    """Have two ranks write the reports of a group's cases; what they print is in a file beside."""
    cases = [f"{m}:{e}" for m, e in SHARED if launch_of(m, e) == group]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", "-m", "tests.helpers.contract", str(out), ",".join(cases)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    with out.with_suffix(".log").open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)


@pytest.mark.parametrize(("method", "engine"), cases(SHARED, 2))
def test_two_ranks(method, engine, two_ranks, reference):
    report = two_ranks(launch_of(method, engine))[f"{method}:{engine}"]
    assert_kept(report, method)
    assert report.losses == pytest.approx(reference(method).losses, abs=1e-5)
    assert report.scores == pytest.approx(reference(method).scores, abs=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["full", "lisa", "ist"])
def test_bf16_is_judged_on_masters(method, engine):
    report = watch(method, engine, "bf16", steps=8)
    assert report.frozen_moved == []
    assert report.active_still == []
    assert report.wrong_blocks == []


@pytest.mark.parametrize(("moments", "masters"), [slow("reset", "drop"), ("reset", "carry"), slow("keep", "drop")])
@pytest.mark.parametrize("engine", ["zero0", *map(slow, MORE), "zero3"])
def test_switching_rules_agree_with_torch(engine, moments, masters):
    extra = (f"method.moments={moments}", f"method.masters={masters}")
    expected = watch("lisa", "torch", extra=extra)
    report = watch("lisa", engine, extra=extra)
    assert_kept(report, "lisa")
    assert report.losses == pytest.approx(expected.losses, abs=1e-5)


@pytest.mark.parametrize("engine", ["torch", "zero0", slow("zero1"), "zero2", slow("zero3")])
def test_weights_are_resident_once_after_twenty_switches(engine):
    report = watch("lisa", engine, steps=21, extra=("method.switch_every=1", "method.moments=reset"))
    assert report.switches == 20
    assert report.resident == pytest.approx(1.0, abs=0.02)
    assert report.leaked_optimizers == 0


def test_the_switching_rules_differ():
    kept = watch("lisa", "torch").losses
    assert kept != pytest.approx(watch("lisa", "torch", extra=("method.moments=reset",)).losses, abs=1e-4)


@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize("method", [m for m in TRAINING if METHODS[m].needs_matrices])
def test_pairs_that_cannot_be_right_are_refused_by_name(method, engine):
    with pytest.raises(UserError, match=f"method={method} .*engine={engine} .*zero0"):
        composed(f"method={method}", f"engine={engine}", *SETTINGS[method])


def test_the_reference_is_one_process():
    with pytest.raises(UserError, match=r"engine=torch .*engine\.ranks=2"):
        composed("engine=torch", "engine.ranks=2")
