"""What is read from a config.json, and what every architecture is given."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.nn import Parameter
from transformers import AutoConfig

from layerfit import config
from layerfit.anatomy import ARCHITECTURES, EMBEDDING, HEAD, NORM
from layerfit.config.schema import HubConfig, ModelConfig
from layerfit.data.batches import collate
from layerfit.data.tokenise import IGNORE, Example
from layerfit.engines.loss import loss_sum
from layerfit.engines.trainable import planned
from layerfit.errors import UserError
from layerfit.launch.preflight import preflight
from layerfit.methods.base import Plan
from layerfit.models import architecture
from layerfit.models.hub import load_model
from tests.helpers.tiny import LAYERS, composed, rows
from tests.helpers.tiny_models import LLAMA, OUTSIDE, POSITIONS, TINY, run_of, write_model

HUB = HubConfig()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    for name, tiny in TINY.items():
        write_model(root / name, tiny)
    return root


@pytest.mark.parametrize("name", TINY)
def test_the_loss_is_the_models_own(folders, name):
    """Logits only where a target is, positions given: the same as transformers' own loss, and dropout is off."""
    module = load_model(run_of(folders, name).model, HUB, "fp32").train()
    batch = rows(0)
    ours = loss_sum(module, batch) / batch.num_targets
    theirs = module(input_ids=batch.input_ids, labels=batch.labels).loss
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TINY)
def test_packed_and_padded_losses_agree(folders, name, dtype):
    module = load_model(run_of(folders, name).model, HUB, dtype)
    sharpen(module)
    generator = torch.Generator().manual_seed(0)
    examples = [example(torch.randint(0, 600, (length,), generator=generator)) for length in (9, 4, 14, 6)]
    packed = loss_sum(module, collate([[examples[0], examples[1]], [examples[2], examples[3]]], 2, packed=True))
    padded = loss_sum(module, collate([[example] for example in examples], 2, packed=False))
    assert float(packed) == pytest.approx(float(padded), rel=1e-6 if dtype == "fp32" else 2e-3)


def sharpen(module) -> None:
    """Larger weights: at its initial ones a tiny model hardly attends to anything."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 2:
                parameter.mul_(20)


def test_the_distance_bias_of_packed_rows_by_hand(folders):
    """Two heads have slopes 1/16 and 1/256 (Press et al., section 3); each example counts from zero."""
    decoder = load_model(run_of(folders, "bloomz_7b").model, HUB, "fp32").transformer
    mask = collate([[example(torch.arange(3)), example(torch.arange(2))]], 0, packed=True).attention_mask
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    bias = decoder.build_alibi_tensor(added, 2, torch.float32)
    positions = torch.tensor([0.0, 1, 2, 0, 1])
    assert torch.equal(bias, torch.stack([positions / 16, positions / 256])[:, None])


def example(ids: torch.Tensor) -> Example:
    labels = ids.clone()
    labels[0] = IGNORE  # nothing predicts the first token
    return Example(ids.numpy(), labels.numpy(), truncated=False)


@pytest.mark.parametrize("name", TINY)
def test_checkpointed_activations_give_the_same_gradients(folders, name):
    gradients = []
    for checkpointed in (False, True):
        module = load_model(run_of(folders, name).model, HUB, "fp32").train()
        anatomy = run_of(folders, name).model.anatomy()
        names = planned(
            [n for n, _ in module.named_parameters()],
            anatomy,
            Plan(frozenset({"layers.2"}), (HEAD,)),
            everything(module),
        )
        for n, parameter in module.named_parameters():
            parameter.requires_grad_(n in names)
        if checkpointed:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            module.disable_input_require_grads()
        loss_sum(module, rows(0)).backward()
        gradients.append({n: p.grad for n, p in module.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1]) == names
    assert all(torch.allclose(gradients[0][n], gradients[1][n], atol=1e-6) for n in names)


def everything(module) -> set[str]:
    return {n for n, _ in module.named_parameters()}


@pytest.mark.parametrize("part", [EMBEDDING, NORM, HEAD])
@pytest.mark.parametrize("name", TINY)
def test_parts_outside_the_blocks(folders, name, part):
    """A tied head is the embedding's matrix and no more of that part: not BLOOM's norm, not OPT's positions."""
    module = load_model(run_of(folders, name).model, HUB, "fp32")
    anatomy = run_of(folders, name).model.anatomy()
    trained = planned(everything(module), anatomy, Plan(frozenset(), (part,)), everything(module))
    tied = module.get_output_embeddings().weight is module.get_input_embeddings().weight
    assert trained == set(OUTSIDE[name][EMBEDDING][:1] if part == HEAD and tied else OUTSIDE[name][part])


PARTS = ("num_layers", "blocks", "embedding", "norm", "norms", "head", "linear", "max_positions")
OTHERS = {
    "mistral": LLAMA | {"model_type": "mistral"},
    "qwen2": LLAMA | {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": LLAMA | {"model_type": "qwen3"},
    "gemma": LLAMA | {"model_type": "gemma"},
}


@pytest.mark.parametrize("name", [*TINY, *OTHERS])
def test_hf_reads_the_parts(folders, tmp_path, name):
    """The load itself compares with the module: a wrong path, a tie or a weight in no part is an error."""
    folder = write_model(tmp_path / "hf", (TINY | OTHERS)[name])
    run = run_of(tmp_path, "hf", "model.num_layers=null")
    before = config.run_id(run)
    assert run.model.open_parts()
    preflight(run)
    assert config.run_id(run) == before
    load_model(run.model, HUB, "fp32")
    anatomy = architecture.read_anatomy(run.model, folder)
    again = config.load(json.loads(json.dumps(config.dump(run))))
    assert again == run
    assert run.model.open_parts()  # what was read is not kept in the settings
    assert architecture.read_anatomy(again.model, folder) == anatomy
    assert anatomy.num_layers == LAYERS
    if name in TINY:
        named = run_of(folders, name).model.anatomy()
        assert anatomy.smallest_side == 8 if name == "llama3_8b" else 16
        assert anatomy.parts(f"{named.head}.weight") == named.parts(f"{named.head}.weight")


@pytest.mark.parametrize("name", [*TINY, *OTHERS])
def test_the_network_says_what_a_folder_says(tmp_path, monkeypatch, name):
    """Of a hub id transformers reads the file and fills in its defaults: ours (a tied head) must be the same."""
    shape = (TINY | OTHERS)[name]
    read = AutoConfig.from_pretrained(write_model(tmp_path / "there", shape))
    monkeypatch.setattr(architecture, "transformers_config", lambda *_: read)
    near, far = (ModelConfig(name="hf", id="a/b", **dict.fromkeys(PARTS)) for _ in range(2))
    local, remote = architecture.read_anatomy(near, tmp_path / "there"), architecture.read_anatomy(far, "a/b")
    assert local == remote
    assert local.max_positions == POSITIONS


def read_model(tmp_path, name: str):
    """A tiny model of an architecture, and its anatomy as read."""
    folder = write_model(tmp_path / "hf", (TINY | OTHERS)[name])
    run = run_of(tmp_path, "hf", "model.num_layers=null")
    return load_model(run.model, HUB, "fp32"), architecture.read_anatomy(run.model, folder)


@pytest.mark.parametrize("name", [*TINY, *OTHERS])
def test_norms_are_the_modules_of_that_kind(tmp_path, name):
    """By their classes, in blocks and outside; and a named model's are those that are read."""
    module, anatomy = read_model(tmp_path, name)
    kinds = {p: type(module.get_submodule(p.rpartition(".")[0])).__name__ for p in everything(module)}
    norms = {p for p, kind in kinds.items() if "Norm" in kind}
    assert norms == {p for p in kinds if anatomy.is_norm(p)} == {p for p in kinds if anatomy.is_norm(f"module.{p}")}
    assert len(norms) > 2 * LAYERS - 1
    if name in TINY:
        assert composed(f"model={name}").model.anatomy().norms == anatomy.norms


@pytest.mark.parametrize("name", [*TINY, *OTHERS])
def test_biases_are_the_vectors_beside_weights(tmp_path, name):
    """Of linear modules and of layer norms; a root-mean-square norm has none."""
    module, anatomy = read_model(tmp_path, name)
    expected = {f"{path}.bias" for path, m in module.named_modules() if isinstance(getattr(m, "bias", None), Parameter)}
    assert {p for p in everything(module) if anatomy.is_bias(p)} == expected
    assert bool(expected) == (name in ("gptj_6b", "bloomz_7b", "opt_1_3b", "qwen2"))


@pytest.mark.parametrize("name", [*TINY, *OTHERS])
def test_a_plan_over_norms_alone_needs_no_architecture(tmp_path, name):
    """As a method would say it: `adapt` leaves them trainable, and every plan is bounded by that."""
    module, anatomy = read_model(tmp_path, name)
    among = {p for p in everything(module) if anatomy.is_norm(p)}
    everywhere = Plan(frozenset(anatomy.shape(1).blocks()), (EMBEDDING, NORM, HEAD))
    assert planned(everything(module), anatomy, everywhere, among) == among


def test_norms_that_are_not_known_are_not_guessed(tmp_path):
    write_model(tmp_path / "hf", NEOX)
    run = run_of(tmp_path, "hf", "model.num_layers=4", f"model.max_positions={POSITIONS}", *BY_HAND)
    with pytest.raises(UserError, match=r"model\.norms is null"):
        run.model.anatomy().is_norm("gpt_neox.final_layer_norm.weight")
    named = run_of(
        tmp_path, "hf", "model.num_layers=4", f"model.max_positions={POSITIONS}", *BY_HAND, "model.norms=[ln]"
    )
    with pytest.raises(UserError, match=r"model\.norms=gpt_neox\.layers\.0\.ln is not a module"):
        load_model(named.model, HUB, "fp32")


def test_the_known_architectures_are_all_tested():
    assert set(ARCHITECTURES) == {c["model_type"] for c in [*TINY.values(), *OTHERS.values()]}


NEOX = {"model_type": "gpt_neox", "vocab_size": 640, "hidden_size": 16, "num_hidden_layers": LAYERS}
NEOX |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": POSITIONS}
BY_HAND = [
    "model.blocks=gpt_neox.layers",
    "model.embedding=gpt_neox.embed_in",
    "model.norm=gpt_neox.final_layer_norm",
    "model.head=lm_head",
    "model.linear=[attention.query_key_value,attention.dense,mlp.dense_h_to_4h,mlp.dense_4h_to_h]",
]


def test_an_unknown_architecture_says_what_to_set(tmp_path):
    write_model(tmp_path / "hf", NEOX)
    with pytest.raises(UserError, match=r"model_type=gpt_neox, is of an unknown architecture .*gptj, llama") as error:
        preflight(run_of(tmp_path, "hf", "model.num_layers=null"))
    assert str(error.value).endswith("set model.blocks, model.embedding, model.norm, model.head, model.linear")
    run = run_of(tmp_path, "hf", "model.num_layers=null", *BY_HAND)
    preflight(run)
    assert loss_sum(load_model(run.model, HUB, "fp32"), rows(0)) > 0


def test_a_known_architecture_may_still_not_say_its_length(tmp_path):
    """ALiBi sets no limit, and not every BLOOM's config.json has `seq_length`."""
    write_model(tmp_path / "hf", changed("bloomz_7b", seq_length=None))
    with pytest.raises(UserError, match=r"model_type=bloom, lacks values; set model\.max_positions$"):
        preflight(run_of(tmp_path, "hf", "model.num_layers=null"))


def test_hf_needs_an_id_or_a_path():
    with pytest.raises(UserError, match=r"model\.id and model\.path are both null"):
        composed("model=hf", "model.num_layers=null")


def changed(name: str, **extra) -> dict:
    return {key: value for key, value in (TINY[name] | extra).items() if value is not None}


@pytest.mark.parametrize(
    ("name", "shape", "overrides", "message"),
    [
        ("gptj_6b", {"n_layer": 3}, [], "num_layers=4 but .* has 3 layers; set it to 3"),
        ("bloomz_7b", {"n_layer": 5}, [], "num_layers=4 but .* has 5 layers"),
        ("opt_1_3b", {"num_hidden_layers": 3}, [], "num_layers=4 but .* has 3 layers"),
        ("gptj_6b", {"n_positions": 32}, [], "max_positions=64 but .* has 32"),
        ("opt_1_3b", {"max_position_embeddings": 32}, [], "max_positions=64 but .* has 32"),
        ("gptj_6b", {}, ["model.blocks=model.layers"], "model.blocks=model.layers but in .* it is transformer.h"),
        ("bloomz_7b", {}, ["model.head=lm_head"], "model.head=lm_head but in .* transformer.word_embeddings"),
        (
            "bloomz_7b",
            {},
            ["model.beside_embedding=[]"],
            "beside_embedding lacks transformer.word_embeddings_layernorm",
        ),
        ("opt_1_3b", {"tie_word_embeddings": False}, [], "model.head=model.decoder.embed_tokens but .* it is lm_head"),
        ("gptj_6b", {}, ["model.norms=[ln_2]"], r"model.norms=\[ln_2\] but in .* they are \[ln_1\]"),
        ("opt_1_3b", {}, ["model.linear=[mlp.fc1]"], "model.linear names mlp.fc1, .*: self_attn.q_proj, .*fc2"),
        ("gptj_6b", {}, ["method=lora", "method.targets=[o_proj]"], "method.targets names 'o_proj'; .* out_proj"),
        (
            "bloomz_7b",
            {},
            ["training.max_length=65"],
            "training.max_length=65 exceeds the 64 positions of model=bloomz_7b",
        ),
        (
            "hf",
            {},
            ["training.max_length=65", "model.num_layers=null"],
            "training.max_length=65 exceeds the 64 positions of model=hf",
        ),
        ("hf", {}, ["method=lisa", "method.num_active=5", "model.num_layers=null"], "method.num_active=5"),
        ("hf", {}, ["method=galore", "method.rank=17", "model.num_layers=null"], "rank=17 .* rank <= 16"),
    ],
)
def test_what_does_not_fit_is_met_before_torch(tmp_path, name, shape, overrides, message):
    write_model(tmp_path / name, changed("gptj_6b" if name == "hf" else name, **shape))
    with pytest.raises(UserError, match=message) as error:
        preflight(run_of(tmp_path, name, *overrides))
    assert "\n" not in str(error.value)


def test_a_missing_tokenizer_is_named(tmp_path):
    (write_model(tmp_path / "opt_1_3b", TINY["opt_1_3b"]) / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        preflight(run_of(tmp_path, "opt_1_3b"))


@pytest.mark.parametrize(
    ("name", "shape", "overrides", "message"),
    [
        (
            "hf",
            changed("opt_1_3b", do_layer_norm_before=False),
            [],
            "final_layer_norm is not a module of OPTForCausalLM",
        ),
        ("hf", changed("opt_1_3b", word_embed_proj_dim=8), [], "project_out.weight is in no part"),
        ("hf", {"model_type": "t5"}, BY_HAND, "no causal language model of 't5'"),
        ("hf", {"model_type": "mpt", "d_model": 16, "n_layers": 4, "n_heads": 2}, BY_HAND, "takes no position_ids"),
        ("hf", changed("bloomz_7b"), ["model.head=lm_head"], "ties its head to its embedding; set model.head=transf"),
        ("hf", changed("gptj_6b"), ["model.head=transformer.wte"], "lm_head.weight is in no part"),
    ],
)
def test_what_only_the_module_shows_is_refused_when_it_is_loaded(tmp_path, name, shape, overrides, message):
    write_model(tmp_path / name, shape)
    run = run_of(tmp_path, name, "model.num_layers=4", f"model.max_positions={POSITIONS}", *overrides)
    with pytest.raises(UserError, match=message):
        load_model(run.model, HUB, "fp32")


def test_a_folder_of_another_layout_keeps_the_defaults_of_the_schema():
    """A new field leaves the identity of a run alone while it has its default."""
    identity = config.identity_of(ModelConfig(name="m", id="a/b", num_layers=1, max_positions=1))
    assert set(identity) == {
        "name", "id", "revision", "path", "weights", "num_layers", "blocks", "embedding", "norm", "head", "linear",
        "max_positions",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [("gptj_6b", "lora"), ("bloomz_7b", "lisa"), ("opt_1_3b", "lisa")])
def test_the_command_trains_evaluates_and_saves(folders, tmp_path, name, method):
    command = [sys.executable, "-m", "layerfit", "model=hf", f"model.path={folders / name}", "model.weights=random"]
    command += [f"method={method}", "eval=nano", "eval.limit=8", "training.max_steps=3", "training.batch_size=8"]
    command += ["training.packing=true", "training.max_length=48", "save.weights=final", "engine=zero0"]
    command += ["method.num_active=1"] if method == "lisa" else []
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(config.ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (record,) = (tmp_path / "results/runs").glob("*.json")
    result = json.loads(record.read_text())["result"]
    assert result["status"] == "ok"
    assert result["config"]["model"]["blocks"] is None
    kind = "adapter" if method == "lora" else "model"
    assert (tmp_path / "outputs" / record.stem / kind / f"{kind}{'_model' * (kind == 'adapter')}.safetensors").exists()
