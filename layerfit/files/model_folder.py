"""Which files of a model's folder, or of its repository, transformers reads beside the weights."""

from __future__ import annotations

from pathlib import PurePosixPath

OBJECTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
"""Those that hold a JSON object."""
PATTERNS = (
    *OBJECTS,
    "tokenizer*.json",
    "*.model",  # sentencepiece's
    "vocab.*",
    "merges.txt",
    "chat_template.*",
    "additional_chat_templates/*.jinja",
)
"""All of them, relative to the folder. The index of sharded weights belongs to the weights."""


def is_metadata(name: str) -> bool:
    """Return whether the file of a repository, by its path there, is one of `PATTERNS`."""
    path = PurePosixPath(name)
    return any(len(path.parts) == len(PurePosixPath(p).parts) and path.match(p) for p in PATTERNS)
