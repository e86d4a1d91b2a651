"""The decorator `@step`, which makes a Dagster asset of a function.

The function computes the spec of the artifact that should exist, from the settings and the latest artifacts. The asset
builds that artifact or finds it in the store. The function is also kept in STEPS, so that planning.py can compute what
a run would do.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.execution.dagster_names import asset_key, asset_keys, asset_tags, dagster_settings
from ft_pipeline.execution.device_pool import EXECUTOR, PODS, pool_of_devices
from ft_pipeline.execution.machines import LOST_MACHINE_RETRIES
from ft_pipeline.execution.partitions import experiments
from ft_pipeline.execution.resources import ProjectResource
from ft_pipeline.execution.step_run import run_step
from ft_pipeline.project import Project
from ft_pipeline.step import (
    STEPS,
    CheckSpec,
    ShowFunction,
    SpecContext,
    SpecFunction,
    Step,
    StepBuildFunction,
)
from ft_pipeline.store.spec import Spec

SCHEDULED = frozenset({"comparison", "champion"})
"""Assets with a freshness policy, if the settings ask for one: those that the schedule `weekly` is there for."""


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
    may_use_gpu: bool | Callable[[Project], bool] = False,
    checks: Sequence[CheckSpec] = (),
    build: StepBuildFunction | None = None,
    builds_here: Callable[[Spec], bool] = lambda spec: True,
    announce: Callable[[SpecContext], str] | None = None,
    show: ShowFunction | None = None,
    name: str | None = None,
    description: str | None = None,
    automation: dg.AutomationCondition | None = None,
) -> Callable[[SpecFunction], dg.AssetsDefinition]:
    """Make a Dagster asset of a function that computes a spec.

    build: builds the artifact in this process and returns its summary; None starts a worker process.
    builds_here: whether `build` builds a spec; a worker process builds the others.
    announce: says what a run may send to a server; the plan shows it while the steps before this one have still to run.
    show: computes the metadata that the UI shows from the artifact.
    automation: when Dagster's daemon materializes the asset automatically; None: never.
    gpu: whether the worker leases a device. The asset is then also in the pool `gpu`, and requests a GPU from
    Kubernetes. A function if that depends on the settings; pool and request follow the settings at load time.
    may_use_gpu: whether a missing input may need a device. The asset then requests a GPU from Kubernetes, whose pod
    exists before that is known, but is not in the pool: the lease of the input's worker excludes others.
    """

    def decorator(spec_function: SpecFunction) -> dg.AssetsDefinition:
        asset_name = name or spec_function.__name__
        key = asset_key(asset_name)
        needs_gpu, input_needs_gpu = _value_at_load_time(gpu), _value_at_load_time(may_use_gpu)

        @dg.asset(
            key=key,
            deps=asset_keys(deps),
            group_name=stage,
            kinds=kinds,
            owners=dagster_settings().owners,
            tags=asset_tags(),
            metadata=_code_reference(spec_function),
            freshness_policy=_freshness_policy(asset_name),
            code_version=code_version,
            description=_description(description or spec_function.__doc__ or ""),
            partitions_def=experiments() if per_experiment else None,
            automation_condition=automation,
            pool=pool_of_devices() if needs_gpu else None,
            op_tags=gpu_op_tags() if needs_gpu or input_needs_gpu else None,
            retry_policy=LOST_MACHINE_RETRIES if os.environ.get(EXECUTOR) == PODS else None,
            check_specs=_check_specs(key, checks, per_experiment=per_experiment),
        )
        def materialize(context: dg.AssetExecutionContext, project: ProjectResource) -> dg.MaterializeResult:
            return run_step(context, STEPS[asset_name], project)

        STEPS[asset_name] = Step(
            name=asset_name,
            stage=stage,
            deps=tuple(deps),
            per_experiment=per_experiment,
            gpu=gpu if callable(gpu) else lambda project: gpu,
            may_use_gpu=may_use_gpu if callable(may_use_gpu) else lambda project: may_use_gpu,
            code_version=code_version,
            checks=tuple(checks),
            spec=spec_function,
            build=build,
            builds_here=builds_here,
            announce=announce,
            show=show,
            asset=materialize,
        )
        return materialize

    return decorator


def _check_specs(key: dg.AssetKey, checks: Sequence[CheckSpec], *, per_experiment: bool) -> list[dg.AssetCheckSpec]:
    """Return the checks of an asset, recorded for each experiment apart: one that passes hides no other's failure."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                check.name,
                asset=key,
                description=check.description,
                blocking=check.blocking,
                partitions_def=experiments() if per_experiment else None,
            )
            for check in checks
        ]


def _description(text: str) -> str:
    """Return a description as one paragraph, so that it takes little room above the metadata."""
    return " ".join(text.split())


def _code_reference(function: SpecFunction) -> dict[str, Any]:
    """Return the metadata by which the UI links an asset to the function that describes it."""
    code = function.__code__
    reference = dg.LocalFileCodeReference(file_path=code.co_filename, line_number=code.co_firstlineno)
    return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}


def _freshness_policy(asset: str) -> dg.FreshnessPolicy | None:
    days = dagster_settings().fresh_within_days
    if days is None or asset not in SCHEDULED:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(days=days))


def _value_at_load_time(gpu: bool | Callable[[Project], bool]) -> bool:
    """The value for the project's current settings. True if they cannot be read; every run then reports that error."""
    if isinstance(gpu, bool):
        return gpu
    try:
        return gpu(Project.find())
    except UserError:
        return True
