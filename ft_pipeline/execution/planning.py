"""What a run would do, without running it: compares every step's planned spec with its latest artifact."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Literal

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.execution.recorded_checks import failed_checks
from ft_pipeline.execution.step import STEPS, MissingInput, SpecContext, Step
from ft_pipeline.execution.step_asset import planned_spec
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec

State = Literal["fresh", "stale", "never_run", "failed", "broken"]
Cause = Literal["none", "upstream", "data", "other"]
"""Why a step is not fresh: a step before it runs first; only its inputs changed; any other reason."""


@dataclass(frozen=True)
class Planned:
    """The state of one asset (of one experiment)."""

    asset: str
    experiment: str | None
    state: State
    reason: str
    cause: Cause = "none"

    @property
    def runs(self) -> bool:
        return self.state != "fresh"


def flow(names: Iterable[str] | None = None) -> list[Step]:
    """Return the steps, each after its dependencies: all steps, or those in `names`."""
    order = TopologicalSorter({name: step.deps for name, step in STEPS.items()}).static_order()
    wanted = set(STEPS if names is None else names)
    return [STEPS[name] for name in order if name in wanted]


def plan(project: Project, experiments: Sequence[str], instance: dg.DagsterInstance | None = None) -> list[Planned]:
    """Return the state of every step for these experiments, in the order of the flow.

    instance: compares with Dagster's own record, too, so that what the UI shows as never materialized runs again.
    """
    store = ArtifactStore(project.store)
    states: dict[tuple[str, str | None], Planned] = {}
    for step in flow():
        for experiment in experiments if step.per_experiment else [None]:
            upstream = _upstream(step, experiment, experiments, states)
            inputs = SpecContext(project, store, experiment)
            states[step.name, experiment] = _state(step, inputs, upstream, instance)
    return list(states.values())


def _upstream(
    step: Step,
    experiment: str | None,
    experiments: Sequence[str],
    states: dict[tuple[str, str | None], Planned],
) -> list[Planned]:
    upstream = []
    for dep in step.deps:
        if not STEPS[dep].per_experiment:
            upstream.append(states[dep, None])
        else:
            upstream += [states[dep, name] for name in ([experiment] if step.per_experiment else experiments)]
    return upstream


def _state(step: Step, inputs: SpecContext, upstream: list[Planned], instance: dg.DagsterInstance | None) -> Planned:
    def planned(state: State, reason: str, cause: Cause = "other") -> Planned:
        return Planned(step.name, inputs.experiment, state, reason, cause)

    try:
        last = inputs.find(step.name)
        if last is None and inputs.pointer(step.name) is None:
            return planned("never_run", "never materialized")
        if last is None:
            return planned("stale", "damaged or missing from the store")
        if last.redacted:
            return planned("stale", "one of its rows was erased")
        waiting = [dep for dep in upstream if dep.runs]
        if waiting:
            return planned("stale", f"{waiting[0].asset} runs first ({waiting[0].reason})", "upstream")
        spec = planned_spec(step, inputs)
    except MissingInput as error:
        return planned("stale", str(error), "upstream")
    except UserError as error:
        return planned("broken", str(error))
    if last.spec_hash != spec.hash:
        return planned("stale", difference(last, spec), "data" if _only_inputs_differ(last, spec) else "other")
    if instance and _recorded_version(instance, step, inputs.experiment) != last.fingerprint:
        return planned("stale", "not recorded in this Dagster instance")
    failed = failed_checks(last)
    return planned("failed", failed[0]) if failed else planned("fresh", "", "none")


def difference(last: Artifact, spec: Spec) -> str:
    """Describe briefly how `spec` differs from the one that `last` was built from."""
    before, now = last.spec, spec.to_json()
    reasons = []
    inputs = [key for key in now["inputs"] if before["inputs"].get(key) != now["inputs"][key]]
    if inputs or set(before["inputs"]) != set(now["inputs"]):
        reasons.append(f"new data in {', '.join(inputs)}" if inputs else "different inputs")
    config = [
        key for key in {**before["config"], **now["config"]} if before["config"].get(key) != now["config"].get(key)
    ]
    if config:
        reasons.append(f"settings changed: {', '.join(sorted(config))}")
    return "; ".join(reasons) or "code or library versions changed"


def _only_inputs_differ(last: Artifact, spec: Spec) -> bool:
    return {**last.spec, "inputs": None} == {**spec.to_json(), "inputs": None}


def _recorded_version(instance: dg.DagsterInstance, step: Step, experiment: str | None) -> str | None:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(step.name), asset_partitions=[experiment] if experiment else None),
        limit=1,
    ).records
    event = records[0].asset_materialization if records else None
    return (event.tags or {}).get("dagster/data_version") if event else None
