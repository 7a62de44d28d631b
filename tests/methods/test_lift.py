"""One block at a time: whose turn it is, by hand; the training, by plain torch; and where backward stops."""

import re

import pytest
import torch

from layerfit.methods.lisa import next_layers
from tests.helpers.tiny import LAYERS, composed, context_for, engine_for, rows, share, tiny_llama

LR = 0.01
IN_TURN = ("method=lisa", "method.num_active=1", "method.always=[]", "method.moments=reset", "method.masters=drop")


def turns(order: str, count: int, num_active: int = 2) -> list[set[int]]:
    return [set(next_layers(num_layers=5, num_active=num_active, draw=i, seed=0, order=order)) for i in range(count)]


def test_turns_by_hand():
    """Five blocks, two at a time: the last turn of a pass is one block."""
    assert turns("ascending", 4) == [{0, 1}, {2, 3}, {4}, {0, 1}]
    assert turns("descending", 4) == [{3, 4}, {1, 2}, {0}, {3, 4}]


def test_reshuffled_turns_are_another_permutation_in_every_pass():
    blocks = [next(iter(turn)) for turn in turns("reshuffled", 500, num_active=1)]
    passes = [tuple(blocks[i : i + 5]) for i in range(0, 500, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes)
    assert len(set(passes)) > 50  # of 120
    assert blocks != [
        next(iter(next_layers(num_layers=5, num_active=1, draw=i, seed=1, order="reshuffled"))) for i in range(500)
    ]


@pytest.mark.parametrize(
    ("steps", "expected"), [(8, [0, 0, 1, 1, 2, 2, 3, 3]), (9, [0, 0, 1, 1, 2, 2, 3, 3, 0]), (3, [0, 1, 2])]
)
def test_one_pass_unless_told_otherwise(steps, expected):
    run = composed("method=lift")
    ctx = context_for(run, None, steps)
    assert [run.method.plan(step, ctx).units for step in range(steps)] == [{f"layers.{i}"} for i in expected]


def plain_blocks(steps: int, every: int) -> tuple[list[float], torch.nn.Module]:
    """Textbook block-coordinate AdamW, blocks in ascending order, without any of our engine."""
    model, losses = tiny_llama().requires_grad_(False), []
    for step in range(steps):
        if step % every == 0:
            model.requires_grad_(False)
            block = model.model.layers[step // every % LAYERS].requires_grad_(True)
            matrices, rest = ([p for p in block.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
            groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=LR)
        logits = model(input_ids=rows(step).input_ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows(step).labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(block.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses, model


@pytest.mark.parametrize("engine", ["torch", "zero2"])
@pytest.mark.parametrize("words", [("method=lift",), (*IN_TURN, "method.sampling=ascending")], ids=["lift", "badam"])
def test_it_is_block_coordinate_adamw(words, engine):
    run = composed(*words, f"engine={engine}", "method.switch_every=3")
    built = engine_for(run)
    ctx, losses = context_for(run, built, 16), []
    for step in range(16):
        built.use(run.method.plan(step, ctx))
        losses.append(built.step(share(rows(step), 0, 1, 2), LR).loss)
    expected, model = plain_blocks(16, 3)
    assert losses == pytest.approx(expected, abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(built.read_weight(name), parameter.detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("engine", ["torch", "zero0", "zero1", "zero2", "zero3"])
def test_backward_stops_at_the_block(engine, checkpointing):
    """The input of the block whose turn it is, and all below, need no gradient; every output from it on does."""
    run = composed("method=lift", f"engine={engine}", "method.switch_every=1")
    built = engine_for(run)
    if checkpointing:
        built.module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        built.module.disable_input_require_grads()
    seen: dict[int, list[bool]] = {}
    for i, block in enumerate(built.module.model.layers):
        block.register_forward_hook(lambda _, __, out, i=i: seen.setdefault(i, []).append(first(out).requires_grad))
    ctx = context_for(run, built, LAYERS)
    for step in range(LAYERS):
        built.use(run.method.plan(step, ctx))
        seen.clear()
        built.step(share(rows(step), 0, 1, 2), LR)
        assert {i: any(needs) for i, needs in seen.items()} == {i: i >= step for i in range(LAYERS)}
        trained = {int(re.findall(r"layers\.(\d+)", n)[0]) for n, p in built.parameters.items() if p.requires_grad}
        assert trained == {step}


def first(out: object) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out
