"""Packed and padded rows are the same examples; the order is a pure function."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from layerfit.data.batches import collate, order, probe_indices, steps_for_epochs
from layerfit.data.packing import first_fit
from layerfit.data.tokenise import IGNORE, Example
from layerfit.errors import UserError


def example(length, start=3):
    ids = (np.arange(length, dtype=np.int32) * 7 + start) % 60 + 1
    labels = np.where(np.arange(length) >= length // 3, ids, IGNORE).astype(np.int32)
    labels[0] = IGNORE
    return Example(ids, labels)


EXAMPLES = [example(n, start) for start, n in enumerate((9, 4, 12, 5, 7, 3))]


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, attn_implementation="sdpa", **shape)).eval()


def loss_and_gradient(model, batch):
    """Sum of the loss over targets, and the gradient of all parameters in one vector."""
    model.zero_grad(set_to_none=True)
    logits = model(**batch.model_inputs(), use_cache=False).logits[:, :-1]
    targets = batch.labels[:, 1:]
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


def padded():
    return collate([[x] for x in EXAMPLES], 0, packed=False)


def packed():
    rows = first_fit([len(x) for x in EXAMPLES], 16)
    assert [len(row) for row in rows] == [3, 1, 2]
    return collate([[EXAMPLES[i] for i in row] for row in rows], 0, packed=True)


def disagreement(model, left, right):
    (loss, gradient), (other_loss, other) = loss_and_gradient(model, left), loss_and_gradient(model, right)
    return abs(loss - other_loss) / loss, ((gradient - other).norm() / gradient.norm()).item()


def test_packed_and_padded_agree_in_loss_and_gradient(tiny):
    assert packed().num_targets == padded().num_targets
    assert packed().num_tokens == padded().num_tokens == sum(len(x) for x in EXAMPLES)
    assert max(disagreement(tiny, padded(), packed())) < 1e-5


def test_one_by_one_agrees_with_padded(tiny):
    alone = [loss_and_gradient(tiny, collate([[x]], 0, packed=False)) for x in EXAMPLES]
    loss, gradient = loss_and_gradient(tiny, padded())
    assert sum(a for a, _ in alone) == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(sum(g for _, g in alone), gradient, atol=1e-4, rtol=1e-4)


def test_padding_needs_no_mask(tiny):
    batch = padded()
    masked = dataclasses.replace(batch, attention_mask=batch.is_token)
    assert max(disagreement(tiny, batch, masked)) < 1e-6


@pytest.mark.parametrize("bug", ["positions run on", "no borders in the mask", "a target across a border"])
def test_the_comparison_sees_planted_bugs(tiny, bug):
    batch = packed()
    length = batch.input_ids.shape[1]
    if bug == "positions run on":
        batch = dataclasses.replace(batch, position_ids=torch.arange(length).repeat(3, 1) * 3)
    elif bug == "no borders in the mask":
        causal = torch.ones(3, 1, length, length, dtype=torch.bool).tril()
        batch = dataclasses.replace(batch, attention_mask=causal)
    else:
        labels = batch.labels.clone()
        labels[0, len(EXAMPLES[0])] = batch.input_ids[0, len(EXAMPLES[0])]
        batch = dataclasses.replace(batch, labels=labels)
    assert max(disagreement(tiny, padded(), batch)) > 1e-3


def test_packed_rows_restart_positions_and_close_borders():
    batch = packed()
    first = EXAMPLES[0]
    assert batch.position_ids[0, :13].tolist() == [*range(9), *range(4)]
    mask = batch.attention_mask[0, 0]
    assert mask[8, :9].all()
    assert not mask[9, :9].any()
    assert not mask.triu(1).any()
    assert mask.any(-1).all()
    assert batch.labels[0, len(first)] == IGNORE


def test_first_fit_fills_the_first_row_with_room():
    assert first_fit([6, 5, 4, 5, 10], 10) == [(0, 2), (1, 3), (4,)]


def test_every_epoch_is_a_permutation():
    steps = [order(step, 8, 20, seed=1) for step in range(5)]
    flat = [i for step in steps for i in step]
    assert sorted(flat[:20]) == sorted(flat[20:40]) == list(range(20))
    assert flat[:20] != flat[20:40]
    assert order(3, 8, 20, seed=1) == steps[3]
    assert order(0, 8, 20, seed=2) != steps[0]


def test_the_order_does_not_depend_on_the_batch_size():
    assert order(0, 6, 20, seed=1) + order(1, 6, 20, seed=1) == order(0, 12, 20, seed=1)


def test_probe_batches_differ_and_repeat():
    assert probe_indices(0, 4, 100, seed=0) == probe_indices(0, 4, 100, seed=0)
    assert probe_indices(0, 4, 100, seed=0) != probe_indices(1, 4, 100, seed=0)
    assert len(set(probe_indices(3, 50, 50, seed=0))) == 50
    with pytest.raises(UserError, match="probe batch of 5"):
        probe_indices(0, 5, 4, seed=0)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 13), (2, 25), (0.1, 2), (0.001, 1), (0.08, 1)])
def test_steps_for_epochs(epochs, steps):
    assert steps_for_epochs(epochs, 100, 8) == steps
