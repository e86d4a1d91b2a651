"""Dagster's asset of a step: it finds the artifact of the step's spec in the store, or builds it."""

import os
import warnings
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.execution.dagster_names import (
    asset_key,
    asset_keys,
    asset_tags,
    dagster_settings,
    in_its_project,
    prefixed,
)
from ft_pipeline.execution.device_pool import EXECUTOR, PODS, pool_of_devices
from ft_pipeline.execution.machines import LOST_MACHINE_RETRIES
from ft_pipeline.execution.partitions import experiments
from ft_pipeline.execution.resources import ProjectResource
from ft_pipeline.execution.step_run import run_step
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS, CheckSpec, SpecFunction, Step

SCHEDULED = frozenset({"comparison", "champion"})
"""Assets with a freshness policy, if the settings ask for one: those that the schedule `weekly` is there for."""


def gpu_op_tags(count: int = 1) -> dict[str, Any]:
    """Return the op tags that Dagster's Kubernetes executor reads. They have no effect elsewhere."""
    limits = {"nvidia.com/gpu": str(count)}
    return {"dagster-k8s/config": {"container_config": {"resources": {"limits": limits}}}}


def asset_of(
    step: Step, graph: Collection[str], automation: dg.AutomationCondition | None = None
) -> dg.AssetsDefinition:
    """Return Dagster's asset of a step.

    A step that leases a device is also in the pool `gpu`, and requests a GPU from Kubernetes. A step whose missing
    input may need a device only requests it: its pod exists before that is known, and the lease of the input's worker
    excludes others. Both follow the settings at load time.
    graph: the steps that it may depend on.
    automation: when Dagster's daemon materializes the asset automatically; None: never.
    """
    key = asset_key(step.name)
    needs_gpu, input_needs_gpu = _at_load_time(step.needs_gpu), _at_load_time(step.may_need_gpu)

    @dg.asset(
        key=key,
        deps=asset_keys(name for name in step.deps if name in graph),
        group_name=prefixed(step.stage),
        kinds=set(step.kinds),
        owners=dagster_settings().owners,
        tags=asset_tags(),
        metadata=_code_reference(step.spec),
        freshness_policy=_freshness_policy(step.name),
        code_version=step.code_version,
        description=_description(step.description),
        partitions_def=experiments() if step.per_experiment else None,
        automation_condition=automation,
        pool=pool_of_devices() if needs_gpu else None,
        op_tags=gpu_op_tags() if needs_gpu or input_needs_gpu else None,
        retry_policy=LOST_MACHINE_RETRIES if os.environ.get(EXECUTOR) == PODS else None,
        check_specs=_check_specs(key, step.checks, per_experiment=step.per_experiment),
    )
    @in_its_project
    def materialize(context: dg.AssetExecutionContext, ft_project: ProjectResource) -> dg.MaterializeResult:
        return run_step(context, STEPS[step.name], ft_project)

    return materialize


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        reference = dg.LocalFileCodeReference(file_path=code.co_filename, line_number=code.co_firstlineno)
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}


def _freshness_policy(asset: str) -> dg.FreshnessPolicy | None:
    days = dagster_settings().fresh_within_days
    if days is None or asset not in SCHEDULED:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(days=days))


def _at_load_time(of_project: Callable[[Project], bool]) -> bool:
    """The value for the project's current settings. True if they cannot be read; every run then reports that error."""
    try:
        return of_project(Project.find())
    except UserError:
        return True
