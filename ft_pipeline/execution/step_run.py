"""What happens when Dagster materializes a step: its artifact is found or built, and the pointer moves to it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
from dagster._core.storage.tags import ASSET_RESUME_RETRY_TAG, RESUME_RETRY_TAG

from ft_pipeline.errors import UserError
from ft_pipeline.events import EventState, Progress, StepEvent, publish
from ft_pipeline.execution import orphaned_runs
from ft_pipeline.execution.build import (
    MIN_OBSERVATION_INTERVAL,
    BuildFunction,
    BuildResult,
    build_artifact,
    retry_request,
)
from ft_pipeline.execution.dagster_names import asset_key, terminal_user
from ft_pipeline.execution.device_pool import PODS
from ft_pipeline.execution.machines import device_need, limit_run_time
from ft_pipeline.execution.metadata import artifact_metadata, clean_metadata, metadata_of_finished, metadata_of_page
from ft_pipeline.execution.resources import ProjectResource
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.pace import Throttle
from ft_pipeline.project import Project
from ft_pipeline.recorded_checks import failed_checks, recorded_checks
from ft_pipeline.step import (
    STEPS,
    Asked,
    BuildContext,
    CheckSpec,
    MissingInput,
    SpecContext,
    Step,
    planned_spec,
    spec_with_inputs,
)
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.locks import project_lock
from ft_pipeline.store.spec import Spec
from ft_pipeline.store.sql_views import write_views

FORCE = "ft/force"
"""Tag of a run: `true` rebuilds artifacts that the store already has (`ft run --force`)."""
SETTINGS = "experiment"
"""The asset that reads the YAML of an experiment. The steps after it read what it read."""
RESUMES = {RESUME_RETRY_TAG, ASSET_RESUME_RETRY_TAG}
"""Dagster's tags of a run that executes only what failed in another one, and what follows."""


def run_step(context: dg.AssetExecutionContext, step: Step, project: ProjectResource) -> dg.MaterializeResult:
    """Materialize the step, and publish when it starts and how it ends. Errors become dg.Failure."""
    experiment = context.partition_key if step.per_experiment else None
    publish(StepEvent(step.name, experiment, "started"))
    try:
        return _materialize(context, step, experiment, project.find())
    except (UserError, dg.Failure) as error:
        publish(StepEvent(step.name, experiment, "failed", message=_failure_message(error)))
        if isinstance(error, dg.Failure):
            raise
        raise dg.Failure(str(error), allow_retries=False) from None
    except dg.RetryRequested as request:
        publish(StepEvent(step.name, experiment, "notes", message=str(request.__cause__)))
        raise
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        if context.job_def.executor_def.name != PODS:
            if terminal_user(context.run):  # Dagster would take Ctrl-C for a failure
                context.instance.report_run_canceling(context.run)
            raise
        # Kubernetes evicts the pod. Dagster would count that as a failure. A canceled run starts no retry.
        raise retry_request() from None


def _materialize(
    context: dg.AssetExecutionContext, step: Step, experiment: str | None, project: Project
) -> dg.MaterializeResult:
    store = ArtifactStore(project.store)
    orphaned_runs.lock_run(context, store.root)
    limit_run_time(context, project)
    with project_lock(store.root).hold(context.log.info, shared=True):  # no row is erased between spec and artifact
        return _find_or_build(context, step, experiment, project, store)


def _find_or_build(
    context: dg.AssetExecutionContext, step: Step, experiment: str | None, project: Project, store: ArtifactStore
) -> dg.MaterializeResult:
    def build_missing(spec: Spec) -> None:
        owner = experiment or trained_by(project, store, spec)
        build_artifact(context, store, spec, device=device_need(project, owner, spec.kind))

    spec_context = SpecContext(project, store, experiment, _asked(context.run.tags), report=_report_in(context))
    if experiment and not RESUMES.isdisjoint(context.run.tags):
        _require_same_settings(step, spec_context)
    pointers = AssetPointers(store.root)
    force = context.run.tags.get(FORCE) == "true"
    while True:
        before = pointers.read(step.name, experiment)
        spec = spec_with_inputs(step, spec_context, build_missing)
        build = _in_process_build(step, project, store) if step.builds_here(spec) else None
        result = build_artifact(
            context,
            store,
            spec,
            device=device_need(project, experiment, spec.kind) if step.needs_gpu(project) and build is None else False,
            build=build,
            force=force,
        )
        if step.look is not None:
            step.look(spec_context, result.artifact)
        with pointers.lock(step.name, experiment).hold(context.log.info):
            # Of two runs at once, the one that ends last may have begun with older inputs, such as fewer scores.
            if pointers.read(step.name, experiment) == before or _is_planned(step, spec_context, spec):
                pointers.write(step.name, experiment, result.artifact)
                break
        context.log.info(f"another run materialized {step.name} from newer inputs meanwhile: its inputs are used")
        force = False
    write_views(store)
    materialized = _materialize_result(context, step, experiment, result, store)
    publish(_end_event(step, experiment, result))
    return materialized


def tags_of(asked: Asked) -> dict[str, str]:
    """Return the tags of a run that asks something of steps: `ft/STEP`, with the values separated by commas."""
    return {f"ft/{step}": ",".join(values) for step, values in asked.items()}


def _asked(tags: Mapping[str, str]) -> Asked:
    asked = {step: list(filter(None, tags.get(f"ft/{step}", "").split(","))) for step in STEPS}
    return {step: values for step, values in asked.items() if values}


def _require_same_settings(step: Step, context: SpecContext) -> None:
    """Raise UserError if the YAML of the experiment has changed since the run that this one resumes read it.

    Dagster runs only what failed, and what follows: the settings would be those of before, or differ between the steps.
    """
    read = context.find(SETTINGS)
    if step.name != SETTINGS and read and read.spec["config"] != planned_spec(STEPS[SETTINGS], context).config:
        raise UserError(
            f"experiments/{context.experiment}.yaml has changed since the run that failed. "
            "Choose *Re-execute all*, or run `ft run`."
        )


def _is_planned(step: Step, context: SpecContext, spec: Spec) -> bool:
    """Return whether materializing the step now, without the network, would build `spec`."""
    try:
        return planned_spec(step, replace(context, report=None)).hash == spec.hash
    except (UserError, MissingInput):
        return False


def _report_in(context: dg.AssetExecutionContext) -> Callable[[Progress], None]:
    """Return a function that sends a report to the listeners of this process, and some to Dagster's log."""
    throttle = Throttle(MIN_OBSERVATION_INTERVAL)

    def report(progress: Progress) -> None:
        publish(progress)
        if throttle.ready() or progress.step >= progress.total:
            context.log.info(progress.line())

    return report


def _end_event(step: Step, experiment: str | None, result: BuildResult) -> StepEvent:
    failed = failed_checks(result.artifact)
    state: EventState = "check failed" if failed else "reused" if result.reused else "built"
    return StepEvent(step.name, experiment, state, result.seconds, "; ".join(failed))


def _failure_message(error: UserError | dg.Failure) -> str:
    return (error.description if isinstance(error, dg.Failure) else None) or str(error)


def _in_process_build(step: Step, project: Project, store: ArtifactStore) -> BuildFunction | None:
    if step.build is None:
        return None
    build = step.build
    return lambda spec, inputs, out: build(BuildContext(project, store, spec, inputs, out))


def trained_by(project: Project, store: ArtifactStore, spec: Spec) -> str | None:
    """Return the experiment whose adapter a job scores, such as the champion's; None if it scores none, or its YAML is
    gone."""
    if (reference := spec.inputs.get("adapter")) is None:
        return None
    name = store.require(*reference).manifest.get("run", {}).get("experiment")
    return name if name in project.experiment_names() else None


def _materialize_result(
    context: dg.AssetExecutionContext, step: Step, experiment: str | None, result: BuildResult, store: ArtifactStore
) -> dg.MaterializeResult:
    def warn(message: str) -> None:
        context.log.warning(f"{step.name}: {message}", exc_info=True)
        publish(StepEvent(step.name, experiment, "notes", message=message))

    checks = recorded_checks(result.artifact)
    parts = (
        lambda: metadata_of_page(step.page(result.artifact)) if step.page else {},
        lambda: _common_metadata(result, store, experiment),
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(result.artifact.fingerprint),
        metadata=metadata_of_finished(parts, warn),
        check_results=[_check_result(step.name, check, checks.get(check.name)) for check in step.checks],
    )


def _common_metadata(result: BuildResult, store: ArtifactStore, experiment: str | None) -> dict[str, Any]:
    assets = {step.name: step.per_experiment for step in STEPS.values()}
    return {
        "result": "reused from the store" if result.reused else "built",
        "seconds": round(result.seconds, 2),
        **artifact_metadata(result.artifact, ArtifactIndex(store.root), assets, experiment),
    }


def _check_result(asset: str, check: CheckSpec, recorded: Mapping[str, Any] | None) -> dg.AssetCheckResult:
    if recorded is None:
        assert check.optional, f"{asset} has no result of {check.name}"
        recorded = {"passed": True, "message": "not checked: there is nothing to check, or an older version made it"}
    details = {key: value for key, value in recorded.items() if key not in {"passed", "blocking"}}
    return dg.AssetCheckResult(
        asset_key=asset_key(asset),
        check_name=check.name,
        passed=bool(recorded["passed"]),
        severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
        metadata=clean_metadata(details),
    )
