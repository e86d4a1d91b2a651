"""What a job needs of the machine that it runs on, and how long a run of its experiment may take."""

import contextlib

import dagster as dg

from ft_pipeline.errors import UserError
from ft_pipeline.execution.build import MAX_RETRIES, RETRY_SECONDS
from ft_pipeline.execution.dagster_names import experiment_of, terminal_user
from ft_pipeline.execution.workers.device_leases import DeviceNeed
from ft_pipeline.execution.workers.launchers import MULTI_PROCESS_KINDS
from ft_pipeline.project import Project
from ft_pipeline.settings.machine import MachineSettings

LOST_MACHINE_RETRIES = dg.RetryPolicy(MAX_RETRIES, delay=RETRY_SECONDS)
"""A step whose pod is gone runs again. Its errors ask for no retry."""


def device_need(project: Project, experiment: str | None, kind: str) -> DeviceNeed:
    """Return what a job of this kind needs.

    A training needs the GPUs that its experiment declares. Other jobs of an experiment run in one process and need one
    of them. A job without an experiment uses any available device.
    """
    machine = machine_settings(project, experiment)
    if experiment is None:
        return DeviceNeed(machine=machine)
    gpu = project.experiment(experiment).gpu
    return DeviceNeed(gpu.count if kind in MULTI_PROCESS_KINDS else 1, gpu.min_memory_gb, gpu.required, machine)


def machine_settings(project: Project, experiment: str | None) -> MachineSettings:
    """Return what jobs of an experiment request from a cluster: its keys, and those of project.yaml."""
    settings = project.settings.machine
    return settings if experiment is None else settings.replaced_by(project.experiment(experiment).machine)


def limit_run_time(context: dg.AssetExecutionContext, project: Project) -> None:
    """Tag the run with the time that its experiment may take. Dagster's daemon ends a run that takes longer.

    In the run itself, so that it applies however the run was started. Not for a run of `ft run`, whose process the
    daemon cannot end.
    """
    run, hours = context.run, None
    with contextlib.suppress(UserError):  # the steps that need the experiment's settings report it
        hours = machine_settings(project, experiment_of(run)).max_hours
    if hours is not None and terminal_user(run) is None and dg.MAX_RUNTIME_SECONDS_TAG not in run.tags:
        context.instance.add_run_tags(run.run_id, {dg.MAX_RUNTIME_SECONDS_TAG: str(round(hours * 3600))})
