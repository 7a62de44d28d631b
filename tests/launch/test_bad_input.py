"""A user's mistake: one line that says what is wrong and what to do, exit status 2, no traceback, nothing started."""

import json

import pytest

from layerfit.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "not.json").write_text("{")
    (tmp_path / "ranking.json").write_text(json.dumps({"scores": {"layers.0.mlp.up_proj": 1.0}}))
    (tmp_path / "file").write_text("")
    (tmp_path / "mirror").mkdir()
    return tmp_path


OFFLINE = "hub.offline=true"
CASES = {
    "unknown key": ("method.num_activ=3", "num_activ"),
    "unknown group": ("modle=nano", "modle"),
    "unknown method": ("method=lizard", "lisa"),
    "unknown model": ("model=gpt9", "nano"),
    "unknown dataset": ("dataset=none_such", "alpaca_gpt4"),
    "unknown eval": ("eval=none_such", "nano"),
    "unknown engine": ("engine=zero9", "zero0"),
    "unknown option": ("--frobnicate", "usage"),
    "wrong type": ("training.batch_size=many", "Integer"),
    "not a number": ("optim.lr=nan", "optim.lr"),
    "negative rate": ("optim.lr=-1", "(0, inf"),
    "grammar": ("method=[lisa", "[lisa"),
    "a list without -m": ("method=lisa,full", "-m"),
    "too many layers": ("method=lisa method.num_active=17", "[0, 16]"),
    "no interval": ("method=lisa method.switch_every=0", "T/n"),
    "interval divided by zero": ("method=lisa method.switch_every=T/0", "T/n"),
    "unknown rule": ("method=lisa method.moments=forget", "keep, reset"),
    "unknown part": ("method=lisa method.always=[mouth]", "embedding"),
    "nothing trains": ("method=lisa method.num_active=0 method.always=[]", "trains nothing"),
    "unit of no model": ("method=static method.units=[layers.16]", "layers.0..layers.15"),
    "no unit": ("method=static", "trains nothing"),
    "a draw of nothing": ("method=lisa method.sampling=bernoulli method.always=[]", "may draw nothing"),
    "freezes nothing": ("method=ila method.freeze_fraction=0.001", "freezes 0 of 112"),
    "probes what is not there": ("method=ist method.probe_data=validation dataset.validation_split=null", "none out"),
    "fraction over one": ("method=ila method.freeze_fraction=1.5", "freeze_fraction"),
    "both fractions": ("method=ila method.train_fraction=0.1", "exactly one"),
    "no such ranking": ("method=ila method.ranking=nowhere.json", "nowhere.json"),
    "ranking of another model": ("method=ila method.ranking=ranking.json", "rank this model"),
    "ranking that is no JSON": ("method=ila method.ranking=not.json", "not.json"),
    "too few subsets": ("method=ist method.num_suppressed=16", "distinct subsets"),
    "not a whole number of layers": ("method=ist method.num_updated=2.5", "num_updated"),
    "rank of zero": ("method=lora method.rank=0", "method.rank"),
    "unknown target": ("method=lora method.targets=[q_prj]", "q_proj"),
    "setting of another base": ("method=ist method.base=series method.rank=4", "goes with method.base=lora"),
    "a rank that does not fall": ("method=adalora method.init_rank=8", "above method.rank=8"),
    "no step to choose in": ("method=adalora method.warmup=0.5 method.final=0.5", "leave none of"),
    "no last choice": ("method=adalora method.allocate_every=10", "set method.final"),
    "no place for it": ("method=series method.targets=[q_proj]", "gate_proj, up_proj, down_proj"),
    "rank over the matrix": ("method=galore method.rank=65", "rank <= 64"),
    "impossible pair": ("method=galore engine=zero2", "engine=zero0"),
    "triplets in flat shards": ("method=adalora engine=zero3", "engine=zero0"),
    "norms of sharded weights": ("training.norms=true engine=zero3", "use engine=zero2"),
    "removes on what is not there": ("method=greedy_ranking dataset.validation_split=null", "none out"),
    "reference on two ranks": ("engine=torch engine.ranks=2", "zero0"),
    "batch does not divide": ("engine.ranks=3", "engine.ranks=3"),
    "micro-batch does not divide": ("training.micro_batch_size=7", "micro_batch_size=7"),
    "too long": ("training.max_length=4096", "positions"),
    "steps and epochs": ("training.epochs=1", "exactly one"),
    "neither steps nor epochs": ("training.max_steps=null", "exactly one"),
    "precision": ("optim.precision=pure_bf16", "training.dtype=bf16"),
    "no GPU": ("engine.device=cuda", "no CUDA device"),
    "a judge of nothing": ("eval.judge.base_url=http://127.0.0.1/v1", "eval=nano has no judge"),
    "no judge": ("eval=mt_bench", "eval.judge.base_url="),
    "W&B without a key": ("tracker=wandb tracker.mode=online", "WANDB_API_KEY"),
    "unknown model class": ("eval.model_class=fast", "shared, stock"),
    "no items": ("eval.limit=0", "eval.limit"),
    "no network and no copy": (f"model=llama2_7b {OFFLINE}", "meta-llama/Llama-2-7b-hf"),
    "no data and no network": (f"dataset=alpaca_gpt4 training.max_length=64 {OFFLINE}", "vicgalle/alpaca-gpt4"),
    "mirror that is not there": (f"hub.mirror=nowhere {OFFLINE}", "nowhere"),
    "empty data": ("dataset.path=empty.jsonl", "empty.jsonl"),
    "a module that is not there": ("model.beside_embedding=[nope]", "model.beside_embedding names nope"),
    "no such task": ("eval.tasks=[{name:nope}]", "no task 'nope'"),
    "a home that is nobody's": ("paths.outputs='~nobodyhere/x'", "paths.outputs=~nobodyhere/x"),
    "a name too long": (f"paths.results={'x' * 300}", "too long"),
    "outputs below a device": ("paths.outputs=/dev/null/x", "paths.outputs"),
    "Hydra's folder of a sweep": ("-m hydra.sweep.dir=x", "paths.outputs"),
    "Hydra's folder of a run": ("hydra.run.dir=x", "paths.outputs"),
    "added for nobody": ("++training.foo=1", "unknown key training.foo"),
    "a glob": ("-m method=glob(lo*)", "method=lora"),
    "outputs that is a file": ("paths.outputs=file", "file"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_status_two(case, folder, capfd):
    words, expected = CASES[case]
    status = main(words.split())
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert status == 2, captured.err
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("layerfit: ")
    assert expected in lines[0]
    assert "Traceback" not in captured.err + captured.out
    assert not list(folder.glob("results/runs/*"))


def test_a_rank_that_cannot_be_is_said_before_anything_is_composed(folder, capfd, monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "x"), ("MASTER_PORT", "99999999")):
        monkeypatch.setenv(name, value)
    assert main(["method=no_such"]) == 2
    assert capfd.readouterr().err.startswith("layerfit: MASTER_PORT=99999999 in the environment")


def test_home_is_where_a_run_writes(folder, monkeypatch):
    """A quoted `~` in `paths.*` led to a folder of that name, while the check looked at the home folder."""
    from layerfit import launch

    runs = []
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setattr(launch, "make_launcher", lambda *_, **__: runs.extend)
    main(["eval=none", "paths.outputs='~/o'", "paths.results='~/r'"])
    assert [(run.paths.outputs, run.paths.results) for run in runs] == [(f"{folder}/home/o", f"{folder}/home/r")]
