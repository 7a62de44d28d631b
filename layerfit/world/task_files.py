"""Task files of a world for lm-eval: one short YAML file per task, as lm-eval requires."""

from pathlib import Path

from layerfit.world.language import ENDINGS
from layerfit.world.spec import WorldSpec

TASKS = Path(__file__).parent / "tasks"
MAIN = {
    "facts": "Memorisation: facts trained in one phrasing, asked in another. Chance 0.25.",
    "rules": "Reasoning: the sign of people whose sign was never trained; it follows from their guild. Chance 0.25.",
    "retention": "What fine-tuning forgets: facts of the pretraining corpus. High before fine-tuning.",
    "facts_dev": "As {world}_facts, other people: for choosing hyperparameters, never shown in a table.",
    "rules_dev": "As {world}_rules, other people: for choosing hyperparameters, never shown in a table.",
}


PARTS = (
    *(("facts", f"endings: [{ending}]", f"facts, {relation}") for relation, ending in ENDINGS.items()),
    ("rules", "half: 0", "rules, first half of the families by name"),
    ("rules", "half: 1", "rules, second half of the families by name"),
    ("retention", "endings: [ton, wright]", "retention, home and craft"),
    ("retention", "endings: [cat, bread]", "retention, pet and meal"),
)
"""The eight parts of the items: (file, selection of its items, description)."""


def task_files(spec: WorldSpec) -> dict[str, str]:
    """Return path below `TASKS` -> text. The five main tasks of `nano` are written by hand, beside `data.py`."""
    world, files = spec.name, {}
    for number, (file, which, words) in enumerate(PARTS, 1):
        name, source = f"{world}_eight_{number}", f"world: {world}, file: {file}, {which}"
        files[f"{world}/eight_{number}.yaml"] = _file(name, source, f"Part {number} of 8: {words}.")
    if world != "nano":
        for file, words in MAIN.items():
            text = _file(f"{world}_{file}", f"world: {world}, file: {file}", words.format(world=world))
            files[f"{world}/{file}.yaml"] = text
    return files


def _file(name: str, source: str, words: str) -> str:
    return f"# {words}\ninclude: ../_nano_yaml\ntask: {name}\ndataset_kwargs: {{{source}}}\n"
