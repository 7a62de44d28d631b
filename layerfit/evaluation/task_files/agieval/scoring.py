"""Scoring of an AGIEval item. It imports nothing of layerfit: lm-eval loads this file by its path."""

from typing import Any


def score(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Return 1.0 where the most likely option is one of the right ones (`gold` is a list: some items have several).

    Args:
        doc: an item; `choices` are its options, `gold` the indices of the right ones.
        results: log-likelihood (nats) of every option, and whether it is the greedy one.

    Returns:
        acc: by log-likelihood; acc_norm: by log-likelihood per character of the option.
    """
    raw = [value for value, _ in results]
    per_character = [value / len(choice) for value, choice in zip(raw, doc["choices"], strict=True)]
    return {
        "acc": float(raw.index(max(raw)) in doc["gold"]),
        "acc_norm": float(per_character.index(max(per_character)) in doc["gold"]),
    }
