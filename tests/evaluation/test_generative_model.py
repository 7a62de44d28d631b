"""Generation: batches decide nothing, nor does what the checkpoint says; adapters count merged and unmerged alike."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, GenerationConfig, GPTJConfig, OPTConfig

from layerfit.adapters.peft import add_lora
from layerfit.config.schema import EvalConfig, HubConfig, TaskConfig
from layerfit.evaluation.generative import _write, evaluate, generate, generation_settings, max_positions, settings
from layerfit.evaluation.generative_tasks import load_items
from layerfit.models.hub import load_model, load_tokenizer
from tests.evaluation.test_command_line import MIRROR, STORIES, needs_mirror

HUB = HubConfig(mirror=str(MIRROR), offline=True)
TASKS = ("piqa_generative", "social_iqa_generative", "winogrande_generative", "arc_easy_generative")


@pytest.fixture(scope="module")
def stories():
    return load_model(STORIES, HUB, "fp32"), load_tokenizer(STORIES, HUB)


def some_prompts(each):
    return [item.prompt() for name in TASKS for item in load_items(name, HUB)[:each]]


def one_by_one(model, tokenizer, prompt, new):
    """transformers' own beam search of one prompt without padding, its defaults untouched."""
    ids = torch.tensor([tokenizer(prompt)["input_ids"][-(512 - new) :]])
    out = model.generate(ids, num_beams=4, do_sample=False, max_new_tokens=new, eos_token_id=2, pad_token_id=2)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@needs_mirror
@pytest.mark.slow
def test_a_batch_answers_as_one_by_one_on_200_items(stories):
    model, tokenizer = stories
    prompts = some_prompts(50)
    together = [reply.text for reply in generate(model, tokenizer, prompts, 12, 16, "cpu")]
    assert together == [one_by_one(model.eval(), tokenizer, prompt, 12) for prompt in prompts]
    assert len({len(tokenizer(prompt)["input_ids"]) for prompt in prompts}) > 100  # most batches are padded
    assert len(set(together)) > 30


ARCHITECTURES = [
    OPTConfig(vocab_size=60, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
              word_embed_proj_dim=32, max_position_embeddings=64),
    GPTJConfig(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4),
    BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4),
]  # fmt: skip


@pytest.mark.parametrize("shape", ARCHITECTURES, ids=lambda shape: shape.model_type)
def test_a_batch_answers_as_one_by_one_in_other_architectures(shape):
    """Learned, rotary and relative positions: padding on the left must shift none of them."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.4)
    prompts = [torch.randint(4, 60, (n,)).tolist() for n in (3, 9, 17, 30)]
    chosen = settings(SimpleNamespace(pad_token_id=1, bos_token_id=0, eos_token_id=2), 8)
    with generation_settings(model, chosen):
        together = _write(model, prompts, chosen, "cpu")
        apart = [_write(model, [prompt], chosen, "cpu")[0] for prompt in prompts]
    for batched, single in zip(together.tolist(), apart, strict=True):
        assert batched[: len(single)] == single.tolist()
        assert set(batched[len(single) :]) <= {1}
    assert len({tuple(row) for row in together.tolist()}) == 4


@needs_mirror
def test_the_checkpoints_settings_decide_nothing(stories):
    model, tokenizer = copy.deepcopy(stories[0]), stories[1]
    prompts = [prompt[-200:] for prompt in some_prompts(1)]
    plain = generate(model, tokenizer, prompts, 8, 4, "cpu")
    own = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=5.0, num_beams=1, min_new_tokens=8)
    own.update(no_repeat_ngram_size=1, suppress_tokens=[3, 4, 5, 410], forced_eos_token_id=2, length_penalty=-9.0)
    model.generation_config = own
    assert generate(model.train(), tokenizer, prompts, 8, 4, "cpu") == plain
    assert model.generation_config is own
    assert model.training
    assert model.config.use_cache is False


@needs_mirror
def test_a_prompt_that_is_too_long_is_cut_on_the_left_and_said(stories):
    model, tokenizer = stories
    long, short = "Once upon a time " * 300, "Once upon a time"
    cut, whole = generate(model, tokenizer, [long, short], 32, 2, "cpu")
    assert (cut.truncated, whole.truncated) == (True, False)
    assert cut.text == one_by_one(model.eval(), tokenizer, long, 32)
    assert max_positions(model) == 512


@needs_mirror
def test_merged_and_unmerged_adapters_write_the_same(stories):
    model, tokenizer = copy.deepcopy(stories[0]), stories[1]
    names = [name for name, module in model.named_modules() if name.endswith(("q_proj", "down_proj"))]
    adapted = add_lora(model, names, rank=4, alpha=8, dropout=0.5)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    prompts = [prompt[-300:] for prompt in some_prompts(3)]
    unmerged = generate(adapted, tokenizer, prompts, 16, 4, "cpu")
    assert unmerged != generate(stories[0], tokenizer, prompts, 16, 4, "cpu")
    assert unmerged == generate(adapted.merge_and_unload(), tokenizer, prompts, 16, 4, "cpu")


@needs_mirror
def test_mirrored_tasks_are_asked(stories):
    tasks = [TaskConfig(name=name, protocol="generative") for name in TASKS]
    scores, items = evaluate(*stories, EvalConfig(name="t", tasks=tasks, limit=3, batch_size=4), HUB, "cpu")
    assert set(items) == {f"{name}/{metric}" for name in TASKS for metric in ("acc", "unparsed", "truncated")}
    complete = {score.task: score.data_complete for score in scores}
    assert complete == dict.fromkeys(TASKS, True) | {"winogrande_generative": False}  # this mirror's is cut
