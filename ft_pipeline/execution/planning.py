"""What a run would do, without running it: compares every step's planned spec with its latest artifact."""

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import Literal

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.execution.dagster_names import asset_key
from ft_pipeline.execution.spec_differences import describe, differences
from ft_pipeline.project import Project, ProjectSnapshot
from ft_pipeline.recorded_checks import failed_checks
from ft_pipeline.step import STEPS, Asked, MissingInput, SpecContext, Step, planned_spec, used_steps
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.remembering_store import RememberingStore
from ft_pipeline.store.spec import Spec

PlanState = Literal["fresh", "stale", "never_run", "failed", "broken"]
"""`failed`: a blocking check of the latest artifact failed. `broken`: the spec cannot be computed."""
Cause = Literal["none", "upstream", "missing", "data", "other"]
"""Why a step is not fresh: `upstream`: a step before it runs first; `missing`: an input that belongs to no asset is not
built yet; `data`: only its inputs changed."""
DATA_VERSION_TAG = "dagster/data_version"
"""Dagster's tag of a materialization: for a step, the fingerprint of its artifact."""


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
    asked: Mapping[str, Asked] | None = None,
    selected: Collection[str] = (),
) -> list[PlannedStep]:
    """Return the state of steps for these experiments, as `Planner.plan` does."""
    return Planner(project, instance, asked).plan(experiments, selected)


class Planner:
    """Plans for several selections of experiments from one state of the project.

    What several plans or steps need is read once: plan soon after you make the planner.
    """

    def __init__(
        self,
        project: Project,
        instance: dg.DagsterInstance | None = None,
        asked: Mapping[str, Asked] | None = None,
    ) -> None:
        """instance: if given, a step is stale unless this Dagster instance recorded its latest artifact.

        asked: by experiment.
        """
        self.project = ProjectSnapshot(project.root)
        self.store = RememberingStore(project.store)
        self.asked = asked or {}
        self.versions = RecordedVersions(instance) if instance else None
        self._unbuilt = functools.cache(self._describe_unbuilt)
        self._compared = functools.cache(self._compare)
        self._used = used_steps(self.project)

    def plan(self, experiments: Sequence[str], selected: Collection[str] = ()) -> list[PlannedStep]:
        """Return the state of the project's steps for these experiments, each step after its dependencies.

        selected: steps that are planned although neither settings nor files of the project ask for them.
        """
        states: dict[tuple[str, str | None], PlannedStep] = {}
        for step in steps_in_order(self._used | set(selected)):
            for experiment in experiments if step.per_experiment else [None]:
                upstream = _upstream(step, experiment, experiments, states)
                states[step.name, experiment] = self._state(step.name, experiment, upstream)
        return list(states.values())

    def _state(self, name: str, experiment: str | None, upstream: list[PlannedStep]) -> PlannedStep:
        unbuilt = self._unbuilt(name, experiment)
        first = next((dep for dep in upstream if dep.runs), None)
        if unbuilt is None and first is None:
            return self._compared(name, experiment)
        sent = self._sent(name, experiment, is_early=first is not None)
        if unbuilt is not None:
            return replace(unbuilt, reason=unbuilt.reason + sent)
        assert first is not None
        # A step that runs first for the same cause would repeat the reason of the one before it.
        why = "" if first.cause in ("upstream", "missing") else f" ({first.reason})"
        reason = f"{first.asset} runs first{why}{sent}"
        return PlannedStep(name, experiment, "stale", reason, "upstream")

    def _sent(self, name: str, experiment: str | None, *, is_early: bool) -> str:
        """What the step sends to servers, as the end of a reason; empty if it sends nothing, or if that is not known.

        is_early: whether steps before it run first, so that its spec is not known yet.
        """
        announce, context = STEPS[name].announce, self._context(experiment)
        if announce is None:
            return ""
        try:
            sent = announce(context) if is_early else planned_spec(STEPS[name], context).handling.get("plan", "")
        except MissingInput as missing:
            sent = missing.plan
        except UserError:
            return ""
        return f"; {sent}" if sent else ""

    def _context(self, experiment: str | None) -> SpecContext:
        return SpecContext(self.project, self.store, experiment, self.asked.get(experiment or "", {}))

    def _describe_unbuilt(self, name: str, experiment: str | None) -> PlannedStep | None:
        """The state of a step whose latest artifact cannot be used, whatever runs before it; else None."""
        context = self._context(experiment)
        last = context.find(name)
        if last is None and context.pointer(name) is None:
            return PlannedStep(name, experiment, "never_run", "never materialized", "other")
        if last is None:
            return PlannedStep(name, experiment, "stale", "damaged or missing from the store", "other")
        if last.redacted:
            return PlannedStep(name, experiment, "stale", "one of its rows was erased", "other")
        return None

    def _compare(self, name: str, experiment: str | None) -> PlannedStep:
        """The state of a step if no step before it runs: its planned spec compared with its latest artifact."""

        def planned(state: PlanState, reason: str, cause: Cause = "other") -> PlannedStep:
            return PlannedStep(name, experiment, state, reason, cause)

        context = self._context(experiment)
        last = context.artifact(name)
        try:
            spec = planned_spec(STEPS[name], context)
        except MissingInput as missing:
            return planned("stale", str(missing), "missing")
        except UserError as error:
            return planned("broken", str(error))
        if not last.is_of(spec):
            cause: Cause = "data" if only_inputs_differ(last, spec) else "other"
            sent = f"; {spec.handling['plan']}" if STEPS[name].announce and "plan" in spec.handling else ""
            return planned("stale", describe_difference(last, spec) + sent, cause)
        if self.versions and self.versions.of(name, experiment) != last.fingerprint:
            return planned("stale", "not recorded in this Dagster instance")
        failed = failed_checks(last)
        return planned("failed", failed[0]) if failed else planned("fresh", "", "none")


class RecordedVersions:
    """The data versions that a Dagster instance recorded last, read with one query per asset."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self._of_partitions = functools.cache(self._read_partitions)

    def of(self, asset: str, experiment: str | None) -> str | None:
        """Return the version that was recorded last for an asset (of an experiment); None without one."""
        return self._of_partitions(asset).get(experiment) if experiment else self._read(asset)

    def _read(self, asset: str) -> str | None:
        event = self.instance.get_latest_materialization_event(asset_key(asset))
        materialization = event.asset_materialization if event else None
        return (materialization.tags or {}).get(DATA_VERSION_TAG) if materialization else None

    def _read_partitions(self, asset: str) -> dict[str, str]:
        tags = self.instance.event_log_storage.get_latest_tags_by_partition(
            asset_key(asset), dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
        )
        return {experiment: values[DATA_VERSION_TAG] for experiment, values in tags.items()}


def _upstream(
    step: Step,
    experiment: str | None,
    experiments: Sequence[str],
    states: dict[tuple[str, str | None], PlannedStep],
) -> list[PlannedStep]:
    """The planned states of the steps that `step` depends on. A shared step depends on them for all experiments."""
    of_step = [experiment] if step.per_experiment else experiments
    keys = [(dep, name) for dep in step.deps for name in (of_step if STEPS[dep].per_experiment else [None])]
    return [states[key] for key in keys if key in states]


def describe_difference(last: Artifact, spec: Spec) -> str:
    """Describe briefly how `spec` differs from the one that `last` was built from."""
    return describe(differences(last.present_spec, spec.to_json()))


def only_inputs_differ(last: Artifact, spec: Spec) -> bool:
    """Return whether `spec` is the one that `last` was built from, except for its inputs."""
    return {**last.present_spec, "inputs": None} == {**spec.to_json(), "inputs": None}
