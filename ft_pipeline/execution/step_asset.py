"""Makes a Dagster asset of one function, which computes the spec of what should be built from what is materialized.

`@step` turns the function into an asset that builds the spec's artifact or finds it in the store. It also keeps the
function in STEPS, so that planning.py can compute what a run would do without running it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from ft_pipeline.audit.artifact_index import ArtifactIndex
from ft_pipeline.errors import UserError
from ft_pipeline.execution import orphaned_runs
from ft_pipeline.execution.build import BuildFunction, BuildResult, build_artifact
from ft_pipeline.execution.events import State, StepEvent, publish
from ft_pipeline.execution.metadata import clean_metadata, origin
from ft_pipeline.execution.pool_waits import POOL
from ft_pipeline.execution.recorded_checks import failed_checks, recorded_checks
from ft_pipeline.execution.step import (
    STEPS,
    BuildContext,
    CheckSpec,
    MakeFunction,
    MissingInput,
    ShowFunction,
    SpecContext,
    SpecFunction,
    Step,
)
from ft_pipeline.execution.workers.devices import DeviceNeed
from ft_pipeline.execution.workers.launchers import MULTI_PROCESS_KINDS
from ft_pipeline.project import Project
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline.store.sql_views import write_views

OWNER = "team:ml"
FORCE = "ft/force"
"""Tag of a run: `true` rebuilds artifacts that the store already has (`ft run --force`)."""


def experiments() -> dg.StaticPartitionsDefinition:
    """Return the only partitions definition of the graph: the stems of experiments/*.yaml.

    With a single definition, one key selected in the UI is one run of the whole graph.
    """
    return dg.StaticPartitionsDefinition(Project.find().experiment_names())


def gpu_op_tags(count: int = 1) -> dict[str, Any]:
    """Return the op tags that Dagster's Kubernetes executor reads. They have no effect elsewhere."""
    limits = {"nvidia.com/gpu": str(count)}
    return {"dagster-k8s/config": {"container_config": {"resources": {"limits": limits}}}}


def step(
    *,
    stage: str,
    deps: Sequence[str] = (),
    kinds: set[str],
    code_version: str = "1",
    per_experiment: bool = False,
    gpu: bool | Callable[[Project], bool] = False,
    checks: Sequence[CheckSpec] = (),
    build: MakeFunction | None = None,
    show: ShowFunction | None = None,
    name: str | None = None,
    description: str | None = None,
    automation: dg.AutomationCondition | None = None,
) -> Callable[[SpecFunction], dg.AssetsDefinition]:
    """Make a Dagster asset of a function that computes a spec.

    build: builds the artifact in this process and returns its summary; None starts a worker process.
    show: computes the metadata that the UI shows from the artifact.
    automation: when Dagster's daemon materializes the asset by itself; None: never.
    gpu: whether the asset takes a slot of the pool `gpu`, requests a GPU from Kubernetes, and its worker leases a
    device. A function if that depends on the settings; it sets pool and tags when the definitions are loaded.
    """
    on_gpu = gpu if callable(gpu) else lambda project: gpu

    def decorate(spec_of: SpecFunction) -> dg.AssetsDefinition:
        asset_name = name or spec_of.__name__
        declared = gpu if isinstance(gpu, bool) else _as_loaded(gpu)

        @dg.asset(
            name=asset_name,
            deps=list(deps),
            group_name=stage,
            kinds=kinds,
            owners=[OWNER],
            code_version=code_version,
            description=description or spec_of.__doc__,
            partitions_def=experiments() if per_experiment else None,
            automation_condition=automation,
            pool=POOL if declared else None,
            op_tags=gpu_op_tags() if declared else None,
            check_specs=[
                dg.AssetCheckSpec(check.name, asset=asset_name, description=check.description, blocking=check.blocking)
                for check in checks
            ],
        )
        def materialize(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            experiment = context.partition_key if per_experiment else None
            publish(StepEvent(asset_name, experiment, "started"))
            try:
                return _materialize(context, STEPS[asset_name], experiment)
            except (UserError, dg.Failure) as error:
                publish(StepEvent(asset_name, experiment, "failed", message=_message(error)))
                if isinstance(error, dg.Failure):
                    raise
                raise dg.Failure(str(error), allow_retries=False) from None

        STEPS[asset_name] = Step(
            asset_name,
            stage,
            tuple(deps),
            per_experiment,
            on_gpu,
            code_version,
            tuple(checks),
            spec_of,
            build,
            show,
            materialize,
        )
        return materialize

    return decorate


def _as_loaded(gpu: Callable[[Project], bool]) -> bool:
    """The value for the settings at load time; True if they cannot be read, in which case the assets fail."""
    try:
        return gpu(Project.find())
    except UserError:
        return True


def planned_spec(step: Step, inputs: SpecContext) -> Spec:
    """Return the spec that materializing `step` now would build. Raises UserError if it cannot be computed."""
    return step.spec(inputs).with_code_version(step.code_version)


def spec_with_inputs(step: Step, inputs: SpecContext, build: Callable[[Spec], object]) -> Spec:
    """Return the planned spec of `step`. Calls `build` for each input that belongs to no asset and is missing."""
    while True:
        try:
            return planned_spec(step, inputs)
        except MissingInput as missing:
            build(missing.spec)


def _materialize(context: dg.AssetExecutionContext, step: Step, experiment: str | None) -> dg.MaterializeResult:
    project = Project.find()
    store = ArtifactStore(project.store)
    orphaned_runs.lock_run(context, store.root)

    def build_input(spec: Spec) -> None:
        build_artifact(context, store, spec, device=device_need(project, experiment, spec.kind))

    spec = spec_with_inputs(step, SpecContext(project, store, experiment), build_input)
    made = build_artifact(
        context,
        store,
        spec,
        device=device_need(project, experiment, spec.kind) if step.gpu(project) else False,
        build=_own_build(step, project, store),
        force=context.run.tags.get(FORCE) == "true",
    )
    AssetPointers(store.root).write(step.name, experiment, made.artifact)
    write_views(store)
    publish(_ended(step, experiment, made))
    shown = step.show(made.artifact) if step.show else {}
    recorded = recorded_checks(made.artifact)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(made.artifact.fingerprint),
        metadata=clean_metadata(shown | _own_metadata(made, store, experiment)),
        check_results=[_check_result(step.name, check, recorded[check.name]) for check in step.checks],
    )


def _ended(step: Step, experiment: str | None, made: BuildResult) -> StepEvent:
    failed = failed_checks(made.artifact)
    state: State = "gate failed" if failed else "reused" if made.reused else "built"
    return StepEvent(step.name, experiment, state, made.seconds, "; ".join(failed))


def _message(error: UserError | dg.Failure) -> str:
    return (error.description if isinstance(error, dg.Failure) else None) or str(error)


def _own_build(step: Step, project: Project, store: ArtifactStore) -> BuildFunction | None:
    if step.build is None:
        return None
    make = step.build
    return lambda spec, inputs, out: make(BuildContext(project, store, spec, inputs, out))


def device_need(project: Project, experiment: str | None, kind: str) -> DeviceNeed:
    """Return what a job of this kind needs.

    A training needs the GPUs that its experiment declares. Other jobs of an experiment run in one process and need one
    GPU. A job without an experiment uses any available device.
    """
    if experiment is None:
        return DeviceNeed()
    gpu = project.experiment(experiment).gpu
    return DeviceNeed(gpu.count if kind in MULTI_PROCESS_KINDS else 1, gpu.min_memory_gb, gpu.required)


def _own_metadata(made: BuildResult, store: ArtifactStore, experiment: str | None) -> dict[str, Any]:
    assets = {step.name: step.per_experiment for step in STEPS.values()}
    return {
        "result": "reused from the store" if made.reused else "built",
        "seconds": round(made.seconds, 2),
        **origin(made.artifact, ArtifactIndex(store.root), assets, experiment),
    }


def _check_result(asset: str, check: CheckSpec, recorded: Mapping[str, Any]) -> dg.AssetCheckResult:
    details = {key: value for key, value in recorded.items() if key not in {"passed", "blocking"}}
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=check.name,
        passed=bool(recorded["passed"]),
        severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
        metadata=clean_metadata(details),
    )
