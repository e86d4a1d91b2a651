"""Divides what `ft run` runs into batches, each a Dagster run: shared steps, experiments, and what compares them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ft_pipeline.events import StepEvent
from ft_pipeline.execution.planning import PlannedStep
from ft_pipeline.step import STEPS

BatchState = Literal["succeeded", "failed", "skipped"]


@dataclass(frozen=True)
class Batch:
    """Assets that one Dagster run materializes."""

    experiment: str | None
    """None: steps that all experiments share."""
    assets: tuple[str, ...]


@dataclass(frozen=True)
class BatchResult:
    """How a batch ended."""

    batch: Batch
    steps: list[StepEvent]
    """How each step ended that was run."""
    failures: list[str]
    """What failed, as lines for the user."""
    seconds: float = 0.0
    note: str = ""
    """Why the batch was not run, or what it had to do without."""

    @property
    def state(self) -> BatchState:
        if self.failures:
            return "failed"
        return "succeeded" if self.steps else "skipped"

    @property
    def skipped(self) -> list[str]:
        """The assets that were not run, because an asset before them failed."""
        ran = {step.asset for step in self.steps}
        return [asset for asset in self.batch.assets if asset not in ran]

    def failed_assets(self) -> set[str]:
        """The assets of the batch that are not as they should be: they failed, a check failed, or they did not run."""
        return {step.asset for step in self.steps if not step.succeeded} | set(self.skipped)

    def to_json(self) -> dict[str, Any]:
        """The row of an experiment in `ft run --json`."""
        return {
            "experiment": self.batch.experiment,
            "ran": [step.asset for step in self.steps],
            "state": self.state,
            "seconds": round(self.seconds, 2),
            "skipped": self.skipped,
            "reason": "; ".join([*self.failures, *filter(None, [self.note])]),
        }


@dataclass(frozen=True)
class Batches:
    """The batches of one `ft run`, in their order."""

    before: Batch | None
    """Shared steps that the experiments need."""
    experiments: list[Batch]
    """Independent of each other."""
    after: Batch | None
    """Steps that compare experiments, and what follows from them."""


def make_batches(planned: Sequence[PlannedStep]) -> Batches:
    """Return the batches of the steps that would run. With a single experiment everything is one batch."""
    to_run = [step for step in planned if step.runs]
    shared = [step.asset for step in to_run if step.experiment is None]
    after = tuple(asset for asset in shared if _compares_experiments(asset))
    before = tuple(asset for asset in shared if asset not in after)
    by_experiment: dict[str, list[str]] = {}
    for step in to_run:
        if step.experiment:
            by_experiment.setdefault(step.experiment, []).append(step.asset)
    if len(by_experiment) == 1:
        ((experiment, assets),) = by_experiment.items()
        return Batches(None, [Batch(experiment, (*before, *assets, *after))], None)
    experiments = [Batch(experiment, tuple(assets)) for experiment, assets in by_experiment.items()]
    return Batches(_shared(before), experiments, _shared(after))


def without_dependents(batch: Batch, failed: set[str]) -> Batch:
    """Return the batch without the assets that need one of `failed`."""
    return Batch(batch.experiment, tuple(asset for asset in batch.assets if not _upstream(asset) & failed))


def _shared(assets: tuple[str, ...]) -> Batch | None:
    return Batch(None, assets) if assets else None


def _compares_experiments(asset: str) -> bool:
    """Whether a shared asset needs one that each experiment has."""
    return any(STEPS[name].per_experiment for name in _upstream(asset))


def _upstream(asset: str) -> set[str]:
    """All assets that an asset depends on, directly or not."""
    found: set[str] = set()
    pending = list(STEPS[asset].deps)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += STEPS[name].deps
    return found
