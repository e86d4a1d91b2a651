"""Kubernetes: each step is a pod that requests what the experiment of its run declares.

Dagster reads op tags, which are the same for every run of an asset, and the run's config, which a schedule does not
write. So the executor writes the config of each step's pod when it knows the run.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.execution.dagster_names import experiment_of
from ft_pipeline.execution.device_pool import PODS
from ft_pipeline.execution.machines import device_need
from ft_pipeline.execution.workers.device_leases import DeviceNeed
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS, Step

STOP_SECONDS = 60
"""Seconds that a pod gets to stop: a training saves a checkpoint, and a step writes its last event."""


def executor() -> dg.ExecutorDefinition:
    """Return Dagster's executor that starts a pod per step, with the experiment's resources.

    Raises ModuleNotFoundError without dagster-k8s.
    """
    from dagster_k8s import k8s_job_executor

    schema: Any = k8s_job_executor.config_schema

    @dg.executor(name=PODS, config_schema=schema, requirements=dg.multiple_process_executor_requirements())
    def k8s(context: dg.InitExecutorContext) -> dg.Executor:
        return _ExperimentExecutor(k8s_job_executor, context)

    return k8s


class _ExperimentExecutor(dg.Executor):
    """The executor of `definition`, whose config for each step's pod follows the experiment of the run."""

    def __init__(self, definition: dg.ExecutorDefinition, context: dg.InitExecutorContext) -> None:
        self._definition, self._context = definition, context
        self._plain = self._make(context.executor_config)

    @property
    def retries(self) -> Any:
        return self._plain.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._plain.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        config: Any = self._context.executor_config
        experiment = experiment_of(plan_context.dagster_run)
        by_step = pod_configs(experiment) | config["per_step_k8s_config"]
        yield from self._make({**config, "per_step_k8s_config": by_step}).execute(plan_context, execution_plan)

    def _make(self, config: Any) -> dg.Executor:
        create = self._definition.executor_creation_fn
        assert create is not None
        return create(self._context._replace(executor_config=config))


def pod_configs(experiment: str | None) -> dict[str, dict[str, Any]]:
    """Return the configuration of the pods in a run of `experiment`, by step. Empty if its settings are invalid: the
    step reports that."""
    try:
        project = Project.find()
        return {name: _pod_config(project, experiment, step) for name, step in STEPS.items()}
    except UserError:
        return {}


def _pod_config(project: Project, experiment: str | None, step: Step) -> dict[str, Any]:
    pod: dict[str, Any] = {"termination_grace_period_seconds": STOP_SECONDS}
    if not (step.needs_gpu(project) or step.may_need_gpu(project)):
        return {"pod_spec_config": pod}
    need = device_need(project, experiment, step.name)
    pod |= {
        "node_selector": need.machine.node_selector,
        "tolerations": [toleration.to_kubernetes() for toleration in need.machine.tolerations],
    }
    container: dict[str, Any] = {"resources": _resources(need)}
    if need.count > 1:  # processes that train together exchange gradients in shared memory; a pod has 64 MB of it
        pod["volumes"] = [{"name": "shared-memory", "empty_dir": {"medium": "Memory"}}]
        container["volume_mounts"] = [{"name": "shared-memory", "mount_path": "/dev/shm"}]
    return {"pod_spec_config": pod, "container_config": container}


def _resources(need: DeviceNeed) -> dict[str, dict[str, str]]:
    requests = {}
    if need.machine.cpus is not None:
        requests["cpu"] = str(need.machine.cpus)
    limits = {"nvidia.com/gpu": str(need.count)}
    if need.machine.memory_gb is not None:
        requests["memory"] = limits["memory"] = f"{need.machine.memory_gb * 1000:.0f}M"
    return {"limits": limits, "requests": requests}
