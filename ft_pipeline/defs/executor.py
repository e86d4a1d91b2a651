"""The executor of runs: one process per run, or a Kubernetes pod per step."""

import os

import dagster as dg

from ft_pipeline.execution import pods
from ft_pipeline.execution.device_pool import EXECUTOR, PODS


def definitions() -> dg.Definitions:
    """Return the executor that FT_EXECUTOR names.

    By default a run is one process: heavy steps start worker processes, so a process per step would only take time.
    On Kubernetes each step is a pod, which gets what the experiment of its run requests (execution/pods.py).
    """
    requested = os.environ.get(EXECUTOR) or "in_process"
    if requested == "in_process":
        return dg.Definitions(executor=dg.in_process_executor)
    if requested != PODS:
        raise dg.DagsterInvalidDefinitionError(
            f"{EXECUTOR}={requested!r} is not an executor. Set it to in_process or k8s."
        )
    try:
        return dg.Definitions(executor=pods.executor())
    except ModuleNotFoundError:
        raise dg.DagsterInvalidDefinitionError(
            f"{EXECUTOR}=k8s needs the extra `k8s`. Run: pip install 'ft-pipeline[k8s]'"
        ) from None
