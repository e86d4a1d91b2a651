"""`ft upgrade --plan`: what the installed versions would run again in a store, why, and what it took before."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ft_pipeline.errors import UserError
from ft_pipeline.execution.graph import load_steps
from ft_pipeline.execution.planning import PlannedStep, plan
from ft_pipeline.execution.spec_differences import Difference, describe, differences
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS, MissingInput, SpecContext, planned_spec
from ft_pipeline.store import provenance
from ft_pipeline.store.artifacts import Artifact, ArtifactStore

Because = Literal["version", "follows", "other", "none"]
"""`version`: the step's code, a library or a setting that another version has. `follows`: a step before it runs again;
if that gives the same result, this one is reused. `other`: new data, a changed setting, which may be a default of this
version, or it was never run. `none`: it does not run."""


@dataclass(frozen=True)
class UpgradedStep:
    """What would happen to one asset (of one experiment)."""

    asset: str
    experiment: str | None
    because: Because
    reason: str
    seconds: float | None
    """What it took when it was built; None if it was never built, or this is not recorded."""

    @property
    def runs(self) -> bool:
        return self.because != "none"


@dataclass(frozen=True)
class UpgradePlan:
    """What the installed versions would run again."""

    installed: str
    """This package's version."""
    made_by: list[str]
    """The versions that made the present artifacts."""
    steps: list[UpgradedStep] = field(default_factory=list)

    def seconds(self, because: Because) -> float:
        """Return what the steps of a kind took before."""
        return sum(step.seconds or 0.0 for step in self.steps if step.because == because)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_upgrade(project: Project) -> UpgradePlan:
    """Return what the installed versions would run again. Nothing is run.

    Broken experiments are left out.
    """
    load_steps()
    store = ArtifactStore(project.store)
    experiments = [name for name in project.experiment_names() if _is_readable(project, name)]
    steps, versions = [], set()
    for step in plan(project, experiments):  # the records of Dagster, which this may migrate, are not opened
        context = SpecContext(project, store, step.experiment)
        last = context.find(step.asset)
        if last is not None:
            versions.add(str((last.manifest.get("code") or {}).get("version")))
        steps.append(_upgraded(step, context, last))
    return UpgradePlan(str(provenance.code()["version"]), sorted(versions), steps)


def _is_readable(project: Project, name: str) -> bool:
    try:
        project.training_chain(name)
    except UserError:
        return False
    return True


def _upgraded(step: PlannedStep, context: SpecContext, last: Artifact | None) -> UpgradedStep:
    seconds = (last.manifest.get("run") or {}).get("seconds") if last else None
    because, reason = _why(step, context, last)
    return UpgradedStep(step.asset, step.experiment, because, reason, seconds)


def _why(step: PlannedStep, context: SpecContext, last: Artifact | None) -> tuple[Because, str]:
    """Return why a step runs again, and its reason. What the step itself changes counts before what it follows."""
    if not step.runs:
        return "none", ""
    if last is not None and not last.redacted:
        found = _own_differences(step, context, last)
        if any(difference.comes_with_the_version for difference in found):
            return "version", describe(found)
        if step.cause in ("upstream", "missing"):
            first = step.reason.partition(" runs first")[0]
            return ("other", describe(found)) if found else ("follows", f"{first} runs first")
    return "other", step.reason


def _own_differences(step: PlannedStep, context: SpecContext, last: Artifact) -> list[Difference]:
    """Return how the step's spec over the present inputs differs from the one that it was built from."""
    try:
        return differences(last.present_spec, planned_spec(STEPS[step.asset], context).to_json())
    except (UserError, MissingInput):
        return []  # it needs the result of a step that runs first
