"""The trials of a study, as the store keeps them: one artifact for each training, with its values and losses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ft_pipeline.search.space import Value
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.training.objectives.registry import OBJECTIVES

KIND = "trial"
"""Kind of the artifact of a trial."""
RECORD, METRICS = "trial.json", "metrics.jsonl"
State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """One training of a search that has ended."""

    number: int
    """From 1."""
    values: dict[str, Value]
    """Dotted key → value."""
    state: State
    losses: tuple[float, ...]
    """Held-out losses, evaluation by evaluation, without that of the untrained model."""
    steps: int
    seconds: float
    """Device time in all attempts, interrupted ones included."""
    seed: int
    """The seed of the sampler that chose the values."""
    message: str = ""
    """Why it failed."""

    @property
    def loss(self) -> float | None:
        """The lowest held-out loss; None if there is none."""
        return min(self.losses, default=None)

    def name(self, experiment: str) -> str:
        """Return `NAME.try1`. Experiments have no dot in their names, so it is never one."""
        return f"{experiment}.try{self.number}"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "losses": list(self.losses)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Trial":
        return cls(**{**document, "losses": tuple(document["losses"])})


def is_rewarded(objective: str) -> bool:
    """Return whether trials are compared by the held-out reward of their answers."""
    return OBJECTIVES[objective].learns_from == "rewards"


def measure_of(objective: str) -> str:
    """Return the name of what a search compares."""
    return "held-out reward" if is_rewarded(objective) else "held-out loss"


def describe_loss(loss: float | None, objective: str) -> str:
    """Return a held-out loss with four digits; for grpo, whose loss is 1 minus the reward, the reward."""
    if loss is None:
        return ""
    return f"{1 - loss if is_rewarded(objective) else loss:.4f}"


def stored_trials(store: ArtifactStore, study: str) -> dict[int, tuple[Trial, Artifact]]:
    """Return the ended trials of a study, by number. Of two with one number, the older one counts."""
    trials: dict[int, tuple[Trial, Artifact]] = {}
    for artifact in store.all(KIND):
        if artifact.spec["config"]["study"] != study:
            continue
        trial = Trial.from_json(artifact.document(RECORD))
        trials.setdefault(trial.number, (trial, artifact))
    return dict(sorted(trials.items()))


def held_out_losses(log_history: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Return the held-out losses of a training's log, without that of the untrained model."""
    return tuple(entry["eval_loss"] for entry in log_history if entry.get("step") and "eval_loss" in entry)


def read_metrics(text: str) -> list[dict[str, Any]]:
    """Return the entries of a metrics.jsonl."""
    return [json.loads(line) for line in text.splitlines()]
