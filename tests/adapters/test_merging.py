"""Merging a saved adapter into the pretrained weights, which is what users do, gives the model that was evaluated."""

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from layerfit import config
from layerfit.adapters.peft import save_trained
from layerfit.config import check_against_model
from layerfit.distributed import process
from layerfit.errors import UserError
from layerfit.methods import METHODS
from layerfit.methods.lora import LowRank
from tests.helpers.tiny import SETTINGS, VOCAB, adapted, composed, context_for, engine_over, rows, share

MERGED = [*(name for name in SETTINGS if issubclass(METHODS[name], LowRank)), "ist"]
WORDS = {name: [f"method={name}", *SETTINGS[name]] for name in MERGED}
WORDS["lora at embedding and head"] = ["method=lora", "method.rank=2", "method.embeddings=true"]
TIED = "model.head=model.embed_tokens"
CASES = [(name, tied) for name in WORDS for tied in (False, True) if not (tied and name not in METHODS)]


def llama(*, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=tied))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=rows(99).input_ids).logits


@pytest.mark.parametrize(("name", "tied"), CASES, ids=[f"{n}-{'tied' if t else 'own'} head" for n, t in CASES])
def test_a_merged_adapter_is_what_was_evaluated(name, tied, tmp_path):
    run = composed("engine=torch", *WORDS[name], *([TIED] if tied else []))
    check_against_model(run, run.model.anatomy())
    process.start(process.device_for("cpu"), run.engine.stage)
    engine = engine_over(run, adapted(run, llama(tied=tied)))
    ctx = context_for(run, engine, 6)
    for step in range(6):
        engine.use(run.method.plan(step, ctx))
        engine.step(share(rows(step), 0, 1, 2), 0.01)
        run.method.after_step(step, ctx)
    evaluated = logits(engine.module)
    engine.close()
    assert (evaluated - logits(llama(tied=tied))).abs().max() > 1e-3
    save_trained(engine.module, tmp_path)
    merged = PeftModel.from_pretrained(llama(tied=tied), tmp_path).merge_and_unload()
    assert (merged.get_output_embeddings().weight is merged.get_input_embeddings().weight) == tied
    assert (logits(merged) - evaluated).abs().max() < 1e-4


def test_an_adapter_of_a_tied_embedding_is_refused():
    words = ["model.num_layers=4", *WORDS["lora at embedding and head"]]
    with config.composer(), pytest.raises(UserError, match=r"method.embeddings=true .*\(tied\).*embeddings=false"):
        config.compose([*words, TIED])
    with config.composer():
        config.compose(words)
