"""From runs to the repositories that they read, each listed once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from layerfit.config.schema import EvalConfig, HubConfig, RunConfig
from layerfit.data.sources import Part
from layerfit.errors import UserError
from layerfit.evaluation.protocols import data_parts
from layerfit.files.names import check_repository, check_revision
from layerfit.models.hub import DATASETS, MODELS, local_copy


@dataclass(frozen=True)
class Need:
    """A repository of the hub that runs need.

    revision: as pinned, None = any. weights: whether a model's weights are needed too. parts: the parts of a data set
    that are read. why: the overrides that need it (`model=NAME`).
    """

    kind: str
    repo: str
    revision: str | None = None
    weights: bool = False
    parts: tuple[Part, ...] = ()
    why: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        check_repository(f"{self.kind.removesuffix('s')} id", self.repo)
        if self.revision is not None:
            check_revision(f"revision of {self.name}", self.revision)

    @property
    def name(self) -> str:
        """`model org/name`, for messages."""
        return f"{self.kind.removesuffix('s')} {self.repo}"

    def subsets(self) -> tuple[str, ...] | None:
        """Return the subsets that are read; None = all, if a part does not name its subset."""
        named = sorted({part.subset for part in self.parts if part.subset is not None})
        return None if any(part.subset is None for part in self.parts) else tuple(named)


def needs(runs: Iterable[RunConfig]) -> list[Need]:
    """Return the needs of runs, models first, by name, without embedded repositories and local paths.

    Raises:
        UserError: if a repository is pinned at two revisions: a mirror holds one.
    """
    found: dict[tuple[str, str], Need] = {}
    for run in runs:
        for need in [*_models(run), *_datasets(run)]:
            if local_copy(need.kind, need.repo, HubConfig()) is None:
                key = need.kind, need.repo
                found[key] = _joined(found[key], need) if key in found else need
    return [found[key] for key in sorted(found, key=lambda key: (key[0] != MODELS, key[1].lower()))]


def unknown(runs: Iterable[RunConfig]) -> list[str]:
    """Return the tasks whose data has no known hub id."""
    return sorted({part.task for run in runs for part in parts_of(run.eval) if part.repo is None})


_PARTS: dict[str, list[Part]] = {}


def parts_of(config: EvalConfig) -> list[Part]:
    """Return the data that an evaluation reads. Cached: indexing lm-eval's task files takes a second or more."""
    key = repr((config.include, config.tasks))
    if key not in _PARTS:
        _PARTS[key] = data_parts(config)
    return _PARTS[key]


def _models(run: RunConfig) -> list[Need]:
    model, judge, out = run.model, run.eval.judge, []
    if model.path is None and model.id is not None:
        weights = model.weights == "pretrained"
        out.append(Need(MODELS, model.id, model.revision, weights, why=(f"model={model.name}",)))
    if judge.model_path is not None and not Path(judge.model_path).is_dir():
        out.append(Need(MODELS, judge.model_path, judge.revision, weights=True, why=("eval.judge.model_path",)))
    return out


def _datasets(run: RunConfig) -> list[Need]:
    data, out = run.dataset, []
    if data.path is None:
        splits = [data.split, *([data.validation_split] if data.validation_split else [])]
        parts = tuple(Part(f"dataset={data.name}", data.id, data.subset, split) for split in splits)
        out.append(Need(DATASETS, data.id, data.revision, parts=parts, why=(f"dataset={data.name}",)))
    read = [part for part in parts_of(run.eval) if part.repo is not None]
    return out + [Need(DATASETS, str(part.repo), parts=(part,), why=(f"eval={run.eval.name}",)) for part in read]


def _joined(one: Need, other: Need) -> Need:
    if one.revision and other.revision and one.revision != other.revision:
        raise UserError(
            f"{one.name} is needed at {one.revision} and at {other.revision}, and a mirror holds one of them; "
            "fetch them into two mirrors"
        )
    return replace(
        one,
        revision=one.revision or other.revision,
        weights=one.weights or other.weights,
        parts=tuple(dict.fromkeys(one.parts + other.parts)),
        why=tuple(dict.fromkeys(one.why + other.why)),
    )
