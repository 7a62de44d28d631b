"""Real tasks under a trained model: what is shared changes no log-likelihood and no answer."""

from pathlib import Path

import pytest
from lm_eval.models.huggingface import HFLM

from layerfit.config.schema import EvalConfig, HubConfig, ModelConfig, TaskConfig
from layerfit.evaluation.lm_eval.harness import evaluate
from layerfit.evaluation.lm_eval.prefix import SharedPrefixLM
from layerfit.models.hub import load_model, load_tokenizer

MIRROR = Path(__file__).resolve().parents[3] / "shared" / "hub"


@pytest.mark.slow
@pytest.mark.skipif(not MIRROR.is_dir(), reason=f"no mirror at {MIRROR}")
@pytest.mark.parametrize(
    ("task", "shots"),
    [
        ("mmlu_anatomy", 5),
        ("mmlu_high_school_us_history", 5),
        ("agieval_aqua_rat", 0),
        ("agieval_lsat_lr", 0),
        ("winogrande", 5),
        ("piqa", 0),
        ("arc_easy", 0),
        ("social_iqa", 0),
    ],
)
def test_real_tasks_have_the_same_log_likelihoods(monkeypatch, task, shots):
    """A trained model with 512 positions: shots are cut on the left in most subjects."""
    hub = HubConfig(mirror=str(MIRROR), offline=True)
    stories = ModelConfig(
        name="s", id="karpathy/stories260K", num_layers=5, max_positions=512, head="model.embed_tokens"
    )
    module, tokenizer = load_model(stories, hub, "fp32"), load_tokenizer(stories, hub)
    answers, asked = {}, HFLM.loglikelihood
    for cls in (HFLM, SharedPrefixLM):
        found = answers[cls] = []
        monkeypatch.setattr(
            cls, "loglikelihood", lambda *args, found=found, **kwargs: (found.extend(a := asked(*args, **kwargs)), a)[1]
        )
        tasks = [TaskConfig(name=task, num_fewshot=shots)]
        name = "stock" if cls is HFLM else "shared"
        config = EvalConfig(name="t", tasks=tasks, limit=20, batch_size=8, model_class=name)
        _, answers[name] = evaluate(module, tokenizer, config, hub, "cpu")
        monkeypatch.undo()
    assert len(answers[HFLM]) == len(answers[SharedPrefixLM]) >= 40
    assert max(abs(a[0] - b[0]) for a, b in zip(answers[HFLM], answers[SharedPrefixLM], strict=True)) < 1e-4
    assert [a[1] for a in answers[HFLM]] == [b[1] for b in answers[SharedPrefixLM]]
    assert answers["stock"] == answers["shared"]
