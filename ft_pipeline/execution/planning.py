"""What a run would do, without running it: compares every step's planned spec with its latest artifact."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Literal

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.execution.dagster_names import asset_key
from ft_pipeline.execution.recorded_checks import failed_checks
from ft_pipeline.execution.step import STEPS, MissingInput, SpecContext, Step
from ft_pipeline.execution.step_asset import planned_spec
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec

PlanState = Literal["fresh", "stale", "never_run", "failed", "broken"]
"""`failed`: a blocking check of the latest artifact failed. `broken`: the spec cannot be computed."""
Cause = Literal["none", "upstream", "data", "other"]
"""Why a step is not fresh: `upstream`: a step before it runs first; `data`: only its inputs changed."""


@dataclass(frozen=True)
class PlannedStep:
    """The planned state of one asset (of one experiment)."""

    asset: str
    experiment: str | None
    state: PlanState
    reason: str
    cause: Cause = "none"

    @property
    def runs(self) -> bool:
        return self.state != "fresh"


def steps_in_order(names: Iterable[str] | None = None) -> list[Step]:
    """Return the steps, each after its dependencies: all steps, or those in `names`."""
    order = TopologicalSorter({name: step.deps for name, step in STEPS.items()}).static_order()
    selected = set(STEPS if names is None else names)
    return [STEPS[name] for name in order if name in selected]


def plan(
    project: Project,
    experiments: Sequence[str],
    instance: dg.DagsterInstance | None = None,
    gguf_types: Mapping[str, tuple[str, ...]] | None = None,
) -> list[PlannedStep]:
    """Return the state of every step for these experiments, each step after its dependencies.

    instance: if given, a step is stale unless this Dagster instance recorded its latest artifact. gguf_types: by
    experiment, types of GGUF files that the run asks for.
    """
    store = ArtifactStore(project.store)
    states: dict[tuple[str, str | None], PlannedStep] = {}
    for step in steps_in_order():
        for experiment in experiments if step.per_experiment else [None]:
            upstream = _upstream(step, experiment, experiments, states)
            context = SpecContext(project, store, experiment, (gguf_types or {}).get(experiment or "", ()))
            states[step.name, experiment] = _state(step, context, upstream, instance)
    return list(states.values())


def _upstream(
    step: Step,
    experiment: str | None,
    experiments: Sequence[str],
    states: dict[tuple[str, str | None], PlannedStep],
) -> list[PlannedStep]:
    """The states of the steps that `step` depends on. A shared step depends on them for all experiments."""
    upstream = []
    for dep in step.deps:
        if not STEPS[dep].per_experiment:
            upstream.append(states[dep, None])
        else:
            upstream += [states[dep, name] for name in ([experiment] if step.per_experiment else experiments)]
    return upstream


def _state(
    step: Step, context: SpecContext, upstream: list[PlannedStep], instance: dg.DagsterInstance | None
) -> PlannedStep:
    def planned(state: PlanState, reason: str, cause: Cause = "other") -> PlannedStep:
        return PlannedStep(step.name, context.experiment, state, reason, cause)

    try:
        last = context.find(step.name)
        if last is None and context.pointer(step.name) is None:
            return planned("never_run", "never materialized")
        if last is None:
            return planned("stale", "damaged or missing from the store")
        if last.redacted:
            return planned("stale", "one of its rows was erased")
        first = next((dep for dep in upstream if dep.runs), None)
        if first is not None:
            return planned("stale", f"{first.asset} runs first ({first.reason})", "upstream")
        spec = planned_spec(step, context)
    except MissingInput as missing:
        return planned("stale", str(missing), "upstream")
    except UserError as error:
        return planned("broken", str(error))
    if last.spec_hash != spec.hash:
        return planned("stale", describe_difference(last, spec), "data" if _only_inputs_differ(last, spec) else "other")
    if instance and _recorded_version(instance, step, context.experiment) != last.fingerprint:
        return planned("stale", "not recorded in this Dagster instance")
    failed = failed_checks(last)
    return planned("failed", failed[0]) if failed else planned("fresh", "", "none")


def describe_difference(last: Artifact, spec: Spec) -> str:
    """Describe briefly how `spec` differs from the one that `last` was built from."""
    before, now = last.spec, spec.to_json()
    reasons = []
    changed_inputs = [key for key in now["inputs"] if before["inputs"].get(key) != now["inputs"][key]]
    if changed_inputs or set(before["inputs"]) != set(now["inputs"]):
        reasons.append(f"new data in {', '.join(changed_inputs)}" if changed_inputs else "different inputs")
    changed_settings = [
        key for key in {**before["config"], **now["config"]} if before["config"].get(key) != now["config"].get(key)
    ]
    if changed_settings:
        reasons.append(f"settings changed: {', '.join(sorted(changed_settings))}")
    return "; ".join(reasons) or "code or library versions changed"


def _only_inputs_differ(last: Artifact, spec: Spec) -> bool:
    return {**last.spec, "inputs": None} == {**spec.to_json(), "inputs": None}


def _recorded_version(instance: dg.DagsterInstance, step: Step, experiment: str | None) -> str | None:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset_key(step.name), asset_partitions=[experiment] if experiment else None),
        limit=1,
    ).records
    event = records[0].asset_materialization if records else None
    return (event.tags or {}).get("dagster/data_version") if event else None
